"""What is wrong now: each kind of it, with what to do; one problem for one thing, however many processes have it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from django_dbpool import reports
from django_dbpool.core.alerts import rules
from django_dbpool.fleet import HeldSession, Process, Server, Session
from django_dbpool.reports.trouble import CODES
from tests.fixtures.fleets import NOW, fleet, holder, pool, process

Make = Callable[[], reports.Fleet]


def session(pid: int = 11, **values: Any) -> Session:
    known: dict[str, Any] = {
        "application_name": "psql", "state": "idle", "waits_for": None, "age": 500.0, "transaction_age": None,
        "state_age": 400.0, **values,
    }  # fmt: skip
    return Session(pid=pid, **known)


def server(*processes: Process, **values: Any) -> Server:
    found = Server("default", True, 20, 100, 3, (), (), ())
    held = tuple(HeldSession(each, each.holders[0], values.pop("session", None)) for each in processes)
    return Server(**{**{name: getattr(found, name) for name in Server.__slots__}, "held": held, **values})


def alert(rule: str, **values: Any) -> dict[str, Any]:
    return {
        "id": f"{rule}:default", "rule": rule, "alias": "default", "severity": "critical", "since": NOW - 60,
        "text": "It is so.", "todo": "Do this.", "holders": ["a (2, oldest 3.0 s)"], "value": 1.0, **values,
    }  # fmt: skip


def waits_for_a_lock() -> reports.Fleet:
    waiter = process(holders=[holder(since_seconds=30.0)])
    blocked = session(11, state="active", waits_for="Lock: transactionid", state_age=25.0, blocked_by=(99,))
    stranger = session(99, state="idle in transaction", state_age=5.0)
    return fleet(waiter, servers=(server(waiter, session=blocked, strangers=(stranger,)),))


def strangers_in_transactions() -> reports.Fleet:
    one = session(7, state="idle in transaction", state_age=300.0, application_name="import.py")
    return fleet(process(), servers=(server(strangers=(one, session(8))),))


SLOW = {"alias": "default", "sql": "SELECT %s", "running": 1, "longest": 40.0, "name": "reports/"}
WRONG: dict[str, tuple[Make, str, str]] = {
    "circuit-open": (
        lambda: fleet(process(pools=[pool(circuit="open")])),
        "error",
        r"web-1:100: the circuit of database 'default' is open: its server can't be reached",
    ),
    "circuit-isolated": (lambda: fleet(process(pools=[pool(circuit="isolated")])), "error", "held open by hand"),
    "circuit-half-open": (lambda: fleet(process(pools=[pool(circuit="half-open")])), "warning", "one caller is trying"),
    "server-full": (lambda: fleet(servers=(server(connections=90),)), "error", "has 90 of the 97 connections"),
    "server-crowded": (lambda: fleet(servers=(server(connections=80),)), "warning", "has 80 of the 97 connections"),
    "waiting": (
        lambda: fleet(process(pools=[pool(in_use=4, waiting=3)], holders=[holder(), holder(since_seconds=40.0)])),
        "error",
        r"web-1:100: 3 callers wait for .* 'default'; a/<int:pk>/ holds 2, for up to 40 s \(running\)\.",
    ),
    "pool-full": (
        lambda: fleet(process(pools=[pool(in_use=5, reserve_in_use=1, reserve_size=2)])),
        "warning",
        "all 4 connections to database 'default' are in use",
    ),
    "reserve-full": (lambda: fleet(process(pools=[pool(reserve_in_use=1)])), "warning", "the reserve of database"),
    "timeouts": (lambda: fleet(process(sections={"alerts": [alert("timeouts")]})), "error", "It is so. Held by a"),
    "connect-failures": (
        lambda: fleet(process(sections={"alerts": [alert("connect_failures", severity="warning")]})),
        "warning",
        "web-1:100: database 'default': It is so.",
    ),
    "stale": (
        lambda: fleet(process(age=21.4, stale=True), process(1)),
        "warning",
        r"web-1:100 has not published for 21 s: does it hang, or was it killed\?",
    ),
    "fleet-unreachable": (
        lambda: fleet(process(), source="host", remarks=("table x can't be read: gone",)),
        "warning",
        "only the processes of this host are seen: table x can't be read",
    ),
    "held-idle": (
        lambda: fleet(process(holders=[holder(since_seconds=20.0, state="idle in transaction")])),
        "warning",
        r"web-1:100: a/<int:pk>/ has held a connection to database 'default' for 20 s \(idle in transaction\)\.",
    ),
    "held-long": (
        lambda: fleet(process(age=3.0, holders=[holder(since_seconds=58.0)])),
        "warning",
        r"has held a connection to database 'default' for 61 s \(running\)",
    ),
    "pinned-long": (
        lambda: fleet(process(holders=[holder(since_seconds=3600.0, pinned="LISTEN", state="idle")])),
        "warning",
        r"for 60 min \(idle, pinned: LISTEN\)",
    ),
    "blocked": (
        waits_for_a_lock,
        "warning",
        r"waiting for a lock .* for 25 s, held by a stranger, application 'psql' \(backend 99\)",
    ),
    "slow-running": (
        lambda: fleet(process(sections={"slow_statements": [SLOW]})),
        "warning",
        "a statement that takes up to 40 s runs now for reports/ in database 'default': SELECT %s",
    ),
    "strangers": (
        strangers_in_transactions,
        "warning",
        r"1 session of this role that no process knows of: idle in a transaction for up to 5 min, application import",
    ),
    "not-publishing": (
        lambda: fleet(process(missed={"snapshots": 3, "seconds": 15.0, "error": "OperationalError"})),
        "warning",
        r"web-1:100 could not publish for some time \(OperationalError\)",
    ),
}


def test_every_kind_is_here_and_explained() -> None:
    assert set(WRONG) == set(CODES)
    page = (Path(__file__).parents[2] / "docs/reports.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \| (?:error|warning)", page, re.MULTILINE)) == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_it_is_told_with_what_to_do(code: str) -> None:
    make, severity, text = WRONG[code]
    (found,) = reports.problems(make())
    assert (found.code, found.severity) == (code, severity)
    assert re.search(text, found.text), found.text
    assert len(found.remedy) > 7
    assert found.text.isprintable()
    assert reports.overview(make()).status == {"error": "unhealthy", "warning": "degraded"}[severity]


def test_each_rule_of_the_alerts_is_a_problem_once() -> None:
    """Where a snapshot says the same of this moment, only that is told."""
    for rule in rules.RULES:
        (found,) = reports.problems(fleet(process(sections={"alerts": [alert(rule)]})))
        assert found.since == NOW - 60
        assert found.remedy == "Do this."
    said = {"alerts": [alert("waiters"), alert("utilisation"), alert("circuit"), alert("leak")]}
    full = process(
        pools=[pool(in_use=4, waiting=2, circuit="open")],
        holders=[holder(since_seconds=99.0, state="idle in transaction")],
        sections=said,
    )
    assert [each.code for each in reports.problems(fleet(full))] == ["circuit-open", "waiting", "held-idle"]


def test_an_alert_that_is_over_and_still_watched_is_no_problem() -> None:
    found = fleet(process(sections={"alerts": [alert("timeouts", value=0.0)]}))
    assert reports.problems(found) == ()
    assert reports.overview(found).healthy


def test_one_thing_in_many_processes_is_one_problem() -> None:
    crowd = [
        process(
            number,
            pools=[pool(in_use=4, waiting=2, circuit="open")],
            holders=[holder(since_seconds=20.0 + number, state="idle in transaction")],
            sections={"alerts": [alert("timeouts")]},
        )
        for number in range(5)
    ]
    found = {each.code: each for each in reports.problems(fleet(*crowd))}
    assert set(found) == {"circuit-open", "waiting", "held-idle", "timeouts"}
    for problem in found.values():
        assert (problem.processes, problem.process, problem.alias) == (5, None, "default")
        assert problem.text.startswith("web-1:100, web-1:101, web-1:102 and 2 more: ") or problem.code == "timeouts"
    assert "10 callers wait" in found["waiting"].text
    assert "has held 5 connections to database 'default' for up to 24 s" in found["held-idle"].text
    assert found["held-idle"].since == NOW - 24


def test_many_that_wait_for_one_lock_are_one_problem() -> None:
    crowd = [process(number, holders=[holder(backend_pid=20 + number)]) for number in range(8)]
    held = tuple(
        HeldSession(
            each,
            each.holders[0],
            session(20 + number, waits_for="Lock: tuple", state_age=11.0 + number, blocked_by=(99 if number else 98,)),
        )
        for number, each in enumerate(crowd)
    )
    first, second = reports.problems(fleet(*crowd, servers=(server(held=held),)))
    assert (first.processes, second.processes) == (1, 7)
    assert "a/<int:pk>/ (7 of them) have been waiting" in second.text
    assert "for up to 18 s, held by backend 99." in second.text


def test_errors_come_first_whatever_they_are() -> None:
    found = reports.problems(
        fleet(process(pools=[pool(reserve_in_use=1)], sections={"alerts": [alert("route_load"), alert("timeouts")]}))
    )
    assert [(each.code, each.severity) for each in found] == [
        ("timeouts", "error"),
        ("route-load", "error"),
        ("reserve-full", "warning"),
    ]


def test_when_a_circuit_has_opened_is_told() -> None:
    steps = [
        {"ago": 300.0, "before": "closed", "after": "open", "reason": ""},
        {"ago": 200.0, "before": "open", "after": "closed", "reason": ""},
        {"ago": 100.0, "before": "closed", "after": "open", "reason": ""},
        {"ago": 1.0, "before": "half-open", "after": "open", "reason": ""},
    ]
    (found,) = reports.problems(
        fleet(process(age=2.0, pools=[pool(circuit="open")], sections={"circuits": {"default": steps}}))
    )
    assert found.since == NOW - 102


def test_one_that_works_in_a_transaction_is_not_taken_for_one_that_waits() -> None:
    """A lease is looked at between two statements of a busy transaction: its request says that it works."""
    held = holder(since_seconds=20.0, state="idle in transaction")

    def operation(*, holds_idle: bool) -> dict[str, Any]:
        return {"operations": [{"holds_idle": holds_idle, "held": [{"alias": "default", "backend_pid": 11}]}]}

    assert reports.problems(fleet(process(holders=[held], sections=operation(holds_idle=False)))) == ()
    (found,) = reports.problems(fleet(process(holders=[held], sections=operation(holds_idle=True))))
    assert found.code == "held-idle"
    holding = process(holders=[held])
    for seconds, codes in ((3.0, []), (15.0, ["held-idle"])):
        there = session(state="idle in transaction", state_age=seconds)
        found_ = reports.problems(fleet(holding, servers=(server(holding, session=there),)))
        assert [each.code for each in found_] == codes, "the server knows best"


def test_backends_of_two_servers_may_have_the_same_number() -> None:
    """In containers they count from one, and often have."""
    held = [holder(alias, since_seconds=20.0, state="idle in transaction") for alias in ("default", "other")]
    works = [{"holds_idle": False, "held": [{"alias": "other", "backend_pid": 11}]}]
    (found,) = reports.problems(fleet(process(holders=held, sections={"operations": works})))
    assert (found.code, found.alias) == ("held-idle", "default")
    both = process(holders=held)
    there = server(both, session=session(state="idle in transaction", state_age=3.0))
    (found,) = reports.problems(fleet(both, servers=(there,)))
    assert (found.code, found.alias) == ("held-idle", "other"), "of the other server nobody has asked"


def test_what_is_dedicated_may_be_held_for_ever() -> None:
    held = [holder(since_seconds=9000.0, state="idle")]
    assert reports.problems(fleet(process(holders=held, dedicated={"default": [11]}))) == ()
    assert len(reports.problems(fleet(process(holders=held, dedicated={"other": [11]})))) == 1


def test_who_is_named_has_a_connection_of_the_pool() -> None:
    """Not a listener, nor our own thread that asks the server: theirs they have had for hours, to nobody's harm."""
    held = [
        holder(backend_pid=1, name="listen", since_seconds=9000.0, state="idle"),
        holder(backend_pid=2, name=None, unit=None, thread="dbpool-server-counts", since_seconds=9000.0, state="idle"),
        holder(backend_pid=3, name="reports/", since_seconds=5.0),
    ]
    busy = process(pools=[pool(in_use=4, waiting=1)], holders=held, dedicated={"default": [1, 2]})
    (found,) = reports.problems(fleet(busy))
    assert "reports/ holds one, for up to 5.0 s (running)" in found.text
    assert reports.processes(fleet(busy)).items[0].oldest == 5.0


