"""What runs, how far it is and what it holds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.signals import request_finished, request_started
from django.db import transaction
from django.test import RequestFactory

from django_dbpool import operations
from django_dbpool.core import reporter
from django_dbpool.core.ledger import current_unit, thread_units
from django_dbpool.core.watching import IDLE_AFTER, Looked, Watch
from django_dbpool.operations import Operation, advance, looks, recent, running, track_operation
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child
from tests.fixtures.pools import backend, execute, holders
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)


def named(name: str) -> Operation:
    (found,) = [each for each in running() if each.name == name]
    return found


def last(name: str) -> Operation:
    return [each for each in recent() if each.name == name][-1]


def test_begin_and_end() -> None:
    with track_operation("import", total=4, tags={"supplier": "7"}) as operation:
        assert named("import").progress is not None
        operation.advance()
        operation.advance(2, total=6)
        now = named("import")
        assert (now.id, now.kind, now.state) == (operation.id, "operation", "running")
        assert (now.thread, now.thread_ident) == (threading.current_thread().name, threading.get_ident())
        assert now.tags == {"supplier": "7"}
        assert now.progress is not None
        assert (now.progress.done, now.progress.total) == (3, 6)
        assert now.progress.seconds_left == pytest.approx(3 / now.progress.rate)
        assert current_unit.get() is thread_units[threading.get_ident()] is operation
    assert not [each for each in running() if each.name == "import"]
    ended = last("import")
    assert (ended.id, ended.state, ended.error) == (operation.id, "done", None)
    assert current_unit.get() is None
    assert threading.get_ident() not in thread_units


def test_nested() -> None:
    with track_operation("outer") as outer:
        with track_operation("inner") as inner:
            assert named("inner").parent == outer.id
            advance(5)
            assert current_unit.get() is inner
        assert current_unit.get() is outer
    assert last("inner").progress is not None
    assert last("outer").progress is None
    assert last("outer").parent is None


@pytest.mark.parametrize(
    ("error", "state"),
    [(ZeroDivisionError, "failed"), (KeyboardInterrupt, "failed"), (asyncio.CancelledError, "cancelled")],
)
def test_ends_with_an_error(error: type[BaseException], state: str) -> None:
    with pytest.raises(error), track_operation("broken"):
        raise error
    assert (last("broken").state, last("broken").error) == (state, error.__name__)
    assert current_unit.get() is None


def test_thread_that_has_gone() -> None:
    """An operation whose end never came ends with its thread."""
    thread = threading.Thread(target=track_operation("never closed").__enter__)
    thread.start()
    thread.join()
    assert not [each for each in running() if each.name == "never closed"]
    assert last("never closed").state == "ended"
    assert thread.ident not in thread_units


def test_decorator() -> None:
    """Each call is an operation of its own."""

    @track_operation("decorated")
    def work(depth: int) -> int:
        advance()
        return len(running()) if depth == 0 else work(depth - 1)

    before = len(running())
    assert work(1) == before + 2
    assert work.__name__ == "work"
    with pytest.raises(TypeError, match="generator"):

        @track_operation("rows")
        def rows() -> Iterator[int]:
            yield 1


def test_one_object_in_several_threads(worker: Worker) -> None:
    """The first to begin is the first to end: each ends its own, and goes on as what it was before."""
    importing = track_operation("import")
    mine = importing.__enter__()
    theirs = worker(importing.__enter__)
    importing.__exit__(None, None, None)
    assert (current_unit.get(), thread_units.get(threading.get_ident())) == (None, None)
    assert [each.id for each in running() if each.name == "import"] == [theirs.id]
    worker(importing.__exit__, None, None, None)
    assert [each.id for each in recent()[-2:]] == [mine.id, theirs.id]
    assert worker(current_unit.get) is None


def test_one_object_in_several_tasks() -> None:
    importing = track_operation("import")

    async def main() -> tuple[object, object]:
        began, ended = asyncio.Event(), asyncio.Event()

        async def first() -> object:
            with importing:
                await began.wait()
            ended.set()
            return current_unit.get()

        async def second() -> object:
            with importing as operation:
                began.set()
                await ended.wait()
                assert current_unit.get() is operation
            return current_unit.get()

        found = await asyncio.gather(first(), second())
        return found[0], found[1]

    assert asyncio.run(main()) == (None, None)


def test_async() -> None:
    """Several in one event loop, whose threads' leases are theirs."""

    @track_operation("async")
    async def work(key: str, alias: str) -> str:
        advance(total=2)
        await sync_to_async(execute)("default", "SELECT 1")
        unit = current_unit.get()
        assert isinstance(unit, operations.Running)
        return unit.id

    async def main() -> list[str]:
        async with track_operation("gathering"):
            return await asyncio.gather(*(work(str(n), "default") for n in range(3)))

    ids = asyncio.run(main())
    assert len(set(ids)) == 3
    parent = last("gathering").id
    assert {each.parent for each in recent() if each.id in ids} == {parent}
    assert thread_units.get(threading.get_ident()) is None


