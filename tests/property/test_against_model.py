"""
Random interleavings of threads on a small pool do what the model says.

The steps follow from the seed, so a run can be repeated. DBPOOL_PROPERTY_SEED=n tries others; DBPOOL_PROPERTY_SHRINK=no
is for those who only want to know whether it fails.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import connections
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from django_dbpool.core import gate
from tests.app.models import Item
from tests.fixtures.aliases import MakeAlias

from .machine import POOL_SIZE, LeaseMachine, World
from .model import ROWS
from .operations import Model

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # psycopg's word on a server-side cursor that is dropped without close(), which is one of the steps.
    pytest.mark.filterwarnings("ignore:.*ServerSideCursor.* was deleted while still open:ResourceWarning"),
]
MakeWorld = Callable[[str], World]


def run(world: World, runs: int) -> None:
    class Machine(LeaseMachine):
        pass

    Machine.world = world
    number = int(os.environ.get("DBPOOL_PROPERTY_SEED", "1"))
    print(f"DBPOOL_PROPERTY_SEED={number}")  # shown with a failure
    shrink = os.environ.get("DBPOOL_PROPERTY_SHRINK") != "no"
    run_state_machine_as_test(
        seed(number)(Machine),
        settings=settings(
            max_examples=runs,
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=False,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def make_world(
    make_alias: MakeAlias, observer: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeWorld]:
    monkeypatch.setattr(gate, "WAIT_SLICE", 0.02)  # how soon a waiting thread sees an interrupt
    Item.objects.bulk_create([Item(name="seed", n=n) for n in ROWS])

    def make(mode: str) -> World:
        application = f"property-{mode}"
        alias = make_alias(
            NAME=connections["default"].settings_dict["NAME"],
            OPTIONS={"application_name": application},
            # The model knows no second attempt: repeated reads have tests of their own.
            POOL={"mode": mode, "max_size": POOL_SIZE, "min_size": 0, "timeout": 30, "retry": False, "breaker": False},
        )
        return World(alias, mode, application, observer)

    yield make
    gc.collect()  # dropped cursors say so when they are collected: here, where that is expected


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_some_hundred_steps(make_world: MakeWorld, mode: str) -> None:
    world = make_world(mode)
    run(world, runs=10)
    assert world.seen.total() >= 400


@pytest.mark.ci
def test_ten_thousand_steps(make_world: MakeWorld) -> None:
    """Among them everything that the model knows, in every way in which it can end."""
    worlds = [make_world("transaction"), make_world("session")]
    for world in worlds:
        run(world, runs=110)
    seen = worlds[0].seen + worlds[1].seen
    print(sorted(seen.items()))
    assert seen.total() >= 10_000
    operations = {name.removeprefix("do_") for name in vars(Model) if name.startswith("do_")}
    assert not {name for name in operations if not any(how.partition(" ")[0] == name for how in seen)}
    endings = {how.partition(" ")[2] for how in seen}
    assert endings >= {"lost", "aborted", "broken", "closed", "released", "no cursor", "exhausted", "waits"}
    assert seen["served"] >= 100 and seen["interrupt"] >= 20 and seen["exit returned"] >= 200
