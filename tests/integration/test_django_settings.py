"""What a Django developer takes for granted of an entry in DATABASES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper as Stock
from django.db.backends.signals import connection_created
from django.test import override_settings

from testproject.postgres import Server
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import backend, execute, in_use, size, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]


@pytest.fixture
def role(observer: psycopg.Connection[Any]) -> Iterator[str]:
    observer.execute('CREATE ROLE "Odd Role"')
    yield "Odd Role"
    observer.execute('DROP ROLE "Odd Role"')


@pytest.fixture
def another() -> Iterator[Worker]:
    worker = Worker("another")
    yield worker
    worker.stop()


# -- what connections are made with ---------------------------------------------------------------------------


@pytest.mark.parametrize("server_side_binding", [False, True])
def test_assume_role_and_time_zone_on_every_connection(
    make_pool: MakePool, role: str, another: Worker, server_side_binding: bool
) -> None:
    """Role and zone are the session's defaults, so even RESET ALL brings them back."""
    alias = make_pool(
        size=2,
        TIME_ZONE="Asia/Tokyo",
        OPTIONS={"assume_role": role, "server_side_binding": server_side_binding},
    )
    asked = "SELECT current_user::text, current_setting('TimeZone')"
    with transaction.atomic(using=alias):
        assert execute(alias, asked) == [(role, "Asia/Tokyo")]
        assert another(execute, alias, asked) == [(role, "Asia/Tokyo")]
    execute(alias, "RESET ALL")
    assert execute(alias, asked) == [(role, "Asia/Tokyo")]
    connections[alias].close()


