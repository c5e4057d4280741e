"""What is aimed at when a lease is to be stopped from outside, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What became of an attempt to stop a lease."""

    DONE = "done"
    """The server has passed the request on to that very session."""
    OVER = "already over"
    """The lease has ended, or what was to be stopped in it; nothing was done."""
    REFUSED = "refused (no permission)"
    """This role may not signal that session; nothing was done."""
    UNREACHABLE = "unreachable"
    """The server did not answer in time. If the answer was lost, not the question, it was done all the same."""


@dataclass(frozen=True, slots=True)
class Target:
    """
    One lease of one process.

    Times are unix seconds on the server's clock, as ``pg_stat_activity`` has them, for callers who have seen them: then
    they have to be the same when the blow is dealt.
    """

    instance: str
    """Of the process, see ``core.process``."""
    alias: str
    backend_pid: int
    generation: int
    backend_start: float | None = None
    xact_start: float | None = None
    state_change: float | None = None
    """For sessions that are idle: then it has executed nothing since."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: object) -> Target:
        """
        Raises:
            ValueError: it is not what ``to_json`` makes.
        """
        if not isinstance(given, Mapping) or set(given) - set(cls.__slots__):
            raise ValueError("a target is an object with the keys " + ", ".join(cls.__slots__))
        values: dict[str, Any] = {name: given.get(name) for name in cls.__slots__}
        for name in ("instance", "alias"):
            if not isinstance(values[name], str):
                raise ValueError(f"{name} of a target must be a string")
        for name in ("backend_pid", "generation"):
            if type(values[name]) is not int:
                raise ValueError(f"{name} of a target must be a whole number")
        for name in ("backend_start", "xact_start", "state_change"):
            if values[name] is not None and type(values[name]) not in (int, float):
                raise ValueError(f"{name} of a target must be a number or null")
        return cls(**values)
