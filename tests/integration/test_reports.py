"""Where a reading comes from, what this process adds to it, and how long it all takes when there is much of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.core.management import ManagementUtility
from django.core.signals import request_finished, request_started
from django.db import Error, connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from django_dbpool import reports, server_counts, transaction
from django_dbpool.alerts import service
from django_dbpool.backends import sampler
from django_dbpool.core.process import this_process
from django_dbpool.core.tally import tallies
from django_dbpool.fleet import publisher, snapshot, socket_server, verbs
from django_dbpool.fleet.snapshot import LARGEST, _sections, encoded
from django_dbpool.fleet.table import TableStore
from django_dbpool.operations import track_operation
from django_dbpool.reports import memory, recent
from testproject.processes import wait_until
from tests.faults.helpers import Child, Clock
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.counting import calls
from tests.fixtures.fleets import many
from tests.fixtures.pools import backend, execute, hold
from tests.fixtures.proxy import Proxy
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])
TABLE = "django_dbpool_process"
ROUTE = "nowhere/<str:token>/"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    memory.forget()
    sampler.reset()
    yield
    memory.forget()
    sampler.reset()


@pytest.fixture
def alias(make_pool: Callable[..., str]) -> Iterator[str]:
    """Of two connections; it has the table of the fleet."""
    alias = make_pool(size=2)
    with override_settings(DBPOOL={"FLEET": {"using": alias}, "SOCKET": False}):
        yield alias


def publish(alias: str, instance: str = "0" * 16, **changes: Any) -> None:
    store = TableStore(alias)
    store.put(instance, encoded({**snapshot(), "instance": instance, **changes}), delay=0, expire=30)
    store.close()


def insert(observer: psycopg.Connection[Any], documents: list[dict[str, Any]]) -> int:
    """As many processes would; the characters of all."""
    texts = [encoded(document) for document in documents]
    for document, text in zip(documents, texts, strict=True):
        observer.execute(
            f"INSERT INTO {TABLE} VALUES (%s, now(), now() + interval '1 minute', %s)", [document["instance"], text]
        )
    return sum(map(len, texts))


def own_pool(found: reports.Fleet, alias: str) -> reports.Database:
    return next(database for database in reports.databases(found) if database.alias == alias)


# -- where it comes from ------------------------------------------------------------------------------------------


def test_the_fleet_is_one_query_however_large(alias: str, observer: psycopg.Connection[Any]) -> None:
    """All lists and the overview of 200 processes with 5,000 holders: ten times the work of 20, not a hundred times."""
    work: dict[int, int] = {}
    for number in (1, 20, 200):
        size = insert(observer, many(number, 25))
        with CaptureQueriesContext(connections[alias]) as queries, calls() as counted:
            found = reports.read()
            whole = reports.overview(found)
            page = reports.holders(found, page=2)
        work[number] = counted.number
        assert len(queries) == 1
        assert (found.source, found.stale, found.remarks) == ("fleet", False, ())
        assert (whole.processes, page.total) == (number, number * 25)
        assert own_pool(found, "default").active == number * 25
        assert own_pool(found, "default").recent_activity == number * 100
        observer.execute(f"DELETE FROM {TABLE}")
    assert size > 3e6, "it says all that a busy process says"
    assert len(page.items) == 100
    assert work[200] < 11 * work[20], work


def test_each_server_is_one_query_more(alias: str, make_worker: Callable[[], Worker]) -> None:
    pid = make_worker()(hold, alias)
    publish(alias)
    with CaptureQueriesContext(connections[alias]) as queries:
        found = reports.read(servers=True)
    assert len(queries) == 2
    row = next(row for row in reports.holders(found).items if row.backend_pid == pid)
    assert (row.on_server, row.server_state, row.idle) == (True, "idle in transaction", True)
    database = own_pool(found, alias)
    assert database.server_connections is not None
    assert database.server_max is not None
    assert database.is_pooler is False


@pytest.mark.parametrize("store", ["nowhere", "without a table", "none"])
def test_without_a_store_this_host_is_asked_and_else_this_process(store: str, make_alias: MakeAlias) -> None:
    using = {
        "nowhere": lambda: make_alias(HOST="127.0.0.1", PORT="1", POOL={"retry": False, "timeout": 1}),
        "without a table": make_alias,
        "none": lambda: None,
    }[store]()
    fleet_ = {"using": using} if using else {"store": None}
    with (
        tempfile.TemporaryDirectory(prefix="dbp") as directory,
        override_settings(DBPOOL={"FLEET": fleet_, "SOCKET": directory}),
    ):
        alone = reports.read()
        socket_server.ensure_running()
        try:
            together = reports.read()
        finally:
            socket_server.stop()
    assert (alone.source, together.source) == ("process", "host")
    for found in (alone, together):
        assert [each.identity.instance for each in found.processes] == [this_process().instance]
        assert len(found.remarks) == 1
        assert "fleet-unreachable" in {problem.code for problem in reports.problems(found)}
    assert reports.remembered() is None


def test_settings_with_faults_are_a_remark() -> None:
    with override_settings(DBPOOL={"FLEET": {"using": "no such alias"}, "SOCKET": False}):
        found = reports.read()
    assert found.source == "process"
    assert "no such alias" in found.remarks[0]


def test_what_was_read_last_is_remembered(make_pool: Callable[..., str], proxy: Proxy) -> None:
    through = make_pool(size=1, HOST=proxy.host, PORT=str(proxy.port), POOL={"timeout": 1, "connect_timeout": 1})
    with override_settings(DBPOOL={"FLEET": {"using": through}, "SOCKET": False}):
        publish(through, "a" * 16, host="elsewhere", pid=7)
        publish(through, "b" * 16, state="ended")
        assert reports.remembered() is None
        assert reports.read().source == "fleet"
        proxy.stop()
        assert reports.read().source == "process"
        found = reports.remembered()
    assert found is not None
    assert (found.source, found.stale) == ("remembered", True)
    assert 0 < found.age < PATIENCE
    assert [process.name for process in found.processes] == ["elsewhere:7"]
    assert found.processes[0].age >= found.age
    assert reports.overview(found).sentence.startswith("As of ")
    assert Child(lambda: reports.remembered() is None).result(), "a child has read nothing yet"


def test_what_is_remembered_is_bounded(
    alias: str, observer: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = insert(observer, many(4, 5))
    monkeypatch.setattr(memory, "LARGEST", size * 3 // 4 + 100)
    assert len(reports.read().processes) == 4
    found = reports.remembered()
    assert found is not None
    assert len(found.processes) == 3
    assert found.remarks == ("1 more processes were not remembered.",)


def test_this_process_alone_needs_no_database_and_no_thread(
    make_pool: Callable[..., str], make_worker: Callable[[], Worker], proxy: Proxy
) -> None:
    """Every connection is taken, the reserve too, one more caller waits, and nothing reaches the server any more."""
    alias = make_pool(
        size=1, HOST=proxy.host, PORT=str(proxy.port), POOL={"timeout": 30, "reserve_size": 0, "command_timeout": None}
    )
    holding, waiting = make_worker(), make_worker()
    pid = holding(hold, alias)
    caller = waiting.start(backend, alias)
    assert wait_until(lambda: connections[alias].pool.snapshot().waiting == 1, PATIENCE)
    proxy.blackhole()
    try:
        leases = {name: tally.leases()[0] for name, tally in tallies().items()}
        began = monotonic()
        found = reports.own()
        whole = reports.overview(found)
        assert monotonic() - began < PATIENCE, "it waited for a server that is silent"
        assert {name: tally.leases()[0] for name, tally in tallies().items()} == leases, "nobody is asked"
        assert (found.source, found.remarks, len(found.processes)) == ("process", (), 1)
        database = own_pool(found, alias)
        assert (database.active, database.max, database.waiting) == (1, 1, 1)
        row = next(row for row in reports.holders(found, alias=alias).items)
        assert (row.backend_pid, row.instance) == (pid, this_process().instance)
        assert {problem.code for problem in whole.problems if problem.alias == alias} == {"waiting"}
    finally:
        proxy.start()
    holding(connections.close_all)
    assert caller.result(PATIENCE)


def test_the_reserve_is_apart(alias: str, make_worker: Callable[[], Worker]) -> None:
    for _ in range(2):
        make_worker()(hold, alias)
    with transaction.reserved(), transaction.atomic(using=alias):
        backend(alias)
        database = own_pool(reports.own(), alias)
        codes = {problem.code for problem in reports.problems(reports.own()) if problem.alias == alias}
    assert (database.active, database.max, database.reserve, database.reserve_used) == (3, 2, 1, 1)
    assert database.utilization_percent == 100.0
    assert codes == {"pool-full", "reserve-full"}
    assert own_pool(reports.own(), alias).reserve_used == 0


def test_the_last_minutes_are_told_without_the_store(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the socket, and to this process itself."""
    backend(alias)
    mine = publisher.Publisher(TableStore(alias), interval=5, expire=30)
    monkeypatch.setattr(publisher, "_publisher", mine)
    with transaction.atomic(using=alias):
        backend(alias)
        mine.ring.sample([connections[alias].pool.snapshot()])
    assert own_pool(reports.own(), alias).series.active[-1] == 1
    assert verbs.status()["series"]["pools"][alias]["in_use"] == [1]