def test_options_of_the_user_are_kept(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our start-up options are added to OPTIONS["options"], or to PGOPTIONS where there is none."""
    given = make_pool(OPTIONS={"options": "-c work_mem=5MB"})
    assert value(given, "SELECT current_setting('work_mem')") == "5MB"
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=6MB")
    assert value(make_pool(), "SELECT current_setting('work_mem')") == "6MB"


def test_time_zone_changed_midway(make_pool: MakePool) -> None:
    """override_settings(TIME_ZONE) reaches a connection that is in a transaction, and those made later."""
    alias = make_pool()
    connection = connections[alias]
    asked = "SELECT current_setting('TimeZone')"
    with transaction.atomic(using=alias):
        assert value(alias, asked) == "UTC"
        with override_settings(USE_TZ=False, TIME_ZONE="Africa/Nairobi"):
            assert value(alias, asked) == "Africa/Nairobi"
            pid = backend(alias)
        assert value(alias, asked) == "UTC"
    assert not connection.ensure_timezone()  # nothing is leased
    assert value(alias, asked) == "UTC"
    assert backend(alias) != pid


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.SERIALIZABLE, psycopg.IsolationLevel.REPEATABLE_READ])
def test_isolation_level(make_pool: MakePool, level: psycopg.IsolationLevel) -> None:
    alias = make_pool(OPTIONS={"isolation_level": level})
    with transaction.atomic(using=alias):
        assert value(alias, "SHOW transaction_isolation") == level.name.lower().replace("_", " ")
    assert connections[alias].isolation_level == level


def test_wrong_isolation_level_is_named(make_pool: MakePool) -> None:
    alias = make_pool(OPTIONS={"isolation_level": 99})
    with pytest.raises(ImproperlyConfigured, match=r"isolation_level.*99"):
        connections[alias].cursor()


def test_service_and_several_hosts(
    make_pool: MakePool, session_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service file names the server; of several hosts the first that answers is taken."""
    (tmp_path / "services").write_text(
        f"[ours]\nhost={session_server.host}\nport={session_server.port}\nuser={session_server.user}\n"
        f"dbname={connections['default'].settings_dict['NAME']}\npassword={session_server.password}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    by_service = make_pool(
        NAME="", HOST="", PORT="", USER="", PASSWORD="", OPTIONS={"service": "ours"}, TIME_ZONE="Asia/Tokyo"
    )
    assert value(by_service, "SELECT current_setting('TimeZone')") == "Asia/Tokyo"
    hosts = make_pool(HOST=f"{session_server.host},{session_server.host}", PORT=f"1,{session_server.port}")
    assert value(hosts, "SELECT 1") == 1


def test_prepare_threshold_and_connect_timeout(make_pool: MakePool) -> None:
    alias = make_pool(OPTIONS={"prepare_threshold": 0, "connect_timeout": 7, "server_side_binding": True})
    for _ in range(2):
        assert value(alias, "SELECT %s::int", [5]) == 5
    pool = connections[alias].pool
    assert pool.config.connect_timeout == 7
    (entry,) = pool.entries
    assert entry.conn.prepare_threshold == 0


# -- connection_created ---------------------------------------------------------------------------------------


def test_connection_created_once_per_physical_connection(make_pool: MakePool) -> None:
    """It fires for a connection, not for a lease; again when a receiver was added since."""
    alias = make_pool()
    heard: list[str] = []

    def first(connection: Any, **kwargs: Any) -> None:
        heard.append("first")
        execute(alias, "SET search_path = pg_catalog")

    def second(**kwargs: Any) -> None:
        heard.append("second")

    connection_created.connect(first)
    try:
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
            execute(alias, "SELECT 1")
            raise ZeroDivisionError  # the rollback must not undo the receiver's SET
        for _ in range(3):
            assert value(alias, "SHOW search_path") == "pg_catalog"
            connections[alias].close()
        assert heard == ["first"]
        connection_created.connect(second)
        assert value(alias, "SHOW search_path") == "pg_catalog"
        assert heard == ["first", "first", "second"]
        assert (in_use(alias), size(alias)) == (0, 1)
    finally:
        connection_created.disconnect(first)
        connection_created.disconnect(second)


def test_a_failing_receiver_costs_no_connection(make_pool: MakePool) -> None:
    alias = make_pool()

    def broken(**kwargs: Any) -> None:
        raise ZeroDivisionError

    connection_created.connect(broken)
    try:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                connections[alias].cursor()
    finally:
        connection_created.disconnect(broken)
    assert (in_use(alias), size(alias)) == (0, 0)
    assert value(alias, "SELECT 1") == 1


# -- switching the pool on and off ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [{"POOL": {"enabled": False}}, {"OPTIONS": {"pool": False}}],
    ids=["enabled False", "OPTIONS pool False"],
)
def test_switched_off_is_stock(make_alias: MakeAlias, entry: dict[str, Any]) -> None:
    """The kill switch: one connection per thread, kept by CONN_MAX_AGE, raw access and all."""
    alias = make_alias(CONN_MAX_AGE=None, **entry)
    connection = connections[alias]
    assert connection.pool is None
    assert isinstance(connection, Stock)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()
    raw = connection.connection
    assert raw is not None
    connection.close_if_unusable_or_obsolete()
    assert connection.connection is raw
    with transaction.atomic(using=alias), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() == pid
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() == pid
    assert connection.is_usable()
    assert connection.get_autocommit()
    connection.set_autocommit(False)
    connection.rollback()
    connection.set_autocommit(True)
    assert not connection.ensure_timezone()
    connection.close_if_health_check_failed()
    connection.close()
    assert connection.connection is None


def test_options_pool_is_moved(make_alias: MakeAlias) -> None:
    """Changing ENGINE is enough for a user of Django's own pool; Celery no longer finds the key."""
    alias = make_alias(OPTIONS={"pool": {"max_size": 3, "num_workers": 9, "name": "x"}})
    assert connections[alias].pool.max_size == 3
    assert "pool" not in connections[alias].settings_dict["OPTIONS"]
    assert connections[make_alias(OPTIONS={"pool": True})].pool.max_size == 10


def test_wrong_pool_is_refused_at_run_time(make_alias: MakeAlias) -> None:
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'max_size'"):
        connections[make_alias(POOL={"max_siz": 3})].cursor()
    with pytest.raises(ImproperlyConfigured, match="persistent connections"):
        connections[make_alias(CONN_MAX_AGE=60)].cursor()


# -- Django's ways of closing and asking ----------------------------------------------------------------------


