"""
What a process may be told, by its socket or by a signed command: a closed list. Nothing here leases a connection or
waits for one, so it works while the database is away and while every thread is busy.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..core.ledger import Holder
from ..core.process import this_process
from ..core.readers import boolean, count, read_mapping, reject
from ..core.targets import Outcome, Target
from ..core.words import one_line
from ..pool.aiming import cancel, terminate
from ..pool.dedicated import dedicated_holders
from ..pool.registry import pools
from .snapshot import snapshot, without_source


class NotDone(Exception):
    """
    A verb was refused or came to nothing.

    Args:
        error: a code that programs understand.
        message: words, without anything that is nobody's business.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing to tell a process."""

    run: Callable[..., Any]
    arguments: Mapping[str, Callable[[Any], Any]]
    needed: frozenset[str] = frozenset()
    changes: bool = False
    """Something is different afterwards: logged before it is done, and allowed in commands from other hosts."""


def perform(verb: object, arguments: Mapping[Any, Any], *, before: Callable[[str, Verb], None] | None = None) -> Any:
    """
    Do it.

    Args:
        before: called with the verb's name when all is known to be in order, and before anything is done.

    Returns:
        JSON values.

    Raises:
        NotDone: there is no such verb, its arguments are wrong, or it came to nothing.
    """
    found = VERBS.get(verb) if isinstance(verb, str) else None
    if found is None:
        raise NotDone("unknown verb", f"There are: {', '.join(sorted(VERBS))}.")
    values, faults = read_mapping(arguments, found.arguments)
    if faults:
        raise NotDone("bad arguments", one_line(" ".join(f"{fault.message} {fault.hint}" for fault in faults)))
    if missing := sorted(found.needed - values.keys()):
        raise NotDone("bad arguments", f"{', '.join(missing)} is missing.")
    if before is not None:
        before(str(verb), found)
    return found.run(**values)


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw or len(raw) > 200:
        raise reject("is no name.", "Write a string of at most 200 characters.")
    return raw


def _time(raw: Any) -> float | None:
    if raw is not None and (isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 <= raw < 2**53):
        raise reject("is no time.", "Write seconds of unix time.")
    return None if raw is None else float(raw)


def _optional_text(raw: Any) -> str | None:
    return None if raw is None else _text(raw)


# -- reading ----------------------------------------------------------------------------------------------------


def status() -> dict[str, Any]:
    """This process's snapshot, as it publishes it."""
    return snapshot_provider()


snapshot_provider: Callable[[], dict[str, Any]] = snapshot


def holders(stacks: bool = False) -> dict[str, Any]:
    """Every lease of this process, oldest first, with the calls that its thread is in if asked."""
    frames = sys._current_frames() if stacks else {}
    held = [*(holder for pool in pools() for holder in pool.holders()), *dedicated_holders()]
    held.sort(key=lambda holder: -holder.since_seconds)
    return {"holders": [_told(holder, frames) for holder in held]}


def _told(holder: Holder, frames: Mapping[int, FrameType]) -> dict[str, Any]:
    return {
        **dataclasses.asdict(holder),
        "leased_at": [without_source(call) for call in holder.leased_at],
        "stack": calls(frames.get(holder.thread_ident)),
    }


def calls(frame: FrameType | None) -> list[str]:
    """Where a thread is, as ``file:line in function``, outermost call first."""
    found = []
    while frame is not None:
        code = frame.f_code
        found.append(one_line(f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"))
        frame = frame.f_back
    return found[::-1]


# -- changing ---------------------------------------------------------------------------------------------------


def drain(alias: str | None = None) -> dict[str, Any]:
    """Have every connection replaced: free ones now, leased ones when their lease ends."""
    drained: dict[str, int] = {}
    for pool in pools():
        if alias is None or pool.alias == alias:
            drained[pool.alias] = drained.get(pool.alias, 0) + len(pool.entries)
            pool.drain()
    return {"drained": drained}


def _aimed(stop: Callable[[Target], Outcome]) -> Callable[..., Any]:
    """At one lease of this process, which its generation tells from all others."""

    def run(**target: Any) -> dict[str, Any]:
        return {"outcome": stop(Target(**{"instance": this_process().instance, **target})).value}

    return run


_TARGET: Mapping[str, Callable[[Any], Any]] = {
    "alias": _text,
    "backend_pid": count(1, 2**31 - 1),
    "generation": count(0, 2**63 - 1),
    "instance": _text,
    "backend_start": _time,
    "xact_start": _time,
}
_AIM = frozenset({"alias", "backend_pid", "generation"})

VERBS: Mapping[str, Verb] = {
    "status": Verb(status, {}),
    "holders": Verb(holders, {"stacks": boolean}),
    "drain": Verb(drain, {"alias": _optional_text}, changes=True),
    "cancel": Verb(_aimed(cancel), _TARGET, _AIM, changes=True),
    "terminate": Verb(_aimed(terminate), _TARGET, _AIM, changes=True),
}
