"""Work in threads: its connections come back, its errors are heard of."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction as djangos
from django.db.transaction import TransactionManagementError
from django.test import TestCase, override_settings

import django_dbpool
from django_dbpool import threads
from django_dbpool.core import blocks
from django_dbpool.core.admission import UNMARKED, admission
from django_dbpool.core.ledger import current_unit, thread_units
from django_dbpool.errors import ShuttingDown
from django_dbpool.operations import Operation, recent, running, track_operation
from django_dbpool.pool import stopping
from django_dbpool.threads import ThreadPoolExecutor, TooManyThreads, spawn, spawn_on_commit
from django_dbpool.transaction import deadline, reserved, session
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child
from tests.fixtures.pools import alive, backend, execute, hold, in_use, value
from tests.fixtures.workers import Step

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert wait_until(lambda: not threads._spawned, PATIENCE)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.INFO, "django_dbpool.threads")
    return lambda: [each for each in caplog.records if each.name == "django_dbpool.threads"]


def result(future: Future[Any]) -> Any:
    return future.result(PATIENCE)


def last(name: str) -> Operation:
    return [each for each in recent() if each.name == name][-1]


@pytest.fixture(params=["spawn", "executor"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Future[Any]]]:
    """Either way to have a function run."""
    if request.param == "spawn":
        yield spawn
        return
    with ThreadPoolExecutor(1) as executor:
        yield executor.submit


Run = Callable[..., Future[Any]]


# -- connections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_pinned_connection_is_released(single: str, run: Run, error: type[BaseException] | None) -> None:
    """Whatever the work was doing, and however it ended."""

    def work() -> None:
        execute(single, "SET statement_timeout = '777ms'")
        assert in_use(single) == 1
        if error is not None:
            raise error("x")

    future = run(work)
    assert type(future.exception(PATIENCE)) is (error or type(None))
    assert in_use(single) == 0
    assert value(single, "SHOW statement_timeout") != "777ms"


def test_open_transaction_is_rolled_back(single: str, run: Run, log: Any) -> None:
    """With a warning; what the thread does next is not in it."""

    def begin() -> None:
        djangos.atomic(using=single).__enter__()
        execute(single, "INSERT INTO app_log (key) VALUES ('lost')")

    result(run(begin))
    assert in_use(single) == 0
    assert value(single, "SELECT count(*) FROM app_log") == 0
    (record,) = [each for each in log() if each.levelno == logging.WARNING]
    assert "rolled back" in record.getMessage()
    assert result(run(value, single, "SELECT 1")) == 1


def test_manual_transaction_is_rolled_back(single: str, run: Run) -> None:
    result(run(hold, single))
    assert in_use(single) == 0
    result(run(execute, single, "INSERT INTO app_log (key) VALUES ('kept')"))
    assert value(single, "SELECT count(*) FROM app_log") == 1


def test_stock_connection_is_closed(make_alias: Callable[..., str], run: Run, observer: Observer) -> None:
    """Also of databases without a pool."""
    alias = make_alias(ENGINE="django.db.backends.postgresql")
    pid = result(run(backend, alias))
    assert wait_until(lambda: not alive(observer, pid), PATIENCE)


def test_initializer(single: str) -> None:
    with ThreadPoolExecutor(1, initializer=hold, initargs=(single,)) as executor:
        assert result(executor.submit(in_use, single)) == 0


def test_killed_backend(single: str, run: Run, observer: Observer, log: Any) -> None:
    """Somebody has ended it on purpose: that is no error of the work's."""

    def work() -> None:
        observer.execute("SELECT pg_terminate_backend(%s)", [backend(single)])
        with djangos.atomic(using=single):
            pid = backend(single)
            observer.execute("SELECT pg_terminate_backend(%s)", [pid])
            assert wait_until(lambda: not alive(observer, pid), PATIENCE)
            backend(single)

    assert run(work).exception(PATIENCE) is not None
    assert [each.levelname for each in log()] == ["WARNING"]
    assert in_use(single) == 0


# -- what the thread has of its caller ----------------------------------------------------------------------------

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


def test_context(single: str, run: Run) -> None:
    """Its variables, such as ids for logs and the tenant; not its deadline, marks or unit."""

    def work() -> tuple[Any, ...]:
        unit = current_unit.get()
        assert unit is thread_units[threading.get_ident()]
        return (
            request_id.get(),
            value(single, "SELECT current_setting('app.tenant')"),
            admission.get() is UNMARKED,
            blocks.deadline(),
            getattr(unit, "name", None),
        )

    token = request_id.set("r7")
    try:
        with track_operation("request"), deadline(60), reserved(), session(using=single, **{"app.tenant": "t1"}):
            future = run(work)
            seen = result(future)
    finally:
        request_id.reset(token)
    assert seen[:4] == ("r7", "t1", True, None)
    assert seen[4].endswith("work")


