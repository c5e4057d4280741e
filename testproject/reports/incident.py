"""Incident `reports`: visitors open a page that runs one query per row; the server has few connections."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from testproject.harness.environment import environment, manage
from testproject.harness.interrupts import Interrupts
from testproject.harness.load import Figures, http_calls
from testproject.harness.load import run as run_load
from testproject.harness.observer import Observer
from testproject.harness.serving import Site
from testproject.incidents.outcome import Outcome, Report, Row, error_rows
from testproject.postgres import EmbeddedServer, Server
from testproject.reports.engine import NAMES

TITLE = "a page that opens hundreds of connections"
SWITCHES: Sequence[str] = ()
TOO_MANY_CONNECTIONS = "53300"

MAX_CONNECTIONS = 20
MAX_SIZE = 8
VISITORS = 8
REQUESTS = 32
PAGES = ("naive", "fixed")

Say = Callable[[str], None]


@dataclass(frozen=True)
class PageRun:
    """One page under the load, on a site that was started for it."""

    page: str
    figures: Figures
    peak: int
    """Most connections of the site at once, as pg_stat_activity showed them."""
    opened: int
    """Connections that the server has accepted from the site."""
    refused: int
    """Connections that the server's log says it refused with SQLSTATE 53300."""

    def as_json(self) -> dict[str, Any]:
        figures = self.figures
        return {
            "page": self.page,
            "requests": figures.requests,
            "ok": figures.ok,
            "failed": figures.failed,
            "errors": figures.errors,
            "peak_connections": self.peak,
            "connections_opened": self.opened,
            "connections_refused": self.refused,
            "seconds": round(figures.seconds, 3),
            "p50": figures.p50 and round(figures.p50, 4),
        }


def run(engines: Sequence[str], without: Sequence[str], interrupts: Interrupts, say: Say) -> Report:
    """Run both pages under the same load on each engine, one after the other."""
    by_engine: dict[str, dict[str, PageRun]] = {}
    for engine in engines:
        say(f"{NAMES[engine]}:")
        by_engine[engine] = {page.page: page for page in _open_pages(engine, interrupts, say)}
    setup = {
        "server": f"PostgreSQL, max_connections {MAX_CONNECTIONS}, one of them for the observer",
        "site": f"gunicorn, {VISITORS} threads; a new site for each page",
        "load": f"{VISITORS} visitors at once, {REQUESTS} requests in all for each page",
    }
    for engine in engines:
        setup[engine] = NAMES[engine] + (f", max_size {MAX_SIZE}" if engine == "dbpool" else "")
    return Report(
        "reports",
        TITLE,
        setup,
        [(engine, f"{page} page") for engine, runs in by_engine.items() for page in runs],
        _rows([page for runs in by_engine.values() for page in runs.values()]),
        [Outcome(engine, *judge(engine, runs), _figures(runs)) for engine, runs in by_engine.items()],
    )


def _rows(runs: list[PageRun]) -> list[Row]:
    return [
        Row("requests", [run.figures.requests for run in runs]),
        Row("  answered", [run.figures.ok for run in runs]),
        *error_rows([Counter(run.figures.errors) for run in runs]),
        Row("connections at once", [run.peak for run in runs]),
        Row("connections opened", [run.opened for run in runs]),
        Row("connections refused", [run.refused for run in runs]),
        Row("time", [f"{run.figures.seconds:.1f} s" for run in runs]),
    ]


def _figures(runs: dict[str, PageRun]) -> dict[str, Any]:
    limits = {"max_connections": MAX_CONNECTIONS, "max_size": MAX_SIZE, "visitors": VISITORS}
    return {"limits": limits, "runs": [run.as_json() for run in runs.values()]}


def _open_pages(engine: str, interrupts: Interrupts, say: Say) -> list[PageRun]:
    with ExitStack() as stack:
        say(f"  starting a PostgreSQL with max_connections = {MAX_CONNECTIONS}")
        with interrupts.held():
            server = Server.embedded({"max_connections": str(MAX_CONNECTIONS)})
            stack.enter_context(server)
        env = environment(server, engine, {"max_size": MAX_SIZE} if engine == "dbpool" else None)
        manage(env, "migrate", "--verbosity", "0", interrupts=interrupts)
        manage(env, "seed_reports", interrupts=interrupts)
        runs = []
        for page in PAGES:
            say(f"  opening the {page} page {REQUESTS} times, {VISITORS} visitors at once")
            runs.append(_open_page(page, server, env, interrupts))
        return runs


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
