"""
What this process says of itself: one JSON document, bounded in size, in which no value of a statement is found.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from ..core.ledger import Holder
from ..core.logs import get_logger
from ..core.process import this_process
from ..core.words import one_line
from ..pool import stopping
from ..pool.dedicated import dedicated_backends, dedicated_holders
from ..pool.managed import ManagedPool
from ..pool.measures import Measures, measures
from ..pool.registry import pools

logger = get_logger("django_dbpool.fleet")

FORMAT = 1
"""Of the document. It is raised when a reader of the old one would misunderstand the new one."""

LARGEST = 64 * 1024
"""Bytes of a document."""

HOLDERS = 50
"""Those that have held longest are told, of the others only the number."""

BACKENDS = 1000
LONGEST_SQL = 500
LONGEST_NAME = 200

COMPLAIN = 60.0
"""Seconds between two log records of the same section's failures."""

Section = Callable[[], object]

_sections: dict[str, tuple[Section, int]] = {}
_complained: dict[str, float] = {}
_numbers = itertools.count(1)


def register_section(name: str, fn: Section, *, largest: int = LARGEST) -> None:
    """
    Add a part to this process's snapshots.

    Args:
        name: the key under ``sections``; another part of that name is replaced.
        fn: called for every snapshot; returns JSON values, or None for nothing to say. It must not take long and not
            use the database. What it raises is logged, and the part is left out.
        largest: bytes of the part. Of a list that is longer the end is left out, anything else altogether. What comes
            first in a list should matter most: the same is done where all parts together are too much.

    Example:
        register_section("queue", lambda: {"waiting": queue.qsize()})
    """
    _sections[name] = fn, largest


def unregister_section(name: str) -> None:
    _sections.pop(name, None)


def snapshot() -> dict[str, Any]:
    """This process now, as JSON values; described in docs/fleet.md. No connection is needed for it."""
    sequence = next(_numbers)  # no lock: a child may be forked while another thread is here
    measured = {each.alias: each for each in measures()}
    sections, cut = _read_sections()
    held = sorted(_holders(), key=lambda holder: -holder.since_seconds)
    return {
        "format": FORMAT,
        **this_process().to_json(),
        "at": time.time(),
        "sequence": sequence,
        "state": "active",
        "shutting_down": stopping.announced is not None,
        "pools": [_pool(pool, measured.get(pool.alias)) for pool in pools()],
        "holders": [_holder(holder) for holder in held[:HOLDERS]],
        "holders_left_out": max(0, len(held) - HOLDERS),
        "dedicated": {alias: pids[:BACKENDS] for alias, pids in dedicated_backends().items()},
        "sections": sections,
        **({"left_out": cut} if cut else {}),
    }


def encoded(document: Mapping[str, Any], largest: int = LARGEST) -> str:
    """As text of limited size: what is too much is left out, the least important first, and said to be."""
    text = _dumped(document)
    left_out: list[str] = list(document.get("left_out", ()))
    for what, lessen in _LESSENING:
        if len(text) <= largest:
            break
        lessened = lessen(document)
        if lessened == document:
            continue
        document = lessened
        if what not in left_out:
            left_out.append(what)
        text = _dumped({**document, "left_out": left_out})
    return text


def _dumped(document: Mapping[str, Any]) -> str:
    # In ASCII, so that characters are bytes, and half a surrogate pair in somebody's route can be stored.
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _fitting(value: Any, largest: int) -> Any:
    """The same in so many bytes: of a list its beginning; None where nothing of it fits."""
    size = len(_dumped(value))
    if size <= largest:
        return value
    if not isinstance(value, list):
        return None
    kept, size = 0, 2
    for item in value:
        size += len(_dumped(item)) + 1
        if size > largest:
            break
        kept += 1
    return value[:kept] or None


def _shorter_sections(largest: int) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def lessen(document: Mapping[str, Any]) -> dict[str, Any]:
        fitting = {name: _fitting(value, largest) for name, value in document.get("sections", {}).items()}
        return {**document, "sections": {name: value for name, value in fitting.items() if value is not None}}

    return lessen


def _holders_in_brief(document: Mapping[str, Any]) -> dict[str, Any]:
    held = document.get("holders", [])
    return {**document, "holders": [*held[:10], *({**each, "sql": None, "leased_at": []} for each in held[10:])]}


def _fewer_holders(document: Mapping[str, Any]) -> dict[str, Any]:
    held = document.get("holders", [])
    kept = [{**holder, "sql": None, "leased_at": []} for holder in held[:10]]
    left_out = document.get("holders_left_out", 0) + len(held) - len(kept)
    return {**document, "holders": kept, "holders_left_out": left_out}


_LESSENING: tuple[tuple[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]], ...] = (
    ("sections", _shorter_sections(4096)),
    ("sql", _holders_in_brief),
    ("sections", _shorter_sections(1024)),
    ("holders", _fewer_holders),
    ("sections", lambda document: {**document, "sections": {}}),
    ("series", lambda document: {**document, "series": None}),
    ("pools", lambda document: {**document, "pools": document.get("pools", [])[:20]}),
    ("rest", lambda document: {**document, "holders": [], "pools": [], "dedicated": {}}),
)


def _holders() -> list[Holder]:
    return [*(holder for pool in pools() for holder in pool.holders()), *dedicated_holders()]


def _pool(pool: ManagedPool, measured: Measures | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        **plain(pool.snapshot()),
        "circuit": pool.breaker.state.value,
        "backends": sorted(entry.backend_pid for entry in tuple(pool.entries))[:BACKENDS],
    }
    if measured is not None:
        told = plain(measured)
        values["measures"] = {key: told[key] for key in told if key not in ("alias", "snapshot", "circuit")}
    return values


def _holder(holder: Holder) -> dict[str, Any]:
    values: dict[str, Any] = plain(holder)
    values.pop("stack", None)  # asked for on the spot, not every few seconds
    values["leased_at"] = [one_line(without_source(call)) for call in holder.leased_at]
    if values.get("sql"):
        values["sql"] = one_line(values["sql"], LONGEST_SQL)
    return values


_SOURCE = re.compile(r"(.*?:\d+ in [^:]*): .*", re.DOTALL)


def without_source(call: str) -> str:
    """Of ``file:line in function: source`` what is no text of the program, which may have a value in it."""
    match = _SOURCE.fullmatch(call)
    return match[1] if match else call


def _read_sections() -> tuple[dict[str, Any], list[str]]:
    """What others add, and the names of what was too long for its own limit."""
    found, cut = {}, []
    for name, (read, largest) in tuple(_sections.items()):
        try:
            whole = plain(read())
            value = _fitting(whole, largest)
        except Exception:
            if monotonic() - _complained.get(name, -COMPLAIN) >= COMPLAIN:
                _complained[name] = monotonic()
                logger.exception("section %r of the snapshot failed", name)
        else:
            if value is not None:
                found[name] = value
            if value is not whole:
                cut.append(name)
    return found, cut


def plain(value: Any) -> Any:
    """JSON values of a frozen dataclass, its strings on one line each."""
    if hasattr(value, "to_json"):
        value = value.to_json()
    if isinstance(value, str):
        return one_line(value, LONGEST_SQL if len(value) > LONGEST_NAME else LONGEST_NAME)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {one_line(str(key), LONGEST_NAME): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return f"<{type(value).__name__}>"
