"""
A real site under gunicorn and uvicorn whose pool is exhausted, whose server is frozen, stopped and started again: who
asks how it is has the answer within a second, and the change is seen a second later at most.

Beside it, for comparison, the check of django-health-check that takes a connection of the pool.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

import pytest

from testproject.postgres import EmbeddedServer, Server, free_port
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Task
from tests.settings import SERVER_VARIABLE

pytestmark = pytest.mark.ci

MAX_SIZE = 4
THREADS = 7
"""Of gunicorn: those that hold a connection, the stock check, one that waits in the pool, and one that is free."""

ANSWER = 1.0
"""Seconds for every answer, in every state."""
CHANGE = 2.0
"""Seconds after which a change is seen: those of an answer, and the one for which an answer is good."""
LIVE = 0.05

READY = "/dbpool/health/ready"
ALIVE = "/dbpool/health/live"
PLUGINS = ("/PoolSaturation/", "/PoolConnectivity/", "/CircuitState/")
SERVERS = {
    "gunicorn": ["gunicorn", "-c", "python:testproject.gunicorn_conf", "--threads", str(THREADS), "-b", "{address}"],
    "uvicorn": ["uvicorn", "--factory", "--host", "{host}", "--port", "{port}", "--lifespan", "off"],
}
OBJECTS = {"gunicorn": "tests.fixtures.health_site:wsgi()", "uvicorn": "tests.fixtures.health_site:asgi"}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "30"}) as server:
        yield server


class Site:
    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str) -> tuple[int, float]:
        """Status, and seconds."""
        began = monotonic()
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as link:
            link.request("GET", path, headers={"Connection": "close", "Accept": "application/json"})
            answer = link.getresponse()
            answer.read()
        return answer.status, monotonic() - began

    def timed(self, state: str) -> dict[str, int]:
        """Everything that has to answer at once; the status of each."""
        found = {}
        for path in (READY, *PLUGINS):
            status, took = self.get(path)
            print(f"{state:16} {path:22} {status} {1000 * took:6.0f} ms")
            assert took < ANSWER, (state, path)
            found[path] = status
        return found

    def becomes(self, path: str, status: int, state: str) -> None:
        began = monotonic()
        assert wait_until(lambda: self.get(path)[0] == status, PATIENCE), (state, path)
        took = monotonic() - began
        print(f"{state:16} {path:22} {status} seen after {1000 * took:.0f} ms")
        assert took < CHANGE, (state, path)

    @contextmanager
    def exhausted(self) -> Iterator[Task]:
        """Every connection is lent, and one caller waits: the stock check, whose answer is the task's."""
        holders = [Task(self.get, "/hold/") for _ in range(MAX_SIZE)]
        for _ in holders:
            assert self.get("/held/")[0] == 200
        stock = Task(self.get, "/stock/")
        try:
            assert wait_until(lambda: self.get("/PoolSaturation/")[0] == 500, PATIENCE)
            yield stock
        finally:
            self.get("/release/")
            assert [task.result()[0] for task in holders] == [200] * MAX_SIZE
            stock.result()
            self.get("/again/")


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, server: EmbeddedServer, tmp_path: Path) -> Iterator[Site]:
    port, name = free_port(), request.param
    address = {"host": "127.0.0.1", "port": str(port), "address": f"127.0.0.1:{port}"}
    command = [part.format(**address) for part in SERVERS[name]] + [OBJECTS[name]]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.fixtures.health_settings",
        SERVER_VARIABLE: server.dsn,
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log)
    site = Site(port)
    try:
        assert wait_until(lambda: _answers(site), PATIENCE), (tmp_path / "log").read_text()
        yield site
        process.terminate()
        assert process.wait(PATIENCE) in (0, -15)
    finally:
        process.kill()
        process.wait()


def _answers(site: Site) -> bool:
    try:
        return site.get("/work/")[0] == 200
    except OSError:
        return False


def test_every_state(site: Site, server: EmbeddedServer) -> None:
    assert site.timed("healthy") == dict.fromkeys((READY, *PLUGINS), 200)

    with site.exhausted() as stock:
        found = site.timed("exhausted")
        assert (found[READY], found["/PoolSaturation/"]) == (200, 500)
        assert (found["/PoolConnectivity/"], found["/CircuitState/"]) == (200, 200)
        assert stock.is_alive()
        status, took = stock.result()
        print(f"{'exhausted':16} {'stock Database check':22} {status} {1000 * took:6.0f} ms")
        assert (status, took > 2) == (500, True)
    site.becomes("/PoolSaturation/", 200, "no longer")

    server.freeze()
    try:
        stock = Task(site.get, "/stock/")
        site.becomes(READY, 503, "frozen")
        found = site.timed("frozen")
        assert (found[READY], found["/PoolConnectivity/"]) == (503, 500)
        assert (found["/PoolSaturation/"], found["/CircuitState/"]) == (200, 200)
        assert stock.is_alive(), "it waits as long as the server is frozen"
    finally:
        server.thaw()
    site.becomes(READY, 200, "thawed")
    site.becomes("/PoolConnectivity/", 200, "thawed")
    print(f"{'frozen':16} {'stock Database check':22} {stock.result()[0]} {1000 * stock.result()[1]:6.0f} ms")

    server.stop("immediate")
    try:
        site.becomes(READY, 503, "stopped")
        found = site.timed("stopped")
        assert (found[READY], found["/PoolConnectivity/"]) == (503, 500)
        assert wait_until(lambda: site.get("/work/")[0] == 503 and site.get("/CircuitState/")[0] == 500, PATIENCE)
        assert site.timed("circuit open") == {
            READY: 503,
            "/PoolSaturation/": 200,
            "/PoolConnectivity/": 500,
            "/CircuitState/": 500,
        }
    finally:
        server.start()
    for path in (READY, *PLUGINS):
        site.becomes(path, 200, "started")


@pytest.mark.parametrize("site", ["gunicorn"], indirect=True)
def test_live_with_one_free_thread(site: Site, server: EmbeddedServer) -> None:
    """All others hold a connection or wait for one; then the server freezes as well."""
    with site.exhausted():
        waiting = [Task(site.get, "/work/") for _ in range(THREADS - MAX_SIZE - 2)]
        assert site.get(ALIVE)[0] == 200
        times = sorted(site.get(ALIVE)[1] for _ in range(40))
        print(f"live: median {1000 * times[20]:.1f} ms, slowest {1000 * times[-1]:.1f} ms")
        server.freeze()
        try:
            frozen = sorted(site.get(ALIVE)[1] for _ in range(40))
        finally:
            server.thaw()
        print(f"live, server frozen: median {1000 * frozen[20]:.1f} ms, slowest {1000 * frozen[-1]:.1f} ms")
        # The median, so that a machine with other work to do doesn't decide.
        assert times[20] < LIVE and times[-1] < ANSWER
        assert frozen[20] < LIVE and frozen[-1] < ANSWER
    for task in waiting:
        task.result()
