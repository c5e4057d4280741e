"""transaction.retrying(): a whole transaction again, whatever committed nothing; never what may have committed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, OperationalError, connections
from django.db import transaction as djangos
from django.db.models import F
from django.db.transaction import TransactionManagementError
from django.test import TestCase

from django_dbpool import transaction
from django_dbpool.errors import PoolExhausted, RetryingInsideTransaction, raised_in_request
from tests.app.failing import RAISE
from tests.app.models import Item, Log
from tests.fixtures.pools import backend, execute, in_use
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]
NOW: Any = {"sleep": lambda seconds: None}
ENGINES: dict[str, Any] = {
    "transaction": {"mode": "transaction"},
    "session": {"mode": "session"},
    "off": {"POOL": {"enabled": False}},
    "stock": {"ENGINE": "django.db.backends.postgresql"},
}


ON_TWO = pytest.mark.parametrize("alias", ["transaction", "stock"], indirect=True)
"""For what doesn't look at connections."""


@pytest.fixture(autouse=True)
def functions(observer: Observer) -> Iterator[None]:
    """raise_for_test() and a table whose rows fail at COMMIT."""
    observer.execute(RAISE)
    yield
    observer.execute("DROP TABLE fails_at_commit")
    observer.execute("DROP FUNCTION raise_at_commit")


@pytest.fixture(params=ENGINES)
def alias(request: pytest.FixtureRequest, make_pool: MakePool) -> str:
    """With the pool in both modes, with the pool switched off, and on Django's own engine."""
    return make_pool(size=2, **ENGINES[request.param])


def keys(observer: Observer) -> list[str]:
    return [key for (key,) in observer.execute("SELECT key FROM app_log ORDER BY id")]


def fail(alias: str, code: str = "40001") -> None:
    execute(alias, "SELECT raise_for_test(%s)", [code])


def die(alias: str) -> None:
    """The server closes this connection in the middle of its statement."""
    execute(alias, "SELECT pg_terminate_backend(pg_backend_pid())")


def close(alias: str) -> None:
    connections[alias].close()


class Work:
    """Writes a row, then fails in one way after the other; counts its runs."""

    def __init__(self, alias: str, *failures: Callable[[], object]) -> None:
        self.alias = alias
        self.failures = list(failures)
        self.runs = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        Log.objects.using(self.alias).create(key=f"run {self.runs}")
        if self.runs <= len(self.failures):
            self.failures[self.runs - 1]()
        return args, kwargs


# -- what is repeated -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["40001", "40P01", "53300", "57P03"])
def test_transient_errors_are_repeated(alias: str, observer: Observer, code: str) -> None:
    """Each attempt's own rows go back with it."""
    work = Work(alias, lambda: fail(alias, code), lambda: fail(alias, code))
    assert transaction.retrying(alias, **NOW).call(work, 1, b=2) == ((1,), {"b": 2})
    assert (work.runs, keys(observer)) == (3, ["run 3"])


def test_a_lost_connection_is_repeated(alias: str, observer: Observer) -> None:
    work = Work(alias, lambda: die(alias), lambda: die(alias))
    transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (3, ["run 3"])


def test_a_commit_that_the_server_refuses_is_repeated(alias: str, observer: Observer) -> None:
    def at_commit() -> None:
        execute(alias, "INSERT INTO fails_at_commit VALUES ('40001')")

    work = Work(alias, at_commit, at_commit)
    transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (3, ["run 3"])


@ON_TWO
@pytest.mark.parametrize("code", ["23505", "57014", "08P01"])
def test_other_errors_are_not(alias: str, observer: Observer, code: str) -> None:
    work = Work(alias, lambda: fail(alias, code))
    with pytest.raises(DatabaseError) as raised:
        transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (1, [])
    assert not getattr(raised.value, "__notes__", [])


def test_statement_timeout_is_not(alias: str) -> None:
    def slow() -> None:
        execute(alias, "SET LOCAL statement_timeout = 20")
        execute(alias, "SELECT pg_sleep(20)")

    work = Work(alias, slow)
    with pytest.raises(OperationalError):
        transaction.retrying(alias, **NOW).call(work)
    assert work.runs == 1


