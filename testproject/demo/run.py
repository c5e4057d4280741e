"""Start PostgreSQL, run the load on both engines, print the table, keep the site up until Ctrl-C."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from psycopg import sql
from psycopg.conninfo import make_conninfo

from testproject.demo import summary
from testproject.demo.console import Console
from testproject.demo.options import Options, parse
from testproject.demo.rounds import OURS, ROUNDS, Result, RoundError, play, round_environment
from testproject.harness.environment import CommandError, manage
from testproject.harness.interrupts import Interrupts, Stopped
from testproject.harness.serving import Site, SiteError
from testproject.postgres import EmbeddedServer, Server, ServerError

USER = "demo"
DASHBOARD = "admin/django_dbpool/connectionpool/"
"""Where Django's admin has it."""


class Demo:
    def __init__(self, options: Options, console: Console, interrupts: Interrupts) -> None:
        self.options = options
        self.console = console
        self.interrupts = interrupts

    def run(self, stack: ExitStack) -> int:
        """Return the exit code."""
        self._introduce()
        given = os.environ.get("DBPOOL_TEST_DSN")
        label = "use the server of DBPOOL_TEST_DSN" if given else "start PostgreSQL"
        with self.console.step(label) as step, self.interrupts.held():
            server = stack.enter_context(_database())
            step.result = _version(server)
        env = round_environment(OURS, server, self.options, DBPOOL_DEMO_SECRET_KEY=secrets.token_urlsafe())
        with self.console.step("migrate and seed") as step:
            manage(env, "migrate", "--verbosity", "0", interrupts=self.interrupts)
            step.result = manage(env, "seed_reports", interrupts=self.interrupts).strip()
        results = self._measure(server)
        good = summary.flawless(results)
        if not self.options.once:
            self._stay_up(env, stack)
        return 0 if good else 1

    def _introduce(self) -> None:
        options = self.options
        self.console.line(self.console.bold("The same requests on Django's own pool and on django_dbpool"))
        self.console.line(
            f"{options.threads} threads, {options.connections} connections. A request queries, waits "
            f"{options.wait * 1000:.0f} ms for something else, queries again;"
        )
        self.console.line(f"it fails if it gets no connection within {options.timeout:g} s, on either pool.")
        self.console.line()

    def _measure(self, server: Server) -> list[Result]:
        results = []
        for one in ROUNDS:
            label = f"{one.engine.name}, {'HTTP' if one.over_http else 'no HTTP'}"
            with self.console.step(label) as step:
                result = play(
                    one,
                    server,
                    self.options,
                    self.interrupts,
                    lambda progress, step=step: step.update(  # type: ignore[misc]
                        f"{progress.elapsed:5.1f} s   {progress.ok:,} answered, {progress.failed:,} failed"
                    ),
                )
                figures = result.figures
                step.result = f"{figures.ok:,} answered, {figures.failed:,} failed"
            results.append(result)
        self.console.line()
        for line in summary.table(results, self.options, self.console):
            self.console.line(line)
        self.console.line()
        self.console.line(summary.meaning(results, self.options))
        return results

    def _stay_up(self, env: dict[str, str], stack: ExitStack) -> None:
        password = secrets.token_urlsafe(9)
        account = {
            "DJANGO_SUPERUSER_USERNAME": USER,
            "DJANGO_SUPERUSER_PASSWORD": password,
            "DJANGO_SUPERUSER_EMAIL": "demo@example.com",
        }
        self.console.line()
        with self.console.step("start the site") as step:
            manage({**env, **account}, "createsuperuser", "--noinput", interrupts=self.interrupts)
            with self.interrupts.held():
                site = stack.enter_context(self._site({**env, "DBPOOL_DEMO_FLEET": "1"}))
            step.result = "gunicorn on django_dbpool"
        self.console.line()
        self.console.line(f"  site       {self.console.bold(site.url)}")
        self.console.line(f"  dashboard  {site.url}{DASHBOARD}")
        self.console.line(f"             user {USER}, password {password}")
        self.console.line()
        self.console.line("Ctrl-C stops it and leaves nothing behind.")
        try:
            site.wait()
        except Stopped:
            self.console.line()
            self.console.line("Stopping.")

    def _site(self, env: dict[str, str]) -> Site:
        try:
            return Site("gunicorn", env, threads=self.options.threads, port=self.options.port)
        except OSError:  # the port is taken
            return Site("gunicorn", env, threads=self.options.threads)


@contextmanager
def _database() -> Iterator[Server]:
    """A server of our own, or a database of our own on the server that DBPOOL_TEST_DSN names."""
    with Server.from_env_or_embedded() as server:
        if isinstance(server, EmbeddedServer):
            yield server
            return
        name = sql.Identifier(f"dbpool_demo_{secrets.token_hex(4)}")
        with server.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
            try:
                yield Server.from_dsn(make_conninfo(server.dsn, dbname=name.as_string().strip('"')))
            finally:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def _version(server: Server) -> str:
    with server.connect() as connection:
        version = connection.info.parameter_status("server_version")
    return f"version {version}, {server.host}:{server.port}"


def main() -> int:
    options = parse()
    console = Console()
    try:
        with Interrupts() as interrupts, ExitStack() as stack:
            return Demo(options, console, interrupts).run(stack)
    except Stopped as stopped:
        console.line("Stopped.")
        return stopped.exit_code
    except (ServerError, CommandError, SiteError, RoundError) as error:
        console.error(str(error))
        return 1
