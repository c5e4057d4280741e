"""
How a run whose runner is gone comes to another one: whoever sends tasks registers how. This module knows of no task
queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.readers import shown


@dataclass(frozen=True, slots=True)
class Start:
    """What is to be sent again: one range of a run."""

    name: str
    """Of the run."""
    using: str
    """Alias of its database."""
    task: str
    arguments: Mapping[str, Any]
    """As they were written down when the run began: ``{"args": [...], "kwargs": {...}, "options": {...}}``."""
    part: int
    parts: int
    resumed: bool = False
    """Somebody has asked for it (``resume()``), and may have taken the last message back before."""


Starter = Callable[[Start], object]

_starters: dict[str, Starter] = {}


def register_starter(prefix: str, starter: Starter) -> None:
    """
    Say how the tasks whose name begins with a prefix are sent; of several the longest prefix counts. The same prefix
    again replaces it.

    Args:
        prefix: "" is for every task.
        starter: sends the task, and does not wait for it. What it raises is logged, and tried again later.

    Raises:
        TypeError: what was given is no prefix or no function.

    Example:
        register_starter("shop.", lambda start: queue.send(start.task, **start.arguments["kwargs"]))
    """
    given: tuple[object, object] = prefix, starter
    if not isinstance(given[0], str) or not callable(given[1]):
        raise TypeError(f"register_starter({shown(prefix)}, {shown(starter)}): it takes a string and a function.")
    _starters[prefix] = starter


def unregister_starter(prefix: str) -> None:
    """Forget it; nothing happens if there is none."""
    _starters.pop(prefix, None)


def starter_of(task: str) -> Starter | None:
    """Who sends that task; None: nobody in this process does."""
    found = [prefix for prefix in _starters if task.startswith(prefix)] if task else []
    return _starters[max(found, key=len)] if found else None


def prefixes() -> list[str]:
    """Of all tasks that this process can send."""
    return sorted(_starters)
