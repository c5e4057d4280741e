"""Every alert, raised by what it is about and over with it: on real pools, told by log and signal."""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.core import mail
from django.db import connections
from django.test import override_settings

from django_dbpool import alerts
from django_dbpool.alerts import Alert, Change
from django_dbpool.alerts.service import JOB, Service, service, start, stop
from django_dbpool.core import reporter
from django_dbpool.core.alerts import RULES
from django_dbpool.errors import PoolError, PoolExhausted
from django_dbpool.pool.gauges import Gauges, gauges
from testproject.postgres import free_port
from testproject.processes import wait_until
from tests.fixtures.pools import execute, hold, value
from tests.fixtures.proxy import Proxy
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
FAST = {name: {"after": 0, "hold": 0.1, "window": 0.5} for name in RULES}


@pytest.fixture(autouse=True)
def fast_rules() -> Iterator[None]:
    with override_settings(DBPOOL={"ROLE": "command", "ALERTS": FAST}):
        yield


@pytest.fixture
def watch() -> Iterator[Service]:
    watch = Service()
    watch.look()
    yield watch
    watch.close()


def active(watch: Service, rule: str, alias: str) -> Alert | None:
    watch.look()
    return next((alert for alert in watch.active() if (alert.rule, alert.alias) == (rule, alias)), None)


def raised(watch: Service, rule: str, alias: str) -> Alert:
    """As it was when it was raised: a look right behind that one compares two moments that are hardly apart."""
    alert: Alert | None = None

    def is_raised() -> bool:
        nonlocal alert
        alert = active(watch, rule, alias)
        return alert is not None

    assert wait_until(is_raised, PATIENCE), f"{rule} was not raised"
    assert alert is not None
    return alert


def cleared(watch: Service, rule: str, alias: str) -> None:
    assert wait_until(lambda: active(watch, rule, alias) is None, PATIENCE), f"{rule} was not cleared"
    change = next(each for each in watch.recent() if (each.alert.rule, each.alert.alias) == (rule, alias))
    assert change.what == "cleared"


def release(worker: Worker) -> None:
    worker(connections.close_all)


def test_utilisation(make_pool: MakePool, worker: Worker, watch: Service) -> None:
    alias = make_pool(size=1)
    worker(hold, alias)
    alert = raised(watch, "utilisation", alias)
    assert (alert.severity, alert.threshold) == ("critical", 0.8)
    assert alert.value == pytest.approx(1, abs=0.2)
    assert "thread worker-1_0 (1, oldest" in str(alert)
    release(worker)
    cleared(watch, "utilisation", alias)


def test_utilisation_of_many_short_leases(make_pool: MakePool, worker: Worker, watch: Service) -> None:
    """Whoever only looks at what is in use at one moment may find nothing."""
    alias = make_pool(size=1)
    execute(alias, "SELECT 1")
    watch.look()
    for _ in range(5):
        execute(alias, "SELECT pg_sleep(0.2)")
    found = [change.alert for change in watch.look()]
    assert [alert.rule for alert in found if alert.alias == alias] == ["utilisation"]
    assert watch.measured()[alias].leases >= 6
    assert 0.7 < watch.measured()[alias].peak_load <= 1.05


def test_waiters(make_pool: MakePool, make_worker: Callable[[], Worker], watch: Service) -> None:
    alias = make_pool(size=1, POOL={"timeout": 20})
    holder, waiter = make_worker(), make_worker()
    holder(hold, alias)
    waiting = waiter.start(hold, alias)
    assert wait_until(lambda: connections[alias].pool.snapshot().waiting == 1, PATIENCE)
    alert = raised(watch, "waiters", alias)
    assert "1 of 1 are in use" in alert.text
    assert "worker-1" in alert.holders[0]
    release(holder)
    waiting.result(PATIENCE)
    release(waiter)
    cleared(watch, "waiters", alias)


def test_timeouts(make_pool: MakePool, worker: Worker, watch: Service) -> None:
    alias = make_pool(size=1, POOL={"timeout": 0.3})
    worker(hold, alias)
    with pytest.raises(PoolExhausted):
        execute(alias, "SELECT 1")
    alert = raised(watch, "timeouts", alias)
    assert (alert.severity, alert.value) == ("critical", 1)
    release(worker)
    cleared(watch, "timeouts", alias)


