"""
Incident `webhooks`: code that goes around the pool, on a database that sleeps when nobody uses it.

The stock engine runs the services of the incident, ours the cured ones, each with a server of its own: what one leaks
must not be the other's want. Both get the same events.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg

from django_dbpool.audit import Finding, audit_paths
from testproject.harness.environment import environment, manage
from testproject.harness.interrupts import Interrupts
from testproject.harness.load import HttpClient
from testproject.harness.serving import Site
from testproject.incidents.outcome import Report
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from testproject.webhooks import accounts, logs
from testproject.webhooks.deliveries import deliveries
from testproject.webhooks.sender import ATTEMPTS, SENDERS, Sent, send
from testproject.webhooks.switches import SWITCHES
from testproject.webhooks.verdict import Leak, Measured, Termination, judge, rows

__all__ = ["SWITCHES", "TITLE", "run"]

TITLE = "code that goes around the pool"
# Commits reach the disk's cache before they are confirmed: what a crash takes would else be the server's doing.
MAX_CONNECTIONS = 30
SERVER = {"max_connections": str(MAX_CONNECTIONS), "synchronous_commit": "on"}
THREADS = 8
POOL = {"min_size": 1, "max_size": 8, "timeout": 10}
EVENTS_FIRST = 40
EVENTS_WAKING = 40
EVENTS_FLAWED = 120
EVENTS = EVENTS_FIRST + EVENTS_WAKING + EVENTS_FLAWED
WAKING = 0.7
"""Seconds that the database needs to wake up."""
NAME = "webhooks"
REPORT = "/webhooks/totals/?seconds=50"
"""For so long it would run; it is ended in the middle."""

Say = Callable[[str], None]


def run(engines: Sequence[str], without: Sequence[str], interrupts: Interrupts, say: Say) -> Report:
    measured = {engine: _measure(engine, without if engine == "dbpool" else (), interrupts, say) for engine in engines}
    setup = {
        "server": f"PostgreSQL, max_connections {MAX_CONNECTIONS}, one for each engine; it sleeps when it is not used",
        "site": f"gunicorn, {THREADS} threads",
        "load": f"{SENDERS} senders, {EVENTS} events; each is sent up to {ATTEMPTS} times",
        "stock": "Django's own engine, persistent connections, CONN_HEALTH_CHECKS; the services of the incident",
        "dbpool": f"django_dbpool, max_size {POOL['max_size']}; the same services through one door"
        + "".join(f"; WITHOUT {name}" for name in without),
    }
    return Report(
        NAME,
        TITLE,
        {name: value for name, value in setup.items() if name in engines or name not in ("stock", "dbpool")},
        [(engine,) for engine in engines],
        rows(list(measured.values())),
        [judge(engine, one) for engine, one in measured.items()],
    )


def _measure(engine: str, without: Sequence[str], interrupts: Interrupts, say: Say) -> Measured:
    with ExitStack() as stack:
        say(f"{engine}: starting PostgreSQL and the site ...")
        with interrupts.held():
            server = stack.enter_context(Server.embedded(SERVER))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="webhooks-")))
        own, env = _database(server, engine, without, directory / "log", interrupts)
        with interrupts.held():
            site = stack.enter_context(Site("gunicorn", env, threads=THREADS))
        return _Run(engine, server, own, site, directory / "log", say).all()


def _database(
    server: EmbeddedServer, engine: str, without: Sequence[str], log: Path, interrupts: Interrupts
) -> tuple[Server, dict[str, str]]:
    """A database with the services' tables, as a superuser sees it, and the environment of a site that uses it."""
    with server.connect() as connection:
        # Not a superuser: those have slots of their own, which the observer needs.
        connection.execute(f"CREATE ROLE {NAME} LOGIN")
        connection.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")
    site = Server(server.host, server.port, NAME, NAME)
    pool: dict[str, Any] = {**POOL, **({"retry": False} if "retry" in without else {})}
    env = environment(
        site,
        engine,
        pool if engine == "dbpool" else None,
        DBPOOL_DEMO_DATABASE=json.dumps(site.django(CONN_HEALTH_CHECKS=engine == "stock")),
        DBPOOL_DEMO_CONN_MAX_AGE="none",
        DBPOOL_WEBHOOKS_WITHOUT=",".join(without),
        DJANGO_SETTINGS_MODULE="testproject.webhooks.settings",
    )
    manage(env, "migrate", "--verbosity", "0", interrupts=interrupts)
    manage(env, "seed_webhooks", interrupts=interrupts)
    # Of the site alone; the commands before it had nothing to do with the incident.
    return Server(server.host, server.port, server.user, NAME), {**env, "DBPOOL_WEBHOOKS_LOG": str(log)}


