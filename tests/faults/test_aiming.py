"""Cancel and terminate from outside: the lease that was aimed at, or nobody."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from django_dbpool.core.ledger import Holder
from django_dbpool.core.process import this_process
from django_dbpool.errors import ConnectionLost
from django_dbpool.operations import Outcome, Target, aim, cancel, terminate
from django_dbpool.transaction import dedicated
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.pgbouncer import pgbouncer
from tests.fixtures.pools import alive

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("nothing_left")]

MakeDatabase = Callable[..., Database]


def executes(observer: psycopg.Connection[Any], pid: int) -> bool:
    """A lease counts as running a moment before the server knows of its statement."""
    row = observer.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    return row is not None and row[0] == "active"


def closed(database: Database, pid: int) -> bool:
    return all(entry.backend_pid != pid for entry in tuple(database.pool.entries))


def sleeps(database: Database) -> bool:
    sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%' AND state = 'active'"
    return database.observer.execute(sql).fetchone() is not None


@pytest.fixture
def sleeper(database: Database) -> Iterator[tuple[Task, Holder]]:
    """A thread in a statement that takes long, and its lease."""
    task = Task(database.fetch, "SELECT pg_sleep(600)")
    holder = database.holder()
    assert wait_until(lambda: executes(database.observer, holder.backend_pid), PATIENCE)
    yield task, holder
    if task.is_alive():
        database.observer.execute("SELECT pg_terminate_backend(%s)", [holder.backend_pid])
    task.error()


def test_cancel(database: Database, sleeper: tuple[Task, Holder]) -> None:
    """Django's error, and the connection serves nobody else after it."""
    task, holder = sleeper
    assert cancel(aim(holder)) is Outcome.DONE
    error = task.error()
    assert isinstance(error, OperationalError)
    assert getattr(error.__cause__, "sqlstate", None) == "57014"
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)
    assert cancel(aim(holder)) is Outcome.OVER
    database.assert_whole()


def test_terminate(database: Database, sleeper: tuple[Task, Holder], caplog: pytest.LogCaptureFixture) -> None:
    task, holder = sleeper
    with caplog.at_level(logging.WARNING, "django_dbpool.pool"):
        assert terminate(aim(holder)) is Outcome.DONE
    assert isinstance(task.error(), ConnectionLost)
    assert f"termination of backend {holder.backend_pid}, lease {holder.generation}: done" in caplog.text
    assert terminate(aim(holder)) is Outcome.OVER
    database.assert_whole()


def test_terminated_read_does_not_run_again(make_database: MakeDatabase, table: str) -> None:
    """The ORM's reads are tried again when their connection is lost, but not when it was ended on purpose."""
    database = make_database(retry=True)
    with database.connection.cursor() as cursor:
        cursor.execute("SELECT 1")

    def read() -> Any:
        db = connections[database.alias]
        sql = "SELECT pg_sleep(600)"
        db._read = sql  # what the compiler says of a query of its own
        with db.cursor() as cursor:
            cursor.execute(sql)

    task = Task(read)
    holder = database.holder()
    assert wait_until(lambda: executes(database.observer, holder.backend_pid), PATIENCE)
    assert terminate(aim(holder)) is Outcome.DONE
    assert isinstance(task.error(), ConnectionLost)


def test_cancel_idle_in_transaction(database: Database) -> None:
    """There is nothing to cancel; the transaction goes on."""
    with database.holding() as (pid,):
        assert cancel(aim(database.holder("idle in transaction"))) is Outcome.OVER
        assert alive(database.observer, pid)
    database.assert_whole()


class Transaction:
    """Of a thread of its own, open until the test lets it go on with one more statement."""

    def __init__(self, alias: str) -> None:
        self._go_on = threading.Event()
        self._alias = alias
        self.task = Task(self._run)

    def _run(self) -> None:
        with transaction.atomic(using=self._alias), connections[self._alias].cursor() as cursor:
            cursor.execute("SELECT 1")
            self._go_on.wait(PATIENCE)
            cursor.execute("SELECT 2")

    def error(self) -> BaseException | None:
        self._go_on.set()
        return self.task.error()


@pytest.fixture
def begun(database: Database) -> Iterator[Transaction]:
    begun = Transaction(database.alias)
    yield begun
    begun.error()


