"""Many threads on few connections: throughput, hand-over and the time to get a connection."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import connections

from benchmarks import engines
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.cases_single import ENVIRON
from benchmarks.engines import Engine
from benchmarks.measure import interleaved, percentile, quiet_gc

Operation = Callable[[str], None]
POOLED = (
    engines.NATIVE,
    engines.CHECKED,
    engines.REAL_POOL,
    engines.SQLALCHEMY,
    engines.OURS,
    engines.OURS_SESSION,
)
MANY = 50
WAIT = 0.2
"""Seconds that a request of the throughput case spends on something that is not the database."""
THINK = 0.02
"""Seconds between two checkouts of one thread, on average: 32 threads leave the two cores some air."""


def query(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


def request_of_one_query(alias: str) -> None:
    request_started.send(sender=WSGIHandler, environ=ENVIRON)
    query(alias)
    request_finished.send(sender=WSGIHandler)


def request_of_many_queries(alias: str) -> None:
    request_started.send(sender=WSGIHandler, environ=ENVIRON)
    for _ in range(MANY):
        query(alias)  # noqa: DBP301  # that is the case
    request_finished.send(sender=WSGIHandler)


def request_that_waits(alias: str) -> None:
    request_started.send(sender=WSGIHandler, environ=ENVIRON)
    query(alias)
    time.sleep(WAIT)
    query(alias)
    request_finished.send(sender=WSGIHandler)


def checkout(alias: str) -> None:
    query(alias)
    connections[alias].close()


@dataclass(frozen=True)
class Load:
    """Threads that repeat one operation for a while."""

    threads: int
    pool_size: int
    operation: Operation
    spread: float = 0.0
    """Threads start at random moments within this long: real requests don't arrive in step."""
    settle: float = 0.0
    """The window opens this long after the first start: by then a queue has its usual length."""
    think: float = 0.0
    """Each thread sleeps up to twice this long between two operations."""

    def drive(self, engine: Engine, seconds: float) -> list[tuple[float, float]]:
        """Start and end of every operation that ran in the window, in seconds from its opening."""
        alias = engine.alias(self.pool_size)
        crew = Crew(self, alias, seconds)
        with engines.alone(engine, self.pool_size), quiet_gc():
            return crew.work()


