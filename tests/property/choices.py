"""What may be done next. Left out is only what the model doesn't describe; what must fail is tried as well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .model import Thread
from .operations import Model

STATEMENTS = ("query", "insert", "create", "error", "look", "set", "lock", "temp", "open_iterator", "open_stream")
FREQUENT = ("insert", "create", "look", "query", "insert", "look")


@dataclass(frozen=True)
class Step:
    thread: int
    name: str
    number: int = 0
    """Of a cursor that exists; 0: of a new one."""
    patient: bool = False
    """Wait when the pool is full, instead of giving up."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def __repr__(self) -> str:
        number = str(self.number) if self.number else ""
        return f"t{self.thread}.{self.name}({number})" + (".patiently" if self.patient else "")


def choices(model: Model, waiting: tuple[Any, ...] | None) -> list[Step]:
    waiter: int | None = waiting[0].thread if waiting else None
    steps = [
        step for number in range(len(model.threads)) if number != waiter for step in of_thread(model, number, waiter)
    ]
    steps.append(Step(0, "kill_idle"))
    if waiting is not None and waiting[0].name not in ("exit", "update_or_create"):
        steps += [Step(waiting[0].thread, "interrupt")] * 4
    return steps


def of_thread(model: Model, number: int, waiter: int | None) -> Iterator[Step]:
    thread = model.threads[number]
    names = [*STATEMENTS, *FREQUENT, "raw", "close", "close_old_connections", *of_blocks(thread, waiter)]
    if len(thread.cursors) < 2:
        names += ["cursor", "cursor_unused"]
    if thread.pins:
        names += ["unpin", "unpin"]
    elif len(thread.pins) < 2:
        names.append("pin")
    if thread.lease is not None and not thread.lease.dead:
        names.append("kill")
    # A generator is closed when its thread ends, and what it raises then can't be caught.
    if not thread.pins and all(not s.orm or model.closes_quietly(thread, s) for s in thread.streams.values()):
        names.append("die")
    names.append("die_escaping")
    can_wait = thread.lease is None and waiter is None and model.in_use() >= model.size
    for name in names:
        yield Step(number, name)
        if can_wait and name not in ("raw", "close", "close_old_connections", "kill", "die", "die_escaping"):
            yield Step(number, name, patient=True)
    yield from of_cursors(model, thread, number)


def of_blocks(thread: Thread, waiter: int | None) -> Iterator[str]:
    if thread.manual is not None:
        yield from ("commit", "commit", "rollback")
        # psycopg refuses to switch inside of a transaction.
        if thread.lease is None or not (thread.lease.began or thread.lease.noticed):
            yield "autocommit_on"
        return
    yield "update_or_create"
    if len(thread.levels) < 4:
        yield from ["enter"] * 3
        if thread.levels:
            yield "enter_plain"
    if thread.levels:
        yield from ["hook"] * 2
        # A hook that waits behind the thread that waits already: who gets what first is a matter of their priority.
        if waiter is None or not any(level.hooks for level in thread.levels):
            yield from ["exit"] * 8 + ["fail"] * 3
    else:
        yield "autocommit_off"


def of_cursors(model: Model, thread: Thread, number: int) -> Iterator[Step]:
    for name, stream in thread.streams.items():
        yield from [Step(number, "fetch", name)] * (3 if stream.exists else 12)
        if not stream.orm or model.closes_quietly(thread, stream):
            yield from [Step(number, "close_stream", name)] * 3
            yield Step(number, "drop_stream", name)
    for name, cursor in thread.cursors.items():
        yield from [Step(number, "cursor_close", name)] * 2
        if cursor.open:
            yield Step(number, "cursor_execute", name)
            if cursor.left:
                yield from [Step(number, "cursor_fetch", name)] * 2
        else:
            yield Step(number, "cursor_drop", name)
