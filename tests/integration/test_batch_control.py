"""Runs that are paused, resumed, cancelled, looked at and forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.models.functions import Now

from django_dbpool import asking, batch, reports
from django_dbpool.batch import BatchProgress, BatchRunEnded, BatchRunMissing, run_batches
from django_dbpool.batch.status import distinct
from django_dbpool.models import BatchCheckpoint, BatchFailure, BatchRun
from tests.app.models import Item
from tests.fixtures.batches import ago, assert_once, begin, count_up, fill, kill
from tests.fixtures.workers import PATIENCE, Step, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


# -- pause, resume, cancel ------------------------------------------------------------------------------------------


def test_pause_and_resume(make_worker: Callable[[], Worker]) -> None:
    fill(30)
    step = Step()

    def after(progress: BatchProgress) -> None:
        step.wait()

    run = make_worker().start(
        lambda: run_batches(Item.objects.all(), count_up, size=10, checkpoint="job", on_progress=after)
    )
    step.reached()
    assert batch.status("job").condition == "running"
    paused = batch.pause("job")
    assert (paused.wanted, paused.condition, paused.state, paused.done) == ("pause", "pausing", "open", 10)
    step.go_on()
    assert run.result(PATIENCE).reason == "paused"
    assert batch.status("job").condition == "paused"
    assert run_batches(Item.objects.all(), count_up, checkpoint="job").reason == "paused"
    resumed = batch.resume("job")
    assert (resumed.wanted, resumed.condition) == ("run", "stopped")
    assert run_batches(Item.objects.all(), count_up, checkpoint="job").reason == "done"
    assert batch.status("job").state == batch.status("job").condition == "done"
    assert_once(30)


def test_cancel_while_it_runs(make_worker: Callable[[], Worker]) -> None:
    fill(30)
    step = Step()

    def slow(items: list[Item]) -> None:
        step.wait()
        count_up(items)

    run = make_worker().start(lambda: run_batches(Item.objects.all(), slow, size=10, checkpoint="job"))
    step.reached()
    cancelled = batch.cancel("job")
    assert (cancelled.state, cancelled.condition, cancelled.ranges[0].in_batch) == ("open", "cancelling", True)
    step.go_on()
    assert run.result(PATIENCE).reason == "cancelled"
    assert batch.status("job").state == "cancelled"
    assert Item.objects.filter(n=1).count() == 10, "the batch at hand, and none after it"


@pytest.mark.parametrize("dead", [False, True], ids=["stopped", "dead"])
def test_cancel_where_nobody_works(dead: bool) -> None:
    """There is no runner that could end it."""
    rows = begin()
    if dead:
        kill(rows)
    cancelled = batch.cancel("job")
    assert (cancelled.state, cancelled.condition, cancelled.done) == ("cancelled", "cancelled", 10)
    assert cancelled.ended is not None
    assert batch.cancel("job").state == "cancelled"
    assert run_batches(Item.objects.all(), count_up, checkpoint="job").reason == "cancelled"
    for call in (batch.pause, batch.resume):
        with pytest.raises(BatchRunEnded, match=r"'job' .* has ended \(cancelled\)"):
            call("job")


def test_cancelled_and_then_killed() -> None:
    """The runner that should have ended it is gone: whoever reaps does it."""
    kill(begin(), seconds=5)
    assert batch.cancel("job").state == "open"
    batch.reap()
    assert batch.status("job").state == "open"
    ago(BatchCheckpoint.objects.all(), heartbeat=61)
    batch.reap()
    assert batch.status("job").state == "cancelled"


def test_cancelled_runner_that_wakes_up_is_fenced_off() -> None:
    rows = begin()
    kill(rows)
    batch.cancel("job")
    assert rows.get().token == "" and rows.get().finished


def test_names_that_are_not_there() -> None:
    for call in (batch.status, batch.pause, batch.resume, batch.cancel):
        with pytest.raises(BatchRunMissing, match="no batch run 'nothing' on database 'default'"):
            call("nothing")
    with pytest.raises(ValueError, match="'begun' is not a valid"):
        batch.runs(state="begun")


def test_without_tables(make_pool: Callable[..., str]) -> None:
    alias = make_pool(NAME="postgres")
    for call in (batch.runs, partial(batch.pause, "job"), partial(batch.status, "job"), partial(batch.delete_old, 30)):
        with pytest.raises(ImproperlyConfigured, match=f"migrate django_dbpool --database={alias}"):
            call(using=alias)


# -- how it is ------------------------------------------------------------------------------------------------------


def test_status_of_several_parts() -> None:
    rows = begin(task="tests.count")
    run = BatchRun.objects.get()
    BatchRun.objects.update(parts=3, total=60)
    BatchCheckpoint.objects.create(
        run=run,
        part=1,
        token="x",
        runner="host 1 a",
        done=10,
        failed=1,
        batches=2,
        begun=Now() - timedelta(seconds=10),
        begun_with=1,
    )
    BatchCheckpoint.objects.create(run=run, part=2, token="y", runner="host 2 b", done=0, begun=Now())
    ago(rows.filter(part=1), heartbeat=5)
    BatchFailure.objects.create(run=run, key=[7], skipped=True, error_type="ValueError", error="", place="")
    found = batch.status("job")
    assert [each.condition for each in found.ranges] == ["stopped", "running", "running"]
    assert (found.done, found.failed, found.batches, found.parts, found.failures) == (20, 1, 3, 3, 1)
    assert found.runners == ("host 1 a", "host 2 b")
    assert found.heartbeat_age == pytest.approx(5, abs=4)
    assert found.ranges[1].rate == pytest.approx(2, rel=0.2)  # ten since it began, in five seconds
    assert found.rate == found.ranges[1].rate
    assert found.seconds_left == pytest.approx(39 / 2, rel=0.2)
    assert found.share == pytest.approx(21 / 60)
    told = json.loads(json.dumps(found.to_json()))
    assert told["runners"] == ["host 1 a", "host 2 b"]
    assert told["ranges"][1]["alive"] is True
    assert batch.runs(state="done") == []
    assert [run.name for run in batch.runs()] == [run.name for run in batch.runs(state="open")] == ["job"]


def test_condition_of_a_part() -> None:
    rows = begin(task="tests.count")

    def condition(**fields: object) -> str:
        rows.update(**{"token": "", "reason": "", "restarts": 0, "restarted_with": 0, **fields})
        return batch.status("job").condition

    old = Now() - timedelta(seconds=61)
    assert condition() == "waiting"
    assert condition(reason="resumed") == "waiting"
    assert condition(reason="failed: ValueError") == "failed"
    assert condition(reason="shutdown") == condition(reason="deadline") == "stopped"
    assert condition(token="x", heartbeat=Now()) == "running"
    assert condition(token="x", heartbeat=old) == "dead"
    assert condition(token="x", heartbeat=old, restarts=5, restarted_with=1) == "dead"
    assert condition(token="x", heartbeat=old, restarts=6, restarted_with=1) == "given up"
    assert condition(heartbeat=old, restarts=6, restarted_with=1) == "given up"
    assert condition(token="x", heartbeat=old, restarts=6, restarted_with=0) == "dead"  # it has got ahead since
    BatchRun.objects.update(wanted="pause")
    assert condition(token="x", heartbeat=old) == "paused"
    assert condition(token="x", heartbeat=Now()) == "pausing"


def test_who_looks_is_in_nobodys_way(make_worker: Callable[[], Worker]) -> None:
    """A runner in a long batch lives, however old its heartbeat is, and its row is not waited for."""
    fill(20)
    step = Step()

    def slow(items: list[Item]) -> None:
        step.wait()
        count_up(items)

    run = make_worker().start(
        lambda: run_batches(Item.objects.all(), slow, size=20, checkpoint="job", takeover_after=0.1)
    )
    step.reached()
    BatchRun.objects.update(takeover_after=0.001)
    found = batch.status("job")
    assert (found.condition, found.ranges[0].in_batch) == ("running", True)
    assert batch.dead_runs() == []
    step.go_on()
    assert run.result(PATIENCE).reason == "done"


def test_role_that_sees_nobody_elses_sessions(
    make_worker: Callable[[], Worker], make_pool: Callable[..., str], observer: psycopg.Connection[Any]
) -> None:
    """It may read the tables, but not pg_stat_activity: a runner in a long batch lives for it, too, until its end."""
    restricted = make_pool(USER="narrow")
    fill(20)
    step = Step()

    def slow(items: list[Item]) -> None:
        step.wait()
        raise ValueError

    with role_with_little(observer, "narrow"):
        run = make_worker().start(lambda: run_batches(Item.objects.all(), slow, size=20, checkpoint="job"))
        step.reached()
        BatchRun.objects.update(takeover_after=0.001)
        found = batch.status("job", restricted)
        (row,) = reports.batches(alias=restricted).rows.items
        stuck = asking.Batches().find(restricted).stuck
        step.go_on()
        with pytest.raises(ValueError):
            run.result(PATIENCE)
        kill(BatchCheckpoint.objects.all())
        assert (found.condition, found.ranges[0].in_batch) == ("running", True)
        assert (row.condition, row.parts[0].in_batch, stuck) == ("running", True, ())
        assert batch.status("job", restricted).condition == "dead"
        assert asking.Batches().find(restricted).stuck == ("job",)
        assert distinct(["default", restricted, "other"]) == ["default", "other"]


@contextmanager
def role_with_little(observer: psycopg.Connection[Any], name: str) -> Iterator[None]:
    """A role that may read our tables, in a database where nobody is let see the server's sessions."""
    tables = "django_dbpool_batchrun, django_dbpool_batchcheckpoint, django_dbpool_batchfailure"
    observer.execute(f"CREATE ROLE {name} LOGIN; GRANT SELECT ON {tables} TO {name}")
    observer.execute("REVOKE SELECT ON pg_stat_activity FROM PUBLIC")
    try:
        yield
    finally:
        observer.execute("GRANT SELECT ON pg_stat_activity TO PUBLIC")
        # Its sessions are the pool's, which ends them later.
        observer.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


# -- forget ---------------------------------------------------------------------------------------------------------


def test_delete_old() -> None:
    begin("old")
    run = BatchRun.objects.get()
    BatchFailure.objects.create(run=run, key=[7], skipped=True, error_type="ValueError", error="", place="")
    begin("open")
    BatchRun.objects.update(created=Now() - timedelta(days=100))
    BatchRun.objects.filter(name="old").update(state="done", ended=Now() - timedelta(days=31))
    assert batch.delete_old(32) == 0
    assert batch.delete_old(30) == 1
    assert [run.name for run in batch.runs()] == ["open"]
    assert (BatchCheckpoint.objects.count(), BatchFailure.objects.count()) == (1, 0)
    with pytest.raises(TypeError):
        batch.delete_old("30")  # type: ignore[arg-type]
