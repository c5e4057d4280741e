"""
The shop as processes: a server of PostgreSQL, gunicorn with three workers, a Celery worker with two, and load. Without
pytest, as the screenshots are made of it too.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psycopg

from testproject.harness.environment import ROOT, end, start
from testproject.harness.serving import Site
from testproject.postgres import Server
from testproject.processes import children_of, wait_until
from tests.fixtures.celery_app import Sender
from tests.settings import SERVER_VARIABLE

PATIENCE = 30.0
"""Seconds after which whoever waits for something gives up; never a measure of speed."""

APPLICATION = "shop"
"""What the server's list of sessions has as the name of ours."""

WORKERS = 3
TASKS = 2
MAX_SIZE = 4

TOKEN = "for-the-status-page"
PASSWORD = "only-for-tests"


@dataclass(frozen=True)
class Person:
    name: str
    staff: bool = True
    superuser: bool = False
    permissions: tuple[str, ...] = ()


SUPERUSER = Person("superuser", superuser=True)
OPERATOR = Person("operator", permissions=("view_connectionpool", "operate_connectionpool"))
VIEWER = Person("viewer", permissions=("view_connectionpool",))
STAFF = Person("staff")
PEOPLE = (SUPERUSER, OPERATOR, VIEWER, STAFF)


class Shop:
    """Its parts, while they run."""

    def __init__(self, server: Server, site: Site, tasks: Sender, folder: Path, env: dict[str, str]) -> None:
        self.server = server
        self.site = site
        self.tasks = tasks
        self.folder = folder
        self.env = env
        self._requests: list[Request] = []

    @property
    def url(self) -> str:
        return self.site.url.rstrip("/")

    # -- what it is told to do --------------------------------------------------------------------------------------

    @contextmanager
    def flag(self, name: str) -> Iterator[None]:
        """While the block runs, requests and tasks that wait for this flag keep their connections."""
        path = self.folder / name
        path.touch()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def request(self, path: str) -> Request:
        """Send it, and don't wait."""
        request = Request(self, path)
        self._requests.append(request)
        return request

    def hold(self, path: str, count: int) -> None:
        """Send requests until this many more hold a connection, each of them in a process that has one left."""
        running: list[Request] = []
        deadline = time.monotonic() + PATIENCE
        while len(running) < count:
            request = self.request(path)
            if not request.is_refused():
                running.append(request)
            assert time.monotonic() < deadline, f"only {len(running)} of {count} hold a connection"

    def fill(self, path: str = "/orders/4711/pay/") -> None:
        """Have every connection of every web process held by such requests; theirs is the flag ``payments``."""
        full: set[bytes] = set()
        deadline = time.monotonic() + PATIENCE
        while len(full) < WORKERS:
            request = self.request(path)
            if request.is_refused() and request.status == HTTPStatus.CONFLICT:
                full.add(request.body)
            assert time.monotonic() < deadline, f"only {len(full)} of {WORKERS} processes are full"

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Something of everything that pages show, for the time of the block."""
        with ExitStack() as stack:
            for flag in ("payments", "searches", "indexes"):
                stack.enter_context(self.flag(flag))
            stack.enter_context(self.server.connect(application_name="psql"))
            self.tasks.send("shop.tasks.reindex")
            self.tasks.send("shop.tasks.import_prices", 2000)
            self.hold("/orders/4711/pay/", 2)
            self.hold("/search/", 1)
            self.hold("/reports/2025/?seconds=8", 1)
            for path in 2 * ("/authors/", "/reports/2026/?seconds=0.4"):
                assert wait_until(lambda path=path: self.answers(path), PATIENCE)  # type: ignore[misc]
            yield

    def answers(self, path: str) -> bool:
        """Ask once, and wait for the answer: whether all is well."""
        request = Request(self, path)
        request.join()
        return request.status == 200

    def end_requests(self) -> None:
        """Wait for those that were sent; their flags have to be gone."""
        for request in self._requests:
            request.join()
        self._requests.clear()

    # -- what is independently known of it --------------------------------------------------------------------------

    @contextmanager
    def observer(self) -> Iterator[psycopg.Connection[Any]]:
        with self.server.connect(application_name="observer") as connection:
            yield connection

    def web_pids(self) -> set[int]:
        return set(children_of(self.site.pid))

    def said_by_processes(self) -> dict[int, dict[str, Any]]:
        """By pid what each process says by its socket: neither the fleet's table nor a page is asked."""
        answers = json.loads(manage(self.env, "dbpool", "status", "--local", "--json"))
        return {process["pid"]: process for process in answers["processes"]}


