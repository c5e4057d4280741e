"""How a `with` block is left, read from the bytecode of this Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Self

import pytest

from django_dbpool.transaction.leaving import goes_round

seen: list[bool] = []


class Block:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        seen.append(goes_round(sys._getframe(1)))


def by_its_end() -> None:
    for block in [Block()]:
        with block:
            pass


def by_its_end_with_a_name() -> None:
    for block in [Block()]:
        with block as same:
            assert same is block


def by_continue() -> None:
    for block in [Block()]:
        with block:
            if seen is not None:
                continue
            raise AssertionError


def in_one_branch(value: int = 0) -> int:
    for block in [Block()]:
        with block:
            if value:
                return value
            value = 2
    return value


def before_else() -> int:
    for block in [Block()]:
        with block:
            pass
    else:
        return 1


def in_an_inner_loop() -> None:
    for _ in range(1):
        for block in [Block()]:
            with block:
                pass


source = "def long(): \n for block in [Block()]:\n  with block:\n" + "".join(
    f"   x{n} = [n for n in range({n})]\n" for n in range(300)
)
exec(source)


def by_return() -> int:
    for block in [Block()]:
        with block:
            return 1
    return 0


def by_break() -> None:
    for block in [Block()]:
        with block:
            break


def by_break_to_an_outer_loop() -> None:
    for _ in range(1):
        for block in [Block()]:
            with block:
                break


def before_a_return() -> int:
    for block in [Block()]:
        with block:
            pass
        return 1
    return 0


def before_an_error() -> None:
    for block in [Block()]:
        with block:
            pass
        raise KeyError


def before_a_statement() -> None:
    for block in [Block()]:
        with block:
            pass
        seen.copy()


def in_the_other_branch() -> None:
    in_one_branch(1)


def without_a_loop() -> None:
    with Block():
        pass


def by_a_stack() -> None:
    for block in [Block()]:
        with ExitStack() as stack:
            stack.enter_context(block)


@pytest.mark.parametrize(
    "leave",
    [by_its_end, by_its_end_with_a_name, by_continue, in_one_branch, before_else, in_an_inner_loop, globals()["long"]],
)
def test_goes_round(leave: Callable[[], Any]) -> None:
    seen.clear()
    leave()
    assert seen == [True]


@pytest.mark.parametrize(
    "leave",
    [
        by_return,
        by_break,
        by_break_to_an_outer_loop,
        before_a_return,
        before_an_error,
        before_a_statement,
        in_the_other_branch,
        without_a_loop,
        by_a_stack,
    ],
)
def test_may_go_elsewhere(leave: Callable[[], Any]) -> None:
    seen.clear()
    with suppress(KeyError):
        leave()
    assert seen == [False]
