"""Incident `reports`: visitors open a page that runs one query per row; the server has few connections."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack

from testproject.harness.environment import environment, manage
from testproject.harness.interrupts import Interrupts
from testproject.harness.load import http_calls
from testproject.harness.load import run as run_load
from testproject.harness.observer import Observer
from testproject.harness.serving import Site
from testproject.incidents.outcome import Outcome, PageRun
from testproject.postgres import EmbeddedServer, Server
from testproject.reports.engine import NAMES

TITLE = "a page that opens hundreds of connections"
TOO_MANY_CONNECTIONS = "53300"

MAX_CONNECTIONS = 20
MAX_SIZE = 8
VISITORS = 8
REQUESTS = 32
PAGES = ("naive", "fixed")


def run(engine: str, interrupts: Interrupts, say: Callable[[str], None]) -> Outcome:
    """Run both pages under the same load and compare the numbers with what `engine` is expected to do."""
    with ExitStack() as stack:
        say(f"Starting a PostgreSQL with max_connections = {MAX_CONNECTIONS} ...")
        with interrupts.held():
            server = Server.embedded({"max_connections": str(MAX_CONNECTIONS)})
            stack.enter_context(server)
        env = environment(server, engine, {"max_size": MAX_SIZE} if engine == "dbpool" else None)
        manage(env, "migrate", "--verbosity", "0", interrupts=interrupts)
        seeded = manage(env, "seed_reports", interrupts=interrupts).strip()
        runs = []
        for page in PAGES:
            say(f"Opening the {page} page {REQUESTS} times, {VISITORS} visitors at once ...")
            runs.append(_open_page(page, server, env, interrupts))
    met, verdict = judge(engine, {run.page: run for run in runs})
    setup = {
        "engine": NAMES[engine] + (f", max_size {MAX_SIZE}" if engine == "dbpool" else ""),
        "server": f"PostgreSQL, max_connections {MAX_CONNECTIONS}, one of them for the observer",
        "site": f"gunicorn, {VISITORS} threads; {seeded}",
        "load": f"{VISITORS} visitors at once, {REQUESTS} requests in all; a new site for each page",
    }
    limits = {"max_connections": MAX_CONNECTIONS, "max_size": MAX_SIZE, "visitors": VISITORS}
    return Outcome("reports", TITLE, engine, setup, runs, limits, met, verdict)


def _open_page(page: str, server: EmbeddedServer, env: dict[str, str], interrupts: Interrupts) -> PageRun:
    refused_before = _refused(server)
    with Observer(server) as observer:
        with ExitStack() as stack:
            with interrupts.held():
                site = stack.enter_context(Site("gunicorn", env, threads=VISITORS))
            paths = itertools.repeat(f"/reports/{page}/")
            visitors = stack.enter_context(http_calls(site.host, site.port, VISITORS, paths))
            figures = run_load(visitors, requests=REQUESTS)
        # After the site has stopped: only then has the server counted all its sessions.
        return PageRun(page, figures, observer.peak, observer.opened(), _refused(server) - refused_before)


def _refused(server: EmbeddedServer) -> int:
    """Count refused connections where their SQLSTATE is: the log's prefix ends with it."""
    return sum(f" {TOO_MANY_CONNECTIONS} FATAL:" in line for line in server.log().splitlines())


def judge(engine: str, runs: dict[str, PageRun]) -> tuple[bool, str]:
    naive, fixed = runs["naive"], runs["fixed"]
    if engine == "stock":
        named = sum(count for error, count in naive.figures.errors.items() if TOO_MANY_CONNECTIONS in error)
        happened = f"{named} of {naive.figures.requests} requests for the naive page failed with SQLSTATE 53300"
        if not named:
            return False, f"Not reproduced: {happened}."
        return True, (
            f"Reproduced: {happened}, as reported; the server refused {naive.refused} connections. "
            f"The fixed page answered {fixed.figures.ok} of {fixed.figures.requests} "
            f"with {fixed.peak} connections at once."
        )
    failed = naive.figures.failed + fixed.figures.failed
    peak = max(naive.peak, fixed.peak)
    numbers = f"{failed} failed requests, {peak} connections at once of the {MAX_SIZE} allowed"
    unanswered = any(run.figures.ok != run.figures.requests or not run.figures.ok for run in runs.values())
    if unanswered or not 0 < peak <= MAX_SIZE or naive.refused:
        return False, f"Not gone: {numbers}, {naive.refused} connections refused by the server."
    return True, f"Gone: {numbers}, the naive page unchanged."
