"""The command lines of docs/roll-out.md, each started once with the pool off and once on, under load."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from testproject.databases import APPLICATION_NAME
from testproject.harness.environment import end, environment, manage, start
from testproject.harness.load import HttpClient
from testproject.postgres import EmbeddedServer, free_port
from testproject.processes import wait_until
from tests.fixtures.celery_app import Sender
from tests.settings import SERVER_VARIABLE

pytestmark = pytest.mark.ci

PAGE = (Path(__file__).resolve().parents[2] / "docs/roll-out.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
WEB = [command for command in COMMANDS if command[0] in {"gunicorn", "uvicorn"}]
CELERY = [command for command in COMMANDS if command[0] == "celery"]
POOLS: dict[str, dict[str, Any]] = {"off": {"enabled": False}, "on": {"max_size": 1, "timeout": 30}}
CLIENTS, REQUESTS = 8, 5


def test_the_page_has_commands() -> None:
    assert (len(WEB), len(CELERY)) == (4, 2)
    assert len(COMMANDS) == 6


@pytest.fixture(scope="module")
def seeded(server: EmbeddedServer) -> EmbeddedServer:
    env = environment(server, "dbpool", {"max_size": 2})
    manage(env, "migrate", "--verbosity", "0")
    manage(env, "seed_reports")
    return server


def workers(command: list[str]) -> int:
    return int(command[command.index("--workers") + 1])


@contextmanager
def serve(command: list[str], env: dict[str, str], log: Path) -> Iterator[int]:
    port = free_port()
    address = ["--bind", f"127.0.0.1:{port}"] if command[0] == "gunicorn" else ["--port", str(port)]
    arguments = [word.replace("shop.", "testproject.") for word in command[1:]]
    with log.open("wb") as output:
        process = start([sys.executable, "-m", command[0], *arguments, *address], env, stdout=output, stderr=output)
        try:
            yield port
            process.terminate()
            assert process.wait(30) == 0, log.read_text()
        finally:
            end(process)


def answers(port: int) -> bool:
    try:
        with closing(HttpClient("127.0.0.1", port, timeout=5)) as client:
            return client.get("/alive/").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("switch", POOLS)
@pytest.mark.parametrize("command", WEB, ids=" ".join)
def test_web_servers(seeded: EmbeddedServer, tmp_path: Path, command: list[str], switch: str) -> None:
    """Every request is answered; with the pool there are never more connections than processes x max_size."""
    env = environment(seeded, "dbpool", POOLS[switch], DBPOOL_DEMO_WAIT="0.02")
    env["GUNICORN_CMD_ARGS"] = "--no-control-socket"
    seen = []

    def ask(port: int) -> list[Any]:
        rows = []
        for _ in range(REQUESTS):
            with closing(HttpClient("127.0.0.1", port, timeout=60)) as client:
                answer = client.get("/reports/fixed/", Accept="application/json")
                assert answer.status == 200, answer.body
                rows.append(json.loads(answer.body)["rows"])
        return rows

    with serve(command, env, tmp_path / "log") as port, seeded.connect(autocommit=True) as observer:
        assert wait_until(lambda: answers(port), 60), (tmp_path / "log").read_text()
        with ThreadPoolExecutor(CLIENTS) as clients:
            futures = [clients.submit(ask, port) for _ in range(CLIENTS)]
            while not all(future.done() for future in futures):
                count = observer.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [APPLICATION_NAME]
                ).fetchone()
                assert count is not None
                seen.append(int(count[0]))
            pages = [page for future in futures for page in future.result()]
    assert len(pages) == CLIENTS * REQUESTS
    assert all(page == pages[0] for page in pages)
    if switch == "on":
        assert 0 < max(seen) <= workers(command)


@pytest.mark.parametrize("command", CELERY, ids=" ".join)
def test_celery(seeded: EmbeddedServer, tmp_path: Path, command: list[str]) -> None:
    """Tasks are answered, hold nothing afterwards, and use no more connections than their processes may."""
    client = Sender(tmp_path)
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.fixtures.celery_settings",
        "DBPOOL_TEST_BROKER": str(tmp_path),
        SERVER_VARIABLE: seeded.dsn,
    }
    arguments = ["tests.fixtures.celery_app" if word == "shop" else word for word in command[1:]]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *arguments, "--loglevel", "INFO"], env=env, stdout=output, stderr=output
        )
    try:
        assert wait_until(lambda: b" ready." in log.read_bytes(), 60), log.read_text()
        sent = [client.send("backend") for _ in range(40)]
        results = [task.get(timeout=60) for task in sent]
    finally:
        process.terminate()
        process.wait(60)
    processes = {result["process"] for result in results}
    assert len({result["backend"] for result in results}) <= 2 * len(processes)
    assert len(processes) <= (1 if "threads" in command else 16)
    if "threads" not in command:  # else another thread's task may be at it
        assert {result["in_use"] for result in results} == {0}
