"""Values that a process has told in a section of its snapshot: whatever they are, they become what they should be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..fleet import Process
from .measuring import listed, section


class Told:
    """One object of a section."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def text(self, key: str) -> str:
        value = self._given.get(key)
        return value if isinstance(value, str) else ""

    def text_or_none(self, key: str) -> str | None:
        return self.text(key) or None

    def number(self, key: str) -> float:
        return self.number_or_none(key) or 0.0

    def number_or_none(self, key: str) -> float | None:
        value = self._given.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)

    def count(self, key: str) -> int:
        return max(0, int(self.number(key)))

    def flag(self, key: str) -> bool:
        return self._given.get(key) is True

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(each for each in listed(self._given.get(key)) if isinstance(each, str))

    def each(self, key: str) -> Iterator[Told]:
        for item in listed(self._given.get(key)):
            if isinstance(item, Mapping):
                yield Told(item)

    def part(self, key: str) -> Told | None:
        value = self._given.get(key)
        return Told(value) if isinstance(value, Mapping) else None

    def mapping(self, key: str) -> Mapping[str, str]:
        value = self._given.get(key)
        return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, Mapping) else {}


def told(process: Process, name: str) -> Iterator[Told]:
    """What a process says in a section that is a list."""
    for item in listed(section(process.document, name)):
        if isinstance(item, Mapping):
            yield Told(item)
