"""
Codes and what they mean. Written here and not taken from the driver, whose messages name hosts, users and databases:
these are shown to load balancers and whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping

SHUTTING_DOWN = "shutting_down"
CIRCUIT = {"open": "circuit_open", "half-open": "circuit_half_open", "isolated": "circuit_isolated"}
WARMING = "warming"
QUEUEING = "queueing"

TEXTS: Mapping[str, str] = {
    "ok": "The server answers.",
    "timeout": "The server has not answered in time.",
    "unreachable": "There is no connection to the server: it is down, or can't be reached from here.",
    "starting": "The server is starting up, shutting down or in recovery.",
    "full": "The server has no connection left.",
    "refused": "The server refuses user, password or database.",
    "no_password": "The function behind PASSWORD gave none; see the log.",
    "misconfigured": "The alias's settings have a fault; see the log, and manage.py check.",
    "no_thread": "This process can't start a thread: a limit of the system is reached.",
    "closed": "The pools of this process were closed in this moment.",
    SHUTTING_DOWN: "This process is shutting down.",
    "circuit_open": "The circuit breaker is open: the server did not answer, and is left alone until it does.",
    "circuit_half_open": "The circuit breaker lets one caller try whether the server is back.",
    "circuit_isolated": "The circuit breaker is held open by hand.",
    WARMING: "The connections that the pool keeps are being opened.",
    QUEUEING: "Callers have been waiting for a connection for too long.",
}


def text_of(code: str) -> str:
    return TEXTS[code]
