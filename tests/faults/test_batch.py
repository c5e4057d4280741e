"""Batches whose process, backend or server is killed in the middle: no row is lost, none is done twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction

from django_dbpool.batch import BatchProgress, BatchResult, BatchRunTaken, run_batches
from django_dbpool.errors import CommitUnknown, PoolError, PoolExhausted
from django_dbpool.models import BatchCheckpoint, BatchRun
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Child, Database, Task, end_of
from tests.fixtures.batches import assert_once, count_up, fill
from tests.fixtures.proxy import Proxy

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

ROWS = 3000
FINISHED = 0
FAILED = 1
ANOTHER_HAS_IT = 3
DURABLE = {"options": "-c synchronous_commit=on"}
"""Which the servers of tests are not by default: killed, they lose what they have said is committed."""


def named(make_database: MakeDatabase, **settings: Any) -> Database:
    """An alias on the test database, whose backends can be told apart."""
    return make_database(NAME=connections["default"].settings_dict["NAME"], **{"retry": True, **settings})


def work(alias: str = "default", **arguments: Any) -> BatchResult:
    given = {"size": 20, "checkpoint": "kills", "takeover_after": 0.3, "busy_above": None, **arguments}
    return run_batches(Item.objects.using(alias), count_up, **given)


# -- the process ----------------------------------------------------------------------------------------------------


def forked(body: Callable[[], object]) -> int:
    """The pid of a child that does this and ends, with nothing of ours cleaned up."""
    connection.close()
    pid = os.fork()
    if pid:
        return pid
    status = FAILED
    try:
        body()
        status = FINISHED
    except BatchRunTaken:
        status = ANOTHER_HAS_IT
    finally:
        os._exit(status)


def ended(pid: int) -> int | None:
    """Exit status; None: killed by a signal."""
    _, status = end_of(pid)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def test_process_is_killed() -> None:
    fill(ROWS)
    connection.close()
    chance = random.Random(7)
    kills = 0
    until = time.monotonic() + 2 * PATIENCE
    while time.monotonic() < until:
        done = progress()
        pid = forked(work_in_time)
        if kills < 8:
            # In the middle of the work, not of the wait for the one that was killed before.
            assert wait_until(lambda done=done: progress() > done, PATIENCE)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
        status = ended(pid)
        kills += status is None
        if status == FINISHED:
            break
    assert kills >= 5
    assert_once(ROWS)
    run = BatchRun.objects.get()
    assert (run.state, run.total) == ("done", ROWS)
    assert BatchCheckpoint.objects.get().done == ROWS


def work_in_time(alias: str = "default") -> BatchResult:
    """As somebody does who starts it again and again, while the last runner's heartbeat is young."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return work(alias)
        except BatchRunTaken:
            assert time.monotonic() < until
            time.sleep(0.01)


def progress() -> int:
    """Batches that are committed."""
    done = BatchCheckpoint.objects.values_list("batches", flat=True).first() or 0
    connection.close()
    return done


def test_a_forked_copy_of_a_runner() -> None:
    """Both go on with the same token, and the one that comes second finds that the place has moved."""
    fill(200)
    parent = os.getpid()
    children: list[int] = []

    def fork_once(progress: BatchProgress) -> None:
        if os.getpid() == parent and not children:
            children.append(os.fork())

    outcome: Any = None
    try:
        outcome = work(on_progress=fork_once, size=10, pause=0.001)
    except BatchRunTaken as error:
        outcome = error
    finally:
        if os.getpid() != parent:  # whatever has come of it: a second pytest would go on with the first one's pipes
            if outcome is None:
                traceback.print_exc()
            os._exit(FAILED if outcome is None else ANOTHER_HAS_IT if isinstance(outcome, BatchRunTaken) else FINISHED)
    child = ended(children[0])
    finished = isinstance(outcome, BatchResult)
    assert finished is (child == ANOTHER_HAS_IT)
    assert finished or child == FINISHED
    assert_once(200)


def test_a_child_begins_a_run_of_its_own() -> None:
    fill(50)
    work(deadline=0)
    connection.close()
    assert Child(lambda: work().done).result() == 50
    assert_once(50)


def test_ctrl_c_ends_after_the_batch() -> None:
    fill(100)
    pressed: list[bool] = []

    def handler(items: list[Item]) -> None:
        if not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        count_up(items)

    with pytest.raises(KeyboardInterrupt):
        run_batches(Item.objects.all(), handler, size=10, checkpoint="interrupted", pause=60)
    assert Log.objects.count() == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    checkpoint = BatchCheckpoint.objects.get()
    assert (checkpoint.token, checkpoint.reason) == ("", "stopped")
    run_batches(Item.objects.all(), handler, checkpoint="interrupted")
    assert_once(100)


