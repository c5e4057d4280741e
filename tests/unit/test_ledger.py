"""Who waits for whom: cycles are found across pools and through threads that wait for their children."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from django_dbpool.core.deadlock import PoolView, find_cycle
from django_dbpool.core.ledger import TRANSACTION_STATES, Holder, Owner, stack_of
from testproject.processes import wait_until

LONG = 30.0


def owner(name: str) -> Owner:
    """Of a thread that only exists by name: with an identity that no real thread has."""
    made = Owner()
    made.thread = threading.Thread(name=name)
    made.ident = -sum(byte << 8 * place for place, byte in enumerate(name.encode(), 1))
    return made


A, B, C, D = map(owner, "ABCD")


def waits(alias: str, *, held_by: list[Owner], waiters: list[Owner] | None = None) -> PoolView:
    return PoolView(alias, held_by, waiters or [])


def test_a_full_pool_alone_is_no_cycle() -> None:
    assert find_cycle(A, "x", [waits("x", held_by=[B, C], waiters=[D])]) == ()
    assert find_cycle(A, "x", []) == ()


def test_two_aliases_in_opposite_order() -> None:
    views = [waits("x", held_by=[A], waiters=[B]), waits("y", held_by=[B])]
    assert find_cycle(A, "y", views) == (
        "thread 'A' waits for 'y', held by 'B'",
        "thread 'B' waits for 'x', held by 'A'",
    )


def test_a_holder_that_wants_a_second_connection_of_the_same_alias() -> None:
    assert find_cycle(A, "x", [waits("x", held_by=[A])]) == ("thread 'A' waits for 'x', held by 'A'",)


def test_a_cycle_of_three() -> None:
    views = [waits("x", held_by=[A], waiters=[C]), waits("y", held_by=[B]), waits("z", held_by=[C], waiters=[B])]
    assert find_cycle(A, "y", views) == (
        "thread 'A' waits for 'y', held by 'B'",
        "thread 'B' waits for 'z', held by 'C'",
        "thread 'C' waits for 'x', held by 'A'",
    )


def test_dead_ends_are_not_part_of_the_account() -> None:
    views = [
        waits("x", held_by=[A], waiters=[C]),
        waits("y", held_by=[B, C], waiters=[]),
        waits("z", held_by=[D], waiters=[B]),
        waits("w", held_by=[B], waiters=[D]),
    ]
    assert find_cycle(A, "y", views) == (
        "thread 'A' waits for 'y', held by 'C'",
        "thread 'C' waits for 'x', held by 'A'",
    )


def test_a_circle_that_another_holder_may_end_is_no_cycle() -> None:
    """B's wait for A is real, but C only takes long: A's wait ends when C is done."""
    assert find_cycle(A, "y", [waits("x", held_by=[A], waiters=[B]), waits("y", held_by=[B, C])]) == ()
    assert find_cycle(A, "y", [waits("x", held_by=[A, C], waiters=[B]), waits("y", held_by=[B])]) == ()


def test_waiting_for_others_who_wait_for_each_other_is_their_cycle() -> None:
    views = [waits("x", held_by=[B], waiters=[C]), waits("y", held_by=[C], waiters=[B])]
    assert find_cycle(A, "x", views) == ()


def test_several_pools_of_one_alias_count_together() -> None:
    """They differ in their settings; a report names aliases."""
    views = [waits("x", held_by=[A], waiters=[B]), waits("y", held_by=[B]), waits("y", held_by=[])]
    assert len(find_cycle(A, "y", views)) == 2
    assert find_cycle(A, "y", [*views, waits("y", held_by=[C])]) == ()


@contextmanager
def running(target: threading.Thread) -> Iterator[threading.Thread]:
    target.start()
    try:
        yield target
    finally:
        target.join(LONG)


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """Lets the waiting threads of a test go."""
    event = threading.Event()
    yield event
    event.set()


def owner_of(thread: threading.Thread) -> Owner:
    made = Owner()
    made.thread = thread
    assert thread.ident is not None
    made.ident = thread.ident
    return made


def in_call(thread: threading.Thread, function: str) -> bool:
    return any(f" in {function}:" in line for line in stack_of(thread.ident or 0, sys._current_frames()))


def test_a_thread_that_joins_a_child_that_waits_for_its_connection(end: threading.Event) -> None:
    child = threading.Thread(target=end.wait, args=(LONG,), name="child")
    parent = threading.Thread(target=lambda: child.join(LONG), name="parent")
    with ExitStack() as stack:
        stack.enter_context(running(child))
        stack.enter_context(running(parent))
        stack.callback(end.set)
        assert wait_until(lambda: in_call(parent, "Thread.join"), LONG)
        views = [waits("x", held_by=[owner_of(parent)])]
        assert find_cycle(owner_of(child), "x", views) == (
            "thread 'child' waits for 'x', held by 'parent'",
            "thread 'parent' waits for thread 'child' to finish",
        )
        stranger = threading.Thread(target=end.wait, args=(LONG,), name="stranger")
        stack.enter_context(running(stranger))
        assert find_cycle(owner_of(stranger), "x", views) == ()
        end.set()


def test_a_thread_that_waits_for_the_future_of_a_child(end: threading.Event) -> None:
    with ThreadPoolExecutor(2, "worker") as executor:
        started: Future[threading.Thread] = Future()

        def task() -> None:
            started.set_result(threading.current_thread())
            end.wait(LONG)

        future = executor.submit(task)
        child = started.result(LONG)
        parent = threading.Thread(target=future.result, args=(LONG,), name="parent")
        with running(parent):
            try:
                assert wait_until(lambda: in_call(parent, "Future.result"), LONG)
                assert find_cycle(owner_of(child), "x", [waits("x", held_by=[owner_of(parent)])]) == (
                    f"thread {child.name!r} waits for 'x', held by 'parent'",
                    f"thread 'parent' waits for thread {child.name!r} to finish",
                )
            finally:
                end.set()


def test_a_future_that_nobody_runs_leads_nowhere(end: threading.Event) -> None:
    future: Future[None] = Future()
    parent = threading.Thread(target=future.result, args=(LONG,), name="parent")
    with running(parent):
        try:
            assert wait_until(lambda: in_call(parent, "Future.result"), LONG)
            assert find_cycle(A, "x", [waits("x", held_by=[owner_of(parent)])]) == ()
        finally:
            future.set_result(None)


def test_stack_of_a_thread_names_its_lines_from_the_outermost(end: threading.Event) -> None:
    entered = threading.Event()

    def innermost() -> None:
        secret = "a value that must not appear"
        entered.set()
        end.wait(LONG)
        del secret

    def outermost() -> None:
        innermost()

    with running(threading.Thread(target=outermost)) as thread:
        try:
            assert entered.wait(LONG)
            assert wait_until(lambda: in_call(thread, "Condition.wait"), LONG)
            stack = stack_of(thread.ident or 0, sys._current_frames())
        finally:
            end.set()
    ours = [line for line in stack if Path(__file__).name in line]
    assert [line.partition(": ")[2] for line in ours] == ["innermost()", "end.wait(LONG)"]
    assert "outermost" in ours[0] and ours[0].startswith(__file__)
    assert not any("must not appear" in line for line in stack)


def test_stack_of_a_thread_that_has_ended_is_empty() -> None:
    assert stack_of(A.ident, sys._current_frames()) == ()


def test_an_owner_is_the_thread_that_made_it() -> None:
    made: list[Owner] = []
    with running(threading.Thread(target=lambda: made.append(Owner()))) as thread:
        thread.join(LONG)
    assert (made[0].thread, made[0].ident) == (thread, thread.ident)


def test_a_holder_reads_as_one_line() -> None:
    holder = Holder(
        alias="default",
        backend_pid=17,
        thread="worker-1",
        thread_ident=1,
        unit="GET /reports/7/",
        since_seconds=12.34,
        pinned="SET ROLE",
        state=TRANSACTION_STATES[2],
        stack=("somewhere",),
    )
    assert str(holder) == (
        "GET /reports/7/, thread 'worker-1', 12.3 s, idle in transaction, pinned: SET ROLE, backend 17"
    )
