"""State and counts, read from the pools when somebody collects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ... import server_counts
from ...core.breaker import State
from ...pool.measures import Measures, measures
from ...pool.reporting import PoolSnapshot
from .names import ERROR_TYPE, POOL_NAME, STATE

Values = Iterable[tuple[float, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Observed:
    """One instrument. What it reads are pairs of a value and the attributes beside the pool's name."""

    kind: Literal["counter", "up_down_counter", "gauge"]
    name: str
    unit: str
    description: str
    read: Callable[[Measures], Values]


def _one(value: float) -> Values:
    return ((value, {}),)


def _by(attribute: str, values: Mapping[str, int]) -> Values:
    return ((value, {attribute: name}) for name, value in values.items())


def _state(read: Callable[[PoolSnapshot], Values]) -> Callable[[Measures], Values]:
    """Nothing while an alias has no pool."""

    def of_pool(each: Measures) -> Values:
        return () if each.snapshot is None else read(each.snapshot)

    return of_pool


def _server(read: Callable[[server_counts.ServerCounts], Values]) -> Callable[[Measures], Values]:
    def of_alias(each: Measures) -> Values:
        found = server_counts.latest(each.alias)
        return () if found is None else read(found)

    return of_alias


CIRCUIT = tuple(state.value for state in State)

# The first nine but the histograms are those of the semantic conventions, with their words.
CONVENTIONAL = (
    Observed(
        "up_down_counter",
        "db.client.connection.count",
        "{connection}",
        "The number of connections that are currently in state described by the state attribute.",
        _state(lambda now: _by(STATE, {"used": now.in_use, "idle": now.idle})),
    ),
    Observed(
        "up_down_counter",
        "db.client.connection.idle.max",
        "{connection}",
        "The maximum number of idle open connections allowed.",
        _state(lambda now: _one(now.max_size)),
    ),
    Observed(
        "up_down_counter",
        "db.client.connection.idle.min",
        "{connection}",
        "The minimum number of idle open connections allowed.",
        _state(lambda now: _one(now.min_size)),
    ),
    Observed(
        "up_down_counter",
        "db.client.connection.max",
        "{connection}",
        "The maximum number of open connections allowed.",
        _state(lambda now: _one(now.max_size)),
    ),
    Observed(
        "up_down_counter",
        "db.client.connection.pending_requests",
        "{request}",
        "The number of current pending requests for an open connection.",
        _state(lambda now: _one(now.waiting)),
    ),
    Observed(
        "counter",
        "db.client.connection.timeouts",
        "{timeout}",
        "The number of connection timeouts that have occurred trying to obtain a connection from the pool.",
        lambda each: _one(each.timeouts),
    ),
)

# Ours. Refusals, losses and circuits have no name in the conventions.
OWN = (
    Observed("counter", "django_dbpool.leases", "{lease}", "Leases that have ended.", lambda each: _one(each.leases)),
    Observed(
        "counter",
        "django_dbpool.statements",
        "{statement}",
        "Statements sent on leased connections.",
        lambda each: _one(each.statements),
    ),
    Observed(
        "counter",
        "django_dbpool.connections.opened",
        "{connection}",
        "Physical connections that were opened.",
        lambda each: _one(each.opened),
    ),
    Observed(
        "counter",
        "django_dbpool.connections.closed",
        "{connection}",
        "Physical connections that were closed, by reason.",
        lambda each: _by("django_dbpool.reason", each.closed_by),
    ),
    Observed(
        "counter",
        "django_dbpool.connections.failed",
        "{attempt}",
        "Attempts to connect that failed.",
        lambda each: _one(each.failed),
    ),
    Observed(
        "counter",
        "django_dbpool.connections.lost",
        "{connection}",
        "Connections that ended by other hands; expected: they were idle.",
        lambda each: (
            (each.lost, {"django_dbpool.expected": "false"}),
            (each.lost_expected, {"django_dbpool.expected": "true"}),
        ),
    ),
    Observed(
        "counter",
        "django_dbpool.refused",
        "{request}",
        "Requests for a connection that were refused, by the name of the error.",
        lambda each: _by(ERROR_TYPE, each.refused),
    ),
    Observed(
        "counter",
        "django_dbpool.retried",
        "{attempt}",
        "Attempts to connect, reads and blocks that were tried again.",
        lambda each: _by("django_dbpool.retry.what", each.retried),
    ),
    Observed(
        "counter",
        "django_dbpool.slow_statements",
        "{statement}",
        "Statements that took longer than SLOW_STATEMENT.",
        lambda each: _one(each.slow),
    ),
    Observed(
        "counter",
        "django_dbpool.repeated_statements",
        "{statement}",
        "Statements that one unit of work repeated more than REPEATED_STATEMENTS times.",
        lambda each: _one(each.repeated),
    ),
    Observed(
        "counter",
        "django_dbpool.overdue",
        "{lease}",
        "Leases and pins that were held for longer than leak_after and pin_max.",
        lambda each: _one(each.overdue),
    ),
    Observed(
        "up_down_counter",
        "django_dbpool.circuit",
        "{circuit}",
        "1 for the state that the circuit breaker is in.",
        lambda each: _by("django_dbpool.circuit.state", {state: int(state == each.circuit) for state in CIRCUIT}),
    ),
    Observed(
        "gauge",
        "django_dbpool.server.connections",
        "{connection}",
        "This role's connections as the server counts them, by state; told by one process of all.",
        _server(
            lambda found: _by(
                STATE,
                {"active": found.active, "idle": found.idle, "idle in transaction": found.idle_in_transaction},
            )
        ),
    ),
    Observed(
        "gauge",
        "django_dbpool.server.total_connections",
        "{connection}",
        "This role's connections as the server counts them; told by one process of all.",
        _server(lambda found: _one(found.total)),
    ),
    Observed(
        "gauge",
        "django_dbpool.server.all_connections",
        "{connection}",
        "Everybody's connections to the server; told by one process of all.",
        _server(lambda found: _one(found.all_roles)),
    ),
    Observed(
        "gauge",
        "django_dbpool.server.max_connections",
        "{connection}",
        "The server's limit; told by one process of all.",
        _server(lambda found: _one(found.max_connections)),
    ),
)

OBSERVED = CONVENTIONAL + OWN


def create(meter: Meter, collecting: Callable[[], None], active: Callable[[], bool]) -> None:
    """
    Create the instruments, or find those that this meter has already; they can't be removed again.

    Args:
        collecting: called once for each collection, before anything is read.
        active: whether anything is to be told.
    """
    makers = {
        "counter": meter.create_observable_counter,
        "up_down_counter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    for observed in OBSERVED:
        first = observed is OBSERVED[0]
        makers[observed.kind](
            observed.name,
            callbacks=[_callback(observed.read, active, collecting if first else None)],
            unit=observed.unit,
            description=observed.description,
        )


def _callback(
    read: Callable[[Measures], Values], active: Callable[[], bool], before: Callable[[], None] | None
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterator[Observation]:
        if not active():
            return
        if before is not None:
            before()
        for each in measures():
            for value, attributes in read(each):
                yield Observation(value, {POOL_NAME: each.alias, **attributes})

    return observe