# -- what this process remembers ----------------------------------------------------------------------------------


def test_slow_and_repeated_statements_are_told_without_their_values(alias: str) -> None:
    fleet_ = {"FLEET": {"using": alias}}
    with override_settings(DBPOOL={**fleet_, "SLOW_STATEMENT": 0.03, "REPEATED_STATEMENTS": 4}):
        request_started.send(object, environ={"REQUEST_METHOD": "GET", "PATH_INFO": "/hunter2/"})
        execute(alias, "SELECT pg_sleep(%s), 'hunter2' AS slow", [0.05])
        for number in range(6):
            execute(alias, "SELECT %s, 'hunter2' AS repeated", [number])
        connections[alias].close()
        request_finished.send(object)
        publish(alias)
    found = reports.read()
    slow = next(row for row in reports.slow_statements(found, alias=alias).items if "pg_sleep" in row.sql)
    assert (slow.sql, slow.count, slow.processes) == ("SELECT pg_sleep(%s), ? AS slow", 1, 1)
    assert slow.longest >= 0.05
    repeated = next(row for row in reports.repeated_statements(found, alias=alias).items)
    assert (repeated.sql, repeated.units, repeated.most) == ("SELECT %s, ? AS repeated", 1, 6)
    assert "execute" in repeated.where or "test_reports.py" in repeated.where
    assert "hunter2" not in json.dumps([process.to_json() for process in found.processes])