@ON_TWO
def test_an_error_that_the_code_has_renamed_is_not(alias: str) -> None:
    class Mine(Exception):
        pass

    def rename() -> None:
        try:
            fail(alias)
        except OperationalError as error:
            raise Mine from error

    work = Work(alias, rename)
    with pytest.raises(Mine):
        transaction.retrying(alias, **NOW).call(work)
    assert work.runs == 1
    work = Work(alias, rename)
    transaction.retrying(alias, on=Mine, **NOW).call(work)
    assert work.runs == 2


@ON_TWO
@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_interrupts_are_not(alias: str, observer: Observer, kind: type[BaseException]) -> None:
    def interrupt() -> None:
        raise kind

    work = Work(alias, interrupt)
    with pytest.raises(kind):
        transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (1, [])


@ON_TWO
def test_interrupt_in_the_pause(alias: str, observer: Observer) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    work = Work(alias, lambda: fail(alias))
    with pytest.raises(KeyboardInterrupt):
        transaction.retrying(alias, sleep=interrupted).call(work)
    assert (work.runs, keys(observer)) == (1, [])
    assert not connections[alias].execute_wrappers


def test_a_full_pool_is_not(make_pool: MakePool, worker: Worker) -> None:
    """More attempts are more load."""
    alias = make_pool(size=1, POOL={"timeout": 0.3})
    taken, work = Step(), Work(alias)
    execute(alias, "SELECT 1")  # connecting may take longer than that

    def take() -> None:
        with djangos.atomic(using=alias):
            execute(alias, "SELECT 1")
            taken.wait()

    taking = worker.start(take)
    taken.reached()
    with pytest.raises(PoolExhausted) as raised:
        transaction.retrying(alias, **NOW).call(work)
    taken.go_on()
    taking.result(20)
    assert work.runs == 1
    assert not hasattr(raised.value, "__notes__")


def test_deadlock(alias: str, make_worker: Callable[[], Worker], observer: Observer) -> None:
    """Two threads that lock two rows in opposite order: the server gives one of them up, both get through."""
    first, second = (Item.objects.create(name=name).pk for name in "ab")
    together = threading.Barrier(2)
    runs: list[int] = []

    @transaction.retrying(alias)
    def add(*rows: int) -> None:
        meet = threading.get_ident() not in runs
        runs.append(threading.get_ident())
        for row in rows:
            Item.objects.using(alias).filter(pk=row).update(n=F("n") + 1)
            if meet and row == rows[0]:
                together.wait(20)

    futures = [make_worker().start(add, *rows) for rows in ((first, second), (second, first))]
    for future in futures:
        future.result(30)
    assert observer.execute("SELECT n FROM app_item").fetchall() == [(2,), (2,)]
    assert len(runs) == 3


# -- what never is ----------------------------------------------------------------------------------------------


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


# -- where it may begin -----------------------------------------------------------------------------------------


def inside_atomic(alias: str, call: Callable[[], object]) -> None:
    with djangos.atomic(using=alias):
        call()


def inside_manual(alias: str, call: Callable[[], object]) -> None:
    djangos.set_autocommit(False, using=alias)
    try:
        call()
    finally:
        djangos.rollback(using=alias)
        djangos.set_autocommit(True, using=alias)


def inside_raw(alias: str, call: Callable[[], object]) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            call()
        finally:
            cursor.execute("ROLLBACK")
    connections[alias].close()


def inside_itself(alias: str, call: Callable[[], object]) -> None:
    transaction.retrying(alias, **NOW).call(call)


@pytest.mark.parametrize(
    ("where", "atomic"),
    [(inside_atomic, True), (inside_atomic, False), (inside_manual, True), (inside_raw, True), (inside_itself, True)],
)
def test_inside_a_transaction_it_is_refused(alias: str, where: Callable[..., None], atomic: bool) -> None:
    work = Work(alias)
    with pytest.raises(RetryingInsideTransaction, match="outermost") as raised:
        where(alias, lambda: transaction.retrying(alias, atomic=atomic, **NOW).call(work))
    assert isinstance(raised.value, TransactionManagementError)
    assert work.runs == 0


def test_autocommit_off_by_settings(make_pool: MakePool) -> None:
    for entry in ({}, {"POOL": {"enabled": False}}):
        alias = make_pool(AUTOCOMMIT=False, **entry)
        with pytest.raises(RetryingInsideTransaction, match="by hand"):
            transaction.retrying(alias).call(Work(alias))
        connections[alias].close()


