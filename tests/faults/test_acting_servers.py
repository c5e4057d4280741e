"""Two workers of gunicorn: what one of them is told about a lease of the other takes effect there, soon."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from django.db import connections

from testproject.postgres import Server
from testproject.processes import wait_until
from tests.faults.acting_site import BUSY_HERE
from tests.faults.helpers import PATIENCE, Task
from tests.faults.others import ended_in_order
from tests.settings import SERVER_VARIABLE

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

SOON = 6.0
"""Seconds in which an action has to take effect."""


class Site:
    """Two processes that publish every five seconds, as by default."""

    def __init__(self, url: str, place: Path) -> None:
        self._url = url
        self._place = place
        self._numbers = iter(range(1000))

    def get(self, path: str, **query: str) -> str:
        url = f"{self._url}/{path}/?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=2 * PATIENCE) as response:
            return str(response.read().decode())

    def work(self, seconds: float) -> tuple[Task, dict[str, Any]]:
        """One of them begins a long statement; its request, and the lease."""
        name = f"lease-{next(self._numbers)}"
        task = Task(lambda: self.get("work", name=name, seconds=str(seconds)))
        assert wait_until((self._place / name).exists, PATIENCE)
        return task, json.loads((self._place / name).read_text())

    def act(self, verb: str, target: dict[str, Any]) -> dict[str, Any]:
        """By the one that doesn't have this lease."""
        found: dict[str, Any] = {}

        def asked() -> bool:
            try:
                found.update(json.loads(self.get("act", verb=verb, target=json.dumps(target))))
            except urllib.error.HTTPError as error:
                if error.code != BUSY_HERE:
                    raise
            return bool(found)

        assert wait_until(asked, PATIENCE)
        assert found["by"] != target["instance"]
        return found


@contextmanager
def serving(server: Server, place: Path, *, sockets: bool) -> Iterator[Site]:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.faults.acting_settings",
        "DBPOOL_TEST_NAME": str(connections["default"].settings_dict["NAME"]),
        "DBPOOL_TEST_SOCKETS": str(place) if sockets else "",
        "DBPOOL_TEST_INTERVAL": "5",
        "DBPOOL_TEST_PLACE": str(place),
        SERVER_VARIABLE: server.dsn,
    }
    workers = ["-w", "2", "-k", "gthread", "--threads", "4", "--keep-alive", "0", "--timeout", "60"]
    log = place / "log"
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *workers, "-b", f"fd://{listener.fileno()}", "tests.faults.acting_site"],
            env=environment,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
        site = Site(f"http://127.0.0.1:{listener.getsockname()[1]}", place)
    with ended_in_order(process):
        seen: set[str] = set()

        def both() -> bool:
            seen.add(site.get("who"))
            return len(seen) == 2

        assert wait_until(both, PATIENCE), log.read_text()
        yield site
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.mark.parametrize(("way", "times"), [("socket", 2), ("signed command", 3)])
def test_an_action_of_one_worker_on_a_lease_of_the_other(
    session_server: Server, tmp_path_factory: pytest.TempPathFactory, way: str, times: int
) -> None:
    """At whatever moment between two of its snapshots; on one that is over, nothing."""
    with serving(session_server, tmp_path_factory.mktemp("a"), sockets=way == "socket") as site:
        for number in range(times):
            verb, ended = [("cancel", "OperationalError 57014"), ("terminate", "ConnectionLost")][number % 2]
            task, target = site.work(600)
            began = monotonic()
            acted = site.act(verb, target)
            assert str(task.result()).startswith(ended)
            taken = monotonic() - began
            print(f"{verb} by {way}: {taken:.2f} s")
            assert (acted["outcome"], acted["way"]) == ("done", way), acted
            assert taken < SOON
            assert site.act(verb, target)["outcome"] == "already over"
        on_one_that_is_over(site, way)


def on_one_that_is_over(site: Site, way: str) -> None:
    """The same connection has been lent to somebody else since, who is not disturbed."""
    earlier: dict[tuple[str, int], dict[str, Any]] = {}
    for number in itertools.count():
        task, target = site.work(0 if number < 4 else 2)
        connection = target["instance"], target["backend_pid"]
        if connection in earlier and number >= 4:
            break
        assert task.result() == "well"
        earlier[connection] = target
    assert earlier[connection]["generation"] < target["generation"]
    acted = site.act("terminate", earlier[connection])
    assert (acted["outcome"], acted["way"]) == ("already over", way), acted
    assert task.result() == "well"