def test_connect_failures(make_pool: MakePool, watch: Service) -> None:
    alias = make_pool(PORT=str(free_port()), POOL={"retry": False, "breaker": False})

    def fail() -> None:
        with suppress(PoolError):
            execute(alias, "SELECT 1")

    fail()
    fail()
    assert active(watch, "connect_failures", alias) is None  # two are too few
    alert: Alert | None = None

    def is_raised() -> bool:
        nonlocal alert
        fail()  # until there are enough in half a second
        alert = active(watch, "connect_failures", alias)
        return alert is not None

    assert wait_until(is_raised, PATIENCE)
    assert alert is not None
    assert "100% of the attempts" in alert.text
    assert re.search(r"\(([3-9]|\d\d) of \1\)", alert.text)
    cleared(watch, "connect_failures", alias)


def test_circuit(make_pool: MakePool, proxy: Proxy, watch: Service) -> None:
    pool = {
        "retry": False,
        "timeout": 2,
        "breaker": {"minimum_throughput": 2, "sampling_duration": 30, "probe_interval": 0.05},
    }
    alias = make_pool(HOST=proxy.host, PORT=str(proxy.port), POOL=pool)
    proxy.stop()
    for _ in range(3):
        with suppress(PoolError):
            execute(alias, "SELECT 1")
    alert = raised(watch, "circuit", alias)
    assert (alert.severity, "The circuit is open") == ("critical", alert.text[:19])
    proxy.start()
    cleared(watch, "circuit", alias)


@pytest.mark.ci
def test_connecting_becomes_slow(make_pool: MakePool, proxy: Proxy, watch: Service) -> None:
    alias = make_pool(HOST=proxy.host, PORT=str(proxy.port), POOL={"retry": False})

    def connect(times: int, delay: float) -> None:
        for _ in range(times):
            connections[alias].close_pool()
            if delay:
                proxy.deaf()
                threading.Timer(delay, proxy.start).start()
            execute(alias, "SELECT 1")

    watch.look()
    connect(8, 0)
    pause = threading.Event()
    for _ in range(25):
        watch.look()
        pause.wait(0.025)
    with override_settings(DBPOOL={"ALERTS": {"connect_time": {"hold": 0.1, "window": 1, "warning": 3}}}):
        watch.look()
        connect(3, 0.2)
        alert = raised(watch, "connect_time", alias)
        assert alert.value > 3
        assert "usually" in alert.text
        cleared(watch, "connect_time", alias)


def test_leak(make_pool: MakePool, worker: Worker, watch: Service) -> None:
    alias = make_pool(POOL={"leak_after": 0.1})
    worker(hold, alias)
    alert = raised(watch, "leak", alias)
    assert alert.value == 1
    assert "worker-1" in alert.holders[0]
    assert "leak_after (0.1 s): 1," in alert.text
    release(worker)
    cleared(watch, "leak", alias)


def test_pins(make_pool: MakePool, worker: Worker, watch: Service) -> None:
    alias = make_pool(POOL={"pin_max": 0.1})
    worker(execute, alias, "SET statement_timeout = 5000")
    alert = raised(watch, "pins", alias)
    assert "SET" in alert.text
    release(worker)
    cleared(watch, "pins", alias)


def test_gauges(make_pool: MakePool, make_worker: Callable[[], Worker], observer: Any) -> None:
    alias = make_pool(size=4)
    nested, busy = make_worker(), make_worker()
    second = connections[alias].copy()
    second.inc_thread_sharing()  # made here, used there

    def lease_twice() -> None:
        hold(alias)
        second.set_autocommit(False)
        second.cursor().execute("SELECT 1")

    nested(lease_twice)
    execute(alias, "SELECT 1")
    with observer.transaction():
        observer.execute("SELECT pg_advisory_xact_lock(11)")
        waiting = busy.start(execute, alias, "SELECT pg_advisory_xact_lock(11)")
        assert wait_until(lambda: gauges(connections[alias].pool).executing == 1, PATIENCE)
        found = gauges(connections[alias].pool)
        assert (found.in_use, found.nested, found.overdue, found.pins) == (3, 2, 0, 0)
        assert found.ready == 0
        assert found.age > 0
    waiting.result(PATIENCE)
    nested(second.close)
    nested(connections.close_all)
    assert gauges(connections[alias].pool) == Gauges()


