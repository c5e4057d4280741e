"""Waits that can never end: who waits for a connection that is held by whom, and for whose end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType

from .ledger import Owner


@dataclass(frozen=True, slots=True)
class PoolView:
    """What cycle detection needs to know of one pool."""

    alias: str
    holders: Sequence[Owner]
    waiters: Sequence[Owner]


@dataclass(frozen=True, slots=True)
class Step:
    """One thread waits for another."""

    target: int
    sentence: str


def find_cycle(start: Owner, waits_for: str, views: Iterable[PoolView]) -> tuple[str, ...]:
    """
    Follow "waits for a connection held by" and "waits for the end of" from ``start`` until it meets itself.

    Args:
        start: the caller whose wait has failed.
        waits_for: alias of the pool it waited for.
        views: all pools of the process.

    Returns:
        One sentence per step of the cycle; empty if the wait may end, as far as the ledger can see. Waits for locks,
        queues and events are invisible here.
    """
    graph = WaitGraph(start, waits_for, tuple(views))
    return graph.path_back(start.ident, graph.stuck(start.ident))


class WaitGraph:
    """Threads as nodes, waits as edges, at one moment."""

    def __init__(self, start: Owner, waits_for: str, views: Sequence[PoolView]) -> None:
        self._frames = sys._current_frames()
        self._holders: dict[str, list[Owner]] = {}
        self._waiting_at: dict[int, str] = {}
        self._names = {start.ident: start.thread.name}
        for view in views:
            self._holders.setdefault(view.alias, []).extend(view.holders)
            for owner in (*view.holders, *view.waiters):
                self._names[owner.ident] = owner.thread.name
            for owner in view.waiters:
                self._waiting_at[owner.ident] = view.alias
        self._waiting_at[start.ident] = waits_for

    def steps(self, ident: int) -> list[Step]:
        """What thread ``ident`` waits for; empty if it can go on."""
        name = self._names.get(ident, str(ident))
        alias = self._waiting_at.get(ident)
        if alias is not None:
            return [
                Step(owner.ident, f"thread {name!r} waits for {alias!r}, held by {owner.thread.name!r}")
                for owner in self._holders.get(alias, ())
            ]
        child = _joins(ident, self._frames)
        if child is None:
            return []
        self._names.setdefault(child[0], child[1])
        return [Step(child[0], f"thread {name!r} waits for thread {child[1]!r} to finish")]

    def stuck(self, start: int) -> dict[int, list[Step]]:
        """
        The threads reachable from ``start`` that can't go on. A wait for a pool ends as soon as one of its holders
        goes on, so only a thread all of whose steps lead to stuck threads is stuck.
        """
        waits: dict[int, list[Step]] = {}
        found = [start]
        while found:
            ident = found.pop()
            if ident not in waits:
                waits[ident] = self.steps(ident)
                found += [step.target for step in waits[ident]]
        while free := [
            ident for ident, steps in waits.items() if not steps or any(step.target not in waits for step in steps)
        ]:
            for ident in free:
                del waits[ident]
        return waits

    def path_back(self, start: int, waits: Mapping[int, list[Step]]) -> tuple[str, ...]:
        """The sentences along a way from ``start`` to itself; empty if there is none."""
        seen: set[int] = set()
        path: list[str] = []

        def visit(ident: int) -> bool:
            for step in waits.get(ident, ()):
                if step.target in seen:
                    continue
                seen.add(step.target)
                path.append(step.sentence)
                if step.target == start or visit(step.target):
                    return True
                path.pop()
            return False

        return tuple(path) if visit(start) else ()


def _joins(ident: int, frames: Mapping[int, FrameType]) -> tuple[int, str] | None:
    """The thread that thread ``ident`` waits for in ``Thread.join`` or ``Future.result``, from its frames."""
    frame = frames.get(ident)
    while frame is not None:
        target = frame.f_locals.get("self")
        if frame.f_code is threading.Thread.join.__code__ and isinstance(target, threading.Thread):
            return (target.ident or 0, target.name)
        if isinstance(target, Future) and frame.f_code is Future.result.__code__:
            return _runner_of(target, frames)
        frame = frame.f_back
    return None


def _runner_of(future: Future[object], frames: Mapping[int, FrameType]) -> tuple[int, str] | None:
    """The thread that executes ``future``: the one with an executor's work item for it on its stack."""
    for ident, leaf in frames.items():
        frame: FrameType | None = leaf
        while frame is not None:
            item = frame.f_locals.get("self") if frame.f_code.co_name == "run" else None
            if getattr(item, "future", None) is future:
                names = {thread.ident: thread.name for thread in threading.enumerate()}
                return (ident, names.get(ident, str(ident)))
            frame = frame.f_back
    return None