def test_circuits_with_their_times(make_alias: MakeAlias) -> None:
    away = make_alias(HOST="127.0.0.1", PORT="1", POOL={"timeout": 1, "breaker": {"probe_interval": None}})
    breaker = connections[away].pool.breaker
    with suppress(Error):
        backend(away)
    breaker.trip(reason="a test")
    database = own_pool(reports.own(), away)
    assert (database.circuit, database.circuits) == ("open", {"open": 1})
    assert [(step.before, step.after, step.reason) for step in database.circuit_changes] == [
        ("closed", "open", "a test")
    ]
    assert 0 <= database.circuit_changes[0].ago < PATIENCE
    (problem,) = [each for each in reports.problems(reports.own()) if each.alias == away]
    assert problem.code == "circuit-open"
    assert problem.since is not None


def test_operations_that_ended() -> None:
    with suppress(ZeroDivisionError), track_operation("report of the month", tags={"who": "7"}):
        (running,) = reports.operations(reports.own(), q="month").items
        assert (running.name, running.state, running.tags) == ("report of the month", "running", {"who": "7"})
        _ = 1 / 0
    (row,) = reports.operations(reports.own(), q="month", running=False).items
    assert (row.state, row.error) == ("failed", "ZeroDivisionError")
    assert row.ended_ago is not None
    assert 0 <= row.ended_ago < PATIENCE
    assert reports.operations(reports.own(), q="month").total == 0