def test_ctrl_c_twice_ends_at_once() -> None:
    fill(10)

    def handler(items: list[Item]) -> None:
        count_up(items)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_batches(Item.objects.all(), handler, checkpoint="twice")
    assert not Log.objects.exists()
    assert BatchCheckpoint.objects.get().token == ""
    assert run_batches(Item.objects.all(), count_up, checkpoint="twice").done == 10


# -- the backend ----------------------------------------------------------------------------------------------------


def test_backends_are_terminated(make_database: MakeDatabase) -> None:
    """At any moment: while it reads, writes, or commits."""
    database = named(make_database)
    fill(ROWS)
    over = threading.Event()
    killed = 0

    def kill() -> None:
        nonlocal killed
        chance = random.Random(3)
        while killed < 15 and not over.wait(chance.uniform(0, 0.1)):
            row = database.observer.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name = %s AND state <> 'idle'",
                [database.application],
            ).fetchone()
            killed += row[0] if row else 0

    killer = Task(kill)
    try:
        result = work(database.alias, size=50, patience=60)
    finally:
        over.set()
        killer.result()
    assert result.done == ROWS
    assert killed >= 5
    assert_once(ROWS)


@pytest.fixture
def slow_commits(observer: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """Rows of the log are committed when nobody holds an advisory lock."""
    observer.execute(
        "CREATE FUNCTION wait_in_commit() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(99); RETURN NEW; END $$"
    )
    observer.execute(
        "CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON app_log DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait_in_commit()"
    )
    yield observer
    observer.execute("SELECT pg_advisory_unlock_all()")
    observer.execute("DROP TRIGGER waits ON app_log")
    observer.execute("DROP FUNCTION wait_in_commit")


def in_commit(observer: psycopg.Connection[Any]) -> int:
    """The backend that waits in its COMMIT."""
    query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 99 AND NOT granted"
    assert wait_until(lambda: observer.execute(query).fetchone() is not None, PATIENCE)
    row = observer.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def close(database: Database) -> None:
    """In the thread of the run: what it has left."""
    database.connection.close()
    database.connection.close_pool()


def test_commit_without_an_answer_that_succeeds(
    make_database: MakeDatabase, slow_commits: psycopg.Connection[Any], proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is guessed while the server is still at it: whoever read too early would do the batch again."""
    database = named(make_database, HOST=proxy.host, PORT=str(proxy.port))
    fill(20)
    slow_commits.execute("SELECT pg_advisory_lock(99)")
    run = Task(lambda: work(database.alias, size=10))
    in_commit(slow_commits)
    proxy.drop()
    run.join(0.3)
    assert run.is_alive(), "nothing is known yet"
    assert Log.objects.count() == 0
    slow_commits.execute("SELECT pg_advisory_unlock_all()")
    assert run.result().done == 20
    assert_once(20)
    assert "a COMMIT that was not answered has succeeded" in caplog.text
    close(database)


def test_commit_without_an_answer_that_fails(
    make_database: MakeDatabase, slow_commits: psycopg.Connection[Any]
) -> None:
    database = named(make_database)
    fill(20)
    slow_commits.execute("SELECT pg_advisory_lock(99)")
    run = Task(lambda: work(database.alias, size=10))
    backend = in_commit(slow_commits)
    slow_commits.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    slow_commits.execute("SELECT pg_advisory_unlock_all()")
    assert run.result().done == 20
    assert_once(20)


def test_commit_without_an_answer_and_without_a_checkpoint(
    make_database: MakeDatabase, slow_commits: psycopg.Connection[Any]
) -> None:
    """Nobody could tell, so it is raised, and never done again."""
    database = named(make_database)
    fill(20)
    slow_commits.execute("SELECT pg_advisory_lock(99)")
    run = Task(lambda: work(database.alias, size=10, checkpoint=None))
    backend = in_commit(slow_commits)
    slow_commits.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    slow_commits.execute("SELECT pg_advisory_unlock_all()")
    error = run.error()
    assert type(error) is CommitUnknown
    assert "nobody knows whether this batch was committed" in error.__notes__[-1]
    assert not Log.objects.exists()


def test_nobody_answers_for_longer_than_the_patience(
    make_database: MakeDatabase, slow_commits: psycopg.Connection[Any], proxy: Proxy
) -> None:
    """The error says so; the next start finds out."""
    database = named(make_database, HOST=proxy.host, PORT=str(proxy.port))
    fill(20)
    slow_commits.execute("SELECT pg_advisory_lock(99)")
    run = Task(lambda: work(database.alias, size=10, patience=0.2))
    in_commit(slow_commits)
    proxy.drop()
    error = run.error()
    assert type(error) is CommitUnknown
    assert "the next start finds out" in error.__notes__[-1]
    slow_commits.execute("SELECT pg_advisory_unlock_all()")
    assert wait_until(lambda: Log.objects.count() == 10, PATIENCE)
    connection.close()
    assert work_in_time(database.alias).done == 20
    assert_once(20)
    close(database)


# -- the server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(server: EmbeddedServer, make_database: MakeDatabase) -> Iterator[Database]:
    """An alias on a server of this module's own, with all tables and some rows."""
    server.start()
    database = make_database(server, retry=True, breaker=True, command_timeout=1, OPTIONS=DURABLE)
    call_command("migrate", database=database.alias, run_syncdb=True, verbosity=0)
    database.connection.close()
    database.observer.execute("TRUNCATE app_item, app_log, django_dbpool_batchrun CASCADE")
    yield database
    server.thaw()
    server.start()
    close(database)


def test_server_is_killed(server: EmbeddedServer, own: Database) -> None:
    """And comes back, twice, a second later each time."""
    fill(ROWS, using=own.alias)
    own.connection.close()
    outages: list[Task] = []

    def outage() -> None:
        server.kill()
        time.sleep(0.5)
        server.start()

    def crash(progress: BatchProgress) -> None:
        if len(outages) < 2 and progress.done > 1000 * (len(outages) + 1):
            outages.append(Task(outage))

    result = work(own.alias, on_progress=crash, patience=PATIENCE)
    for each in outages:
        each.result()
    assert len(outages) == 2
    assert result.done == ROWS
    assert_once(ROWS, using=own.alias)


def test_frozen_server(server: EmbeddedServer, own: Database) -> None:
    """Longer than a statement may take: cut, waited for, done."""
    fill(200, using=own.alias)
    own.connection.close()
    frozen: list[bool] = []

    def freeze(progress: BatchProgress) -> None:
        if not frozen:
            frozen.append(True)
            server.freeze()
            timer.start()

    timer = threading.Timer(3, server.thaw)
    result = work(own.alias, on_progress=freeze, patience=PATIENCE)
    timer.join()
    assert result.done == 200
    assert result.seconds > 2.5
    assert_once(200, using=own.alias)


# -- the pool -------------------------------------------------------------------------------------------------------


def test_exhausted_pool(make_database: MakeDatabase) -> None:
    """It waits for longer than a caller would, and holds nothing while it does."""
    database = named(make_database, max_size=1, timeout=0.1)
    fill(20)
    with database.holding(1):
        run = Task(lambda: work(database.alias, size=10, patience=PATIENCE))
        run.join(0.5)
        assert run.is_alive()
    assert run.result().done == 20
    assert_once(20)


def test_exhausted_for_longer_than_the_patience(make_database: MakeDatabase) -> None:
    database = named(make_database, max_size=1, timeout=0.05)
    fill(20)
    work(database.alias, deadline=0)
    with database.holding(1), pytest.raises(PoolExhausted) as caught:
        work(database.alias, patience=0.3)
    assert "patience" in caught.value.__notes__[-1]


def test_open_circuit(make_database: MakeDatabase) -> None:
    """Nobody is asked until it closes."""
    database = named(make_database, breaker=True)
    fill(20)
    begun = threading.Event()

    def handler(items: list[Item]) -> None:
        begun.set()
        count_up(items)

    def run() -> BatchResult:
        return run_batches(
            Item.objects.using(database.alias),
            handler,
            checkpoint="circuit",
            should_stop=isolate,
        )

    def isolate() -> bool:
        if not isolated:
            isolated.append(True)
            database.pool.breaker.isolate()
        return False

    isolated: list[bool] = []
    task = Task(run)
    assert not begun.wait(0.5)
    assert isolated
    database.pool.breaker.reset()
    assert task.result().done == 20
    assert_once(20)


def test_refused_login_is_raised_at_once(make_database: MakeDatabase) -> None:
    """To repeat that locks accounts."""
    database = named(make_database, USER="nobody-of-that-name")
    began = time.monotonic()
    with pytest.raises(PoolError):
        work(database.alias)
    assert time.monotonic() - began < PATIENCE


def test_shutdown_ends_after_the_batch() -> None:
    """Of the process: the batch at hand is done, the next one is another process's."""
    fill(100)
    connection.close()

    def body() -> tuple[str, int, bool]:
        import django_dbpool

        def shut(items: list[Item]) -> None:
            if not shutting:
                shutting.append(threading.Thread(target=lambda: clean.append(django_dbpool.shutdown(20).clean)))
                shutting[0].start()
            from django_dbpool.pool import stopping

            assert wait_until(lambda: stopping.announced is not None, PATIENCE)
            count_up(items)

        shutting: list[threading.Thread] = []
        clean: list[bool] = []
        result = run_batches(Item.objects.all(), shut, size=10, checkpoint="shutdown", pause=60)
        shutting[0].join()
        return result.reason, result.done, clean[0]

    assert Child(body).result() == ("shutdown", 10, True)
    assert BatchCheckpoint.objects.get().token == ""
    with transaction.atomic():
        assert Log.objects.count() == 10
    assert run_batches(Item.objects.all(), count_up, checkpoint="shutdown").done == 100
    assert_once(100)
