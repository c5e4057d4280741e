"""Telling other processes of this host what to do: those that answer, are frozen, killed, or other ones by now."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from django_dbpool.acting import act
from django_dbpool.fleet.protocol import NOT_ME, TOO_LATE
from django_dbpool.fleet.socket_client import ask_local
from django_dbpool.models import Command
from testproject.processes import wait_until
from tests.faults.conftest import StartOther
from tests.faults.helpers import PATIENCE
from tests.faults.others import published, reachable
from tests.fixtures.pools import alive

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("sockets")]


def test_by_its_socket(start_other: StartOther, sockets: Path) -> None:
    other = start_other()
    start_other().lease("hold")  # which is not meant
    lease = other.lease("run")
    assert wait_until(lambda: reachable(sockets, other), PATIENCE)
    acted = act(other.instance, "stack", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "socket"), acted
    assert acted.result["thread"] == "holder-run"
    assert any(call.endswith(" in work") for call in acted.result["calls"])
    acted = act(other.instance, "cancel", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "socket"), acted
    assert other.said() == {"ended": "OperationalError", "sqlstate": "57014"}
    assert act(other.instance, "cancel", actor="test", **lease).outcome == "already over"


def test_by_a_signed_command(start_other: StartOther, sockets: Path) -> None:
    other = start_other(DBPOOL_TEST_SOCKETS="")
    lease = other.lease("hold")
    assert wait_until(lambda: published(other), PATIENCE)
    acted = act(other.instance, "stack", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "signed command"), acted
    assert any(call.endswith(" in work") for call in acted.result["calls"])
    acted = act(other.instance, "terminate", actor="test", **lease)
    assert (acted.outcome, acted.way) == ("done", "signed command"), acted
    assert acted.text == (
        "The session was ended and its transaction rolled back. Asked by a signed command. "
        "Not by socket: none of this host is that process."
    )
    again = act(other.instance, "terminate", actor="test", **lease)
    assert (again.outcome, again.done) == ("already over", False), again


def test_another_process_with_that_pid(start_other: StartOther, sockets: Path) -> None:
    """It is asked, says that it is another one, and does nothing."""
    other = start_other()
    lease = other.lease("run")
    assert wait_until(lambda: reachable(sockets, other), PATIENCE)
    acted = act("f" * 16, "terminate", actor="test", **lease)
    assert acted.outcome == "no such process"
    (answer,) = ask_local("terminate", process="f" * 16, **lease).answers
    assert (answer.error, answer.result) == (NOT_ME, None)
    (answer,) = ask_local("terminate", until=time.time() - 1, **lease).answers
    assert (answer.error, answer.result) == (TOO_LATE, None)
    gone_on = act(other.instance, "terminate", actor="test", **{**lease, "generation": lease["generation"] + 1})
    assert (gone_on.outcome, gone_on.way) == ("already over", "socket")
    assert act(other.instance, "stack", actor="test", **lease).outcome == "done", "nobody has ended it"
    assert act(other.instance, "terminate", actor="test", **lease).outcome == "done"  # else the server never does


def test_a_frozen_process_does_nothing_later(
    start_other: StartOther, sockets: Path, observer: psycopg.Connection[Any]
) -> None:
    """Neither what came by its socket nor what stands in the table, once nobody waits for it any more."""
    other = start_other()
    lease = other.lease("hold")
    assert wait_until(lambda: reachable(sockets, other) and published(other), PATIENCE)
    other.freeze()
    acted = act(other.instance, "terminate", actor="test", timeout=2.0, **lease)
    assert acted.outcome == "unknown"
    # Or what was left of the second when the thread that asks had begun.
    assert re.search(rf"Not by socket: process {other.pid}: It did not answer within (1|0\.\d) s\.", acted.text)
    assert 2.0 < acted.seconds < 6.0
    other.thaw()
    assert act(other.instance, "stack", actor="test", **lease).outcome == "done", "it answers again"
    assert Command.objects.filter(outcome="refused").count() in (0, 1)
    assert alive(observer, lease["backend_pid"])
    assert other.go_on()["ended"] == "well"


def test_a_killed_process(start_other: StartOther, sockets: Path) -> None:
    other = start_other()
    lease = other.lease("hold")
    assert wait_until(lambda: reachable(sockets, other) and published(other), PATIENCE)
    other.kill()
    acted = act(other.instance, "terminate", actor="test", timeout=1.0, **lease)
    assert acted.outcome == "unknown"
    assert "It will not be begun any more." in acted.text
    assert not reachable(sockets, other)


def test_a_process_with_another_secret(start_other: StartOther) -> None:
    other = start_other(DBPOOL_TEST_SOCKETS="", DBPOOL_TEST_SECRET="another-secret-0123456789")
    lease = other.lease("hold")
    assert wait_until(lambda: published(other), PATIENCE)
    acted = act(other.instance, "terminate", actor="test", timeout=3.0, **lease)
    assert (acted.outcome, "another one?" in acted.text) == ("unknown", True), acted.text
    assert other.go_on()["ended"] == "well"
