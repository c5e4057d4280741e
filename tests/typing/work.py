"""User code: long jobs, operations and threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, assert_type

from django.contrib.auth.models import User

from django_dbpool import operations
from django_dbpool.batch import (
    BatchProgress,
    BatchResult,
    Delivery,
    FailedItem,
    Message,
    arun_batches,
    idempotency_key,
    outbox,
    run_batches,
)
from django_dbpool.core.ledger import Holder
from django_dbpool.threads import ThreadPoolExecutor, TooManyThreads, spawn, spawn_on_commit

# -- operations and threads -----------------------------------------------------------------------------------------


@operations.track_operation("import", total=10, tags={"supplier": "7"})
def imported(number: int) -> str:
    operations.advance(2, total=20)
    return str(number)


@operations.track_operation("import later")
async def imported_later(number: int) -> str:
    return str(number)


async def watched(holder: Holder) -> None:
    assert_type(imported(7), str)
    assert_type(await imported_later(7), str)
    async with operations.track_operation("export") as operation:
        operation.advance()
    for each in (*operations.running(), *operations.recent()):
        assert_type(each.to_json(), dict[str, Any])
        assert_type(each.holding, float | None)
        assert_type([held.backend_pid for held in each.held], list[int])
        if each.progress is not None:
            assert_type(each.progress.seconds_left, float | None)
    target = operations.aim(holder)
    assert_type(operations.Target.from_json(target.to_json()), operations.Target)
    outcome = operations.terminate(target) if holder.since_seconds > 60 else operations.cancel(target)
    assert_type(outcome, operations.Outcome)


def threads() -> None:
    try:
        assert_type(spawn(imported, 7, name="seven", tags={"a": "b"}), Future[str])
    except TooManyThreads:
        spawn_on_commit(imported, 7, using="default")
    with ThreadPoolExecutor(2, name="numbers") as executor:
        assert_type(executor.submit(imported, 7), Future[str])


# -- batches --------------------------------------------------------------------------------------------------------


def retire(users: list[User]) -> None:
    for user in users:
        outbox.put("farewell", {"user": user.pk}, key=idempotency_key(user))
    User.objects.filter(pk__in=[user.pk for user in users]).update(is_active=False)


def say(progress: BatchProgress) -> None:
    assert_type(progress.seconds_left, float | None)


async def say_later(progress: BatchProgress) -> None:
    await asyncio.sleep(0)


def skip_staff(failed: FailedItem[User]) -> Literal["raise", "skip"]:
    return "skip" if failed.item.is_staff else "raise"


def farewell(message: Message) -> None:
    print(message.topic, message.payload["user"], message.key)


def retire_all() -> None:
    users = User.objects.filter(is_active=True)
    result = run_batches(
        users,
        retire,
        key=("username", "id"),
        size=100,
        pause=0.5,
        using="default",
        checkpoint="retire users 2026",
        deadline=3600,
        on_progress=say,
        should_stop=lambda: False,
        on_error=skip_staff,
        statement_timeout=5,
        busy_above=None,
    )
    assert_type(result, BatchResult)
    assert_type(result.finished, bool)
    assert_type(outbox.deliver("farewell", farewell, limit=10), Delivery)


async def retire_later() -> None:
    assert_type(await arun_batches(User.objects.all(), retire, on_progress=say_later, on_error="skip"), BatchResult)


if TYPE_CHECKING:

    def refused_operations(operation: operations.Operation, target: operations.Target) -> None:
        operations.track_operation(7)  # type: ignore[arg-type]
        operations.track_operation("a", tags={"a": 1})  # type: ignore[dict-item]
        operations.advance("1")  # type: ignore[arg-type]
        operation.state = "done"  # type: ignore[misc]
        target.generation = 1  # type: ignore[misc]
        operations.cancel(operation)  # type: ignore[arg-type]
        spawn(imported, tags=["a"])  # type: ignore[arg-type]
        ThreadPoolExecutor(2).submit(imported, "7")  # type: ignore[arg-type]
        imported("7")  # type: ignore[arg-type]

    def refused_batches(result: BatchResult) -> None:
        run_batches(User.objects.all(), len, on_error="ignore")  # type: ignore[arg-type]
        run_batches([1, 2], print)  # type: ignore[arg-type]
        run_batches(User.objects.all(), retire, size="50")  # type: ignore[arg-type]
        run_batches(User.objects, retire)  # type: ignore[arg-type]
        result.done = 7  # type: ignore[misc]