def test_a_reading_that_is_old_says_so_and_nothing_of_silent_processes() -> None:
    past = fleet(process(age=90.0, stale=True), source="remembered", age=80.0, stale=True)
    assert [each.code for each in reports.problems(past)] == ["fleet-unreachable"]
    assert [each.code for each in reports.problems(fleet(process(), source="host"))] == [], "it was asked for"
    everybody = [process(number, age=90.0, stale=True) for number in range(2)]
    (found,) = reports.problems(fleet(*everybody))
    assert (found.code, found.severity, found.processes) == ("stale", "error", 2)


def test_some_strangers_disturb_nobody() -> None:
    for number, told in ((5, 0), (6, 1)):
        those = tuple(session(pid) for pid in range(number))
        assert len(reports.problems(fleet(servers=(server(strangers=those),)))) == told


def test_the_remedy_names_the_server_that_is_meant() -> None:
    (found,) = reports.problems(fleet(process(pools=[pool(circuit="open")])))
    entry = connections.settings["default"]
    assert f"pg_isready -h {entry['HOST']} -p {entry['PORT']}" in found.remedy
    (found,) = reports.problems(fleet(process(pools=[pool("elsewhere", circuit="open")])))
    assert "`pg_isready`" in found.remedy


def test_whoever_adds_a_kind_has_to_say_what_to_do() -> None:
    """Every remedy is a sentence or two, for people who can't ask back."""
    for code, (make, *_) in WRONG.items():
        if code not in ("timeouts", "connect-failures"):
            (found,) = reports.problems(make())
            assert 40 < len(found.remedy) < 420, inspect.cleandoc(found.remedy)
            assert found.remedy.endswith((".", ")"))
