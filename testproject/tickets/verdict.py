"""What is expected of each engine, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from testproject.incidents.outcome import Outcome, Row, error_rows, judged
from testproject.tickets.operations import KINDS
from testproject.tickets.outages import REFUSAL, Killed, Outage, circuit_of
from testproject.tickets.shop import Audit

IDLE = 6
"""Connections that are killed; a pool that fills itself to its min_size meanwhile may have one more."""
POOL_TIMEOUT = 15.0

# The errors by which the stock engine has to fail.
CONNECTION_LOST = "AdminShutdown (57P01)"
NO_CONNECTION = "PoolTimeout"

# Of ours.
MOST_SECONDS_AFTER_KILL = 0.1
MOST_SECONDS_TO_OPEN = 1.0
MOST_SECONDS_REFUSED = 0.005
MOST_SECONDS_TO_SERVE = 1.0
BREAK_DURATION = 60
ALLOWED = {"DatabaseUnavailable", REFUSAL}


@dataclass(frozen=True)
class Measured:
    """All that one engine has gone through."""

    killed: Killed
    restart: Outage
    crash: Outage
    orders: Audit


def judge(engine: str, measured: Measured) -> Outcome:
    if engine == "stock":
        return judged(engine, _faults_of_stock(measured), partial(_story_of_stock, measured), figures(measured))
    return judged(engine, _faults_of_ours(measured), partial(_story_of_ours, measured), figures(measured))


def _faults_of_stock(measured: Measured) -> Iterator[str]:
    if not measured.restart.errors[CONNECTION_LOST]:
        yield f"no call failed with {CONNECTION_LOST} in the restart"
    if measured.killed.connections < IDLE:
        yield f"only {measured.killed.connections} idle connections were killed"
    if not measured.killed.errors[NO_CONNECTION]:
        yield f"no call failed with {NO_CONNECTION} after its idle connections were killed"
    if not measured.crash.errors[NO_CONNECTION] or measured.crash.longest < POOL_TIMEOUT:
        yield f"no call waited {POOL_TIMEOUT:g} s and failed with {NO_CONNECTION} in the crash"


def _faults_of_ours(measured: Measured) -> Iterator[str]:
    restart, killed, crash = measured.restart, measured.killed, measured.crash
    for name, outage in (("restart", restart), ("crash", crash)):
        if not outage.recovered or not all(outage.answered(kind) for kind in KINDS):
            yield f"not everybody was answered after the {name}"
    if failed := restart.errors.total():
        yield f"{failed} calls failed in the restart"
    if killed.connections < IDLE:
        yield f"only {killed.connections} idle connections were killed"
    if killed.errors or killed.seconds >= MOST_SECONDS_AFTER_KILL:
        yield (
            f"after {killed.connections} idle connections were killed {killed.errors.total()} of "
            f"{len(killed.calls)} calls failed, in {killed.seconds:.2f} s"
        )
    yield from _faults_of_circuit(crash)
    if not measured.orders.exact:
        yield f"not every order is there exactly once: {measured.orders}"


def _faults_of_circuit(crash: Outage) -> Iterator[str]:
    if others := set(crash.errors) - ALLOWED:
        yield f"calls failed with {', '.join(sorted(others))} in the crash"
    if crash.served_after is None or crash.served_after >= MOST_SECONDS_TO_SERVE:
        yield f"the first answer came {_seconds(crash.served_after)} after the server's return"
    circuit = circuit_of(crash)
    if circuit is None:
        yield "the circuit did not open"
        return
    if circuit.opened_after >= MOST_SECONDS_TO_OPEN:
        yield f"the circuit opened {_seconds(circuit.opened_after)} after the fifth failed call"
    if circuit.median >= MOST_SECONDS_REFUSED:
        yield f"a refusal took {circuit.median * 1000:.1f} ms"
    if not 0 < circuit.retry_after[0] <= circuit.retry_after[1] <= BREAK_DURATION:
        yield f"callers were told to come back after {circuit.retry_after} s"
    if circuit.paid:
        yield f"{circuit.paid} calls failed as a trial after the server's return"


def _story_of_stock(measured: Measured) -> str:
    restart, killed, crash = measured.restart, measured.killed, measured.crash
    return (
        f"Reproduced: {restart.errors.total()} calls failed in a restart of {restart.away:.0f} s; with "
        f"{killed.connections} dead connections in the pool a call on a healthy server waited {killed.seconds:.0f} s "
        f"for {NO_CONNECTION}; while the server was away {crash.errors[NO_CONNECTION]} calls waited "
        f"{POOL_TIMEOUT:.0f} s each to fail."
    )


def _story_of_ours(measured: Measured) -> str:
    circuit = circuit_of(measured.crash)
    assert circuit is not None
    return (
        f"Gone: 0 failed calls in the restart; 0 after {measured.killed.connections} connections were killed, in "
        f"{measured.killed.seconds:.2f} s; while the server was away {circuit.refused} calls were refused in "
        f"{circuit.median * 1000:.1f} ms each, and {_seconds(measured.crash.served_after)} after its return the first "
        f"was answered. Each of {measured.orders.saved} orders is there exactly once."
    )


# -- figures --------------------------------------------------------------------------------------------------------


def rows(measured: list[Measured]) -> list[Row]:
    restarts = [one.restart for one in measured]
    kills = [one.killed for one in measured]
    crashes = [one.crash for one in measured]
    circuits = [circuit_of(crash) for crash in crashes]
    orders = [one.orders for one in measured]
    return [
        Row(f"idle connections killed, {len(kills[0].calls)} calls after it"),
        Row("  killed", [killed.connections for killed in kills]),
        *error_rows([killed.errors for killed in kills]),
        Row("  all calls together", [_seconds(killed.seconds) for killed in kills]),
        Row(f"server restarted, away for {restarts[0].away:.1f} s"),
        *(Row(f"  {kind} answered", [outage.answered(kind) for outage in restarts]) for kind in KINDS),
        *error_rows([outage.errors for outage in restarts]),
        Row("  longest call", [_seconds(outage.longest) for outage in restarts]),
        Row(f"server crashed, away for {crashes[0].away:.1f} s"),
        *error_rows([outage.errors for outage in crashes]),
        Row("  longest call", [_seconds(outage.longest) for outage in crashes]),
        Row("  circuit open after 5th failure", [_seconds(c.opened_after if c else None) for c in circuits]),
        Row("  a refusal takes", [f"{c.median * 1000:.1f} ms" if c else "-" for c in circuits]),
        Row("  first answer after the return", [_seconds(outage.served_after) for outage in crashes]),
        Row("orders, counted on the server"),
        Row("  confirmed", [audit.confirmed for audit in orders]),
        Row("  saved", [audit.saved for audit in orders]),
        Row("  confirmed and not saved", [audit.lost for audit in orders]),
        Row("  seats sold without an order", [audit.seats_off for audit in orders]),
    ]


def figures(measured: Measured) -> dict[str, Any]:
    """For programs."""
    circuit = circuit_of(measured.crash)
    return {
        "killed": {
            "connections": measured.killed.connections,
            "calls": len(measured.killed.calls),
            "errors": dict(measured.killed.errors),
            "seconds": round(measured.killed.seconds, 4),
        },
        "restart": _figures_of(measured.restart),
        "crash": {
            **_figures_of(measured.crash),
            "circuit": circuit
            and {
                "refused": circuit.refused,
                "opened_after": round(circuit.opened_after, 4),
                "median": round(circuit.median, 6),
                "retry_after": circuit.retry_after,
                "paid": circuit.paid,
            },
        },
        "orders": vars(measured.orders),
    }


def _figures_of(outage: Outage) -> dict[str, Any]:
    return {
        "away": round(outage.away, 3),
        "answered": {kind: outage.answered(kind) for kind in KINDS},
        "errors": dict(outage.errors),
        "longest": round(outage.longest, 3),
        "served_after": outage.served_after and round(outage.served_after, 3),
        "recovered": outage.recovered,
    }


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