def test_gauges_know_who_has_an_answer_and_no_turn(make_pool: MakePool, worker: Worker) -> None:
    alias = make_pool()
    worker(hold, alias)
    pool = connections[alias].pool
    (entry,) = pool.entries
    entry.pgconn.send_query(b"SELECT 1")  # and nobody reads
    assert wait_until(lambda: gauges(pool).ready == 1, PATIENCE)
    assert gauges(pool).executing == 1
    while entry.pgconn.get_result() is not None:
        pass
    assert gauges(pool).ready == 0
    release(worker)


def test_who_reads_a_stream_at_leisure_waits_for_no_turn(make_pool: MakePool, worker: Worker) -> None:
    alias = make_pool()
    rows: list[Iterator[Any]] = []

    def begin() -> None:
        rows.append(connections[alias].cursor().stream("SELECT generate_series(1, 100000)"))
        next(rows[0])

    worker(begin)
    pool = connections[alias].pool
    (entry,) = pool.entries
    assert wait_until(lambda: entry.suspicious(), PATIENCE)  # more rows are there
    assert (gauges(pool).executing, gauges(pool).ready) == (1, 0)
    worker(lambda: sum(1 for _ in rows[0]))
    worker(connections.close_all)


# -- what others know -----------------------------------------------------------------------------------------------


@pytest.fixture
def providers() -> Iterator[None]:
    yield
    alerts.provide("server_connections", None)
    alerts.provide("strangers", None)
    alerts.provide("activity", None)


@pytest.mark.usefixtures("providers")
def test_the_server_is_near_its_limit(make_pool: MakePool, watch: Service, observer: Any) -> None:
    alias = make_pool()
    execute(alias, "SELECT 1")
    limit = 0

    def ask(_: str) -> tuple[int, int]:
        used = int(observer.execute("SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL").fetchone()[0])
        return used, used + limit

    alerts.provide("server_connections", ask)
    assert raised(watch, "server_connections", alias).severity == "critical"
    limit = 1000
    cleared(watch, "server_connections", alias)


@pytest.mark.usefixtures("providers")
def test_strangers(make_pool: MakePool, watch: Service) -> None:
    alias = make_pool()
    execute(alias, "SELECT 1")
    seen: list[int | None] = [None, 9]
    alerts.provide("strangers", lambda _: seen[-1])
    assert raised(watch, "strangers", alias).value == 9
    seen.append(0)
    cleared(watch, "strangers", alias)


@dataclasses.dataclass
class Held:
    minute: float


@dataclasses.dataclass
class Row:
    alias: str
    name: str | None
    held: Held
    baseline: float
    observed: float = 3600


@pytest.mark.usefixtures("providers")
def test_a_route_that_takes_much_more_than_usual(make_pool: MakePool, watch: Service) -> None:
    alias = make_pool()
    execute(alias, "SELECT 1")
    rows = [
        Row(alias, "reports/", Held(3.0), 0.5),
        Row(alias, "seldom/", Held(0.5), 0.01),
        Row(alias, "new/", Held(9.0), 0.1, observed=60),
        Row(alias, None, Held(9.0), 0.1),
    ]
    alerts.provide("activity", lambda: tuple(rows))
    alert = raised(watch, "route_load", alias)
    assert [each.subject for each in watch.active() if each.rule == "route_load"] == ["reports/"]
    assert "reports/ holds 6.0 times as many connections as usual: 3.0 on average, usually 0.50" in alert.text
    rows.clear()
    cleared(watch, "route_load", alias)


