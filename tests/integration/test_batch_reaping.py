"""Runs whose runner is dead are sent again: once, not for ever, and not while somebody works on them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from django.db import transaction
from django.test import override_settings

from django_dbpool import batch
from django_dbpool.batch import Start, run_batches
from django_dbpool.models import BatchCheckpoint, BatchRun
from tests.app.models import Item
from tests.fixtures.batches import ago, assert_once, begin, count_up, kill
from tests.fixtures.workers import PATIENCE, Step, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


@pytest.fixture(autouse=True)
def _known(sent: list[Start]) -> None:
    """There is a starter."""


def test_dead_runner_is_replaced(sent: list[Start]) -> None:
    rows = begin(task="tests.count")
    kill(rows, seconds=50)
    assert (batch.reap(), sent) == ([], [])
    kill(rows)
    assert batch.reap() == ["job"]
    arguments = {"args": [1], "kwargs": {"a": "b"}}
    assert sent == [Start("job", "default", "tests.count", arguments, part=0, parts=1)]
    assert batch.reap() == []  # it is on its way
    assert run_batches(Item.objects.all(), count_up, checkpoint="job").handled == 10
    assert_once(20)
    ago(rows, heartbeat=3600)
    assert batch.reap() == []


def test_others_are_left_alone(sent: list[Start]) -> None:
    """What nobody here can send, what isn't wanted, what a person has to look at, and what has ended."""
    rows = begin(task="elsewhere.count")
    kill(rows)
    assert batch.reap() == []
    BatchRun.objects.update(task="tests.count", wanted="pause")
    assert batch.reap() == []
    BatchRun.objects.update(wanted="run")
    for reason in ("failed: ValueError", "deadline", "revoked"):
        rows.update(token="", reason=reason)
        assert batch.reap() == []
    rows.update(token="dead", finished=True)
    assert batch.reap() == []
    assert sent == []


@pytest.mark.parametrize("reason", ["shutdown", "stopped", "paused", ""])
def test_nobody_came_for_it(reason: str, sent: list[Start]) -> None:
    """Whoever stopped sends itself again. If that was lost, this does."""
    rows = begin(task="tests.count")
    rows.update(reason=reason)
    ago(rows, heartbeat=50)
    assert batch.reap() == []
    ago(rows, heartbeat=61)
    assert batch.reap() == ["job"]
    assert batch.reap() == []
    ago(rows, restarted=119)  # the second time after twice as long
    assert batch.reap() == []
    ago(rows, restarted=121)
    assert batch.reap() == ["job"]
    assert len(sent) == 2


def test_several_reapers_send_once(sent: list[Start], make_worker: Callable[[], Worker]) -> None:
    kill(begin(task="tests.count"))
    together = threading.Barrier(4)

    def go() -> list[str]:
        together.wait(PATIENCE)
        return batch.reap()

    results = [each.result(PATIENCE) for each in [make_worker().start(go) for _ in range(4)]]
    assert sorted(results) == [[], [], [], ["job"]]
    assert len(sent) == 1


def test_parts_by_themselves(sent: list[Start]) -> None:
    rows = begin(task="tests.count")
    run = BatchRun.objects.get()
    BatchRun.objects.update(parts=3)
    for part in (1, 2):
        BatchCheckpoint.objects.create(run=run, part=part)
    kill(rows.filter(part=1))
    kill(rows.filter(part=2), seconds=5)
    assert batch.reap() == ["job"]
    assert [(start.part, start.parts) for start in sent] == [(1, 3)]


def test_in_the_middle_of_a_long_batch(sent: list[Start], make_worker: Callable[[], Worker]) -> None:
    """Its heartbeat is as old as its batch. The row that it holds says that it lives."""
    rows = begin(task="tests.count")
    step = Step()

    def slow(items: list[Item]) -> None:
        step.wait()
        count_up(items)

    run = make_worker().start(lambda: run_batches(Item.objects.all(), slow, checkpoint="job"))
    step.reached()
    BatchRun.objects.update(takeover_after=0.001)
    assert rows.get().token != ""
    assert batch.reap() == []
    assert batch.dead_runs() == []
    step.go_on()
    assert run.result(PATIENCE).handled == 10