@ON_TWO
def test_inside_of_one_without_a_transaction(alias: str, observer: Observer) -> None:
    """The inner one repeats; when it gives up, the outer one does, if nothing was committed."""
    work = Work(alias, *[lambda: fail(alias)] * 3)
    inner = transaction.retrying(alias, attempts=2, **NOW)
    transaction.retrying(alias, atomic=False, **NOW).call(inner.call, work)
    assert (work.runs, keys(observer)) == (4, ["run 4"])

    def twice() -> None:
        inner.call(Work(alias))
        fail(alias)

    with pytest.raises(OperationalError):
        transaction.retrying(alias, atomic=False, **NOW).call(twice)
    assert keys(observer) == ["run 4", "run 1"]


class TestInTestCase(TestCase):
    """Its transaction stands for none."""

    databases = {"default", "other"}

    def test_repeated(self) -> None:
        execute("default", RAISE)
        work = Work("default", lambda: fail("default"))
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            transaction.retrying(**NOW).call(work)
        assert callbacks == []
        assert [log.key for log in Log.objects.all()] == ["run 2"]

    def test_hooks_are_the_code_s_own(self) -> None:
        ran: list[str] = []

        def work() -> None:
            with djangos.atomic():
                Log.objects.create(key="a")
                djangos.on_commit(lambda: ran.append("hook"))

        for atomic in (True, False):
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                transaction.retrying(atomic=atomic).call(work)
            assert len(callbacks) == 1
        assert ran == ["hook", "hook"]

    def test_a_block_around_it_counts(self) -> None:
        with pytest.raises(RetryingInsideTransaction), djangos.atomic():
            transaction.retrying().call(Work("default"))


# -- forms ------------------------------------------------------------------------------------------------------


def test_loop(alias: str, observer: Observer) -> None:
    work = Work(alias, lambda: fail(alias), lambda: execute(alias, "INSERT INTO fails_at_commit VALUES ('40P01')"))
    numbers = []
    for attempt in transaction.retrying(alias, **NOW):
        with attempt:
            numbers.append(attempt.number)
            work()
    assert (numbers, keys(observer)) == ([1, 2, 3], ["run 3"])


@ON_TWO
def test_loop_left_early(alias: str, observer: Observer) -> None:
    """What was left by return or break is committed."""

    def leave(how: str) -> str | None:
        work = Work(alias, lambda: fail(alias))
        for attempt in transaction.retrying(alias, **NOW):
            with attempt:
                work()
                if how == "return":
                    return how
                if how == "break":
                    break
                if how == "continue":
                    continue
        return None

    assert [leave(how) for how in ("return", "break", "continue", "")] == ["return", None, None, None]
    assert keys(observer) == ["run 2"] * 4


@ON_TWO
@pytest.mark.parametrize("how", ["return", "break", "raise", "statement"])
def test_a_commit_that_fails_in_a_loop_left_early_is_never_lost(alias: str, observer: Observer, how: str) -> None:
    """Nobody would come for the next attempt."""

    def leave() -> None:
        for attempt in transaction.retrying(alias, **NOW):
            with attempt:
                Log.objects.using(alias).create(key="row")
                execute(alias, "INSERT INTO fails_at_commit VALUES ('40001')")
                if how == "return":
                    return
                if how == "break":
                    break
            if how == "raise":
                raise ZeroDivisionError
            if how == "statement":
                return

    with pytest.raises(OperationalError) as raised:
        leave()
    assert "COMMIT failed where the loop may not go on" in "".join(raised.value.__notes__)
    assert keys(observer) == []


@ON_TWO
def test_loops_that_make_no_sense(alias: str) -> None:
    with pytest.raises(RuntimeError, match="with attempt"):
        for _ in transaction.retrying(alias):
            pass
    with pytest.raises(RuntimeError, match="entered once"):
        for attempt in transaction.retrying(alias):
            with attempt:
                pass
            with attempt:
                pass
    assert not connections[alias].execute_wrappers


@ON_TWO
def test_an_error_caught_around_the_attempt_ends_the_loop(alias: str) -> None:
    runs = 0
    for attempt in transaction.retrying(alias):
        try:
            with attempt:
                runs += 1
                fail(alias, "23505")
        except DatabaseError:
            pass
    assert runs == 1


