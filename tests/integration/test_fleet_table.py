"""Snapshots in the table: who writes, who reads, whose clock decides, and what happens where it can't be used."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from django_dbpool.core.process import this_process
from django_dbpool.fleet import FleetUnavailable, processes, snapshot
from django_dbpool.fleet.publisher import Publisher
from django_dbpool.fleet.snapshot import encoded
from django_dbpool.fleet.stores import Unusable
from django_dbpool.fleet.table import TableStore
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import execute, hold, value
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])
TABLE = "django_dbpool_process"


@pytest.fixture
def alias(make_pool: Callable[..., str]) -> str:
    return make_pool(size=2)


@pytest.fixture
def store(alias: str) -> Iterator[TableStore]:
    with override_settings(DBPOOL={"FLEET": {"using": alias}}):
        yield TableStore(alias)


def document(instance: str = "0" * 16, **changes: Any) -> str:
    return encoded({**snapshot(), "instance": instance, "interval": 5, **changes})


def put(
    store: TableStore, instance: str = "0" * 16, *, delay: float = 0.0, expire: float = 30.0, **changes: Any
) -> None:
    store.put(instance, document(instance, **changes), delay=delay, expire=expire)
    store.close()


def test_the_table_is_unlogged_and_the_models_agree_with_the_migrations(observer: psycopg.Connection[Any]) -> None:
    kind = observer.execute("SELECT relpersistence FROM pg_class WHERE relname = %s", [TABLE]).fetchone()
    assert kind == ("u",)
    call_command("makemigrations", "django_dbpool", check=True, dry_run=True, verbosity=0)


def test_one_row_for_each_process_with_its_latest_state(store: TableStore) -> None:
    for number in range(3):
        put(store, "a" * 16, host="one", pid=number)
        put(store, "b" * 16, host="two")
    first, second = processes()
    assert [first.identity.host, first.identity.pid, second.identity.host] == ["one", 2, "two"]
    assert (first.state, first.stale, first.name) == ("active", False, "one:2")
    assert 0 <= first.age < PATIENCE


def test_ages_and_expiry_are_by_the_servers_clock(store: TableStore) -> None:
    """Whatever a host takes for the time: its ``at`` and ``started`` are a year off."""
    year = 365 * 86_400
    put(store, "a" * 16, host="behind", at=1_700_000_000.0 - year, delay=3)
    put(store, "b" * 16, host="before", at=1_900_000_000.0 + year, delay=25)
    put(store, "c" * 16, host="gone", expire=-1.0)
    before, behind = processes()
    assert (before.identity.host, behind.identity.host) == ("before", "behind")
    assert 3 <= behind.age < 3 + PATIENCE
    assert 25 <= before.age < 25 + PATIENCE
    assert (before.stale, behind.stale) == (True, behind.age > 12.5)


def test_expired_rows_are_deleted_by_whoever_publishes_next_but_not_waited_for(
    store: TableStore, observer: psycopg.Connection[Any]
) -> None:
    for instance in ("a" * 16, "b" * 16):
        put(store, instance)
    observer.execute(f"UPDATE {TABLE} SET expires = now() - interval '1 second'")
    with observer.transaction():
        observer.execute(f"SELECT 1 FROM {TABLE} WHERE instance = %s FOR UPDATE", ["a" * 16])
        put(store, "c" * 16)
        assert sorted(row[0] for row in execute(store.alias, f"SELECT instance FROM {TABLE}")) == ["a" * 16, "c" * 16]
    put(store, "a" * 16)  # its own expired row is written anew
    assert sorted(row[0] for row in execute(store.alias, f"SELECT instance FROM {TABLE}")) == ["a" * 16, "c" * 16]


def test_an_idle_process_stays_and_one_that_ended_leaves(store: TableStore) -> None:
    put(store, "a" * 16, host="idle", state="idle", delay=600, expire=86_400)
    put(store, "b" * 16, host="ended", state="ended")
    (idle,) = processes()
    assert (idle.identity.host, idle.state, idle.stale) == ("idle", "idle", False)
    assert [each.state for each in processes(ended=True)] == ["ended", "idle"]


def test_a_full_pool_publishes_through_its_reserve(
    make_pool: Callable[..., str], make_worker: Callable[[], Worker]
) -> None:
    alias = make_pool(size=1)
    make_worker()(hold, alias)
    put(TableStore(alias))
    with override_settings(DBPOOL={"FLEET": {"using": alias}}):
        (process,) = processes()
    assert process.holders[0].alias == alias
    (pool,) = [pool for pool in process.pools if pool.snapshot.alias == alias]
    assert (pool.snapshot.in_use, pool.snapshot.max_size, pool.circuit) == (1, 1, "closed")
    assert process.holders[0].backend_pid in pool.backends


def test_many_processes_are_one_query(store: TableStore, observer: psycopg.Connection[Any]) -> None:
    """200 with 25 holders each, of which none is lost."""
    holder = {
        "alias": "default", "backend_pid": 1, "thread": "t", "thread_ident": 1, "unit": "GET /", "since_seconds": 1.0,
        "pinned": None, "state": "idle",
    }  # fmt: skip
    for number in range(200):
        instance = f"{number:016x}"
        text = document(instance, pid=number, holders=[{**holder, "backend_pid": pid} for pid in range(25)])
        observer.execute(f"INSERT INTO {TABLE} VALUES (%s, now(), now() + interval '1 minute', %s)", [instance, text])
    with CaptureQueriesContext(connections[store.alias]) as queries:
        found = processes()
    assert len(queries) == 1
    assert len(found) == 200
    assert {len(process.holders) for process in found} == {25}


HOSTILE = [
    "",
    "null",
    "[]",
    "nonsense",
    "{" * 5000,
    "[" * 60_000,
    json.dumps({"format": 1}),
    json.dumps({"format": 2, "state": "active"}),
    '{"format": 1, "state": "active", "pid": ' + "9" * 5000 + "}",
    '{"format": 1, "pid": NaN}',
    "x" * 1_000_000,
]


def test_rows_that_are_no_snapshots_are_left_out(store: TableStore, observer: psycopg.Connection[Any]) -> None:
    for number, text in enumerate(HOSTILE):
        observer.execute(
            f"INSERT INTO {TABLE} VALUES (%s, now(), now() + interval '1 minute', %s)", [f"{number:016x}", text]
        )
    observer.execute(f"INSERT INTO {TABLE} VALUES ('f', '-infinity', 'infinity', %s)", [document("f" * 16)])
    put(store, "a" * 16)
    assert {each.identity.instance for each in processes()} <= {"a" * 16, "f" * 16}
    assert "a" * 16 in {each.identity.instance for each in processes()}


def test_reading_breaks_no_transaction_of_its_caller(make_alias: MakeAlias) -> None:
    alias = make_alias()  # a database that was never migrated
    with override_settings(DBPOOL={"FLEET": {"using": alias}}), transaction.atomic(using=alias):
        with pytest.raises(FleetUnavailable, match=f"run manage.py migrate django_dbpool --database {alias}$"):
            processes()
        assert value(alias, "SELECT 1") == 1
    with override_settings(DBPOOL={"FLEET": None}), pytest.raises(FleetUnavailable, match="is off"):
        processes()


# -- where it can't be used --------------------------------------------------------------------------------------


def test_without_the_table_nothing_is_published_and_said_once(
    make_alias: MakeAlias, caplog: pytest.LogCaptureFixture
) -> None:
    alias = make_alias()
    with pytest.raises(Unusable, match="no table django_dbpool_process"):
        put(TableStore(alias))
    caplog.set_level(logging.INFO, logger="django_dbpool.fleet")
    publisher = Publisher(TableStore(alias), interval=0.0, expire=30)
    try:
        for _ in range(3):
            publisher._not_before = -1e9
            publisher.tick()
            assert publisher.wait(PATIENCE)
    finally:
        publisher.close()
    (record,) = [each for each in caplog.records if each.name == "django_dbpool.fleet"]
    assert record.levelno == logging.INFO
    assert "has no table django_dbpool_process; run manage.py migrate" in record.getMessage()


@pytest.fixture
def powerless(make_pool: Callable[..., str], observer: psycopg.Connection[Any]) -> Iterator[str]:
    """A database whose role owns nothing, because another one migrates."""
    observer.execute("CREATE ROLE powerless LOGIN")
    alias = make_pool(USER="powerless")
    yield alias
    connections[alias].close()
    connections[alias].close_pool()
    observer.execute("DROP OWNED BY powerless; DROP ROLE powerless")


def test_without_the_rights_nothing_is_tried_and_the_remedy_is_said(
    powerless: str, observer: psycopg.Connection[Any]
) -> None:
    """Each attempt would be an error in the server's log, from each process, every few seconds."""
    store = TableStore(powerless)
    with pytest.raises(Unusable, match="GRANT SELECT, INSERT, UPDATE, DELETE ON django_dbpool_process"):
        put(store)
    with override_settings(DBPOOL={"FLEET": {"using": powerless}}):
        with pytest.raises(FleetUnavailable, match="GRANT SELECT"):
            processes()
        observer.execute(f"GRANT SELECT ON {TABLE} TO powerless")
        with pytest.raises(Unusable, match="GRANT"):
            put(store)
        observer.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE}, django_dbpool_command TO powerless")
        put(store)
        assert len(processes()) == 1