def test_given_up(sent: list[Start], caplog: pytest.LogCaptureFixture) -> None:
    """A run that kills whoever works on it is not sent for ever."""
    rows = begin(task="tests.count")
    kill(rows)
    with override_settings(DBPOOL={"BATCH_RESTARTS": 2}):
        for backoff in (60, 120, 240):
            batch.reap()
            ago(rows, restarted=backoff - 1)
            assert batch.reap() == []
            ago(rows, restarted=10 * backoff)
        assert len(sent) == 2
        assert "given up" in caplog.text
        assert batch.status("job").condition == "given up"
        assert [(run.name, part.part) for run, part in batch.dead_runs()] == [("job", 0)]
        caplog.clear()
        ago(rows, restarted=1e6)
        assert batch.reap() == []
        assert caplog.text == ""  # said once
        batch.resume("job")  # a person knows better
        assert len(sent) == 3
        assert batch.status("job").condition == "waiting"


def test_one_batch_begins_the_count_anew(sent: list[Start]) -> None:
    """Workers that live for one batch each get through all the same."""
    rows = begin(task="tests.count")
    for number in range(8):
        kill(rows, seconds=3600)
        rows.update(batches=number + 1)
        ago(rows, restarted=61)
        assert batch.reap() == ["job"]
    assert batch.status("job").ranges[0].restarts == 1


def test_queue_that_is_away_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(start: Start) -> None:
        raise ConnectionRefusedError

    batch.register_starter("tests.count", refuse)  # the longer prefix
    try:
        rows = begin(task="tests.count")
        kill(rows)
        for _ in range(8):
            assert batch.reap() == []
            ago(rows, restarted=61)
        assert "could not be sent again" in caplog.text
    finally:
        batch.unregister_starter("tests.count")
    assert batch.reap() == ["job"]
    assert batch.status("job").ranges[0].restarts == 1


# -- resume ---------------------------------------------------------------------------------------------------------


def test_resume_sends_the_task(sent: list[Start]) -> None:
    begin(task="tests.count")
    batch.pause("job")
    assert batch.resume("job").condition == "waiting"
    assert [start.name for start in sent] == ["job"]
    batch.resume("job")  # on its way
    assert len(sent) == 1


def test_resume_within_a_transaction(sent: list[Start]) -> None:
    """A task that is sent before the commit could find the run paused still."""
    begin(task="tests.count")
    with transaction.atomic():
        batch.resume("job")
        assert sent == []
    assert len(sent) == 1


def test_resume_where_nobody_can_send(sent: list[Start]) -> None:
    """In a web process, say. The next reaper that can does it at once."""
    batch.unregister_starter("tests.")
    rows = begin(task="tests.count")
    rows.update(reason="failed: ValueError")
    assert batch.resume("job").condition == "waiting"
    batch.register_starter("tests.", sent.append)
    assert batch.reap() == ["job"]


def test_resume_leaves_runners_alone(sent: list[Start]) -> None:
    rows = begin(task="tests.count")
    kill(rows, seconds=5)
    assert batch.resume("job").condition == "running"
    assert rows.get().token == "somebody"
    assert sent == []


def test_paused_late(sent: list[Start]) -> None:
    """Paused, resumed, and only then did the runner see the first: nobody would work on it."""
    rows = begin(task="tests.count")
    rows.update(reason="paused")
    ago(rows, heartbeat=61)
    assert batch.reap() == ["job"]


def test_tidies_up_once_an_hour(sent: list[Start], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_dbpool.batch.reaping._tidied", {})
    begin("old")
    begin("older")
    BatchRun.objects.filter(name="older").update(state="done")
    ago(BatchRun.objects.all(), ended=29 * 86400)
    batch.reap()
    assert BatchRun.objects.count() == 2
    ago(BatchRun.objects.all(), ended=31 * 86400)
    batch.reap()
    assert BatchRun.objects.count() == 2
    monkeypatch.setattr("django_dbpool.batch.reaping._tidied", {})
    with override_settings(DBPOOL={"BATCH_RETENTION": None}):
        batch.reap()
    assert BatchRun.objects.count() == 2
    batch.reap()
    assert [run.name for run in batch.runs()] == ["old"]


def test_without_tables(make_pool: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    """A database that nobody migrated is no error, again and again, in the log of every worker."""
    caplog.set_level(logging.DEBUG, "django_dbpool")
    assert batch.reap(make_pool(NAME="postgres")) == []
    assert "has no tables for batch runs" in caplog.text
    assert "ERROR" not in caplog.text
