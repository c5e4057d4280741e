"""transaction.retrying(): never again what may have committed, in its own transaction or without one."""

from __future__ import annotations

import contextlib

import pytest
from django.db import DatabaseError, OperationalError, connections
from django.db import transaction as djangos

from django_dbpool import transaction
from tests.app.models import Log
from tests.fixtures.pools import execute
from tests.integration.retrying.work import NOW, ON_TWO, MakePool, Observer, Work, die, fail, keys

pytestmark = pytest.mark.django_db(transaction=True)


class Frozen(Exception):
    """Takes no attribute and no note."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__") or name == "__notes__":
            raise AttributeError(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("form", ["call", "loop"])
@pytest.mark.parametrize("kind", ["40001", "frozen", "nested"])
def test_nothing_after_a_commit(alias: str, observer: Observer, kind: str, form: str) -> None:
    """An error of a hook, whatever it can carry, and whatever hooks have committed before."""
    ran: list[str] = []

    def hook() -> None:
        ran.append("hook")
        if kind == "frozen":
            raise Frozen
        fail(alias)

    def work() -> None:
        Log.objects.using(alias).create(key="row")
        if kind == "nested":
            djangos.on_commit(nested, using=alias)
        djangos.on_commit(hook, using=alias)

    def nested() -> None:
        with djangos.atomic(using=alias):
            djangos.on_commit(lambda: ran.append("inner"), using=alias)

    retrying = transaction.retrying(alias, on=Frozen, **NOW)
    with pytest.raises((OperationalError, Frozen)) as raised:
        if form == "call":
            retrying.call(work)
        else:
            for attempt in retrying:
                with attempt:
                    work()
    assert keys(observer) == ["row"]
    assert ran == (["inner", "hook"] if kind == "nested" else ["hook"])
    if kind != "frozen":
        assert "it has been committed" in raised.value.__notes__[0]


def test_hooks_run_once_and_after_the_last_attempt(alias: str) -> None:
    ran: list[int] = []
    work = Work(alias, lambda: fail(alias))

    def with_hook() -> None:
        djangos.on_commit(lambda: ran.append(work.runs), using=alias)
        work()

    transaction.retrying(alias, **NOW).call(with_hook)
    assert ran == [2]


def test_unknown_commit(make_pool: MakePool, observer: Observer, alias: str) -> None:
    """The session ends during COMMIT: it may be done."""
    observer.execute("INSERT INTO app_log (key) VALUES ('before')")
    observer.execute(
        "CREATE FUNCTION die_at_commit() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON app_log DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION die_at_commit()"
    )
    try:
        work = Work(alias)
        with pytest.raises(DatabaseError) as raised:
            transaction.retrying(alias, **NOW).call(work)
    finally:
        observer.execute("DROP TRIGGER die ON app_log")
        observer.execute("DROP FUNCTION die_at_commit")
    assert work.runs == 1
    assert "nobody knows" in raised.value.__notes__[0]


def test_writes_to_another_database_are_not_repeated(alias: str, make_pool: MakePool, observer: Observer) -> None:
    """What was committed elsewhere does not go back with this transaction."""
    other = make_pool()

    def write_and_fail() -> None:
        Log.objects.using(other).create(key="elsewhere")
        fail(alias)

    work = Work(alias, write_and_fail)
    with pytest.raises(OperationalError) as raised:
        transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (1, ["elsewhere"])
    assert f"a statement on database {other!r} has been committed" in raised.value.__notes__[0]
    assert not connections[other].execute_wrappers


@ON_TWO
def test_reads_of_another_database_are(alias: str, make_pool: MakePool) -> None:
    other = make_pool()

    def read_and_fail() -> None:
        assert list(Log.objects.using(other)) == []
        fail(alias)

    work = Work(alias, read_and_fail)
    transaction.retrying(alias, **NOW).call(work)
    assert work.runs == 2


@pytest.mark.parametrize("commits", [True, False])
def test_transactions_on_another_database(alias: str, make_pool: MakePool, observer: Observer, commits: bool) -> None:
    """They count from their commit on."""
    other = make_pool()

    def both() -> None:
        with djangos.atomic(using=other):
            Log.objects.using(other).create(key="elsewhere")
            if not commits:
                fail(alias)
        fail(alias)

    work = Work(alias, both)
    if commits:
        with pytest.raises(OperationalError):
            transaction.retrying(alias, **NOW).call(work)
        assert (work.runs, keys(observer)) == (1, ["elsewhere"])
    else:
        transaction.retrying(alias, **NOW).call(work)
        assert (work.runs, keys(observer)) == (2, ["run 2"])


# -- without a transaction of its own ---------------------------------------------------------------------------


def test_vacuum(alias: str) -> None:
    """It can't run in a transaction; a failure of it, even a lost connection, is repeated."""
    ways = [lambda: fail(alias), lambda: die(alias)]

    @transaction.retrying(alias, atomic=False, **NOW)
    def vacuum() -> None:
        if ways:
            ways.pop()()
        execute(alias, "VACUUM ANALYZE app_item")

    vacuum()
    assert ways == []


