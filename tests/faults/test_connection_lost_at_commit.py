"""Connections that are lost while a transaction ends: whether it has committed is said, or that nobody knows."""

from __future__ import annotations

import pytest
from django.db import ProgrammingError, transaction

from django_dbpool.errors import CommitUnknown
from django_dbpool.transaction import pin
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.faults.test_connection_lost import SUICIDE, Work, commit_of_atomic, execute, kill, lost, rows
from tests.fixtures.proxy import Proxy


def commit_of_manual(database: Database, table: str) -> None:
    transaction.set_autocommit(False, using=database.alias)
    execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
    kill(database)
    try:
        transaction.commit(using=database.alias)
    finally:
        transaction.set_autocommit(True, using=database.alias)


def commit_by_text(database: Database, table: str) -> None:
    execute(database.alias, "BEGIN")
    execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
    kill(database)
    execute(database.alias, "-- done\n COMMIT")


def commit_in_one_text(database: Database, table: str) -> None:
    execute(database.alias, f"BEGIN; INSERT INTO {table} SELECT 'a' FROM {SUICIDE}; END")


def commit_while_pinned(database: Database, table: str) -> None:
    with pin(database.alias):
        commit_of_atomic(database, table)


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize(
    "work", [commit_of_atomic, commit_of_manual, commit_by_text, commit_in_one_text, commit_while_pinned]
)
def test_commit(make_database: MakeDatabase, table: str, work: Work, mode: str) -> None:
    """Not known, and no hook runs. The connection is given up; the next transaction is a new one."""
    database = make_database(mode=mode, max_size=2)
    with lost(CommitUnknown) as error:
        work(database, table)
    assert error[0].maybe_committed
    assert "during COMMIT" in str(error[0])
    assert rows(database, table) == 0
    assert not database.connection.run_on_commit
    with transaction.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('after')")
    assert rows(database, table) == 1
    database.connection.close()
    database.assert_whole()


def test_answer_to_commit_lost_on_the_way(make_database: MakeDatabase, proxy: Proxy, table: str) -> None:
    """Committed, though nobody said so: what CommitUnknown is for."""
    database = make_database(HOST=proxy.host, PORT=str(proxy.port), retry=True)
    database.observer.execute(
        f"CREATE FUNCTION {table}_nap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW;"
        f" END $$"
    )
    database.observer.execute(
        f"CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW EXECUTE FUNCTION {table}_nap()"
    )
    try:
        with lost(CommitUnknown), transaction.atomic(using=database.alias):
            execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
            cutter = cut_during_commit(database, proxy)
        cutter.result()
        assert wait_until(lambda: rows(database, table) == 1, PATIENCE)
        database.connection.close()
        database.connection.close_pool()
    finally:
        database.observer.execute(f"DROP FUNCTION {table}_nap CASCADE")


def cut_during_commit(database: Database, proxy: Proxy) -> Task:
    entry = database.connection._entry

    def cut() -> None:
        query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        assert wait_until(
            lambda: database.observer.execute(query, [entry.backend_pid]).fetchone() is not None, PATIENCE
        )
        proxy.drop()

    return Task(cut)


def test_failed_transaction_commits_nothing(database: Database, table: str) -> None:
    """COMMIT of a transaction in which a statement has failed is ROLLBACK, so its loss leaves no doubt."""
    with lost() as error, transaction.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
        with pytest.raises(ProgrammingError):
            execute(database.alias, "SELECT nonsense")
        kill(database)
    assert not error[0].maybe_committed


def test_rollback_has_nothing_to_say(database: Database, table: str) -> None:
    """The error that led to it comes through."""
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
        kill(database)
        raise ZeroDivisionError
    with lost() as error:
        transaction.set_autocommit(False, using=database.alias)
        execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
        kill(database)
        transaction.rollback(using=database.alias)
    assert not error[0].maybe_committed
    execute(database.alias, "SELECT 1")  # a new transaction, on a new connection
    transaction.rollback(using=database.alias)
    transaction.set_autocommit(True, using=database.alias)
    database.assert_whole()
