"""
Reading what another process says of itself. Whoever may write to the store may write anything, so nothing of it is
believed before its type and size are known, and no character of it can steer a terminal. That is looked after where
somebody looks: of hundreds of documents most is never looked at.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar, cast

from ..core.ledger import Holder
from ..core.process import ProcessIdentity
from ..core.words import one_line
from ..pool.reporting import PoolSnapshot
from .snapshot import BACKENDS, FORMAT, HOLDERS, LARGEST, LONGEST_NAME, LONGEST_SQL

State = Literal["active", "idle", "ended"]
STATES = ("active", "idle", "ended")

POOLS = 100
DEEPEST = 8
WIDEST = 5000
LARGEST_NUMBER = 2**53

T = TypeVar("T")


class Malformed(ValueError):
    """It is no document of ours, or of a format that this version doesn't know."""


class Document(Mapping[str, Any]):
    """
    JSON values by name, made harmless when they are asked for. A part that is an object is another of these.

    Args:
        given: values of any kind.
        depth: of the objects in it, beyond which nothing is read.
    """

    __slots__ = ("_clean", "_depth", "_given")

    def __init__(self, given: Mapping[Any, Any], depth: int = DEEPEST) -> None:
        items = list(given.items())[:WIDEST]
        self._given = {one_line(key, LONGEST_NAME): value for key, value in items if isinstance(key, str)}
        self._depth = depth - 1
        self._clean: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._clean:
            value = self._given[key]
            lazily = isinstance(value, dict) and self._depth > 0
            self._clean[key] = Document(value, self._depth) if lazily else _clean(value, self._depth)
        return self._clean[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} values>"

    def raw(self, key: str) -> Any:
        """As it came, for who looks at each value himself: a thousand numbers are quicker looked at together."""
        return self._given.get(key)

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {key: value.to_json() if isinstance(value, Document) else value for key, value in self.items()}


@dataclass(frozen=True, slots=True)
class ProcessPool:
    """One pool of another process, as it was."""

    snapshot: PoolSnapshot
    circuit: str
    """``closed``, ``open``, ``half-open`` or ``isolated``."""
    backends: tuple[int, ...] = ()
    """The server processes of its connections, lent or not."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the fleet, as it last said."""

    identity: ProcessIdentity
    state: State
    """An idle one has nothing to say until somebody needs a connection; one that ended was shut down in order."""
    age: float
    """Seconds since the snapshot was taken, by the clock of the store's server."""
    stale: bool
    """It should have published again by now: it hangs, was killed, or can't reach the store."""
    sequence: int
    pools: tuple[ProcessPool, ...]
    holders: tuple[Holder, ...]
    """Oldest first. ``since_seconds`` is of the snapshot, ``age`` ago."""
    holders_left_out: int
    dedicated: Mapping[str, tuple[int, ...]]
    """The server processes of connections outside of the pools, by alias."""
    document: Document = field(repr=False)
    """All of it, as JSON values: measures, series, sections."""

    @property
    def name(self) -> str:
        """For example ``web-1:4711``."""
        return f"{self.identity.host}:{self.identity.pid}"

    def to_json(self) -> dict[str, Any]:
        return {**self.document.to_json(), "age": self.age, "stale": self.stale}


def parse(text: object, *, age: float = 0.0, stale: bool = False) -> Process:
    """
    Args:
        text: JSON, or what it stands for.

    Raises:
        Malformed: whatever it is, it is nothing that could be shown.
    """
    document = _decoded(text)
    given = document.raw
    if _integer(given("format")) != FORMAT:
        raise Malformed("of another format")
    state = given("state")
    if state not in STATES:
        raise Malformed("without a state")
    pools = tuple(filter(None, map(_pool, _list(given("pools"), POOLS))))
    holders = (_typed(Holder, each) for each in _list(given("holders"), HOLDERS))
    dedicated = list(_mapping(given("dedicated")).items())[:POOLS]
    return Process(
        identity=_needed(_typed(ProcessIdentity, {name: given(name) for name in document})),
        state=cast("State", state),
        age=age,
        stale=stale,
        sequence=_needed(_integer(given("sequence"))),
        pools=pools,
        holders=tuple(filter(None, holders)),
        holders_left_out=max(0, _integer(given("holders_left_out")) or 0),
        dedicated={one_line(str(alias), LONGEST_NAME): _pids(pids) for alias, pids in dedicated},
        document=document,
    )


def _decoded(text: object) -> Document:
    if isinstance(text, str):
        if len(text) > LARGEST:
            raise Malformed("too large")
        try:
            text = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise Malformed("not JSON") from None
    if not isinstance(text, dict):
        raise Malformed("not an object")
    return Document(text)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _clean(value: Any, depth: int) -> Any:
    """The same without what could do harm where it is shown or added up."""
    if isinstance(value, str):
        return one_line(value, LONGEST_SQL)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if -LARGEST_NUMBER <= value <= LARGEST_NUMBER else None
    if depth <= 0:
        return None
    if isinstance(value, dict):
        items = list(value.items())[:WIDEST]
        return {one_line(key, LONGEST_NAME): _clean(item, depth - 1) for key, item in items if isinstance(key, str)}
    if isinstance(value, (list, tuple)):
        return [_clean(item, depth - 1) for item in value[:WIDEST]]
    return None


def _pool(given: Any) -> ProcessPool | None:
    snapshot = _typed(PoolSnapshot, given)
    if snapshot is None or not isinstance(circuit := given.get("circuit"), str):
        return None
    return ProcessPool(snapshot, one_line(circuit, 20), _pids(given.get("backends")))


def _pids(given: Any) -> tuple[int, ...]:
    return tuple(pid for pid in _list(given, BACKENDS) if _integer(pid) is not None)


def _typed(kind: type[T], given: Any) -> T | None:
    """An object of a dataclass from the keys that it knows; None where a value is missing or of another type."""
    if not isinstance(given, dict):
        return None
    values = {}
    for name, read, required in _readers(cast("Hashable", kind)):
        if name not in given:
            if required:
                return None
            continue
        try:
            values[name] = read(given[name])
        except TypeError:
            return None
    return kind(**values)


@cache
def _readers(kind: Hashable) -> tuple[tuple[str, Callable[[Any], Any], bool], ...]:
    found = []
    for each in dataclasses.fields(cast("Any", kind)):
        required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        # Of a type that isn't here there is nothing to be read: a required one would be a mistake of ours.
        if required or str(each.type) in _BY_TYPE:
            found.append((each.name, _BY_TYPE[str(each.type)], required))
    return tuple(found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return one_line(value, LONGEST_SQL)


def _whole(value: Any) -> int:
    if type(value) is not int or not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise TypeError
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _seconds(value: Any) -> float:
    # What is no number compares as False with any.
    if type(value) not in (int, float) or not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise TypeError
    return float(value)


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(one_line(each, LONGEST_SQL) for each in _list(value, 50) if isinstance(each, str))


_BY_TYPE: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "Kind": _text,
    "int": _whole,
    "float": _seconds,
    "bool": _boolean,
    "str | None": _or_none(_text),
    "int | None": _or_none(_whole),
    "float | None": _or_none(_seconds),
    "tuple[str, ...]": _texts,
}


def _list(value: Any, most: int) -> list[Any]:
    return value[:most] if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: Any) -> int | None:
    return value if type(value) is int and -LARGEST_NUMBER <= value <= LARGEST_NUMBER else None


def _needed(value: T | None) -> T:
    if value is None:
        raise Malformed("without what it needs")
    return value
