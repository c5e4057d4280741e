"""transaction.retrying(): as a loop, as a decorator, as a call."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections

from django_dbpool import transaction
from tests.app.models import Log
from tests.fixtures.pools import execute
from tests.integration.retrying.work import NOW, ON_TWO, Observer, Work, fail, keys

pytestmark = pytest.mark.django_db(transaction=True)


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
