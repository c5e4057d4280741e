"""The block of numbers in the log: what is told, when nothing is, and that nobody waits for a slow log."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_dbpool import metrics_log
from django_dbpool.core import reporter
from django_dbpool.core.process import this_process
from django_dbpool.metrics_log import MetricsLog
from django_dbpool.pool.measures import Measures
from tests.faults.helpers import PATIENCE, Child, Clock
from tests.fixtures.readings import histogram, reading

BUSY: dict[str, Any] = {
    "leases": 120,
    "statements": 240,
    "wait": histogram(*[0.0005] * 114, *[0.2] * 6),
    "use": histogram(*[0.004] * 118),
    "opened": 3,
    "failed": 4,
    "lost": 1,
    "refused": {"PoolExhausted": 2, "CircuitOpen": 0},
    "retried": {"connect": 2},
    "slow": 1,
    "circuit": "open",
}


class Log:
    """A metrics log whose numbers, time and records a test has in its hand."""

    def __init__(self, layout: Any = "text") -> None:
        self.readings: list[Measures] = []
        self.records: list[str] = []
        self.clock = Clock()
        self.call = MetricsLog(layout, read=lambda: self.readings, clock=self.clock, write=self.records.append)

    def after(self, seconds: float, *readings: Measures) -> list[str]:
        """What is logged if these are the numbers then."""
        self.readings = list(readings)
        self.clock.advance(seconds)
        self.records.clear()
        self.call()
        return list(self.records)


def test_text() -> None:
    pool = {"in_use": 8, "idle": 2, "waiting": 3}
    (block,) = Log().after(60, reading(pool=pool, **BUSY), reading("other", leases=1, wait=histogram(0)))
    process = this_process()
    assert block.splitlines() == [
        f"pools of {process.role} {os.getpid()} on {process.host}, last 60 s",
        "  default: 8 of 10 in use, 2 idle, 3 waiting, circuit open",
        "    120 leases (2.0/s), 240 statements; waited 10.5 ms on average, p95 1 ms; held 4 ms on average, p95 4.8 ms",
        "    REFUSED: 2 PoolExhausted",
        "    CONNECTIONS: 4 attempts to connect failed, 1 lost in use",
        "    connections: 3 opened",
        "    statements: 1 slow",
        "    tried again: 2 connect",
        "  other: 0 of 10 in use, 0 idle, 0 waiting, circuit closed",
        "    1 leases (0.0/s), 0 statements; waited 0 ms on average, p95 0.95 ms; held 0 ms on average, p95 0 ms",
    ]


def test_json_is_one_line_per_alias() -> None:
    log = Log("json")
    records = log.after(60, reading(pool={"in_use": 8}, **BUSY), reading("other", statements=1), reading("quiet"))
    assert not any("\n" in record for record in records)
    first, second = map(json.loads, records)
    assert (first["alias"], second["alias"]) == ("default", "other")
    assert (first["used"], first["max"], first["leases"], first["circuit"]) == (8, 10, 120, "open")
    assert first["wait_mean"] == pytest.approx(0.010475)
    assert first["refused"] == {"PoolExhausted": 2}
    assert (first["event"], first["pid"], first["seconds"]) == ("django_dbpool.metrics", os.getpid(), 60.0)


def test_only_what_came_since_the_last_block() -> None:
    log = Log("json")
    log.after(60, reading(**BUSY))
    more = {**BUSY, "leases": 121, "wait": histogram(*[0.0005] * 114, *[0.2] * 6, 7), "refused": {"PoolExhausted": 5}}
    (record,) = log.after(30, reading(**more))
    found = json.loads(record)
    assert (found["leases"], found["failed"], found["refused"]) == (1, 0, {"PoolExhausted": 3})
    assert found["wait_mean"] == pytest.approx(7)
    assert found["seconds"] == 30


def test_silent_when_idle() -> None:
    """Idle connections are no news; a lease that is out for hours is, and so is a caller that waits."""
    log = Log()
    assert log.after(60) == []
    assert log.after(60, reading(pool={"idle": 4})) == []
    assert len(log.after(60, reading(pool={"idle": 4}, **BUSY))) == 1
    assert log.after(60, reading(pool={"idle": 4}, **BUSY)) == []
    assert len(log.after(60, reading(pool={"in_use": 1}, **BUSY))) == 1
    (block,) = log.after(60, reading(pool={"waiting": 1}, **BUSY))
    assert "last 60 s" in block


def test_forked_child_begins_anew() -> None:
    log = Log("json")
    log.after(60, reading(**BUSY))

    def child() -> dict[str, Any]:
        (record,) = log.after(60, reading(leases=1))
        found: dict[str, Any] = json.loads(record)
        return found

    log.clock.advance(600)
    found = Child(child).result()
    assert (found["leases"], found["seconds"]) == (1, 60)
    assert found["pid"] != os.getpid()


def test_pool_that_is_closed() -> None:
    (block,) = Log().after(60, reading(**{**BUSY, "snapshot": None}))
    assert "\n  default: closed\n    120 leases" in block


def test_no_block_of_a_moment() -> None:
    log = Log("json")
    assert log.after(0.2, reading(leases=1)) == []
    (record,) = log.after(59.8, reading(leases=100))
    assert (json.loads(record)["leases"], json.loads(record)["seconds"]) == (100, 60)


def test_nobody_waits_for_a_log_that_blocks() -> None:
    """And the next block tells of all the time since the last that was written."""
    go_on, written = threading.Event(), []

    def write(record: str) -> None:
        written.append(json.loads(record))
        go_on.wait(PATIENCE)

    clock = Clock()
    leases = iter((1, 2, 3, 4))
    call = MetricsLog("json", read=lambda: [reading(leases=next(leases))], clock=clock, write=write)
    for _ in range(3):
        clock.advance(60)
        call()  # would take for ever
    assert [record["leases"] for record in written] == [1]
    thread = call._thread
    assert thread is not None
    go_on.set()
    thread.join(PATIENCE)
    clock.advance(60)
    call()
    assert [(record["leases"], record["seconds"]) for record in written] == [(1, 60), (1, 180)]


def test_default_is_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = MetricsLog("json", read=lambda: [reading(leases=1)], clock=clock)
    clock.advance(60)
    with caplog.at_level(logging.INFO, "django_dbpool.metrics"):
        log()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("django_dbpool.metrics", logging.INFO)
    assert json.loads(record.getMessage())["leases"] == 1


@pytest.fixture
def jobs() -> Iterator[dict[str, Any]]:
    yield reporter._jobs
    metrics_log.follow_settings()


def test_settings_switch_it_on_and_off(jobs: dict[str, Any]) -> None:
    assert metrics_log.JOB not in jobs
    with override_settings(DBPOOL={"LOG_INTERVAL": 30, "LOG_FORMAT": "json"}):
        job = jobs[metrics_log.JOB]
        assert (job.interval, job.call._layout) == (30, "json")
        with override_settings(DBPOOL={"LOG_INTERVAL": "30"}):
            pass  # a fault is the check's to report
    assert metrics_log.JOB not in jobs
