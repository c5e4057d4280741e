"""What a job in batches does to the pages of the same process: their time, alone and beside it."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started

from benchmarks import engines
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.cases_batches import POOL_SIZE, new_name, table
from benchmarks.cases_single import ENVIRON
from benchmarks.engines import OURS, Engine
from benchmarks.measure import interleaved, percentile

ALONE = replace(OURS, label="pages alone")
BESIDE = replace(OURS, label="pages beside run_batches(busy_above=0.25, pause=0.02)")
UNTHROTTLED = replace(OURS, label="pages beside run_batches(busy_above=None)")
SITUATIONS = (ALONE, BESIDE, UNTHROTTLED)
THREADS = 4
PAGES_A_SECOND = 40
LISTS = 4
"""Queries of a page, each of which reads a customer's orders."""


def page(alias: str, customer: int) -> None:
    from benchmarks.models import Order

    request_started.send(sender=WSGIHandler, environ=ENVIRON)
    for number in range(LISTS):
        list(Order.objects.using(alias).filter(customer=(customer + number) % 100))  # noqa: DBP301  # a page has several
    request_finished.send(sender=WSGIHandler)


def traffic(alias: str, seconds: float) -> list[float]:
    """Milliseconds of each page, from when it was due: who waits for a page before him waits, too."""
    begin = time.perf_counter() + 0.05
    found: list[float] = []

    def serve(thread: int) -> None:
        for number in range(thread, int(seconds * PAGES_A_SECOND), THREADS):
            due = begin + number / PAGES_A_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            page(alias, number)
            found.append(1000 * (time.perf_counter() - due))

    threads = [threading.Thread(target=serve, args=(thread,)) for thread in range(THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return found


def job(alias: str, situation: Engine, stop: threading.Event) -> None:
    """Round and round, until it is told to stop."""
    from django.db.models import F

    from benchmarks.models import Counted
    from django_dbpool.batch import run_batches

    rows = Counted.objects.using(alias)

    def handler(items: list[Counted]) -> None:
        rows.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)

    options = {"busy_above": 0.25, "pause": 0.02} if situation is BESIDE else {"busy_above": None}
    while not stop.is_set():
        run_batches(rows, handler, checkpoint=new_name(), should_stop=stop.is_set, **options)


def idle_and_all() -> tuple[int, int]:
    """Ticks of all cores, of which nobody has used the first."""
    try:
        ticks = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0, 0
    return ticks[3] + ticks[4], sum(ticks)


def run_once(situation: Engine, seconds: float, busy: dict[Engine, list[float]]) -> float:
    """95th percentile, in milliseconds."""
    alias = situation.alias(POOL_SIZE)
    with engines.alone(situation, POOL_SIZE):
        traffic(alias, 0.25)
        stop = threading.Event()
        worker = threading.Thread(target=job, args=(alias, situation, stop))
        if situation is not ALONE:
            worker.start()
        idle, every = idle_and_all()
        try:
            found = traffic(alias, seconds)
        finally:
            stop.set()
        idle, every = (now - before for now, before in zip(idle_and_all(), (idle, every), strict=True))
        if every:
            busy.setdefault(situation, []).append(100 * (1 - idle / every))
        if situation is not ALONE:
            worker.join()
    return percentile(found, 95)


def pages(plan: Plan) -> Result:
    busy: dict[Engine, list[float]] = {}
    with table(plan.batch_rows):
        values = interleaved(
            SITUATIONS, lambda situation: run_once(situation, plan.page_seconds, busy), plan.page_rounds
        )
    cpu = {situation: f"{statistics.median(found):.0f} %" for situation, found in busy.items()}
    description = (
        f"95th percentile of the time of {PAGES_A_SECOND} pages a second, each with {LISTS} queries, from {THREADS} "
        f"threads, while a job in batches of 50 runs in another thread of it, on the same pool of {POOL_SIZE}. "
        "It counts where the machine is less than half busy."
    )
    comparisons = (Comparison(ALONE, at_most=1.2, subject=BESIDE),)
    return Result("batches-pages", description, "ms", values, comparisons, SITUATIONS, {"CPU": cpu})


CASES = (Case("batches-pages", pages),)