def test_holder_is_named(single: str) -> None:
    """A lease is labelled with the operation, and the operation knows its lease."""
    with track_operation("nightly"), transaction.atomic(using=single):
        pid = backend(single)
        (holder,) = holders(single)
        assert holder.unit == "operation 'nightly'"
        assert holder.name == "nightly"
        (held,) = named("nightly").held
        assert (held.alias, held.backend_pid, held.generation) == (single, pid, holder.generation)
        assert (held.state, held.statements) == ("idle in transaction", 1)
        assert named("nightly").statements == 1
    assert last("nightly").held == ()


def test_lease_from_before_is_held_too(single: str) -> None:
    """The operation's thread has it."""
    with transaction.atomic(using=single):
        pid = backend(single)
        with track_operation("later"):
            assert [held.backend_pid for held in named("later").held] == [pid]


@pytest.fixture
def request_of(rf: RequestFactory) -> Callable[[str], dict[str, Any]]:
    return lambda path: dict(rf.get(path).environ)


def test_request(single: str, worker: Worker, request_of: Callable[[str], dict[str, Any]]) -> None:
    """Without the request's doing anything for it; an operation inside belongs to it."""
    step = Step()

    def serve() -> None:
        request_started.send(object, environ=request_of("/items/"))
        try:
            with transaction.atomic(using=single), track_operation("inside"):
                backend(single)
                step.wait()
        finally:
            request_finished.send(object)

    served = worker.start(serve)
    step.reached()
    (request,) = [each for each in running() if each.kind == "request"]
    inside = named("inside")
    assert request.name.startswith("GET ")
    assert (inside.unit, inside.unit_name) == (request.name, request.unit_name)
    assert request.thread_ident == inside.thread_ident == worker.ident
    (held,), (held_inside,) = request.held, inside.held
    assert (held.backend_pid, held.generation) == (held_inside.backend_pid, held_inside.generation)
    assert holders(single)[0].unit == f"operation 'inside' in {request.name}"
    assert thread_units[worker.ident] is not current_unit.get()
    step.go_on()
    served.result(PATIENCE)
    assert not [each for each in running() if each.kind == "request"]
    ended = last(request.name)
    assert (ended.id, ended.state) == (request.id, "ended")


