"""
Incident `campaigns`: background work that holds connections, in the pauses too, until pages get none.

Each engine has a server of its own, a site with visitors and a worker that sends campaigns and cleans up recordings. In
the middle two of the worker's processes are killed.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from testproject.audio import store
from testproject.audio.rhythm import SIZE as FILES
from testproject.campaigns import post
from testproject.campaigns.counting import count_letters, count_recordings, outbox_size, refused_connections
from testproject.campaigns.folder import VARIABLE as FOLDER
from testproject.campaigns.folder import notes
from testproject.campaigns.rhythm import SIZE
from testproject.campaigns.switches import SWITCHES
from testproject.campaigns.switches import VARIABLE as WITHOUT
from testproject.campaigns.verdict import Measured, Tasks, judge, rows
from testproject.campaigns.watching import Watch
from testproject.harness.environment import environment, manage
from testproject.harness.interrupts import Interrupts
from testproject.harness.load import Figures, http_calls
from testproject.harness.load import run as run_load
from testproject.harness.queue import Queue, Worker
from testproject.harness.serving import Site
from testproject.incidents.outcome import Report
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until

__all__ = ["SWITCHES", "TITLE", "run"]

TITLE = "background services that hold connections"
NAME = "campaigns"
# Three of them are reserved for superusers, whom the message of the incident names; one is the observer's.
MAX_CONNECTIONS = 24
SERVER = {"max_connections": str(MAX_CONNECTIONS), "synchronous_commit": "on"}
LOCK_TIMEOUT = "1s"

VISITORS = 16
CAMPAIGNS = 8
RECIPIENTS = 40
"""Of each campaign."""
SHELVES = 2
RECORDINGS = 400
"""On each shelf."""
CHILDREN = CAMPAIGNS + SHELVES
QUIET = 4.0
BUSY = 5.0
"""Seconds of page traffic, without background work and with it."""
PATIENCE = 180.0
"""Seconds for everything to be done, on whatever machine."""

# What the processes can have at most is less than the server has: 10 x 1 + 4 + 1 for the reserve.
WORKER_POOL = {"min_size": 0, "max_size": 1, "reserve_size": 0}
SITE_POOL = {"min_size": 1, "max_size": 4, "timeout": 10}

Say = Callable[[str], None]


def run(engines: Sequence[str], without: Sequence[str], interrupts: Interrupts, say: Say) -> Report:
    measured = {engine: _measure(engine, without if engine == "dbpool" else (), interrupts, say) for engine in engines}
    setup = {
        "server": f"PostgreSQL, max_connections {MAX_CONNECTIONS}, 3 of them for superusers; one for each engine",
        "site": f"gunicorn, {VISITORS} threads; {VISITORS} visitors, whose pages wait 0.2 s for another service",
        "worker": f"Celery, {CHILDREN} prefork processes: {CAMPAIGNS} campaigns, {SHELVES} clean-ups; two are killed",
        "stock": "Django's own engine; each task is one transaction",
        "dbpool": f"django_dbpool, site max_size {SITE_POOL['max_size']}, worker {WORKER_POOL['max_size']} for each "
        "process; tasks in batches" + "".join(f"; WITHOUT {name}" for name in without),
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
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaigns-")))
        own, env = database(server, engine, where, interrupts)
        env[WITHOUT] = ",".join(without)
        manage(env, "seed_campaigns", f"--campaigns={CAMPAIGNS}", f"--recipients={RECIPIENTS}", interrupts=interrupts)
        manage(env, "seed_audio", f"--shelves={SHELVES}", f"--recordings={RECORDINGS}", interrupts=interrupts)
        queue = Queue(where)
        with interrupts.held():
            site = stack.enter_context(Site("gunicorn", for_process(env, "site", SITE_POOL), threads=VISITORS))
        naive = engine == "stock" or "batches" in without
        return _Run(engine, server, own, site, where, queue, naive, say).all(env, interrupts)


def database(
    server: EmbeddedServer, engine: str, where: Path, interrupts: Interrupts | None = None
) -> tuple[Server, dict[str, str]]:
    """
    A database with the tables, as a superuser sees it, and the environment of processes that use it and the folder.
    """
    with server.connect() as connection:
        # Not a superuser: those have slots of their own, which the observer needs.
        connection.execute(f"CREATE ROLE {NAME} LOGIN")
        connection.execute(f"ALTER ROLE {NAME} SET lock_timeout = '{LOCK_TIMEOUT}'")
        connection.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")
    env = environment(
        Server(server.host, server.port, NAME, NAME), engine, DJANGO_SETTINGS_MODULE="testproject.campaigns.settings"
    )
    env[FOLDER] = str(where)
    manage(env, "migrate", "--verbosity", "0", interrupts=interrupts)
    return Server(server.host, server.port, server.user, NAME), env


def for_process(env: dict[str, str], process: str, pool: dict[str, Any]) -> dict[str, str]:
    return {
        **env,
        "DBPOOL_CAMPAIGNS_PROCESS": process,
        "DBPOOL_DEMO_POOL": json.dumps(pool if env["DBPOOL_ENGINE"] == "dbpool" else {}),
        "TMPDIR": env[FOLDER],  # Celery leaves a directory behind when it is killed
    }


class _Run:
    """What one engine goes through."""

    def __init__(
        self,
        engine: str,
        server: EmbeddedServer,
        own: Server,
        site: Site,
        where: Path,
        queue: Queue,
        naive: bool,
        say: Say,
    ) -> None:
        self.engine = engine
        self.server = server
        self.own = own
        self.site = site
        self.where = where
        self.queue = queue
        self.suffix = "_naively" if naive else ""
        self.say = say

    def all(self, env: dict[str, str], interrupts: Interrupts) -> Measured:
        self.say(f"{self.engine}: {VISITORS} visitors, no background work, for {QUIET:g} s ...")
        quiet = self._visit(QUIET)
        with ExitStack() as stack:
            with interrupts.held():
                worker = stack.enter_context(Worker(for_process(env, "worker", WORKER_POOL), CHILDREN))
            watch = stack.enter_context(Watch(self.own))
            self.say(f"{self.engine}: sending {CAMPAIGNS} campaigns, cleaning up {SHELVES} shelves ...")
            began = time.monotonic()
            results = self._send_tasks()
            self._wait(self._all_at_work, "tasks did not begin", worker)
            self.say(f"{self.engine}: {VISITORS} visitors beside it, for {BUSY:g} s ...")
            busy = self._visit(BUSY)
            self.say(f"{self.engine}: killing two processes of the worker in the middle of their work ...")
            lost = self._kill(worker)
            self._wait(lambda: all(each.ready() for each in results), "tasks did not end", worker)
            took = time.monotonic() - began
            if not self.suffix:
                self._deliver_the_rest(worker)
            tasks = Tasks([_failure(each) for each in results], took)
        return Measured(
            quiet=quiet,
            busy=busy,
            site=watch.of("site"),
            worker=watch.of("worker"),
            refused_connections=refused_connections(self.server),
            tasks=tasks,
            lost=lost,
            letters=count_letters(self.own, self.where),
            recordings=count_recordings(self.own, self.where),
        )

    def _visit(self, seconds: float) -> Figures:
        with http_calls(self.site.host, self.site.port, VISITORS, itertools.cycle(_paths())) as visitors:
            return run_load(visitors, seconds=seconds)

    def _send_tasks(self) -> list[Any]:
        campaigns = [
            self.queue.send(f"campaigns.send{self.suffix}", campaign=number) for number in range(1, CAMPAIGNS + 1)
        ]
        shelves = [self.queue.send(f"audio.clean_up{self.suffix}", shelf=number) for number in range(SHELVES)]
        return campaigns + shelves

    def _all_at_work(self) -> bool:
        campaigns = {each["campaign"] for each in post.taken(self.where)}
        shelves = {each["file"].partition("-")[0] for each in notes(store.journal(self.where))}
        return len(campaigns) == CAMPAIGNS and len(shelves) == SHELVES

    def _kill(self, worker: Worker) -> int:
        """Returns how many recordings have lost their file just then."""
        self._kill_one(worker, post.journal(self.where), lambda line: bool(line["campaign"] == "1"), SIZE)
        self._kill_one(worker, store.journal(self.where), lambda line: str(line["file"]).startswith("0-"), FILES)
        return count_recordings(self.own, self.where).lost

    def _kill_one(self, worker: Worker, journal: Path, is_meant: Callable[[dict[str, Any]], bool], size: int) -> None:
        """The process that writes the next of these lines, early in a batch of so many."""

        def lines() -> list[dict[str, Any]]:
            return list(filter(is_meant, notes(journal)))

        before = len(lines())
        self._wait(lambda: (now := len(lines())) > before and 0 < now % size < size / 2, "a task stands still", worker)
        os.kill(lines()[-1]["process"], signal.SIGKILL)

    def _deliver_the_rest(self, worker: Worker) -> None:
        """What Celery's beat would do every minute."""

        def is_empty() -> bool:
            for name in ("campaigns.deliver", "audio.remove_files"):
                self.queue.send(name).get(timeout=PATIENCE)
            return outbox_size(self.own) == 0

        self._wait(is_empty, "the outbox is not delivered", worker)

    def _wait(self, condition: Callable[[], bool], fault: str, worker: Worker) -> None:
        if not wait_until(condition, PATIENCE):
            raise RuntimeError(f"{self.engine}: {fault} in {PATIENCE:g} s; the worker says:\n{worker.log()[-4000:]}")


def _paths() -> list[str]:
    """Three visitors look at a campaign, the fourth opens a letter."""
    letters = CAMPAIGNS * RECIPIENTS
    return [
        f"/campaigns/opened/{number * 37 % letters + 1}/"
        if number % 4 == 3
        else f"/campaigns/{number % CAMPAIGNS + 1}/"
        for number in range(letters)
    ]


def _failure(result: Any) -> str | None:
    """By its name, as the task failed with it."""
    return None if result.successful() else type(result.result).__name__
