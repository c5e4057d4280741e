"""What is known of a statement that got no answer."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from django_dbpool.backends.losses import moment_of
from django_dbpool.core.errors import Loss, Refusal
from django_dbpool.errors import CommitUnknown, ConnectionLost
from django_dbpool.middleware.failures.failure import failure_of
from django_dbpool.pool.entry import IDLE, INERROR, INTRANS, UNKNOWN


def moment(statement: Any, before: int = IDLE, inside: bool = False, read: bool = False) -> str:
    return moment_of(statement, before, in_transaction=inside, read=read)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "  select * from t for no key update ;\n",
        "-- INSERT\n/* UPDATE */ ((SELECT 1))",
        "VALUES (1)",
        "TABLE t",
        "SHOW all",
        "SET x = 1",
        "FETCH 3 FROM c",
        "CLOSE c",
        "DECLARE c CURSOR FOR SELECT 1",
        "ROLLBACK",
        "BEGIN",
        "COPY (SELECT 1) TO STDOUT WITH (FORMAT csv)",
        "COPY t TO STDOUT",
        b"SELECT 2",
        sql.SQL("SELECT {}").format(sql.Literal("INSERT")),
        "SELECT '%s' AS deleted",
        "SELECT count(*), Max(a), pg_catalog.lower(b) FROM t WHERE c IN (1) AND (d OR e) GROUP BY (f)",
    ],
)
def test_reads(statement: Any) -> None:
    assert moment(statement) == "read"
    assert moment(statement, inside=True) == "transaction"
    assert moment(statement, before=INTRANS) == "transaction"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (1)",
        "WITH x AS (DELETE FROM t) SELECT 1",
        "SELECT 1 INTO t",
        "SELECT 1; DELETE FROM t",
        "SELECT 1 /* ; */",
        "SELECT charge(7)",
        "SELECT count(*), shop.charge (7)",
        'SELECT "Charge"(7)',
        "SELECT charge /* ( */ (7)",
        "SELECT * FROM charge_all()",
        "SELECT x FROM t WHERE pg_notify('a', b) IS NULL",
        "SELECT nextval('s')",
        "EXPLAIN ANALYZE DELETE FROM t",
        "COPY t FROM STDIN",
        "COPY (DELETE FROM t RETURNING 1) TO STDOUT",
        "COPY t TO PROGRAM 'x'",
        "CALL p()",
        "DO $$ BEGIN PERFORM 1; END; $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 1; END; $body$",
        "NOTIFY x",
        "VACUUM",
        "nonsense",
        "",
        object(),
        b"\xff",
    ],
)
def test_writes(statement: Any) -> None:
    assert moment(statement) == "write"
    assert moment(statement, inside=True) == "transaction"
    assert moment(statement, before=INTRANS) == "transaction"


@pytest.mark.parametrize(
    "statement", ["COMMIT", "-- x\ncommit and chain", "END", "END TRANSACTION;", "PREPARE TRANSACTION 'x'"]
)
def test_commit(statement: str) -> None:
    assert moment(statement, before=INTRANS) == "commit"
    assert moment(statement, before=INTRANS, inside=True) == "commit"
    assert moment(statement, before=INERROR) == "transaction"  # it rolls back
    assert moment(statement, before=UNKNOWN) == "unsent"


@pytest.mark.parametrize(
    "statement", ["BEGIN; INSERT INTO t VALUES (1); COMMIT", "INSERT INTO t VALUES (1);END;SELECT 1"]
)
def test_commit_in_the_middle(statement: str) -> None:
    assert moment(statement) == "commit"
    assert moment(statement, before=INTRANS) == "commit"


def test_commit_and_more() -> None:
    """Whatever becomes of the COMMIT, what comes after it is a transaction of its own."""
    assert moment("COMMIT; x", before=INTRANS) == "commit"
    assert moment("COMMIT; x", before=INERROR) == moment("COMMIT; x") == "write"


def test_commit_without_a_transaction_does_nothing() -> None:
    assert moment("COMMIT") == "read"


def test_after_a_rollback_in_the_text_comes_another_transaction() -> None:
    assert moment("ROLLBACK; INSERT INTO t VALUES (1)", before=INTRANS) == "write"


def test_commit_of_a_prepared_transaction() -> None:
    assert moment("COMMIT PREPARED 'x'") == "write"


def test_what_was_not_sent() -> None:
    assert moment(None) == moment("INSERT INTO t VALUES (1)", before=UNKNOWN) == "unsent"


@pytest.mark.parametrize(
    ("error", "kind", "doubt"),
    [
        (ConnectionLost(Refusal("a", 0, 0, 1, 0), Loss("transaction")), "interrupted", False),
        (ConnectionLost(Refusal("a", 0, 0, 1, 0), Loss("write")), "outcome-unknown", True),
        (CommitUnknown(Refusal("a", 0, 0, 1, 0), Loss("commit")), "outcome-unknown", True),
    ],
)
def test_what_visitors_are_told(error: ConnectionLost, kind: str, doubt: bool) -> None:
    """503, and whether to look before it is sent again."""
    failure = failure_of(error)
    assert failure is not None
    assert (failure.kind.slug, failure.maybe_committed, failure.connection_terminated) == (kind, doubt, True)


def test_reads_of_the_orm_are_known() -> None:
    """Whatever words their columns are called by."""
    assert moment('SELECT "a"."into" FROM a', read=True) == "read"
    assert moment('SELECT "a"."into" FROM a') == "write"