def test_task(single: str, worker: Worker) -> None:
    """Of Celery, registered by its signals."""
    pytest.importorskip("celery")
    from celery.app.task import Context

    from django_dbpool.contrib.celery import wiring

    step = Step()

    class Task:
        request = Context(id="1f0c", task="shop.tasks.send")

    def run() -> None:
        wiring._begin(task=Task)
        try:
            with transaction.atomic(using=single), track_operation("part"):
                backend(single)
                step.wait()
        finally:
            wiring._end(task=Task)

    task = worker.start(run)
    step.reached()
    (mine,) = [each for each in running() if each.kind == "task"]
    assert (mine.name, mine.unit_name) == ("task shop.tasks.send[1f0c]", "shop.tasks.send")
    assert len(mine.held) == 1
    assert named("part").unit_name == "shop.tasks.send"
    step.go_on()
    task.result(PATIENCE)
    assert last(mine.name).state == "ended"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_command(single: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process was started for holds what its main thread leases, unless that is for something else."""

    def command() -> object:
        with transaction.atomic(using=single):
            pid = backend(single)
            (mine,) = running()
            held = [each.backend_pid for each in mine.held]
        return mine.kind, mine.name, mine.unit_name, held == [pid]

    monkeypatch.setattr("sys.argv", ["manage.py", "import_prices", "--secret=x"])
    assert Child(command).result() == ("command", "command 'import_prices'", None, True)
    monkeypatch.setattr("sys.argv", ["manage.py", "runserver"])
    assert Child(lambda: [(each.kind, each.name) for each in running()]).result() == []


def test_seconds_of_holding() -> None:
    """A lease at a look counts since the look before, or since it began if the looks have paused."""
    watch = Watch()
    lease = Looked("a", 0.2, idle=False)
    watch.look(10.0, 9.5, [lease])
    assert watch.holding == 0.5
    watch.look(11.0, 9.5, [])
    assert watch.holding == 0.5
    watch.look(12.0, 9.5, [lease, lease])
    assert watch.holding == 1.5
    watch.look(100.0, 9.5, [Looked("a", 2.0, idle=False)])
    assert watch.holding == 3.5


def test_holds_idle() -> None:
    """Idle between two looks, with no statement between; two looks one after the other say nothing."""
    watch = Watch()
    assert not watch.look(1.0, 0.0, [Looked(("a", 1), 1.0, idle=True)])
    assert not watch.look(1.01, 0.0, [Looked(("a", 1), 1.0, idle=True)])
    assert watch.look(1.0 + IDLE_AFTER, 0.0, [Looked(("a", 1), 2.0, idle=True)])
    assert not watch.look(3.0, 0.0, [Looked(("a", 2), 3.0, idle=True)])
    assert not watch.look(9.0, 0.0, [Looked(("a", 2), 9.0, idle=False)])
    assert not watch.look(10.0, 0.0, [Looked(("a", 2), 10.0, idle=True)])
    assert watch.once_idle


def test_looks_while_the_process_works(single: str) -> None:
    """Once a second, by the reporter, without anybody's asking."""
    operations.observe()
    try:
        with track_operation("slow") as operation, transaction.atomic(using=single):
            backend(single)
            assert wait_until(lambda: operation.watch.once_idle, PATIENCE)
    finally:
        reporter.unregister(looks.JOB)
    ended = last("slow")
    assert ended.holds_idle
    assert ended.holding is not None
    assert ended.not_holding is not None
    assert 1.0 <= ended.holding <= ended.seconds
    assert ended.not_holding < ended.seconds


def test_never_looked_at() -> None:
    """What is not known is not claimed."""
    with track_operation("short"):
        pass
    assert last("short").holding is last("short").not_holding is None


def test_only_the_last_are_kept() -> None:
    for number in range(150):
        with track_operation(f"number {number}"):
            pass
    kept = [each.name for each in recent() if each.name.startswith("number ")]
    assert len(kept) <= 100
    assert kept[-1] == "number 149"


def test_json(single: str) -> None:
    with track_operation("told", total=2, tags={"a": "b"}) as operation, transaction.atomic(using=single):
        backend(single)
        operation.advance()
        told = json.loads(json.dumps([each.to_json() for each in running()]))
    (mine,) = [each for each in told if each["name"] == "told"]
    assert mine["tags"] == {"a": "b"}
    assert mine["progress"]["done"] == 1
    assert mine["held"][0]["alias"] == single
    assert set(mine) >= {"id", "kind", "state", "unit", "parent", "holding", "not_holding", "holds_idle", "statements"}


HOSTILE = ["a\nERROR root: forged", "a\x1b[2Jb", "\u202egnp.exe", "x" * 100_000, "a\x00b", "\ud800", "a\u2028b", "a\rb"]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_hostile_texts(text: str, single: str) -> None:
    """On one line, of bounded length, and nothing that can't be seen."""
    with track_operation(text, tags={text: text}), transaction.atomic(using=single):
        backend(single)
        (mine,) = running()
        unit = holders(single)[0].unit or ""
        for shown in (mine.name, *mine.tags, *mine.tags.values(), unit):
            assert len(shown) <= 220
            assert shown.isprintable()
            shown.encode()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": 7}, TypeError),
        ({"name": " "}, ValueError),
        ({"name": "a", "total": "7"}, TypeError),
        ({"name": "a", "total": -1}, ValueError),
        ({"name": "a", "total": float("nan")}, ValueError),
        ({"name": "a", "tags": ["a"]}, TypeError),
        ({"name": "a", "tags": {"a": 1}}, TypeError),
        ({"name": "a", "tags": {str(n): "" for n in range(21)}}, ValueError),
    ],
    ids=repr,
)
def test_wrong_use(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"track_operation\("):
        track_operation(**arguments)


@pytest.mark.parametrize("n", [True, "1", -1, float("inf")])
def test_wrong_advance(n: Any) -> None:
    with track_operation("a") as operation, pytest.raises((TypeError, ValueError), match=r"advance\(n="):
        operation.advance(n)


def test_advance_from_many_threads() -> None:
    with track_operation("together") as operation:

        def work() -> None:
            for _ in range(1000):
                operation.advance()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        progress = named("together").progress
    assert progress is not None
    assert progress.done == 4000


def test_advance_outside_of_any() -> None:
    advance()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork(worker: Worker) -> None:
    """A child has the operation that it was forked in, and none of the parent's other threads."""
    step = Step()

    @track_operation("elsewhere")
    def elsewhere() -> None:
        step.wait()

    waiting = worker.start(elsewhere)
    step.reached()
    with track_operation("forking") as operation:

        def child() -> object:
            operation.advance()
            return sorted(each.name for each in running()), len(recent())

        assert Child(child).result() == (["forking"], 0)
    step.go_on()
    waiting.result(PATIENCE)