def test_terminate_idle_in_transaction(database: Database, begun: Transaction) -> None:
    holder = database.holder("idle in transaction")
    assert terminate(aim(holder)) is Outcome.DONE
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)
    assert isinstance(begun.error(), ConnectionLost)
    database.assert_whole()


def test_place_of_a_terminated_lease_is_free_at_once(make_database: MakeDatabase) -> None:
    """Its holder, which waits for something else, still has it; who waits for a connection doesn't wait for that."""
    database = make_database(max_size=1, reserve_size=0)
    begun = Transaction(database.alias)
    try:
        holder = database.holder("idle in transaction")
        waiting = Task(database.fetch, "SELECT 1")
        assert wait_until(lambda: database.pool.snapshot().waiting == 1, PATIENCE)
        assert terminate(aim(holder)) is Outcome.DONE
        assert waiting.error() is None
        assert database.pool.snapshot().in_use == 0
        assert database.pool.holders() == ()
    finally:
        error = begun.error()
    assert isinstance(error, ConnectionLost)
    database.assert_whole()


@pytest.mark.parametrize("reserve", [0, 1])
def test_full_pool(make_database: MakeDatabase, reserve: int) -> None:
    """With the reserve or without: whoever waits in the queue is not waited for."""
    database = make_database(max_size=1, reserve_size=reserve)
    task = Task(database.fetch, "SELECT pg_sleep(600)")
    holder = database.holder()
    assert wait_until(lambda: executes(database.observer, holder.backend_pid), PATIENCE)
    waiting = Task(database.fetch, "SELECT 1")
    assert wait_until(lambda: database.pool.snapshot().waiting == 1, PATIENCE)
    assert terminate(aim(holder)) is Outcome.DONE
    assert isinstance(task.error(), ConnectionLost)
    assert waiting.result() == 1


def test_open_circuit(make_database: MakeDatabase) -> None:
    """Callers are refused; whoever is on the server still can be stopped."""
    database = make_database(breaker=True)
    begun = Transaction(database.alias)
    holder = database.holder("idle in transaction")
    database.pool.breaker.isolate()
    try:
        assert terminate(aim(holder)) is Outcome.DONE
        assert isinstance(begun.error(), ConnectionLost)
    finally:
        database.pool.breaker.reset()


# -- whom it must not hit -----------------------------------------------------------------------------------------


def test_others(database: Database, begun: Transaction) -> None:
    """Another process, alias, backend or lease."""
    target = aim(database.holder("idle in transaction"))
    for other in (
        {"instance": "0" * 16},
        {"alias": "default"},
        {"backend_pid": target.backend_pid + 1},
        {"generation": target.generation + 1},
        {"generation": target.generation - 1},
        {"generation": -1},
    ):
        assert terminate(Target(**{**target.to_json(), **other})) is Outcome.OVER
    assert begun.error() is None


def test_next_lease_of_the_same_connection(database: Database) -> None:
    pid = database.backend()
    with database.holding() as held:
        assert held == [pid]
        target = aim(database.holder("idle in transaction"))
    with database.holding() as held:
        assert held == [pid]
        assert terminate(target) is cancel(target) is Outcome.OVER
    assert database.backend() == pid


def test_as_the_caller_has_seen_it(database: Database, begun: Transaction) -> None:
    """Of another time the backend or its transaction is not the one that was meant."""
    target = aim(database.holder("idle in transaction"))
    row = database.observer.execute(
        "SELECT extract(epoch FROM backend_start)::float8, extract(epoch FROM xact_start)::float8, "
        "extract(epoch FROM state_change)::float8 FROM pg_stat_activity WHERE pid = %s",
        [target.backend_pid],
    ).fetchone()
    assert row is not None
    backend_start, xact_start, state_change = row
    given = target.to_json()
    assert terminate(Target(**{**given, "backend_start": backend_start - 1})) is Outcome.OVER
    assert terminate(Target(**{**given, "xact_start": xact_start + 1})) is Outcome.OVER
    assert terminate(Target(**{**given, "state_change": state_change - 1})) is Outcome.OVER
    seen = {"backend_start": backend_start, "xact_start": xact_start, "state_change": state_change}
    assert terminate(Target(**{**given, **seen})) is Outcome.DONE
    assert isinstance(begun.error(), ConnectionLost)


