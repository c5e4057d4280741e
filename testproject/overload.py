"""More work than a pool can do, offered by many threads; what becomes of it, on ours and on Django's pool.

python -m testproject.overload --seconds 60      prints the table of docs/admission.md
"""

from __future__ import annotations

import argparse
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter, sleep
from typing import Any

CONNECTIONS = 4
SERVICE = 0.1
"""Seconds for which each request keeps a connection busy."""
CAPACITY = CONNECTIONS / SERVICE
TIMEOUT = 10.0
WARM_UP = 5.0
"""Seconds until an overload is known: 2.5 of POOL["queue_interval"]."""
RESERVED_EVERY = 0.2

OURS, DJANGOS = "django_dbpool", "Django's pool"
ENGINES: dict[str, dict[str, Any]] = {
    OURS: {
        "ENGINE": "django_dbpool.backends.postgresql",
        "POOL": {"min_size": CONNECTIONS, "max_size": CONNECTIONS, "timeout": TIMEOUT},
    },
    DJANGOS: {
        "ENGINE": "django.db.backends.postgresql",
        "OPTIONS": {"pool": {"min_size": CONNECTIONS, "max_size": CONNECTIONS, "timeout": TIMEOUT}},
    },
}


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    """Seconds since the load began."""
    waited: float
    """Seconds for a connection, or until it was refused."""
    error: str = ""
    """The name of the refusal."""


@dataclass(frozen=True)
class Outcome:
    seconds: float
    requests: list[Request]
    reserved: list[float] = field(default_factory=list)
    """Seconds for each statement in a reserved slot."""
    failures: list[BaseException] = field(default_factory=list)
    """Whatever nobody expected."""
    captures: int = 0
    """How often the holders were looked at."""
    own: list[float] = field(default_factory=list)
    """Seconds for each such request of one more thread, on a connection of its own: what this machine can do."""

    def served(self, after: float = 0.0) -> list[float]:
        """The waits of those that got a connection, sorted."""
        return sorted(one.waited for one in self.requests if not one.error and one.at >= after)

    def refused(self, after: float = 0.0) -> list[float]:
        return sorted(one.waited for one in self.requests if one.error and one.at >= after)

    def goodput(self) -> float:
        """Those that were done in time, as a part of what the connections can do."""
        done = sum(1 for one in self.requests if not one.error and one.at + one.waited + SERVICE <= self.seconds)
        return done / self.seconds / CAPACITY

    def possible(self) -> float:
        """What the goodput is where nobody waits for a connection: below 1 by as much as the machine is busy."""
        return len(self.own) * SERVICE / self.seconds

    def delay(self, part: float) -> float:
        """Seconds by which such a request is late without any pool, sorted by length: at this part of them."""
        return percentile(sorted(self.own), part) - SERVICE

    def errors(self) -> Counter[str]:
        return Counter(one.error for one in self.requests if one.error)