@pytest.mark.usefixtures("providers")
def test_a_provider_that_fails_is_not_known(
    make_pool: MakePool, watch: Service, caplog: pytest.LogCaptureFixture
) -> None:
    execute(make_pool(), "SELECT 1")
    alerts.provide("strangers", lambda alias: 1 // len(alias[:0]))
    watch.look()
    watch.look()
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("provider of strangers failed") == 1
    with pytest.raises(ValueError, match="there are server_connections"):
        alerts.provide("weather", None)  # type: ignore[call-overload]


# -- telling --------------------------------------------------------------------------------------------------------


@pytest.fixture
def receivers() -> Iterator[Callable[[Any], None]]:
    connected: list[Any] = []

    def connect(receiver: Any) -> None:
        connected.append(receiver)
        alerts.alert_changed.connect(receiver)

    yield connect
    for receiver in connected:
        alerts.alert_changed.disconnect(receiver)


def test_log_and_signal(
    make_pool: MakePool, worker: Worker, watch: Service, receivers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_dbpool.alerts")
    told: list[tuple[Change, str]] = []
    alias = make_pool(POOL={"leak_after": 0.05})

    def receive(change: Change, **_: Any) -> None:
        told.append((change, threading.current_thread().name))
        assert value(alias, "SELECT 1") == 1  # it may use the database

    receivers(receive)
    worker(hold, alias)
    raised(watch, "leak", alias)
    release(worker)
    cleared(watch, "leak", alias)
    assert watch.flush(PATIENCE)
    mine = [(change.what, change.alert.rule, thread) for change, thread in told if change.alert.rule == "leak"]
    assert mine == [("raised", "leak", "dbpool-alerts"), ("cleared", "leak", "dbpool-alerts")]
    assert all(teller.failures == 0 for teller in watch._tellers)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if "leak" in record.getMessage()]
    assert lines[0][0] == "WARNING"
    assert lines[0][1].startswith(f"database '{alias}': leak raised (warning): Leases held for longer")
    assert lines[1][0] == "INFO"
    assert "leak cleared (warning): over after" in lines[1][1]


def test_receivers_that_raise_or_block_harm_nobody(
    make_pool: MakePool, worker: Worker, watch: Service, receivers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, reached, after = threading.Event(), threading.Event(), threading.Event()

    def fail(**_: Any) -> None:
        raise RuntimeError("mail server away")

    def block(**_: Any) -> None:
        reached.set()
        go_on.wait(PATIENCE)

    def last(**_: Any) -> None:
        after.set()

    for receiver in (fail, block, last):
        receivers(receiver)
    alias = make_pool(size=1, POOL={"leak_after": 0.05})
    worker(hold, alias)
    raised(watch, "leak", alias)
    assert reached.wait(PATIENCE)
    release(worker)
    cleared(watch, "leak", alias)  # looked at and told, while the receiver still blocks
    assert value(alias, "SELECT 1") == 1
    assert not after.is_set()
    go_on.set()
    assert after.wait(PATIENCE)
    assert watch.flush(PATIENCE)
    assert "mail server away" in caplog.text


def test_switched_off(make_pool: MakePool, worker: Worker, watch: Service) -> None:
    alias = make_pool(size=1)
    worker(hold, alias)
    with override_settings(DBPOOL={"ALERTS": None}):
        for _ in range(3):
            watch.look()
        assert watch.active() == ()
    raised(watch, "utilisation", alias)
    with override_settings(DBPOOL={"ALERTS": FAST | {"utilisation": None}}):
        assert active(watch, "utilisation", alias) is None


def test_the_process_has_one_and_a_child_its_own(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    stop()  # that of the tests before, which remembers what was wrong then
    execute(make_pool(), "SELECT 1")
    try:
        assert alerts.active() == alerts.active()
        assert alerts.recent() == ()
        mine = service()
        assert service() is mine
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: 1)
            assert service() is not mine
    finally:
        stop()


def test_looks_from_time_to_time_but_not_under_a_projects_tests(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop()  # whatever tests before this one had it look at
    alias = make_pool()
    execute(alias, "SELECT 1")
    try:
        start()
        reporter.flush()
        assert JOB not in reporter._jobs
        assert service().measured() == {}
        monkeypatch.delattr(mail, "outbox")
        start()
        reporter.flush()
        execute(alias, "SELECT 1")
        reporter.flush()
        assert service().measured()[alias].leases == 1
    finally:
        stop()
    assert JOB not in reporter._jobs