class Repository:
    """As a decorator with and without arguments, of methods of all kinds."""

    failures = 0

    @transaction.retrying
    def bare(self, n: int) -> int:
        return self._try(n)

    @transaction.retrying(attempts=3)
    def method(self, n: int) -> int:
        """Doc."""
        return self._try(n)

    @classmethod
    @transaction.retrying
    def of_class(cls, n: int) -> int:
        return cls()._try(n)

    @staticmethod
    @transaction.retrying
    def static(n: int) -> int:
        return Repository()._try(n)

    def _try(self, n: int) -> int:
        assert connections["default"].in_atomic_block
        if Repository.failures:
            Repository.failures -= 1
            fail("default")
        return n


@pytest.mark.parametrize("name", ["bare", "method", "of_class", "static"])
def test_decorator(name: str) -> None:
    Repository.failures = 1
    assert getattr(Repository(), name)(7) == 7
    assert Repository.failures == 0
    assert getattr(Repository, name).__name__ == name
    assert Repository.method.__doc__ == "Doc."


@ON_TWO
def test_each_call_of_a_decorated_function_has_its_own_attempts(alias: str) -> None:
    @transaction.retrying(alias, attempts=2, **NOW)
    def work() -> None:
        runs.append(1)
        if len(runs) % 2:
            fail(alias)

    runs: list[int] = []
    work()
    work()
    assert len(runs) == 4


def test_functions_that_run_later_are_refused() -> None:
    def generator() -> Any:
        yield

    async def asynchronous() -> Any:
        yield

    async def coroutine() -> None:
        pass

    for function in (generator, asynchronous):
        with pytest.raises(TypeError, match="generator"):
            transaction.retrying(function)
    with pytest.raises(TypeError, match="atomic=False"):
        transaction.retrying(coroutine)
    with pytest.raises(TypeError, match="coroutine"):
        transaction.retrying().call(coroutine)  # type: ignore[unused-coroutine]


# -- what it says -----------------------------------------------------------------------------------------------


