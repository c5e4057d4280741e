"""One thing that is wrong, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...core.ledger import Holder
from ...fleet import Process
from ..culprits import duration, kind_of_thread

__all__ = ["Problem", "Severity", "about", "counted", "duration", "listing", "who"]

Severity = Literal["error", "warning"]

NAMED = 3
"""Processes that a text names."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong now."""

    code: str
    """For programs; docs/reports.md has the list."""
    severity: Severity
    """``error``: somebody gets no connection, or soon won't. ``warning``: it costs something, or hides something."""
    text: str
    """What is the case, in a sentence."""
    remedy: str
    """What to do now."""
    process: str | None = None
    """Its name, if it is about one."""
    alias: str | None = None
    since: float | None = None
    """Unix time, as far as that is known."""
    processes: int = 1
    """In how many it is so; 0: it is about a server."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


def about(
    those: Iterable[Process],
    code: str,
    severity: Severity,
    text: str,
    remedy: str,
    *,
    alias: str | None = None,
    since: float | None = None,
) -> Problem:
    """A problem that these processes have, named before the text; of many their number, and behind it some names."""
    names = list({process.identity.instance: process.name for process in those}.values())
    single = names[0] if len(names) == 1 else None
    return Problem(code, severity, f"{listing(names)}: {text}", remedy, single, alias, since, len(names))


def listing(names: Sequence[str]) -> str:
    """``a, b and c``; of many the first."""
    more = len(names) - NAMED
    if more > 0:
        return f"{', '.join(names[:NAMED])} and {more} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def who(holder: Holder) -> str:
    """What holders have in common: the route or task; else what one works for, or at least its thread."""
    return holder.name or holder.unit or kind_of_thread(holder.thread)
