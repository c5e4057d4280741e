"""
What a process may be told, by its socket or by a signed command: a closed list. Nothing here leases a connection or
waits for one, so it works while the database is away and while every thread is busy.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..core.commands import LONGEST_RESULT
from ..core.ledger import Holder
from ..core.process import this_process
from ..core.readers import boolean, count, read_mapping, reject
from ..core.targets import Outcome, Target
from ..core.words import one_line
from ..pool.aiming import cancel, terminate
from ..pool.dedicated import dedicated_holders
from ..pool.registry import pools
from .protocol import NOT_ME, TOO_LATE
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
    short: bool = False
    """It only reads, and its answer is short enough to be signed: allowed in commands from other hosts, too."""

    @property
    def for_other_hosts(self) -> bool:
        return self.changes or self.short


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
    values = read_arguments(found, arguments)
    values.pop("actor", None)  # for the log, which has all arguments
    if values.pop("process", None) not in (None, this_process().instance):
        raise NotDone(NOT_ME, "This is another process.")
    until = values.pop("until", None)
    if until is not None and time.time() >= until:
        raise NotDone(TOO_LATE, "Whoever asked has stopped waiting; nothing was done.")
    if before is not None:
        before(str(verb), found)
    return found.run(**values)


def read_arguments(verb: Verb, arguments: Mapping[Any, Any]) -> dict[str, Any]:
    """
    Raises:
        NotDone: they are not what the verb takes.
    """
    values, faults = read_mapping(arguments, {**verb.arguments, **_OF_ALL})
    if faults:
        raise NotDone("bad arguments", one_line(" ".join(f"{fault.message} {fault.hint}" for fault in faults)))
    if missing := sorted(verb.needed - values.keys()):
        raise NotDone("bad arguments", f"{', '.join(missing)} is missing.")
    return values


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


_OF_ALL: Mapping[str, Callable[[Any], Any]] = {"actor": _optional_text, "process": _text, "until": _time}
"""
Of every verb: who wants it; which process is meant, by its instance; and unix time on this host's clock after which it
is not begun, so that a process that was frozen does nothing that nobody waits for any more.
"""


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


def stack(alias: str, backend_pid: int, generation: int, instance: str | None = None) -> dict[str, Any]:
    """
    The calls that the thread of one lease is in, as ``file:line in function``, outermost first. Files are named from
    where Python finds them, and calls that don't fit into a signed answer are left out, the outermost first.
    """
    aim = (alias, backend_pid, generation)
    if instance not in (None, this_process().instance) or (holder := _holder_of(*aim)) is None:
        return {"outcome": Outcome.OVER.value}
    frame = sys._current_frames().get(holder.thread_ident)
    if _holder_of(*aim) is None:  # what was seen may be the thread's next work
        return {"outcome": Outcome.OVER.value}
    found = [_from_the_path(call) for call in calls(frame)]
    for left_out in range(len(found) + 1):
        answer = {
            "outcome": Outcome.DONE.value,
            "thread": one_line(holder.thread, 100),
            "calls": found[left_out:],
            "left_out": left_out,
        }
        if len(json.dumps(answer)) <= LONGEST_RESULT:
            break
    return answer


def _holder_of(alias: str, backend_pid: int, generation: int) -> Holder | None:
    lent = [holder for pool in pools() if pool.alias == alias for holder in pool.holders()]
    for holder in (*lent, *dedicated_holders(alias)):
        if (holder.backend_pid, holder.generation) == (backend_pid, generation):
            return holder
    return None


def _from_the_path(call: str) -> str:
    """Without the directory in which its file's package is: two thirds of it would be the same in every line."""
    found = [path for path in sys.path if path and call.startswith(path.rstrip("/") + "/")]
    return call[len(max(found, key=len).rstrip("/")) + 1 :] if found else call


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
    "state_change": _time,
}
_AIM = frozenset({"alias", "backend_pid", "generation"})

VERBS: Mapping[str, Verb] = {
    "status": Verb(status, {}),
    "holders": Verb(holders, {"stacks": boolean}),
    "stack": Verb(stack, {name: _TARGET[name] for name in (*sorted(_AIM), "instance")}, _AIM, short=True),
    "drain": Verb(drain, {"alias": _optional_text}, changes=True),
    "cancel": Verb(_aimed(cancel), _TARGET, _AIM, changes=True),
    "terminate": Verb(_aimed(terminate), _TARGET, _AIM, changes=True),
}
