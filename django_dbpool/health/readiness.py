"""
Readiness: whether requests should be sent to this process.

Not ready is what another process would do better, or a later moment: a server that doesn't answer this process, an open
circuit, a pool that is being warmed, a shutdown. A full pool is not among them: it serves as many as it can, the others
get their 503 in time, and it is full everywhere at once when the load is high or the database slow. Taking such
processes out, all within seconds, would turn a part of the answers being 503 into all of them being. Where it fills up
in single processes for reasons of their own, ``DBPOOL["READINESS"]["longest_wait"]`` takes these out.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..backends.mixin import PooledDatabaseMixin
from ..conf import readiness_config
from ..conf.engines import is_ours
from ..core.readiness import ReadinessConfig
from ..pool import stopping
from ..pool.managed import ManagedPool
from ..pool.probing import Probe
from ..pool.question import Answer
from ..pool.registry import pools
from . import words
from .asking import ask, await_, patience, wait
from .pools import Circuit, Saturation, circuit, config_of, pool_of, saturation

TIMEOUT = 1.0
"""Seconds within which the answer is there."""


@dataclass(frozen=True, slots=True)
class DatabaseReady:
    """One alias of this process."""

    alias: str
    ok: bool
    code: str
    """Why, one of those in docs/health.md."""
    text: str
    """The same in words; hosts and users are not named."""
    response_time_ms: float | None = None
    """How long the server took, or was waited for; None if it was not asked."""
    age: float | None = None
    """Seconds since then."""
    saturation: Saturation | None = None
    """For information: a full pool is ready."""
    circuit: Circuit | None = None

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["saturation"] = None if self.saturation is None else self.saturation.to_json()
        return values


@dataclass(frozen=True, slots=True)
class Ready:
    """This process now."""

    ok: bool
    status: str
    """``ready``, else the code of the first alias that is not; ``shutting_down`` is the process's own."""
    timestamp: float
    """Unix time."""
    seconds: float
    """How long it took to find out."""
    databases: tuple[DatabaseReady, ...]

    def to_json(self) -> dict[str, Any]:
        databases = [each.to_json() for each in self.databases]
        return {
            "ok": self.ok,
            "status": self.status,
            "timestamp": self.timestamp,
            "seconds": self.seconds,
            "databases": databases,
        }


def ready(*, fresh: bool = False) -> Ready:
    """
    Whether requests should be sent to this process: within a second, whatever state its databases are in.

    Circuits, pools and shutdowns are read from memory. Each server is asked at most once a second, however many call,
    on a connection outside of pool and reserve.

    Args:
        fresh: ask now, also if that was done within the last second. A question that is under way is shared all the
            same.

    Raises:
        django.core.exceptions.ImproperlyConfigured: ``DBPOOL["READINESS"]`` has faults.

    Example:
        found = ready()
        return JsonResponse(found.to_json(), status=200 if found.ok else 503)
    """
    reading = _Reading(fresh)
    for each in reading.questions:
        each.answer = wait(each.probe, each.found, reading.deadline, TIMEOUT)
    return reading.result()


async def aready(*, fresh: bool = False) -> Ready:
    """The same for event loops: it neither blocks one nor takes a thread of its executor."""
    reading = _Reading(fresh)
    for each in reading.questions:
        each.answer = await await_(each.probe, each.found, reading.deadline, TIMEOUT)
    return reading.result()


class _Question:
    """To the server of one alias."""

    def __init__(self, alias: str, probe: Probe, found: Answer | Future[Answer]) -> None:
        self.alias = alias
        self.probe = probe
        self.found = found
        self.answer: Answer | None = None


class _Reading:
    """One look at everything: what memory tells is decided, the servers are asked all at once."""

    def __init__(self, fresh: bool) -> None:
        self._began = monotonic()
        self.deadline = self._began + patience(TIMEOUT)
        self._stopping = stopping.announced is not None
        self._decided: dict[str, str] = {}
        self.questions: list[_Question] = []
        config = readiness_config()
        self._aliases = _aliases(config)
        for alias in self._aliases:
            code = words.SHUTTING_DOWN if self._stopping else _from_memory(alias, config.longest_wait)
            if code is not None:
                self._decided[alias] = code
            else:
                self.questions.append(_Question(alias, *ask(alias, fresh=fresh)))

    def result(self) -> Ready:
        asked = {each.alias: each for each in self.questions}
        found = []
        for alias in self._aliases:
            question = asked.get(alias)
            if question is None:
                found.append(_told(alias, self._decided[alias]))
            else:
                assert question.answer is not None
                age = question.probe.age(question.answer)
                found.append(_told(alias, question.answer.code, question.answer, age))
        bad = next((each.code for each in found if not each.ok), None)
        if self._stopping:
            bad = words.SHUTTING_DOWN
        now = monotonic()
        return Ready(bad is None, bad or "ready", time.time(), now - self._began, tuple(found))


def _aliases(config: ReadinessConfig) -> list[str]:
    """Those whose servers have to answer, pooled or not."""
    if config.aliases is not None:
        return list(config.aliases)
    return [alias for alias in connections if is_ours(connections.settings[alias].get("ENGINE"))]


def _from_memory(alias: str, longest_wait: float | None) -> str | None:
    """Why it is not ready, if its server needn't be asked for that."""
    try:
        config = config_of(alias)
        if config is None:
            return None
        now = circuit(alias)
        if now.refuses:
            return words.CIRCUIT[now.state]
        # Else the break of a circuit that nobody probes is over, and the next caller is the trial. With all processes
        # out of service no caller would come, and it would stay open for ever: the server is asked.
        if config.warm and not _is_warm(alias):
            return words.WARMING
        queueing = longest_wait is not None and saturation(alias).longest_wait >= longest_wait
        return words.QUEUEING if queueing else None
    except ImproperlyConfigured:  # said by the check, and by whoever leases
        return "misconfigured"


_warmed: WeakSet[ManagedPool] = WeakSet()
"""
Those that had been filled once. Connections that are replaced later make nobody wait. By pool, not by alias: one that
was made after a fork, or after another was closed, has none yet.
"""


def _is_warm(alias: str) -> bool:
    if any(pool.alias == alias for pool in pools() if pool in _warmed):
        return True
    pool = pool_of(alias) or _make_pool(alias)
    if len(pool.entries) < pool.min_size:
        # Nobody else would: without requests there are no leases, which are what starts it.
        with suppress(RuntimeError):  # no more threads
            pool.housekeeping.wake()
        return False
    _warmed.add(pool)
    return True


def _make_pool(alias: str) -> ManagedPool:
    wrapper = connections[alias]
    assert isinstance(wrapper, PooledDatabaseMixin)
    pool = wrapper.pool
    assert pool is not None
    return pool


def _told(alias: str, code: str, answer: Answer | None = None, age: float | None = None) -> DatabaseReady:
    full: Saturation | None = None
    breaker: Circuit | None = None
    with suppress(ImproperlyConfigured):
        full, breaker = saturation(alias), circuit(alias)
    # A server that has no connection left for this question answers, and the pool serves from those that it has.
    serves = code == "ok" or (code == "full" and full is not None and full.total > 0)
    return DatabaseReady(
        alias=alias,
        ok=serves,
        code=code,
        text=words.text_of(code),
        response_time_ms=None if answer is None else round(1000 * answer.seconds, 1),
        age=age,
        saturation=full,
        circuit=breaker,
    )