def test_alerts_that_are_over_stay_for_a_while(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    mine = service.Service(clock=clock, wall=lambda: 1000.0 + clock())
    monkeypatch.setattr(service, "service", lambda: mine)
    monkeypatch.setitem(_sections, "alerts", (service.alerts_section, LARGEST))
    backend(alias)
    breaker = connections[alias].pool.breaker
    breaker.isolate()
    mine.look()
    clock.advance(5)
    mine.look()
    found = reports.own()
    (row,) = reports.alerts(found, alias=alias, active=True).items
    assert (row.rule, row.severity) == ("circuit", "critical")
    breaker.reset()
    for _ in range(5):
        clock.advance(5)
        mine.look()
    (row,) = reports.alerts(reports.own(), alias=alias, active=False).items
    assert (row.rule, row.active) == ("circuit", False)
    assert row.seconds > 5
    mine.close()


def test_what_was_counted_lately(alias: str) -> None:
    """More than a quarter of an hour ago 3 leases, since then 2."""
    clock = Clock()
    counter = recent.Recent(clock)
    execute(alias, "SELECT 1")
    counter.sample()
    clock.advance(60)
    for _ in range(2):
        execute(alias, "SELECT 1")
    counter.sample()
    clock.advance(recent.SPAN - 1)
    assert counter.to_json()[alias]["leases"] == 2, "one was 60 s earlier"
    clock.advance(2)
    assert counter.to_json()[alias]["leases"] == 0
    execute(alias, "SELECT 1")
    counter.sample()
    clock.advance(60)
    with transaction.atomic(using=alias):
        execute(alias, "SELECT pg_sleep(0.06)")
    told = counter.to_json()[alias]
    assert (told["leases"], told["seconds"]) == (2, recent.SPAN)
    assert told["use"]["count"] == 2
    assert sum(told["use"]["counts"][4:]) == 1
    assert recent.Recent(clock).to_json()[alias]["leases"] == 5, "whoever begins to count knows of no time before"


def test_a_child_has_counted_nothing(alias: str) -> None:
    backend(alias)
    recent.sample()
    mine = recent.section()
    assert mine is not None
    assert mine[alias]["leases"] >= 1
    assert Child(recent.section).result() is None


def test_samples_are_few() -> None:
    clock = Clock()
    counter = recent.Recent(clock, read=tuple)
    for _ in range(500):
        counter.sample()
        clock.advance(recent.INTERVAL / 3)
    assert len(counter._samples) == recent.SPAN / recent.INTERVAL + 2
    assert clock() - counter._samples[0][0] >= recent.SPAN


def test_what_one_process_has_asked_its_server_all_know(alias: str) -> None:
    backend(alias)
    server_counts.watch("test", interval=60)
    try:
        server_counts.look()
        assert wait_until(lambda: server_counts.latest(alias) is not None, PATIENCE)
        publish(alias)
        database = own_pool(reports.read(), alias)
    finally:
        server_counts.unwatch("test", timeout=PATIENCE)
    assert database.server_connections is not None
    assert 0 < database.server_connections <= 200
    assert database.server_max == 200


def test_the_snapshot_of_a_busy_process_fits(alias: str, make_worker: Callable[[], Worker]) -> None:
    """With all that is remembered: many slow texts, repeated ones, operations; none crowds out the others."""
    words = "x" * 400
    with override_settings(DBPOOL={"SLOW_STATEMENT": 0.000001, "REPEATED_STATEMENTS": 2}):
        for number in range(40):
            with track_operation(f"{number} {words}"):
                for _ in range(3):
                    execute(alias, f"SELECT 1 AS a{number}{words[:60]} -- {words}")
                connections[alias].close()
        pid = make_worker()(hold, alias)
        text = encoded(snapshot())
    assert len(text) <= LARGEST
    document = json.loads(text)
    sections = document["sections"]
    for name in ("slow_statements", "repeated_statements", "operations_ended", "recent"):
        assert sections[name], name
        assert len(json.dumps(sections[name], separators=(",", ":"))) <= 10 * 1024
    assert [holder["backend_pid"] for holder in document["holders"] if holder["alias"] == alias] == [pid]


# -- dbpool status ------------------------------------------------------------------------------------------------


def test_status_says_what_to_do(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    publish(alias, host="web-1", pid=1, holders=[], pools=[], missed={"snapshots": 3, "error": "\x1b[2JX"})
    with pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", "dbpool", "status", "--no-color"]).execute()
    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert "web-1:1 could not publish for some time (\\x1b[2JX).\n  Look at the log of django_dbpool.fleet" in out
    assert "\x1b" not in out
    with pytest.raises(SystemExit):
        ManagementUtility(["manage.py", "dbpool", "status", "--json", "--no-server"]).execute()
    document = json.loads(capsys.readouterr().out)
    assert [problem["code"] for problem in document["problems"]] == ["not-publishing"]
    assert document["sentence"] == document["wrong"][0]
