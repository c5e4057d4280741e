"""From counters to alerts, with measures made up and a clock that passes when told; no server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_dbpool.alerts.findings import biggest
from django_dbpool.alerts.service import INTERVAL, Service
from django_dbpool.core.ledger import Holder
from django_dbpool.core.tally import Histogram
from django_dbpool.pool.measures import Measures

EMPTY = Histogram()


class Process:
    """One whose pool has the measures that a test gives it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.values: dict[str, Any] = {
            "alias": "default",
            "leases": 0,
            "statements": 0,
            "use": EMPTY,
            "wait": EMPTY,
            "connect": EMPTY,
            "opened": 0,
            "closed": 0,
            "failed": 0,
        }
        self.used = True
        self.service = Service(clock=lambda: self.now, wall=lambda: 1e9 + self.now, read=self._read)

    def _read(self) -> tuple[Measures, ...]:
        return (Measures(**self.values),) if self.used else ()

    def look(self, after: float = INTERVAL, **changes: Any) -> list[str]:
        self.now += after
        self.values |= changes
        return [f"{change.alert.rule} {change.what}" for change in self.service.look()]

    def connect(self, times: int, seconds: float) -> dict[str, Any]:
        before = self.values["connect"]
        counts = (before.count + times,) + (0,) * 9
        return {"connect": Histogram(counts, before.total + times * seconds), "opened": before.count + times}


@pytest.fixture
def process() -> Iterator[Process]:
    with override_settings(DBPOOL={"ROLE": "command"}):
        process = Process()
        yield process
        process.service.close()


def test_what_was_before_the_first_look_is_past(process: Process) -> None:
    assert process.look(refused={"PoolExhausted": 100}) == []
    assert process.look() == []
    assert process.look(refused={"PoolExhausted": 101}) == ["timeouts raised"]
    assert process.service.active()[0].value == 1


def test_a_database_that_is_used_for_the_first_time_began_at_nothing(process: Process) -> None:
    process.used = False
    process.look()
    process.used = True
    assert process.look(refused={"PoolOverloaded": 2}) == ["timeouts raised"]


def test_what_happens_after_an_idle_night_is_not_lost(process: Process) -> None:
    process.look()
    assert process.look(40_000, refused={"PoolExhausted": 1}) == ["timeouts raised"]
    assert process.look(40_000) == []
    assert process.look(60) == ["timeouts cleared"]


def test_alerts_are_brought_up_to_date_when_an_idle_process_is_asked(process: Process) -> None:
    process.look()
    process.look(circuit="open")
    (alert,) = process.service.active()
    assert (alert.rule, alert.since) == ("circuit", 1e9 + process.now)
    process.values["circuit"] = "closed"
    process.now += 3600
    process.service.active()
    process.now += 3600
    assert process.service.active() == ()
    assert process.service.recent()[0].what == "cleared"


def test_connecting_takes_longer_than_usual_until_that_is_usual(process: Process) -> None:
    for _ in range(200):
        process.look(**process.connect(1, 0.02))
    changes = process.look(**process.connect(30, 0.5))
    assert changes == ["connect_time raised"]
    alert = process.service.active()[0]
    assert "usually 20 ms" in alert.text
    seen = [change for _ in range(2000) for change in process.look(**process.connect(1, 0.5))]
    assert seen[-1] == "connect_time cleared"
    assert len(seen) <= 3  # worse, better, over


def test_connecting_that_nobody_notices_is_no_alert(process: Process) -> None:
    for _ in range(200):
        process.look(**process.connect(1, 0.0005))
    assert process.look(**process.connect(90, 0.02)) == []


def test_only_waiting_for_others_is_waiting(process: Process) -> None:
    process.look()
    opening = Histogram((0,) * 9 + (9,), 90.0)
    assert process.look(wait=opening, connect=opening, opened=9) == []
    assert [process.look(wait=Histogram((0,) * 9 + (9,), 90.0 + 40.0 * number)) for number in (1, 2, 3)] == [
        [],
        [],
        ["waiters raised"],
    ]


def holder(seconds: float, name: str | None, thread: str = "MainThread") -> Holder:
    return Holder("default", 1, thread, 1, "GET /reports/7/?token=secret", seconds, None, "running", name=name)


def test_holders_are_named_by_route_or_task_and_never_by_path() -> None:
    found = [
        holder(12.1, "reports/<int:pk>/"),
        holder(3.0, "reports/<int:pk>/"),
        holder(9.0, "shop.tasks.send"),
        holder(20.0, None, "import"),
        holder(0.1, "quick/"),
    ]
    assert biggest(found) == (
        "thread import (1, oldest 20.0 s)",
        "reports/<int:pk>/ (2, oldest 12.1 s)",
        "shop.tasks.send (1, oldest 9.0 s)",
    )
