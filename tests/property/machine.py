"""The step scheduler: hypothesis chooses who does what next, the model says what must come of it."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar

import psycopg
from django.db import connections
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from django_dbpool.core.ledger import Owner
from django_dbpool.pool.managed import ManagedPool
from testproject.processes import wait_until

from .actors import PATIENCE, Actor, Outcome
from .choices import Step, choices
from .model import Blocked, Fails
from .operations import Model
from .sessions import LOOK

THREADS = 3
POOL_SIZE = 2


@dataclass
class World:
    """What all runs of one test share."""

    alias: str
    mode: str
    application: str
    """Name of the pool's sessions on the server."""
    observer: psycopg.Connection[Any]
    runs: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    """How often each step ended in which way."""


class Warnings(logging.Handler):
    """Counts what the engine must not do silently."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.rollbacks = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.rollbacks += "rolled back" in record.getMessage()


class LeaseMachine(RuleBasedStateMachine):
    """Set ``world`` on a subclass."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        world = self.world
        world.runs += 1
        self.model = Model(THREADS, POOL_SIZE, world.mode)
        self.births = THREADS
        self.numbers = 0
        self.killed = False
        self.actors = [Actor(f"thread-{n}", world.alias) for n in range(THREADS)]
        self.waiting: tuple[Step, int, str, Future[Outcome]] | None = None
        self.escaped: list[object] = []
        self.failed = True  # until a step has ended well
        pool = connections[world.alias].pool  # type: ignore[attr-defined]
        assert isinstance(pool, ManagedPool)
        self.pool = pool
        self.warnings = Warnings()
        logging.getLogger("django_dbpool.backends").addHandler(self.warnings)
        self.failed = False

    # -- one step -----------------------------------------------------------------------------------------------

    @rule(step=st.runner().flatmap(lambda machine: st.sampled_from(choices(machine.model, machine.waiting))))
    def step(self, step: Step) -> None:
        self.failed = True
        self.numbers += 1
        special = getattr(self, f"_{step.name}", None)
        if special is not None:
            self.world.seen[step.name] += 1
            special(step)
        else:
            self._ordinary(step)
        if self.waiting is not None and self.model.in_use() < POOL_SIZE:
            self._served()
        self._check()
        self.failed = False

    def _ordinary(self, step: Step) -> None:
        number = step.number or self.numbers
        key = f"{self.world.runs}-{self.numbers}"
        try:
            expected, model = self._predict(self.model, step, number, key)
        except Blocked:
            if step.patient and self.waiting is None:
                future = self.actors[step.thread].start(step.name, number, key)
                assert wait_until(lambda: future.done() or self.pool.gate.waiting == 1, PATIENCE)
                self.waiting = step, number, key, future
                self.world.seen[f"{step.name} waits"] += 1
                return
            expected, model = self._predict(self.model, step, number, key, refusing=True)
        outcome = self._without_patience(step, number, key)
        self.world.seen[f"{step.name} {expected[0] if expected[0] == 'returned' else expected[1]}"] += 1
        assert outcome == expected, f"{step}: {outcome}, must be {expected}"
        self.model = model

    def _without_patience(self, step: Step, number: int, key: str) -> Outcome:
        """Nobody waits long for a connection that nobody gives back."""
        full = self.model.in_use() >= POOL_SIZE
        config = self.pool.config
        if full:
            self.pool.config = dataclasses.replace(config, timeout=0.02)
        try:
            return self.actors[step.thread].do(step.name, number, key)
        finally:
            self.pool.config = config

    @staticmethod
    def _predict(model: Model, step: Step, number: int, key: str, refusing: bool = False) -> tuple[Outcome, Model]:
        model = copy.deepcopy(model)
        model.refusing = refusing
        expected: Outcome
        try:
            expected = "returned", model.apply(step.name, step.thread, number, key)
        except Fails as error:
            expected = "raised", error.kind
        model.refusing = False
        return expected, model

    def _served(self) -> None:
        """A connection came back, and the thread that waits must have got it."""
        assert self.waiting is not None
        step, number, key, future = self.waiting
        self.waiting = None
        expected, self.model = self._predict(self.model, step, number, key)
        outcome = future.result(PATIENCE)
        self.world.seen["served"] += 1
        assert outcome == expected, f"{step}, after waiting: {outcome}, must be {expected}"

    # -- what comes from outside --------------------------------------------------------------------------------

    def _interrupt(self, step: Step) -> None:
        assert self.waiting is not None
        *_, future = self.waiting
        self.waiting = None
        self.actors[step.thread].interrupt()
        assert future.result(PATIENCE) == ("raised", "interrupted")

    def _die(self, step: Step) -> None:
        self._end(step, escaping=False)

    def _die_escaping(self, step: Step) -> None:
        """Others still know the thread's cursors and its wrapper."""
        self._end(step, escaping=True)

    def _end(self, step: Step, escaping: bool) -> None:
        self.escaped += self.actors[step.thread].end(escaping)
        self.actors[step.thread] = Actor(f"thread-{self.births}", self.world.alias)
        self.births += 1
        self.model.apply("die", step.thread, 0, "")
        # Reclaimed by another thread.
        if self.waiting is None:
            assert wait_until(lambda: len(self.pool.holders()) == self.model.in_use(), PATIENCE)

    def _kill(self, step: Step) -> None:
        name = self.actors[step.thread].name
        (pid,) = (holder.backend_pid for holder in self.pool.holders() if holder.thread == name)
        self._terminate(pid)
        self.model.apply("kill", step.thread, 0, "")

    def _kill_idle(self, step: Step) -> None:
        leased = [holder.backend_pid for holder in self.pool.holders()]
        for pid in self._sessions():
            if pid not in leased:
                self._terminate(pid)

    def _terminate(self, pid: int) -> None:
        self.killed = True
        gone = self.world.observer.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone()
        # A connection that was closed a moment ago has a session until the server notices.
        assert gone == (True,) or pid not in self._sessions()

    # -- what must be true after each step ------------------------------------------------------------------------

    def _sessions(self) -> list[int]:
        sql = "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY backend_start"
        return [pid for (pid,) in self.world.observer.execute(sql, [self.world.application])]

    def _committed(self) -> list[str]:
        sql = "SELECT key FROM app_log WHERE key LIKE %s ORDER BY key"
        return [key for (key,) in self.world.observer.execute(sql, [f"{self.world.runs}-%"])]

    def _check(self) -> None:
        model = self.model
        names = {actor.name: number for number, actor in enumerate(self.actors)}
        states = {number: state for number, (_, state) in model.holders().items()}
        held = {}
        for holder in self.pool.holders():
            assert holder.thread in names, f"a lease without a thread: {holder}"
            number = names[holder.thread]
            state = "dead" if states.get(number) == "dead" else holder.state
            held[number] = holder.pinned is not None, state
        assert held == model.holders(), f"leases {held}, must be {model.holders()}"
        assert self._committed() == sorted(model.committed), "rows lost, doubled or kept"
        assert self.warnings.rollbacks == model.rollbacks, "a rollback without a word, or a word without one"
        gate = self.pool.gate
        # Waited for, since the connection of a thread that has ended is closed by another one.
        assert wait_until(lambda: gate.size == len(self.pool.entries) == len(gate.free) + len(held), PATIENCE)
        assert gate.size <= POOL_SIZE
        assert len({entry.backend_pid for entry in self.pool.entries}) == gate.size
        assert gate.waiting == gate.attention == (self.waiting is not None)

    # -- the end --------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.failed = True
                self._close_all()
                self._check_the_servers_side()
                self.failed = False
        finally:
            logging.getLogger("django_dbpool.backends").removeHandler(self.warnings)
            connections[self.world.alias].close_pool()  # type: ignore[attr-defined]
            if self.failed:
                self._end_sessions()  # what hangs in one, or waits for its locks, ends with it
            for actor in self.actors:
                actor.end()
            self.escaped.clear()
            self.world.observer.execute("DELETE FROM app_log WHERE key LIKE %s", [f"{self.world.runs}-%"])

    def _end_sessions(self) -> None:
        for pid in self._sessions():
            self.world.observer.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])

    def _close_all(self) -> None:
        """Every thread ends its unit of work; then nothing is leased, with nobody's help."""
        order = sorted(range(THREADS), key=lambda n: self.waiting is not None and self.waiting[0].thread == n)
        for number in order:
            if self.waiting is not None and self.model.in_use() < POOL_SIZE:
                self._served()
            outcome = self.actors[number].do("close")
            assert outcome == ("returned", None)
            self.model.apply("close", number, 0, "")
        assert self.model.in_use() == 0 and self.waiting is None
        self._check()

    def _check_the_servers_side(self) -> None:
        if self.killed:
            self.pool.check()  # what was killed while idle is noticed when it is wanted, or so
        size = self.pool.gate.size
        # A closed session leaves the list when the server has read the farewell.
        assert wait_until(lambda: len(self._sessions()) == size, PATIENCE), (self._sessions(), size)
        entries = [self.pool.lease(Owner()) for _ in range(size)]
        for entry in entries:
            assert entry.conn.execute(LOOK).fetchone() == ("", [], []), "session state left in the pool"
            self.pool.release(entry, entry.owner)