def test_process_id_of_another_session(database: Database, begun: Transaction) -> None:
    """The backend has ended unnoticed, and its number is another's."""
    holder = database.holder("idle in transaction")
    (entry,) = database.pool.entries
    victim = database.observer.info.backend_pid
    entry.backend_pid = victim
    try:
        target = aim(database.holder("idle in transaction"))
        assert target.backend_pid == victim
        assert terminate(target) is cancel(target) is Outcome.OVER
        assert alive(database.observer, victim)
    finally:
        entry.backend_pid = holder.backend_pid
    assert begun.error() is None


def test_backend_killed_before(database: Database, begun: Transaction) -> None:
    holder = database.holder("idle in transaction")
    database.observer.execute("SELECT pg_terminate_backend(%s)", [holder.backend_pid])
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)
    assert terminate(aim(holder)) is cancel(aim(holder)) is Outcome.OVER
    assert isinstance(begun.error(), ConnectionLost)


@pytest.mark.parametrize("aims", [100, pytest.param(2000, marks=pytest.mark.ci)])
@pytest.mark.parametrize("pooler", [None, "session"])
@pytest.mark.parametrize("verb", [cancel, terminate])
def test_never_a_wrong_victim(
    make_database: MakeDatabase, pooler: str | None, verb: Callable[[Target], Outcome], aims: int
) -> None:
    """Many aims, fresh ones and old ones, at leases of milliseconds: who is hit was aimed at."""
    database = make_database(max_size=3, pooler=pooler)
    stop = threading.Event()
    aimed: set[tuple[int, int]] = set()
    hit: list[tuple[int, int]] = []
    pids: set[int] = set()

    def work() -> None:
        db = connections[database.alias]
        while not stop.is_set():
            lease = None
            try:
                with transaction.atomic(using=database.alias), db.cursor() as cursor:
                    for _ in range(3):
                        try:
                            cursor.execute("SELECT pg_sleep(0.003)")
                        finally:
                            lease = (db._entry.backend_pid, db._entry.generation)
            except OperationalError:
                assert lease is not None
                hit.append(lease)
                pids.add(lease[0])
            finally:
                db.close()

    tasks = [Task(work) for _ in range(4)]
    rng, outcomes = random.Random(5), dict.fromkeys(Outcome, 0)
    old: list[Target] = []
    try:
        for number in itertools.count():
            if sum(outcomes.values()) >= aims and outcomes[Outcome.DONE] >= aims / 20:
                break
            fresh = [aim(each) for each in database.pool.holders() if each.generation >= 0]
            old = (old + fresh)[-200:]
            choice = fresh if number % 2 else old
            if not choice:
                continue
            target = rng.choice(choice)
            aimed.add((target.backend_pid, target.generation))
            outcomes[verb(target)] += 1
    finally:
        stop.set()
        for task in tasks:
            task.result()
    assert outcomes[Outcome.OVER], outcomes
    assert set(hit) <= aimed, (set(hit) - aimed, outcomes)
    assert hit, outcomes
    # Whose session was ended or cancelled never serves another lease.
    assert len(pids) == len(set(hit))
    database.settle()
    database.serve_at_once(3)


def test_what_was_aimed_at_serves_nobody_else(database: Database, begun: Transaction) -> None:
    """Also if it came to nothing: until that is known the connection must not change hands."""
    holder = database.holder("idle in transaction")
    assert cancel(aim(holder)) is Outcome.OVER
    assert begun.error() is None
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)
    assert database.backend() != holder.backend_pid


# -- ways to the server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [cancel, terminate])
def test_through_something_in_between(
    make_database: MakeDatabase, proxy: Any, verb: Callable[[Target], Outcome]
) -> None:
    """Its process ids may mean anything; the connection's own way is taken."""
    database = make_database(HOST=proxy.host, PORT=str(proxy.port))
    task = Task(database.fetch, "SELECT pg_sleep(600)")
    holder = database.holder()
    assert wait_until(lambda: executes(database.observer, holder.backend_pid), PATIENCE)
    assert verb(aim(holder)) is Outcome.DONE
    error = task.error()
    assert isinstance(error, OperationalError)
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)


