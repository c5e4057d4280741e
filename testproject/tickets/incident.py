"""
Incident `tickets`: idle connections die, the server restarts, the server is away for long.

Both engines run at the same time, each in a process and a database of its own, so that they meet the same outages of
the same server. The stock engine is Django's own pool with CONN_HEALTH_CHECKS, the best that it has to offer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from psycopg import sql

from testproject.harness.environment import environment, manage
from testproject.harness.interrupts import Interrupts
from testproject.incidents.outcome import Report
from testproject.postgres import EmbeddedServer, Server
from testproject.tickets.outages import interrupt, kill_idle
from testproject.tickets.shop import Shop
from testproject.tickets.verdict import BREAK_DURATION, IDLE, POOL_TIMEOUT, Measured, judge, rows

TITLE = "a database that goes away and comes back"
SWITCHES: Sequence[str] = ("retry", "breaker")

POOL = {"min_size": 2, "max_size": 20, "max_lifetime": 600, "max_idle": 300, "timeout": POOL_TIMEOUT}
OURS = {
    "command_timeout": 30,
    # Three retries two seconds apart are six seconds; with full jitter the time counts, not their number.
    "retry": {"max_delay": 2, "total": 6},
    "breaker": {
        "minimum_throughput": 5,
        "failure_ratio": 0.5,
        "sampling_duration": 10,
        "break_duration": BREAK_DURATION,
    },
}
OPTIONS = {"options": "-c statement_timeout=30s"}

# Commits reach the disk's cache before they are confirmed: what a crash takes would else be the server's doing.
SERVER = {"synchronous_commit": "on"}
CALLS = 8
RESTART = 2.0
CRASH = 16.0
"""Longer than callers may wait for a connection."""
STEADY = 5.0
"""Seconds of normal work before the crash: connections that were opened longer ago say nothing about the server."""

Say = Callable[[str], None]


def run(engines: Sequence[str], without: Sequence[str], interrupts: Interrupts, say: Say) -> Report:
    with ExitStack() as stack:
        say("Starting PostgreSQL ...")
        with interrupts.held():
            server = stack.enter_context(Server.embedded(SERVER))
        with server.connect() as connection:
            version = connection.info.parameter_status("server_version")
        shops = []
        for engine in engines:
            say(f"Opening the shop on {engine} ...")
            own, env = _database(server, engine, without, interrupts)
            shops.append(stack.enter_context(Shop(engine, own, env, interrupts)))
        measured = _measure(server, shops, say)
    setup = {
        "server": f"PostgreSQL {version}; a database for each engine, the same outages for both",
        "load": "10 readers, 5 buyers and VACUUM ANALYZE, in one process for each engine",
        "pools": f"2 to 20 connections, life 600 s, idle 300 s, wait {POOL_TIMEOUT:g} s, statements 30 s",
        "stock": "Django's own pool, CONN_HEALTH_CHECKS",
        "dbpool": f"django_dbpool; retries for 6 s; circuit opens at 5 failures and 50 %, for {BREAK_DURATION} s"
        + "".join(f"; WITHOUT {name}" for name in without),
    }
    return Report(
        "tickets",
        TITLE,
        {name: value for name, value in setup.items() if name in engines or name not in ("stock", "dbpool")},
        [(engine,) for engine in engines],
        rows([measured[engine] for engine in engines]),
        [judge(engine, measured[engine]) for engine in engines],
    )


def _database(
    server: EmbeddedServer, engine: str, without: Sequence[str], interrupts: Interrupts
) -> tuple[Server, dict[str, str]]:
    """A database with the shop's tables and events, and the environment of processes that use it."""
    own = Server(server.host, server.port, server.user, f"tickets_{engine}")
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(own.dbname)))
    ours = engine == "dbpool"
    pool: dict[str, Any] = {**POOL, **OURS, **dict.fromkeys(without, False)} if ours else POOL
    database = json.dumps(own.django(OPTIONS=OPTIONS, CONN_HEALTH_CHECKS=not ours))
    env = environment(own, "dbpool" if ours else "stock-pool", pool, DBPOOL_DEMO_DATABASE=database)
    manage(env, "migrate", "--verbosity", "0", interrupts=interrupts)
    manage(env, "seed_tickets", interrupts=interrupts)
    return own, env


def _measure(server: EmbeddedServer, shops: Sequence[Shop], say: Say) -> dict[str, Measured]:
    killed = {}
    for shop in shops:  # first of all: the pools hold these connections and no others
        say(f"Killing {IDLE} idle connections of {shop.engine} ...")
        killed[shop.engine] = kill_idle(shop, IDLE, CALLS)
    say(f"Restarting the server, away for {RESTART:g} s ...")
    restarts = interrupt(server, shops, server.stop, after=1.5, seconds=RESTART)
    say(f"Crashing the server, away for {CRASH:g} s ...")
    crashes = interrupt(server, shops, server.kill, after=STEADY, seconds=CRASH)
    say("Counting the orders ...")
    return {
        shop.engine: Measured(killed[shop.engine], restarts[shop.engine], crashes[shop.engine], shop.audit())
        for shop in shops
    }
