"""What alerts learn of runs of batches, and say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from django.db.models.functions import Now

from django_dbpool import alerts, asking, batch
from django_dbpool.alerts.service import Service
from django_dbpool.batch.status import TROUBLE
from django_dbpool.models import BatchFailure, BatchRun
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.batches import ago, begin, kill
from tests.fixtures.pools import execute

pytestmark = pytest.mark.django_db(transaction=True)


def test_runs_that_nobody_gets_on_with(make_pool: Callable[..., str]) -> None:
    """The same ones that `manage.py dbpool batches --state trouble` has."""
    alias = make_pool()
    found = asking.Batches()
    rows = begin("job", task="tests.count")

    def stuck(**fields: Any) -> tuple[str, ...]:
        rows.update(**{"token": "", "reason": "", "restarts": 0, "restarted_with": 0, **fields})
        found.ask(alias)
        told = found(alias)
        assert told is not None
        in_trouble = [run.name for run in batch.runs(state="open") if run.condition in TROUBLE]
        assert list(told.stuck) == in_trouble
        return tuple(told.stuck)

    old = Now() - timedelta(seconds=61)
    assert stuck() == stuck(reason="stopped") == stuck(token="x", heartbeat=Now()) == ()
    assert stuck(token="x", heartbeat=old) == ("job",)
    assert stuck(reason="failed: ValueError") == ("job",)
    assert stuck(restarts=6, restarted_with=1) == ("job",)
    assert stuck(restarts=6) == (), "it has got ahead since"
    BatchRun.objects.update(wanted="pause")
    assert stuck(token="x", heartbeat=old) == ()


def test_items_that_fail(make_pool: Callable[..., str]) -> None:
    alias = make_pool()
    found = asking.Batches()
    for name, number in (("few", 1), ("many", 3)):
        run = BatchRun.objects.create(name=name, model="app.Item", key="id")
        for key in range(number):
            BatchFailure.objects.create(run=run, key=[key], skipped=True, error_type="E", error="", place="")
    found.ask(alias)
    assert found(alias) == alerts.BatchTrouble((), 4, ("many", "few"))
    ago(BatchFailure.objects.filter(run__name="many"), created=3601)
    found.ask(alias)
    assert found(alias) == alerts.BatchTrouble((), 1, ("few",))


def test_database_without_tables_of_batches(make_alias: MakeAlias) -> None:
    alias = make_alias()
    found = asking.Batches()
    found.ask(alias)
    assert found(alias) is None
    assert found._asked[alias] > monotonic() + 1000


def test_alert_of_runs_that_nobody_gets_on_with(make_pool: Callable[..., str]) -> None:
    """From the tables to the words."""
    alias = make_pool()
    execute(alias, "SELECT 1")
    kill(begin("job", task="tests.count"))
    provider = asking.Batches()
    provider.ask(alias)
    alerts.provide("batches", provider)
    clock = [0.0]
    watch = Service(clock=lambda: clock[0])
    try:
        for _ in range(20):
            clock[0] += 5
            watch.look()
        (alert,) = [each for each in watch.active() if each.alias == alias]
    finally:
        watch.close()
        alerts.provide("batches", None)
    assert (alert.rule, alert.severity) == ("batch_stuck", "warning")
    assert alert.text == "Runs of batches, or parts of them, that nobody gets on with: 1 (job)."