def test_health_checks_make_a_round_trip_per_request(make_pool: MakePool, observer: psycopg.Connection[Any]) -> None:
    """CONN_HEALTH_CHECKS: the first lease of a unit finds a dead connection even if its socket looks well."""
    alias = make_pool(CONN_HEALTH_CHECKS=True)
    checks = []
    pool = connections[alias].pool
    pool._check = lambda conn: checks.append(conn)
    for _ in range(3):
        assert value(alias, "SELECT 1") == 1
        assert value(alias, "SELECT 1") == 1
        connections[alias].close_if_unusable_or_obsolete()
    assert len(checks) == 2  # the first request opened its connection


def test_close_pool_between_tasks_and_under_a_lease(make_pool: MakePool, another: Worker) -> None:
    """close(); close_pool(), as Celery calls them around a task, and while somebody else is in a transaction."""
    alias = make_pool(size=2)
    for _ in range(3):
        assert value(alias, "SELECT 1") == 1
        connections[alias].close()
        connections[alias].close_pool()

    def begin() -> int:
        transaction.set_autocommit(False, using=alias)
        return backend(alias)

    pid = another(begin)
    connections[alias].close_pool()
    assert value(alias, "SELECT 1") == 1
    assert another(backend, alias) == pid  # goes on undisturbed
    another(transaction.commit, using=alias)
    assert another(backend, alias) != pid  # and was closed when it came back


def test_temporary_connection_version_and_usable(make_pool: MakePool) -> None:
    alias = make_pool()
    connection = connections[alias]
    assert not connection.is_usable()
    with connection.temporary_connection() as cursor:
        cursor.execute("SELECT 1")
    assert in_use(alias) == 0
    connection.ensure_connection()
    assert connection.is_usable()
    assert in_use(alias) == 1
    connection.close()
    assert connection.pg_version >= 140000
    assert in_use(alias) == 0
    assert connection.ops.compose_sql("SELECT %s", ["a'b"]) == "SELECT 'a''b'"
    assert in_use(alias) == 0


def test_raw_access_pins(make_pool: MakePool) -> None:
    """The raw connection may be told anything: it is kept to the end of the unit and closed. Reading keeps nothing."""
    alias = make_pool()
    first = backend(alias)
    with connections[alias].cursor() as cursor:
        assert cursor.connection.info.backend_pid == first
    assert in_use(alias) == 0
    with connections[alias].cursor() as cursor:
        cursor.connection.execute("SELECT 1")
    assert in_use(alias) == 1
    connections[alias].close()
    assert (in_use(alias), size(alias)) == (0, 0)


def test_shared_between_threads(make_pool: MakePool, another: Worker) -> None:
    """While threads share a wrapper its lease is held, so none of them can end it under another's statement."""
    alias = make_pool(size=2)
    connection = connections[alias]
    connection.inc_thread_sharing()

    def there() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()
            return int(pid)

    try:
        here = backend(alias)
        pending = [another.start(there) for _ in range(20)]
        assert {backend(alias) for _ in range(20)} == {here}
        assert {future.result(20) for future in pending} == {here}
        assert in_use(alias) == 1
    finally:
        connection.dec_thread_sharing()
    assert in_use(alias) == 0


def test_copies_hold_nothing(make_pool: MakePool) -> None:
    """A shallow copy dropped in the middle of a transaction leaves it alone."""
    import copy
    import gc

    alias = make_pool()
    with transaction.atomic(using=alias):
        pid = backend(alias)
        duplicate = copy.copy(connections[alias])
        del duplicate
        gc.collect()
        assert backend(alias) == pid
    assert in_use(alias) == 0


def test_pin_and_eager_atomic(make_pool: MakePool) -> None:
    """pin() keeps one connection for a block and closes it; atomic(eager=True) leases on entry."""
    from django_dbpool import transaction as ours

    alias = make_pool()
    with ours.pin(alias) as connection:
        pid = backend(alias)
        assert backend(alias) == pid
        assert connection is connections[alias]
        with ours.pin(alias):
            assert backend(alias) == pid
    assert (in_use(alias), size(alias)) == (0, 0)
    with ours.atomic(alias, eager=True):
        assert in_use(alias) == 1
    with ours.atomic(alias):
        assert in_use(alias) == 0