def test_a_read_only_server_is_no_failover(make_pool: Callable[..., str]) -> None:
    """The pool of a replica is not drained because somebody would like to write there."""
    alias = make_pool(OPTIONS={"options": "-c default_transaction_read_only=on"})
    before = value(alias, "SELECT pg_backend_pid()")
    with pytest.raises(Unusable, match="is read-only"):
        put(TableStore(alias))
    assert value(alias, "SELECT pg_backend_pid()") == before


def test_a_locked_table_is_given_up_soon(store: TableStore, observer: psycopg.Connection[Any]) -> None:
    with observer.transaction():
        observer.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Exception, match="lock timeout"):
            put(store)
    put(store)
    assert len(processes()) == 1


def test_manual_transactions_by_the_settings_commit_all_the_same(
    make_pool: Callable[..., str], observer: psycopg.Connection[Any]
) -> None:
    alias = make_pool(AUTOCOMMIT=False)
    put(TableStore(alias))
    assert observer.execute(f"SELECT count(*) FROM {TABLE}").fetchone() == (1,)


def test_the_instance_is_the_processs_own(alias: str, observer: psycopg.Connection[Any]) -> None:
    publisher = Publisher(TableStore(alias), interval=0.0, expire=30)
    try:
        value(alias, "SELECT 1")
        publisher.tick()
        assert publisher.wait(PATIENCE)
    finally:
        publisher.close()
    assert observer.execute(f"SELECT instance FROM {TABLE}").fetchone() == (this_process().instance,)
    assert publisher.published == 1


MIGRATE = """
import sys
from django.conf import settings
ours = {"ENGINE": "django_dbpool.backends.postgresql", "NAME": "unused"}
sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": ours, "lite": sqlite}, INSTALLED_APPS=["django_dbpool"])
import django
django.setup()
from django.core.management import call_command
from django.db import connections
for target in ([], ["django_dbpool", "zero"], ["django_dbpool"]):
    call_command("migrate", *target, database="lite", verbosity=0)
print(connections["lite"].introspection.table_names())
"""


def test_another_kind_of_database_can_be_migrated_too() -> None:
    done = subprocess.run([sys.executable, "-c", MIGRATE], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert TABLE in done.stdout
