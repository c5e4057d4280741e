"""What ``run_batches()`` was given, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from asgiref.sync import iscoroutinefunction
from django.db import models

from ..core import arguments
from ..core.names import clean_name
from ..core.readers import shown
from .keys import Key, key_of
from .origin import LONGEST_TASK, Origin
from .progress import FailedItem
from .source import alias_of, checked, ordered

CALL = "run_batches"
LONGEST_NAME = 200
LONGEST_STATEMENT = 2_147_483.0
"""Seconds; the server counts milliseconds in 32 bits."""

M = TypeVar("M", bound=models.Model)

OnError = Literal["raise", "skip"] | Callable[[FailedItem[Any]], Literal["raise", "skip"]]


@dataclass(frozen=True)
class Plan:
    source: models.QuerySet[Any]
    """Ordered by the key, on the alias."""
    handler: Callable[[list[Any]], object]
    key: Key
    alias: str
    name: str | None
    part: int | None
    origin: Origin
    title: str
    """Of the operation."""
    size: int
    pause: float
    deadline: float | None
    on_progress: Callable[[Any], object] | None
    should_stop: Callable[[], bool] | None
    on_error: OnError
    dry_run: bool
    statement_timeout: float | None
    busy_above: float | None
    patience: float
    takeover_after: float
    max_failures: int | None


def planned(
    source: object,
    handler: object,
    *,
    key: str | Sequence[str],
    using: str | None,
    checkpoint: str | None,
    part: int | None,
    origin: Origin | None,
    **given: Any,
) -> Plan:
    """
    Raises:
        TypeError, ValueError: an argument that can't work, by its name.
        ImproperlyConfigured: the database or its settings don't allow it.
    """
    queryset = checked(source)
    called = _handler(handler)
    alias = alias_of(queryset, using, checkpoint=checkpoint is not None)
    found = key_of(queryset.model, key)
    name = None if checkpoint is None else checked_name(checkpoint)
    number = _part(part, name)
    own = getattr(called, "__qualname__", type(called).__qualname__)
    return Plan(
        source=ordered(queryset, found, alias),
        handler=called,
        key=found,
        alias=alias,
        name=name,
        part=number,
        origin=checked_origin(origin),
        title=f"batches {name or own}" if number is None else f"batches {name} part {number}",
        size=arguments.count(CALL, "size", given["size"]),
        pause=arguments.seconds(CALL, "pause", given["pause"]),
        deadline=_optional("deadline", given["deadline"]),
        on_progress=_callable("on_progress", given["on_progress"]),
        should_stop=_callable("should_stop", given["should_stop"], sync=True),
        on_error=_on_error(given["on_error"]),
        dry_run=arguments.boolean(CALL, "dry_run", given["dry_run"]),
        # 0 would mean "no limit" to the server, to be asked for by None.
        statement_timeout=_optional(
            "statement_timeout", given["statement_timeout"], least=0.001, most=LONGEST_STATEMENT
        ),
        busy_above=_busy(given["busy_above"]),
        patience=arguments.seconds(CALL, "patience", given["patience"]),
        takeover_after=arguments.seconds(CALL, "takeover_after", given["takeover_after"], least=0.1),
        max_failures=_max_failures(given["max_failures"]),
    )


def _handler(value: object) -> Callable[[list[Any]], object]:
    arguments.refuse_generator("run_batches()", value)
    if not callable(value):
        raise TypeError(f"run_batches(handler={shown(value)}): handler must be a function that takes a list of items.")
    if iscoroutinefunction(value):
        raise TypeError(
            "run_batches(): the handler is a coroutine function, and a transaction belongs to a thread: it can't span "
            "an await. Pass a plain function; arun_batches() runs it in the thread of synchronous code."
        )
    return value


def checked_name(value: object) -> str:
    """
    Raises:
        TypeError, ValueError: it can't be the name of a run.
    """
    name = clean_name("run_batches", value) if isinstance(value, str) else ""
    if not isinstance(value, str):
        raise TypeError(f"run_batches(checkpoint={shown(value)}): checkpoint must be the name of the run, a string.")
    if name != value or len(name) > LONGEST_NAME:
        raise ValueError(
            f"run_batches(checkpoint={shown(value)}): the name must be printable, at most {LONGEST_NAME} characters."
        )
    return name


def checked_origin(value: object) -> Origin:
    """
    Raises:
        TypeError, ValueError: it can't be written down.
    """
    if value is None:
        return Origin()
    if not isinstance(value, Origin):
        raise TypeError(f"run_batches(origin={shown(value)}): origin must be an Origin.")
    if len(value.task) > LONGEST_TASK:
        raise ValueError(f"run_batches(origin=...): the task's name has more than {LONGEST_TASK} characters.")
    return value


def _part(value: object, name: str | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"run_batches(part={shown(value)}): part must be a whole number.")
    if value < 0:
        raise ValueError(f"run_batches(part={shown(value)}): part must be 0 or more.")
    if name is None:
        raise ValueError("run_batches(part=...) needs checkpoint=..., the run that split() has made.")
    return value


def _optional(name: str, value: object, *, least: float = 0.0, most: float | None = None) -> float | None:
    if value is None:
        return None
    if most is None:
        return arguments.seconds(CALL, name, value, least=least)
    return arguments.seconds(CALL, name, value, least=least, most=most)


def _callable(name: str, value: object, *, sync: bool = False) -> Any:
    if value is None:
        return None
    if not callable(value) or (sync and iscoroutinefunction(value)):
        raise TypeError(f"run_batches({name}={shown(value)}): {name} must be a function{', not async' * sync}.")
    return value


def _on_error(value: object) -> Any:
    if value in ("raise", "skip") if isinstance(value, str) else callable(value) and not iscoroutinefunction(value):
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(
        f'run_batches(on_error={shown(value)}): on_error must be "raise", "skip", or a function of a FailedItem that '
        "returns one of these."
    )


def _max_failures(value: object) -> int | None:
    return None if value is None else arguments.count(CALL, "max_failures", value)


def _busy(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"run_batches(busy_above={shown(value)}): busy_above must be a share of the pool, as 0.75.")
    if not 0 < value <= 1 or math.isnan(value):
        raise ValueError(f"run_batches(busy_above={shown(value)}): busy_above must be above 0 and at most 1.")
    return float(value)