def test_terminate_idle_through_something_in_between(make_database: MakeDatabase, proxy: Any) -> None:
    database = make_database(HOST=proxy.host, PORT=str(proxy.port))
    begun = Transaction(database.alias)
    holder = database.holder("idle in transaction")
    assert cancel(aim(holder)) is Outcome.OVER
    assert terminate(aim(holder)) is Outcome.DONE
    assert wait_until(lambda: not alive(database.observer, holder.backend_pid), PATIENCE)
    assert isinstance(begun.error(), ConnectionLost)


def test_dedicated(database: Database) -> None:
    """It is in the ledger, so it can be stopped; perhaps it is of another server than the pool."""
    from django_dbpool.pool.dedicated import dedicated_holders

    def listen() -> None:
        with dedicated(database.alias) as connection:
            connection.execute("SELECT pg_sleep(600)")

    task = Task(listen)
    assert wait_until(lambda: any(each.state == "running" for each in dedicated_holders(database.alias)), PATIENCE)
    (holder,) = dedicated_holders(database.alias)
    assert wait_until(lambda: executes(database.observer, holder.backend_pid), PATIENCE)
    assert cancel(aim(holder)) is Outcome.DONE
    assert isinstance(task.error(), psycopg.errors.QueryCanceled)
    assert terminate(aim(holder)) is Outcome.OVER


def test_no_permission(make_database: MakeDatabase) -> None:
    """A role that may not signal the session's."""
    database = make_database()
    database.observer.execute("DROP ROLE IF EXISTS dbpool_weak")
    database.observer.execute("CREATE ROLE dbpool_weak")
    try:
        weak = make_database(OPTIONS={"assume_role": "dbpool_weak"})
        begun = Transaction(weak.alias)
        assert terminate(aim(weak.holder("idle in transaction"))) is Outcome.REFUSED
        assert begun.error() is None
        weak.connection.close_pool()
    finally:
        database.observer.execute("DROP ROLE dbpool_weak")


@pytest.mark.ci
@pytest.mark.parametrize("verb", [cancel, terminate])
def test_frozen_server(make_database: MakeDatabase, server: EmbeddedServer, verb: Callable[[Target], Outcome]) -> None:
    """Seconds, not for ever; what was aimed at ends as if nobody had."""
    database = make_database(server)
    begun = Transaction(database.alias)
    holder = database.holder("idle in transaction")
    database.backend()  # one that is free, and does not answer either
    server.freeze()
    try:
        began = monotonic()
        assert verb(aim(holder)) is Outcome.UNREACHABLE
        assert monotonic() - began < 15
    finally:
        server.thaw()
    assert begun.error() is None


@pytest.mark.ci
@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
def test_pgbouncer(make_database: MakeDatabase, server: EmbeddedServer, pool_mode: str) -> None:
    """Undeclared: that its process ids are not the server's is noticed."""
    with pgbouncer(server, pool_mode=pool_mode, ignore_startup_parameters="extra_float_digits,options") as front:
        database = make_database(front)
        for verb in (cancel, terminate):
            task = Task(database.fetch, "SELECT pg_sleep(600)")
            holder = database.holder()
            assert wait_until(partial(sleeps, database), PATIENCE)
            assert verb(aim(holder)) is Outcome.DONE
            assert isinstance(task.error(), OperationalError)
            # Whoever is faster: the error of the cancelled statement may come through before the line is cut.
            assert wait_until(partial(closed, database, holder.backend_pid), PATIENCE)
        connections[database.alias].close_pool()
        database.observer.close()


# -- targets ------------------------------------------------------------------------------------------------------


def test_target_through_json() -> None:
    target = Target(this_process().instance, "default", 1, 2, 3.5, None)
    assert Target.from_json(target.to_json()) == target


@pytest.mark.parametrize(
    "change",
    [
        {"instance": 1},
        {"alias": None},
        {"backend_pid": "1"},
        {"backend_pid": True},
        {"generation": 1.0},
        {"backend_start": "now"},
        {"verb": "terminate"},
    ],
    ids=repr,
)
def test_forged_target(change: dict[str, Any]) -> None:
    given = {**Target("a", "default", 1, 2).to_json(), **change}
    with pytest.raises(ValueError, match="target"):
        Target.from_json(given)


@pytest.mark.parametrize("given", [None, [], "x", {}])
def test_no_target(given: object) -> None:
    with pytest.raises(ValueError, match="target"):
        Target.from_json(given)