class Request:
    """One GET in a thread of its own."""

    def __init__(self, shop: Shop, path: str) -> None:
        self.begun = shop.folder / f"begun-{secrets.token_hex(8)}"
        """A file that appears when it holds a connection."""
        self.status: int | None = None
        self.body = b""
        self._connection = http.client.HTTPConnection(shop.site.host, shop.site.port, timeout=120)
        self._path = path
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.closing(self._connection), contextlib.suppress(OSError, http.client.HTTPException):
            self._connection.request("GET", self._path, headers={"X-Begun": str(self.begun)})
            answer = self._connection.getresponse()
            self.body = answer.read()
            self.status = answer.status

    def is_refused(self) -> bool:
        """Whether it came to a process that has no connection left."""
        ended = wait_until(lambda: self.begun.exists() or not self._thread.is_alive(), PATIENCE)
        assert ended, f"{self._path}: neither refused nor begun"
        return not self.begun.exists()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"{self._path} has not ended"


@contextmanager
def shop(*, max_size: int = MAX_SIZE, language: str = "en-us") -> Iterator[Shop]:
    """Everything, started; at the end nothing of it is left."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shop")))
        (folder / "sockets").mkdir(mode=0o700)
        server = stack.enter_context(Server.embedded({"max_connections": "40"}))
        env = environment(server, folder, max_size=max_size, language=language)
        run(env, "-m", "tests.browser.site.prepare")
        sender = Sender(folder)
        site = Site("gunicorn", env, threads=16, workers=WORKERS)
        stack.enter_context(site)
        stack.enter_context(celery_worker(env, folder))
        found = Shop(server, site, sender, folder, env)
        wait_for_all(found)
        yield found
        server.start()  # that processes may end in order


def environment(server: Server, folder: Path, *, max_size: int, language: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DBPOOL_")}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "DJANGO_SETTINGS_MODULE": "tests.browser.site.settings",
        SERVER_VARIABLE: server.dsn,
        "DBPOOL_BROWSER_FOLDER": str(folder),
        "DBPOOL_TEST_BROKER": str(folder),
        "DBPOOL_BROWSER_TOKEN_DIGEST": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "DBPOOL_BROWSER_MAX_SIZE": str(max_size),
        "DBPOOL_BROWSER_LANGUAGE": language,
    }


def run(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE
    )
    # 1 is an answer of `dbpool status`: something is wrong.
    assert done.returncode in (0, 1), f"{done.returncode}: {done.stdout[-500:]} {done.stderr[-4000:]}"
    return done.stdout


def manage(env: dict[str, str], *arguments: str) -> str:
    return run(env, "-m", "django", *arguments)


@contextmanager
def celery_worker(env: dict[str, str], folder: Path) -> Iterator[None]:
    """Two prefork children, ready."""
    log = folder / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "tests.browser.site.tasks", "worker", "-P", "prefork"]
    command += ["-c", str(TASKS), "-l", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    with log.open("wb") as output:
        process = start(command, env, stdout=output, stderr=output)
    try:
        ready = wait_until(lambda: b" ready." in log.read_bytes() or process.poll() is not None, 2 * PATIENCE)
        assert ready and process.poll() is None, log.read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        end(process)


def wait_for_all(shop: Shop) -> None:
    """Until each process has worked and published."""

    def published() -> int:
        with shop.observer() as observer:
            (count,) = observer.execute("SELECT count(*) FROM django_dbpool_process").fetchall()[0]
        return int(count)

    with load(shop):
        assert wait_until(lambda: published() == WORKERS + TASKS, 2 * PATIENCE), f"{published()} have published"


@contextmanager
def load(shop: Shop, *, pause: float = 0.05) -> Iterator[None]:
    """Steady: three clients that pause between their requests, and a task now and then."""
    stop = threading.Event()

    def client() -> None:
        while not stop.wait(pause):
            # A connection for each: with keep-alive one worker might get all of them.
            Request(shop, "/items/").join()

    def producer() -> None:
        while not stop.wait(4 * pause):
            shop.tasks.send("shop.tasks.mail")

    threads = [threading.Thread(target=target, daemon=True) for target in (client, client, client, producer)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