@ON_TWO
def test_last_error_has_a_note(alias: str, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(alias, *[lambda: fail(alias)] * 9)
    pauses: list[float] = []
    with caplog.at_level(logging.INFO, "django_dbpool.transaction"), pytest.raises(OperationalError) as raised:
        transaction.retrying(alias, attempts=3, sleep=pauses.append).call(work)
    assert work.runs == 3
    assert len(pauses) == 2
    assert raised.value.__notes__[0].startswith("transaction.retrying(): after 3 attempts in 0.")
    records = [record for record in caplog.records if record.name == "django_dbpool.transaction"]
    assert [record.levelno for record in records] == [logging.INFO] * 2
    assert (
        records[0]
        .getMessage()
        .startswith(f"database {alias!r}: attempt 1 of 3 of Work() failed: SerializationFailure 40001; the next in 0.0")
    )
    assert records[1].attempt == 2


def test_what_was_repeated_is_nobody_else_s_business(make_pool: MakePool) -> None:
    """The middleware would take it for the reason of an error that comes later in the request."""
    alias = make_pool()
    work = Work(alias, lambda: fail(alias), lambda: die(alias))
    noticed: list[BaseException] = []
    token = raised_in_request.set(noticed)
    try:
        transaction.retrying(alias, **NOW).call(work)
    finally:
        raised_in_request.reset(token)
    assert work.runs == 3
    assert noticed == []


def test_between_attempts_no_connection_is_held(make_pool: MakePool, mode: str) -> None:
    alias = make_pool(mode=mode)
    held: list[int] = []
    work = Work(alias, lambda: fail(alias), lambda: die(alias))
    transaction.retrying(alias, sleep=lambda seconds: held.append(in_use(alias))).call(work)
    assert held == [0, 0]


def test_a_pinned_connection_is_kept(make_pool: MakePool) -> None:
    """What the session was given before holds in the next attempt, too."""
    alias = make_pool()
    execute(alias, "SET work_mem = '7MB'")
    before, work = backend(alias), Work(alias, lambda: fail(alias))
    transaction.retrying(alias, **NOW).call(work)
    assert backend(alias) == before
    connections[alias].close()


# -- asynchronous -----------------------------------------------------------------------------------------------


@ON_TWO
def test_coroutine_function(alias: str, observer: Observer) -> None:
    runs: list[str] = []

    @transaction.retrying(alias, atomic=False, sleep=lambda seconds: runs.append("pause"))
    async def work(key: str) -> str:
        runs.append(key)
        if len(runs) == 1:
            await sync_to_async(fail)(alias)
        await Log.objects.using(alias).acreate(key=key)
        return key

    async def main() -> str:
        try:
            return await work("a")
        finally:
            await sync_to_async(close)(alias)

    assert asyncio.run(main()) == "a"
    assert (runs, keys(observer)) == (["a", "pause", "a"], ["a"])


@ON_TWO
def test_coroutine_function_after_a_write(alias: str, observer: Observer) -> None:
    runs: list[str] = []

    @transaction.retrying(alias, atomic=False)
    async def work() -> None:
        runs.append("run")
        await Log.objects.using(alias).acreate(key="row")
        await sync_to_async(fail)(alias)

    async def main() -> list[Any]:
        try:
            with pytest.raises(OperationalError):
                await work()
            return await sync_to_async(lambda: connections[alias].execute_wrappers)()
        finally:
            await sync_to_async(close)(alias)

    assert asyncio.run(main()) == []
    assert (runs, keys(observer)) == (["run"], ["row"])


@ON_TWO
def test_tasks_side_by_side_are_told_apart(alias: str) -> None:
    """Their statements run in one thread; what one has written keeps no other from repeating."""
    runs: list[str] = []

    async def main() -> None:
        reading, written = asyncio.Event(), asyncio.Event()

        @transaction.retrying(alias, atomic=False)
        async def reader() -> None:
            runs.append("read")
            await Item.objects.using(alias).acount()
            reading.set()
            await written.wait()
            if runs.count("read") == 1:
                await sync_to_async(fail)(alias)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(reader())
                await reading.wait()
                await Log.objects.using(alias).acreate(key="of another task")
                written.set()
        finally:
            await sync_to_async(close)(alias)

    asyncio.run(main())
    assert runs == ["read", "read"]


@ON_TWO
def test_asynchronous_loop(alias: str) -> None:
    async def main() -> list[int]:
        numbers = []
        try:
            async for attempt in transaction.retrying(alias, atomic=False, **NOW):
                async with attempt:
                    numbers.append(attempt.number)
                    if attempt.number < 3:
                        await sync_to_async(fail)(alias)
            with pytest.raises(TypeError, match="atomic=False"):
                async for _ in transaction.retrying(alias):
                    pass
            return numbers
        finally:
            await sync_to_async(close)(alias)

    assert asyncio.run(main()) == [1, 2, 3]


@ON_TWO
def test_asynchronous_inside_a_transaction(alias: str) -> None:
    """The thread that runs this task's synchronous code is asked."""

    @transaction.retrying(alias, atomic=False)
    async def work() -> None:
        raise AssertionError

    async def main() -> None:
        block = djangos.atomic(using=alias)
        await sync_to_async(block.__enter__)()
        try:
            with pytest.raises(RetryingInsideTransaction):
                await work()
        finally:
            await sync_to_async(block.__exit__)(None, None, None)
            await sync_to_async(close)(alias)

    asyncio.run(main())


@ON_TWO
def test_a_cancelled_task_repeats_nothing(alias: str) -> None:
    runs: list[int] = []

    @transaction.retrying(alias, atomic=False)
    async def work() -> None:
        runs.append(1)
        await asyncio.sleep(0)
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert runs == [1]


@pytest.mark.ci
@pytest.mark.parametrize("threads", [16])
def test_every_increment_exactly_once(make_pool: MakePool, observer: Observer, threads: int) -> None:
    """Threads that read and write one row, all of them serializable."""
    options = {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE}
    alias = make_pool(size=threads, OPTIONS=options, POOL={"timeout": 60})
    pk = Item.objects.create(name="a").pk
    runs: list[int] = []

    @transaction.retrying(alias, attempts=1000, total=60)
    def increment() -> None:
        runs.append(1)
        item = Item.objects.using(alias).get(pk=pk)
        Item.objects.using(alias).filter(pk=pk).update(n=item.n + 1)

    def work() -> None:
        try:
            for _ in range(20):
                increment()
        finally:
            connections[alias].close()

    started = [threading.Thread(target=work) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert observer.execute("SELECT n FROM app_item").fetchall() == [(20 * threads,)]
    assert len(runs) > 20 * threads