def test_caller_keeps_its_own(single: str) -> None:
    """What the thread sets is not seen outside."""
    with track_operation("outside") as outside:
        result(spawn(request_id.set, "inside"))
        assert request_id.get() == "-"
        assert current_unit.get() is outside


def test_operation(run: Run) -> None:
    step = Step()
    with track_operation("caller") as caller:
        future = run(step.wait)
        step.reached()
    (mine,) = [each for each in running() if each.kind == "thread"]
    assert (mine.name, mine.parent, mine.state) == ("Step.wait", caller.id, "running")
    step.go_on()
    result(future)
    assert last("Step.wait").state == "done"


def test_name_and_tags() -> None:
    result(spawn(int, "7", name="seven", tags={"a": "b"}))
    assert last("seven").tags == {"a": "b"}
    with ThreadPoolExecutor(2, name="many", tags={"c": "d"}) as executor:
        assert list(executor.map(int, ["1", "2"])) == [1, 2]
    assert last("many").tags == {"c": "d"}


def test_async_callers(single: str) -> None:
    """From a coroutine, and back into one."""

    async def inner() -> int:
        return int(await sync_to_async(value)(single, "SELECT 7"))

    async def main() -> list[int]:
        with ThreadPoolExecutor(1) as executor:
            loop = asyncio.get_running_loop()
            return [
                await asyncio.wrap_future(spawn(value, single, "SELECT 5")),
                await loop.run_in_executor(executor, value, single, "SELECT 6"),
                await asyncio.wrap_future(spawn(async_to_sync(inner))),
            ]

    assert asyncio.run(main()) == [5, 6, 7]
    assert wait_until(lambda: in_use(single) == 0, PATIENCE)


# -- errors -------------------------------------------------------------------------------------------------------


def fail() -> None:
    raise ValueError("broken")


def test_error_is_logged(run: Run, log: Any) -> None:
    with track_operation("caller"):
        future = run(fail)
    assert isinstance(future.exception(PATIENCE), ValueError)
    (record,) = log()
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
    assert record.operation_name == "fail"
    assert record.operation_id == last("fail").id
    assert (last("fail").state, last("fail").error) == ("failed", "ValueError")


def test_error_is_logged_with_tags_and_caller(log: Any, rf: Any) -> None:
    thread_units[threading.get_ident()] = dict(rf.get("/items/").environ)
    try:
        future = spawn(fail, name="broken\nERROR forged", tags={"user": "7"})
    finally:
        del thread_units[threading.get_ident()]
    future.exception(PATIENCE)
    (record,) = log()
    assert record.operation_tags == {"user": "7"}
    assert str(record.spawned_by).startswith("GET ")
    assert "\n" not in record.getMessage()


def test_log_that_is_broken(single: str, run: Run, break_log: Callable[[str], None]) -> None:
    def leave_open() -> None:
        djangos.atomic(using=single).__enter__()
        backend(single)
        fail()

    break_log("django_dbpool.threads")
    for _ in range(2):
        assert isinstance(run(leave_open).exception(PATIENCE), ValueError)
        assert in_use(single) == 0
    assert [each.state for each in recent()[-2:]] == ["failed", "failed"]
    assert not [each for each in thread_units.values() if getattr(each, "name", "").endswith("leave_open")]


def test_error_that_is_its_own_cause(log: Any) -> None:
    """``raise error from error``."""
    error = ValueError("broken")
    error.__cause__ = error

    def work() -> None:
        raise error

    assert spawn(work).exception(PATIENCE) is error
    assert [each.levelname for each in log()] == ["ERROR"]


@pytest.mark.parametrize("error", [SystemExit(), asyncio.CancelledError()])
def test_expected_end(error: BaseException, log: Any) -> None:
    def leave() -> None:
        raise error

    assert spawn(leave).exception(PATIENCE) is error
    assert [each.levelname for each in log()] == ["WARNING"]


def test_sentry(run: Run) -> None:
    """One event for each error, with tags, where the project has Sentry."""
    sentry_sdk = pytest.importorskip("sentry_sdk")
    from sentry_sdk.integrations.logging import LoggingIntegration

    events: list[dict[str, Any]] = []
    before = sentry_sdk.get_client()
    sentry_sdk.init(
        dsn="http://public@127.0.0.1:1/1",
        before_send=lambda event, hint: events.append(event),
        integrations=[LoggingIntegration()],
        default_integrations=False,
    )
    try:
        run(fail).exception(PATIENCE)
        (event,) = events
        assert event["tags"]["operation"] == "fail"
        assert event["exception"]["values"][0]["type"] == "ValueError"
        assert "operation" not in sentry_sdk.get_isolation_scope()._tags
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(before)