def test_an_autocommit_write_is_committed(alias: str, observer: Observer) -> None:
    work = Work(alias, lambda: fail(alias))
    with pytest.raises(OperationalError):
        transaction.retrying(alias, atomic=False, **NOW).call(work)
    assert (work.runs, keys(observer)) == (1, ["run 1"])
    with transaction.idempotent():
        assert transaction.retrying(alias, atomic=False, **NOW).call(Work(alias, lambda: fail(alias))) == ((), {})
    assert keys(observer) == ["run 1", "run 1", "run 2"]


def test_a_lost_autocommit_write_may_be_committed(alias: str) -> None:
    runs: list[int] = []

    @transaction.retrying(alias, atomic=False, **NOW)
    def write() -> None:
        runs.append(1)
        # Not begun with a word that is known to change nothing.
        execute(alias, "WITH it AS (SELECT pg_terminate_backend(pg_backend_pid())) SELECT * FROM it")

    with pytest.raises(DatabaseError) as raised:
        write()
    assert len(runs) == 1
    assert "may have been committed" in raised.value.__notes__[0]


@pytest.mark.parametrize(("target", "ran"), [("app_log (key) FROM STDIN", 1), ("app_log TO STDOUT", 2)])
def test_copy_is_seen(make_pool: MakePool, observer: Observer, target: str, ran: int) -> None:
    """It passes by Django's cursors."""
    alias, runs = make_pool(), []

    def work() -> None:
        runs.append(1)
        with connections[alias].cursor() as cursor, cursor.copy(f"COPY {target}") as copy:
            if "FROM" in target:
                copy.write_row(["row"])
            else:
                list(copy)
        if len(runs) == 1:
            fail(alias)

    with contextlib.suppress(OperationalError):
        transaction.retrying(alias, atomic=False, **NOW).call(work)
    assert len(runs) == ran
    runs.clear()
    transaction.retrying(alias, **NOW).call(work)
    assert len(runs) == 2
    assert keys(observer) == ["row"] * (2 if ran == 1 else 0)


def test_a_refused_autocommit_write_is_repeated(alias: str, observer: Observer) -> None:
    codes = ["40001", "53200"]

    @transaction.retrying(alias, atomic=False, **NOW)
    def write() -> None:
        if codes:
            code = codes.pop()
            execute(alias, f"INSERT INTO app_log (key) SELECT 'row' FROM (SELECT raise_for_test('{code}')) AS failing")
        execute(alias, "INSERT INTO app_log (key) VALUES ('row')")

    write()
    assert keys(observer) == ["row"]


@pytest.mark.parametrize("after", [False, True])
def test_a_block_of_its_own(alias: str, observer: Observer, after: bool) -> None:
    """An inner atomic() that fails is repeated, not one that has committed before."""
    runs: list[int] = []

    @transaction.retrying(alias, atomic=False, **NOW)
    def work() -> None:
        runs.append(1)
        with djangos.atomic(using=alias, durable=True):
            Log.objects.using(alias).create(key="row")
            if len(runs) == 1 and not after:
                fail(alias)
        if len(runs) == 1 and after:
            fail(alias)

    if after:
        with pytest.raises(OperationalError):
            work()
    else:
        work()
    assert len(runs) == (1 if after else 2)
    assert keys(observer) == ["row"]
