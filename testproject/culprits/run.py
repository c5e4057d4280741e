"""Start PostgreSQL, the site and its visitors, plant the culprit, and take the time until it is gone."""

from __future__ import annotations

import argparse
import random
import secrets
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from testproject.culprits.planting import CULPRITS, Culprit, Payments, Scene
from testproject.harness.environment import CommandError, environment, manage
from testproject.harness.interrupts import Interrupts, Stopped
from testproject.harness.load import HttpClient
from testproject.harness.serving import Site, SiteError
from testproject.postgres import EmbeddedServer, Server, ServerError

USER = "demo"
WORKERS = 2
THREADS = 8
POOL = {"max_size": 4, "timeout": 5}
VISITORS = 6
PAUSE = 0.25
"""Seconds between two pages of a visitor: the site has little to do, whatever machine it is on."""

GONE_FOR = 2.0
"""Seconds for which nobody may sit in a transaction before the culprit counts as ended."""

_STUCK = """
SELECT count(*) FROM pg_stat_activity
 WHERE state LIKE 'idle in transaction%' AND clock_timestamp() - state_change > interval '3 s'
"""


@contextmanager
def running(culprit: Culprit, interrupts: Interrupts, *, port: int = 0) -> Iterator[Stage]:
    """A site with visitors and this culprit; all of it ends with the block."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbpool-")))
        with interrupts.held():
            server = stack.enter_context(Server.embedded({"max_connections": "40"}))
            payments = stack.enter_context(Payments())
        env = environment(
            server,
            "dbpool",
            POOL,
            DJANGO_SETTINGS_MODULE="testproject.culprits.settings",
            DBPOOL_CULPRITS_DIR=str(directory),
            DBPOOL_CULPRITS_PAYMENTS=payments.url,
            DBPOOL_CULPRITS_DSN=server.dsn,
            DBPOOL_DEMO_SECRET_KEY=secrets.token_urlsafe(),
        )
        manage(env, "migrate", "--verbosity", "0", interrupts=interrupts)
        manage(env, "seed_reports", interrupts=interrupts)
        password = secrets.token_urlsafe(9)
        account = {
            "DJANGO_SUPERUSER_USERNAME": USER,
            "DJANGO_SUPERUSER_PASSWORD": password,
            "DJANGO_SUPERUSER_EMAIL": "demo@example.com",
        }
        manage({**env, **account}, "createsuperuser", "--noinput", interrupts=interrupts)
        with interrupts.held():
            site = stack.enter_context(_site(env, port))
        stack.enter_context(_visitors(site))
        culprit.plant(Scene(site, env, stack))
        yield Stage(server, site, env, _command(directory, env), password, time.monotonic())


class Stage:
    """What runs, and what a reader needs to look at it."""

    def __init__(
        self, server: EmbeddedServer, site: Site, env: Mapping[str, str], command: Path, password: str, planted: float
    ) -> None:
        self.server = server
        self.site = site
        self.env = env
        self.command = command
        """A script that runs `manage.py` against the site."""
        self.password = password
        self.planted = planted

    def wait_until_gone(self, tick: Any = lambda seconds: None) -> float:
        """Until nobody sits in a transaction any more; seconds since the culprit was planted."""
        # Of another database: in the site's own it would be a stranger, too.
        with closing(self.server.connect(dbname="template1")) as connection:
            self._wait(connection, stuck=True, lasting=0.0, tick=tick)
            self._wait(connection, stuck=False, lasting=GONE_FOR, tick=tick)
        return time.monotonic() - GONE_FOR - self.planted

    def is_stuck(self) -> bool:
        """Whether somebody sits in a transaction now."""
        with closing(self.server.connect(dbname="template1")) as connection:
            return _is_stuck(connection)

    def _wait(self, connection: psycopg.Connection[Any], *, stuck: bool, lasting: float, tick: Any) -> None:
        since = None
        while True:
            now = time.monotonic()
            if _is_stuck(connection) is stuck:
                since = now if since is None else since
                if now - since >= lasting:
                    return
            else:
                since = None
            tick(now - self.planted)
            time.sleep(0.25)


def _is_stuck(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(_STUCK).fetchone()
    return row is not None and bool(row[0])


def _site(env: Mapping[str, str], port: int) -> Site:
    try:
        return Site("gunicorn", env, threads=THREADS, workers=WORKERS, port=port)
    except OSError:  # the port is taken
        return Site("gunicorn", env, threads=THREADS, workers=WORKERS)


def _command(directory: Path, env: Mapping[str, str]) -> Path:
    own = [name for name in env if name.startswith(("DBPOOL_", "DJANGO_")) or name == "PYTHONPATH"]
    lines = [f"export {name}={shlex.quote(env[name])}" for name in sorted(own)]
    script = directory / "manage"
    script.write_text(
        "\n".join(["#!/bin/sh", *lines, f'exec {shlex.quote(sys.executable)} -m testproject.manage "$@"', ""])
    )
    script.chmod(0o700)
    return script


@contextmanager
def _visitors(site: Site) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=_visit, args=(site, number, stop), daemon=True) for number in range(VISITORS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()  # they end with the site, which some of them wait for


def _visit(site: Site, number: int, stop: threading.Event) -> None:
    """Bookings, and now and then the report; whatever comes of them."""
    chosen = random.Random(number)
    client = HttpClient(site.host, site.port, timeout=30)
    while not stop.wait(PAUSE):
        path = f"/bookings/{chosen.randrange(100, 200)}/" if chosen.random() < 0.8 else "/reports/fixed/"
        try:
            client.get(path)
        except Exception:
            client.close()
    client.close()


def _story(culprit: Culprit, args: argparse.Namespace, interrupts: Interrupts) -> None:
    print("Starting a PostgreSQL, a site with two workers, and its visitors ...", flush=True)
    with running(culprit, interrupts, port=args.port) as stage:
        print(f"""
  site           {stage.site.url}
  dashboard      {stage.site.url}admin/   user {USER}, password {stage.password}
  command line   {stage.command} dbpool --help

Visitors of this site complain since {time.strftime("%H:%M:%S")}. Who is it? End it. The time is taken; Ctrl-C ends all.
""")
        rewrites = sys.stdout.isatty()

        def tick(seconds: float) -> None:
            if rewrites:
                print(f"\r  {seconds:5.0f} s", end="", flush=True)

        seconds = stage.wait_until_gone(tick)
        print(f"\r  It was gone after {seconds:.0f} s: {culprit.was}.", flush=True)
        if not args.once:
            print("  The site stays up until Ctrl-C.", flush=True)
            stage.site.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testproject.culprits", description=__doc__)
    parser.add_argument("culprit", choices=[*CULPRITS, "random"], help="random: one of them, and it isn't told which")
    parser.add_argument("--port", type=int, default=8000, help="of the site, if it is free (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="end when the culprit is gone")
    args = parser.parse_args()
    name = random.SystemRandom().choice(list(CULPRITS)) if args.culprit == "random" else args.culprit
    try:
        with Interrupts() as interrupts:
            _story(CULPRITS[name], args, interrupts)
    except Stopped as stopped:
        print("\nStopped.")
        return stopped.exit_code
    except (ServerError, CommandError, SiteError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