class _Run:
    """What one engine goes through."""

    def __init__(self, engine: str, server: EmbeddedServer, own: Server, site: Site, log: Path, say: Say) -> None:
        self.engine = engine
        self.server = server
        self.own = own
        self.site = site
        self.log = log
        self.say = say
        self.sent = Sent()

    def all(self) -> Measured:
        self._send("first", EVENTS_FIRST)
        woken = self._sleep_and_wake()
        terminations = self._terminate()
        self._send("flawed", EVENTS_FLAWED, flawed=True)
        leak = self._leak()
        return Measured(
            sent=self.sent,
            events=accounts.count_events(self.own, self.sent),
            leak=leak,
            refused_connections=accounts.refused_connections(self.server),
            woken=woken,
            terminations=terminations,
            lines=logs.read(self.log),
            bypasses=_bypasses(self.engine),
        )

    def _send(self, prefix: str, count: int, *, flawed: bool = False) -> Sent:
        self.say(f"{self.engine}: sending {count} events ...")
        sent = send(self.site.host, self.site.port, deliveries(prefix, count, flawed=flawed))
        self.sent += sent
        accounts.wait_settled(self.own)
        return sent

    def _leak(self) -> Leak:
        """Nobody works any more: what is open now and not in a pool, nobody will close."""
        with closing(HttpClient(self.site.host, self.site.port)) as client:
            pool = json.loads(client.get("/webhooks/connections/").body)
        sessions = accounts.count_sessions(self.own)
        # An engine without a pool may keep one for each thread that answers requests.
        managed = THREADS if pool["size"] is None else pool["size"]
        return Leak(sessions.open, managed, sessions.in_transaction, pool["in_use"] or 0)

    def _sleep_and_wake(self) -> Sent:
        """The first event comes while the database sleeps, and wakes it up."""
        self.say(f"{self.engine}: the database goes to sleep; the next event wakes it up, in {WAKING:g} s ...")
        self.server.stop()
        waking = threading.Timer(WAKING, self.server.start)
        waking.start()
        try:
            return self._send("waking", EVENTS_WAKING)
        finally:
            waking.join()

    def _terminate(self) -> list[Termination]:
        """A report loses its connection twice: to an administrator, and to a crash."""
        self.say(f"{self.engine}: ending the connection of a report, on purpose and by a crash ...")
        on_purpose = self._report_that_ends(_terminate)
        crash = self._report_that_ends(_crash)
        if not wait_until(self._accepts, timeout=60):
            raise RuntimeError("the server did not come back from its crash")
        return [on_purpose, crash]

    def _report_that_ends(self, end: Callable[[psycopg.Connection[Any], int], object]) -> Termination:
        before = len(logs.read(self.log))
        with ThreadPoolExecutor(1) as executor:
            ending = executor.submit(accounts.end_report, self.own, end)
            with closing(HttpClient(self.site.host, self.site.port)) as client:
                response = client.get(REPORT)
            ending.result()
        about = [line for line in logs.read(self.log)[before:] if "/webhooks/totals/" in line.message]
        return Termination(response.status, about[-1] if about else None)

    def _accepts(self) -> bool:
        try:
            self.own.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def _terminate(connection: psycopg.Connection[Any], pid: int) -> None:
    connection.execute("SELECT pg_terminate_backend(%s)", [pid])


def _crash(_: psycopg.Connection[Any], pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _bypasses(engine: str) -> list[Finding]:
    """What the audit finds in the services that the engine runs."""
    services = "naive.py" if engine == "stock" else "cured.py"
    return audit_paths([Path(__file__).with_name(services)])