# -- transactions -------------------------------------------------------------------------------------------------


def test_refused_inside_atomic(single: str) -> None:
    with djangos.atomic(using=single), pytest.raises(TransactionManagementError, match="spawn_on_commit"):
        spawn(fail)


def test_on_commit(single: str) -> None:
    """After the commit, whose rows it sees; never after a rollback; at once without a transaction."""
    done: list[Any] = []
    count = "SELECT count(*) FROM app_log"

    def work() -> None:
        done.append(value(single, count))

    with djangos.atomic(using=single):
        execute(single, "INSERT INTO app_log (key) VALUES ('a')")
        spawn_on_commit(work, using=single)
        assert not done
    assert wait_until(lambda: done == [1], PATIENCE)
    with pytest.raises(ValueError, match="broken"), djangos.atomic(using=single):
        spawn_on_commit(work, using=single)
        fail()
    spawn_on_commit(work, using=single)
    assert wait_until(lambda: done == [1, 1], PATIENCE)


class InsideTestCase(TestCase):
    def test_transaction_of_the_test_case(self) -> None:
        """Doesn't count: the code under test is in none."""
        assert spawn(int, "7").result(PATIENCE) == 7
        with djangos.atomic(), pytest.raises(TransactionManagementError):
            spawn(int, "7")


# -- limits -------------------------------------------------------------------------------------------------------


def test_too_many() -> None:
    step = Step()
    with override_settings(DBPOOL={"SPAWN_LIMIT": 1}):
        first = spawn(step.wait)
        with pytest.raises(TooManyThreads, match=r'int was not started: 1 threads.*DBPOOL\["SPAWN_LIMIT"\]'):
            spawn(int)
        step.go_on()
        result(first)
        assert result(spawn(int)) == 0


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((7,), {}, TypeError),
        ((asyncio.sleep,), {}, TypeError),
        ((int,), {"name": 7}, TypeError),
        ((int,), {"name": ""}, ValueError),
        ((int,), {"tags": {"a": 1}}, TypeError),
    ],
    ids=["number", "coroutine function", "name of another type", "empty name", "tag of another type"],
)
def test_wrong_use(arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"spawn\("):
        spawn(*arguments, **options)


# -- the end ------------------------------------------------------------------------------------------------------


@pytest.fixture
def resumed() -> Iterator[None]:
    yield
    stopping.resume()


@pytest.mark.usefixtures("resumed")
def test_shutdown_waits(single: str, run: Run) -> None:
    """As for a request: it goes on leasing until it ends."""
    step = Step()

    def work() -> Any:
        step.wait()
        return value(single, "SELECT 7")

    future = run(work)
    step.reached()
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(django_dbpool.shutdown(timeout=PATIENCE)))
    thread.start()
    assert wait_until(lambda: stopping.announced is not None, PATIENCE)
    step.go_on()
    assert result(future) == 7
    thread.join(PATIENCE)
    assert waiting[0].clean


@pytest.mark.usefixtures("resumed")
def test_not_finished_in_time(run: Run) -> None:
    step = Step()
    future = run(step.wait)
    step.reached()
    left = django_dbpool.shutdown(timeout=0.05)
    assert left.unfinished == ("thread 'Step.wait'",)
    step.go_on()
    result(future)


@pytest.mark.usefixtures("resumed")
def test_started_by_what_may_finish(single: str, log: Any) -> None:
    """A thread of a request that had begun may lease; one that nobody's work has started gets the error by name."""
    with track_operation("begun before"):
        announced = stopping.Shutdown(stopping.time.monotonic() + 60, stopping._leasing)
        stopping.announced = announced
        stopping.suspend_all()
        assert result(spawn(value, single, "SELECT 7")) == 7
    with ThreadPoolExecutor(1) as executor:
        error = executor.submit(value, single, "SELECT 8").exception(PATIENCE)
    assert isinstance(error, ShuttingDown)
    assert [each.levelname for each in log()] == ["WARNING"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork(single: str) -> None:
    """The child has none of the parent's threads, and room for its own."""
    step = Step()
    future = spawn(step.wait)
    with override_settings(DBPOOL={"SPAWN_LIMIT": 1}):
        assert Child(lambda: (len(running()), spawn(int, "7").result(PATIENCE))).result() == (0, 7)
    step.go_on()
    result(future)


def test_interpreter_exit() -> None:
    """What was begun is finished."""
    program = (
        "import django, time; from django.conf import settings; settings.configure(INSTALLED_APPS=['django_dbpool']); "
        "django.setup(); from django_dbpool.threads import spawn; "
        "spawn(lambda: (time.sleep(0.2), print('done', flush=True)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")