class Crew:
    """The threads of one window."""

    def __init__(self, load: Load, alias: str, seconds: float) -> None:
        self.load = load
        self.alias = alias
        self.seconds = seconds
        self.opens_at = 0.0
        self.ready = threading.Barrier(load.threads, action=self.set_opening, timeout=60)
        self.spans: list[tuple[float, float]] = []
        self.failures: list[BaseException] = []

    def set_opening(self) -> None:
        self.opens_at = time.perf_counter() + self.load.settle

    def work(self) -> list[tuple[float, float]]:
        threads = [threading.Thread(target=self.member, args=[seed]) for seed in range(self.load.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            self.failures[0].add_note(f"while {self.alias} was measured")
            raise self.failures[0]
        return self.spans

    def member(self, seed: int) -> None:
        try:
            # Opens a persistent connection, fills a pool, imports what is imported late: not to be measured.
            request_of_one_query(self.alias)
            self.ready.wait()
            self.repeat(random.Random(seed))
        except BaseException as error:
            self.failures.append(error)
            self.ready.abort()
        finally:
            connections[self.alias].close()

    def repeat(self, chance: random.Random) -> None:
        operation, alias, think = self.load.operation, self.alias, self.load.think
        opens_at, closes_at = self.opens_at, self.opens_at + self.seconds
        spans = []
        time.sleep(chance.uniform(0, self.load.spread))
        while (start := time.perf_counter()) < closes_at:
            operation(alias)
            spans.append((start - opens_at, time.perf_counter() - opens_at))
            if think:
                time.sleep(chance.uniform(0, 2 * think))
        self.spans.extend(spans)


def rate(spans: list[tuple[float, float]], seconds: float) -> float:
    """Operations per second that ended in the window.

    Those that its edges cut are not counted by the part that lies inside: behind an unfair queue some wait much
    longer than others, and the parts would add up to more than the connections can do.
    """
    return sum(1 for _, end in spans if 0 <= end < seconds) / seconds


def rates(load: Load, contenders: tuple[Engine, ...], seconds: float, rounds: int) -> dict[Engine, list[float]]:
    present = [engine for engine in contenders if engine.installed]
    return interleaved(present, lambda engine: rate(load.drive(engine, seconds), seconds), rounds)


def run_throughput(plan: Plan) -> Result:
    threads, pool_size = 64, 8
    in_queue = WAIT * threads / pool_size
    load = Load(threads, pool_size, request_that_waits, spread=WAIT, settle=1.2 * in_queue)
    contenders = (
        engines.STOCK,
        engines.NATIVE,
        engines.REAL_POOL,
        engines.SQLALCHEMY,
        engines.OURS,
        engines.OURS_SESSION,
    )
    comparisons = (
        Comparison(engines.NATIVE, at_least=6.0),
        Comparison(engines.STOCK, at_least=0.97),
    )
    return Result(
        "throughput",
        f"{threads} threads, {pool_size} connections; requests that query, wait {WAIT * 1000:.0f} ms "
        f"on something else, query again. The stock engine has one persistent connection per thread.",
        "requests/s",
        rates(load, contenders, plan.throughput_seconds, plan.throughput_rounds),
        comparisons,
        contenders,
    )


def query_only(threads: int, pool_size: int) -> Case:
    name = f"load-{threads}-on-{pool_size}"

    def run(plan: Plan) -> Result:
        load = Load(threads, pool_size, request_of_one_query)
        return Result(
            name,
            f"{threads} threads, {pool_size} connections; requests of one query each and nothing else.",
            "requests/s",
            rates(load, POOLED, plan.load_seconds, plan.load_rounds),
            (Comparison(engines.NATIVE, at_least=0.9),),
            POOLED,
        )

    return Case(name, run)


def many_queries(threads: int, pool_size: int) -> Case:
    """The hard one: who lends for the request lends once where who lends for the statement lends 50 times."""
    name = f"load-{threads}-on-{pool_size}-by-{MANY}"
    contenders = (engines.NATIVE, engines.REAL_POOL, engines.OURS, engines.OURS_SESSION)

    def run(plan: Plan) -> Result:
        load = Load(threads, pool_size, request_of_many_queries, settle=plan.load_seconds / 2)
        return Result(
            name,
            f"{threads} threads, {pool_size} connections; requests of {MANY} queries each and nothing else.",
            "requests/s",
            rates(load, contenders, 2 * plan.load_seconds, plan.load_rounds),
            (Comparison(engines.NATIVE, at_least=0.9),),
            contenders,
        )

    return Case(name, run)


def run_checkout(plan: Plan) -> Result:
    load = Load(32, 8, checkout, think=THINK)
    everything: dict[Engine, list[float]] = {engine: [] for engine in POOLED}

    def median_of_window(engine: Engine) -> float:
        times = [1e6 * (end - start) for start, end in load.drive(engine, plan.load_seconds)]
        everything[engine].extend(times)
        return statistics.median(times)

    present = [engine for engine in POOLED if engine.installed]
    values = interleaved(present, median_of_window, plan.load_rounds)
    percentiles = {
        f"p{percent}, µs": {engine: f"{percentile(everything[engine], percent):,.0f}" for engine in present}
        for percent in (50, 99)
    }
    return Result(
        "checkout",
        f"32 threads, 8 connections; get a connection, `SELECT 1`, give it back with `connection.close()`, "
        f"then {THINK * 1000:.0f} ms of pause on average.",
        "µs, median of a round",
        values,
        (Comparison(engines.NATIVE),),
        POOLED,
        percentiles,
    )


CASES = (
    Case("throughput", run_throughput),
    query_only(8, 4),
    query_only(32, 8),
    many_queries(8, 4),
    many_queries(32, 8),
    Case("checkout", run_checkout),
)
