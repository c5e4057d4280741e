"""
Whether advice is good: on six workloads a pool of the size that is advised is as fast as the best of all sizes, found
by trying them. Advice is asked for after a run with the default size, followed, and asked for again until it stays.

    pytest -m soak tests/integration/test_advice_soak.py -s
"""

from __future__ import annotations

import os
import random
import statistics
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connections

from django_dbpool.advice import Load, report_of
from django_dbpool.alerts.service import Service
from django_dbpool.checks.pools import pools
from django_dbpool.core.advice import Report, Room
from django_dbpool.core.project import ProjectConfig
from tests.fixtures.workloads import CREATE, TABLE, WORKLOADS, Workload, run

pytestmark = [pytest.mark.soak, pytest.mark.django_db(transaction=True)]

DEFAULT = int(os.environ.get("ADVICE_FROM", "10"))
"""Size of the pool whose run advice is drawn from."""
SIZES = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
ROUNDS = int(os.environ.get("ADVICE_ROUNDS", "3"))
SECONDS = float(os.environ.get("ADVICE_SECONDS", "1.5"))
FINAL = 7
"""Rounds of the best size against the advised ones; the best was chosen by other rounds, else its luck would count."""
STEPS = 4
"""How often advice is asked for at most."""

MakePool = Callable[..., str]


@pytest.fixture(autouse=True)
def table(observer: psycopg.Connection[Any]) -> Iterator[None]:
    for statement in CREATE:
        observer.execute(statement)
    yield
    observer.execute(f"DROP TABLE {TABLE}")


def advised(workload: Workload, alias: str) -> Report:
    """From a run of half a minute with as many looks as a process takes in seven."""
    service = Service()
    done = threading.Event()

    def look() -> None:
        service.look()
        while not done.wait(0.25):
            service.look()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        run(workload, alias, 22)
    finally:
        done.set()
        looking.join()
        service.close()
    (chosen,) = [each for each in pools() if each.name == alias]
    load = Load("here:1", service.measured())
    print(f"\n{workload.name}: {load.aliases[alias]}")
    project = ProjectConfig(threads=workload.number, processes=1)
    return report_of(chosen, project, [load], room=Room(190))


def compare(workload: Workload, make_pool: MakePool, sizes: list[int], rounds: int) -> dict[int, float]:
    """Units a second for each size: the median of rounds in which each has its turn."""
    aliases = {size: make_pool(size=size, POOL={"timeout": 30, "queue_target": None}) for size in sizes}
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in random.sample(sizes, len(sizes)):
            found[size].append(run(workload, aliases[size], SECONDS))
    return {size: statistics.median(values) for size, values in found.items()}


def followed(workload: Workload, make_pool: MakePool) -> list[int]:
    """The sizes that were advised one after the other, the last of them twice."""
    sizes, size = [], DEFAULT
    for _ in range(STEPS):
        alias = make_pool(size=size, POOL={"timeout": 30, "queue_target": None})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "DATABASES", {alias: connections.settings[alias]})
            report = advised(workload, alias)
        for item in report.advice:
            print(f"  {item.setting}: {item.current} -> {item.proposed}: {item.reason}")
        before, size = size, report.changes.get("max_size", size)
        sizes.append(size)
        if size == before:
            return sizes
    pytest.fail(f"Advice goes on and on: {DEFAULT}, {sizes}")


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_advice_is_as_good_as_trying(workload: Workload, make_pool: MakePool) -> None:
    sizes = followed(workload, make_pool)
    tried = compare(workload, make_pool, sorted({*SIZES, *sizes}), ROUNDS)
    best = max(tried, key=lambda each: tried[each])
    final = compare(workload, make_pool, sorted({best, *sizes}), FINAL)
    print(f"{workload.name}: advised {', '.join(map(str, sizes))}, best {best}")
    print("  " + ", ".join(f"{each}: {value:.0f}/s" for each, value in tried.items()))
    print("  final: " + ", ".join(f"{each}: {value:.0f}/s {value / final[best]:.1%}" for each, value in final.items()))
    assert final[sizes[-1]] >= 0.95 * final[best]