def percentile(values: list[float], part: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


class Overload:
    """
    Threads that send requests at random moments, ``rate`` per second in all; one that is late sends at once.

    Args:
        alias: of a database whose pool has CONNECTIONS.
        rate: requests per second.
        reserved: have one more thread use a reserved slot throughout.
    """

    def __init__(self, alias: str, rate: float, seconds: float, *, threads: int = 128, reserved: bool = False) -> None:
        self.alias = alias
        self.rate = rate
        self.seconds = seconds
        self.threads = threads
        self.reserved = reserved
        self.ready = threading.Barrier(threads + reserved + 1, action=self._begin, timeout=60)
        self.began = 0.0
        self.outcome = Outcome(seconds, [])

    def run(self) -> Outcome:
        crew = [threading.Thread(target=self._guarded, args=[self._send, seed]) for seed in range(self.threads)]
        crew.append(threading.Thread(target=self._guarded, args=[self._compare, 0]))
        if self.reserved:
            crew.append(threading.Thread(target=self._guarded, args=[self._look_in, 0]))
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        return self.outcome

    def _begin(self) -> None:
        self.began = perf_counter()

    def _guarded(self, work: Any, seed: int) -> None:
        from django.db import connections

        try:
            self.ready.wait()
            work(random.Random(seed))
        except Exception as error:  # for the thread that asked for the outcome
            self.outcome.failures.append(error)
        finally:
            connections[self.alias].close()

    def _send(self, chance: random.Random) -> None:
        own_rate = self.rate / self.threads
        due = chance.expovariate(own_rate)
        while due < self.seconds:
            sleep(max(0.0, due - (perf_counter() - self.began)))
            self.outcome.requests.append(self._request())
            due = max(due, perf_counter() - self.began - SERVICE) + chance.expovariate(own_rate)

    def _request(self) -> Request:
        from django.db import DatabaseError, connections, transaction

        start = perf_counter()
        leased = False
        try:
            with transaction.atomic(using=self.alias):
                connections[self.alias].ensure_connection()  # Django's has it already
                waited = perf_counter() - start
                leased = True
                cursor = connections[self.alias].cursor()
                cursor.execute("SELECT pg_sleep(%s)", [SERVICE])
        except DatabaseError as error:
            if leased:
                raise
            return Request(start - self.began, perf_counter() - start, type(error).__name__)
        finally:
            connections[self.alias].close()  # as the end of a request does
        return Request(start - self.began, waited)

    def _look_in(self, chance: random.Random) -> None:
        from django.db import connections

        from django_dbpool import transaction

        while perf_counter() - self.began < self.seconds:
            start = perf_counter()
            with transaction.reserved(), connections[self.alias].cursor() as cursor:
                cursor.execute("SELECT 1")
            self.outcome.reserved.append(perf_counter() - start)
            sleep(RESERVED_EVERY)

    def _compare(self, chance: random.Random) -> None:
        import psycopg
        from django.db import connections

        given = connections[self.alias].get_connection_params()
        known = {name: given[name] for name in ("dbname", "user", "password", "host", "port") if name in given}
        with psycopg.connect(**known, autocommit=True) as connection:
            while True:
                start = perf_counter()
                connection.execute("SELECT pg_sleep(%s)", [SERVICE])
                end = perf_counter()
                if end - self.began > self.seconds:
                    break
                self.outcome.own.append(end - start)


def measure(alias: str, factor: float, seconds: float, *, threads: int = 128, ours: bool) -> Outcome:
    """Offer so many times what the connections can do."""
    from django.db import connections

    outcome = Overload(alias, factor * CAPACITY, seconds, threads=threads, reserved=ours).run()
    if outcome.failures:
        raise outcome.failures[0]
    pool = connections[alias].pool  # type: ignore[attr-defined]
    if not ours:
        return outcome
    return replace(outcome, captures=pool.captured.captures)


HEADINGS = (
    "pool",
    "offered",
    "goodput",
    "served: p50, p99 wait",
    "p99 wait once the overload is known",
    "refused",
    "p50, p99 time to be refused",
    "reserved slot: p99, failed",
    "holders captured",
)


def row(name: str, factor: float, outcome: Outcome) -> list[str]:
    served, late = outcome.served(), outcome.served(WARM_UP)
    refused = outcome.refused(WARM_UP)
    return [
        name,
        f"{factor:g} x capacity",
        f"{outcome.goodput():.0%}",
        f"{percentile(served, 0.5):.2f} s, {percentile(served, 0.99):.2f} s",
        f"{percentile(late, 0.99):.2f} s",
        f"{len(outcome.refused()) / max(1, len(outcome.requests)):.0%}",
        f"{percentile(refused, 0.5) * 1000:.1f} ms, {percentile(refused, 0.99) * 1000:.1f} ms" if refused else "-",
        f"{percentile(sorted(outcome.reserved), 0.99) * 1000:.0f} ms, 0" if outcome.reserved else "-",
        f"{outcome.captures / outcome.seconds:.2f} / s" if outcome.reserved else "-",
    ]


def table(rows: list[list[str]]) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


@contextmanager
def both_engines() -> Iterator[None]:
    """Django, with an alias for each pool on a throw-away server; the aliases have the pools' names."""
    import django
    from django.conf import settings
    from django.db import connections

    from testproject.postgres import Server

    with Server.from_env_or_embedded() as server:
        databases = {name: {**server.django(), **engine} for name, engine in ENGINES.items()}
        settings.configure(
            DATABASES={"default": {**server.django(), **ENGINES[OURS]}, **databases},
            INSTALLED_APPS=["django_dbpool"],
            USE_TZ=True,
        )
        django.setup()
        try:
            yield
        finally:
            for name in ENGINES:
                connections[name].close_pool()  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each row of the table")
    parser.add_argument("--threads", type=int, default=128)
    parser.add_argument("--factors", default="2,10", help="how many times the capacity is offered")
    options = parser.parse_args()
    rows = []
    with both_engines():
        from django.db import connections

        for factor in map(float, options.factors.split(",")):
            for name in ENGINES:
                outcome = measure(name, factor, options.seconds, threads=options.threads, ours=name == OURS)
                rows.append(row(name, factor, outcome))
                connections[name].close_pool()  # type: ignore[attr-defined]
    print(table(rows))


if __name__ == "__main__":
    main()
