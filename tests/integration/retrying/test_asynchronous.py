"""transaction.retrying() of coroutines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections
from django.db import transaction as djangos

from django_dbpool import transaction
from django_dbpool.errors import RetryingInsideTransaction
from tests.app.models import Item, Log
from tests.integration.retrying.work import NOW, ON_TWO, Observer, close, fail, keys

pytestmark = pytest.mark.django_db(transaction=True)


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
