"""Other processes of the project, which hold connections and are told what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import connections

from django_dbpool.fleet import processes
from testproject.postgres import Server
from tests.faults.helpers import PATIENCE
from tests.settings import SERVER_VARIABLE


class Other:
    """Another process of the project."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.identity = self.said()
        self.instance: str = self.identity["instance"]
        self.pid = process.pid

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def end(self) -> None:
        """In order."""
        self.thaw()
        self._process.communicate(timeout=PATIENCE)

    def said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def lease(self, kind: str) -> dict[str, Any]:
        """Have it hold a connection; the lease."""
        self._tell(kind)
        said = self.said()
        return {name: said[name] for name in ("alias", "backend_pid", "generation")}

    def go_on(self) -> dict[str, Any]:
        """Have who is idle in a transaction go on; how it ended."""
        self._tell("go")
        return self.said()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


@contextmanager
def other(server: Server, sockets: Path, **environment: str) -> Iterator[Other]:
    """One, in the test's database, which publishes twice a second unless the environment says otherwise."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.faults.acting_program"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.faults.acting_settings",
            "DBPOOL_TEST_NAME": str(connections["default"].settings_dict["NAME"]),
            "DBPOOL_TEST_SOCKETS": str(sockets),
            SERVER_VARIABLE: server.dsn,
            **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started = Other(process)
    try:
        yield started
    finally:
        started.end()


@contextmanager
def ended_in_order(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """At the end of the block; a server whose requests hang is not waited for."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def reachable(sockets: Path, other: Other) -> bool:
    return any(path.name == f"{other.pid}.sock" for path in sockets.glob("*/*"))


def published(other: Other) -> bool:
    return any(each.identity.instance == other.instance for each in processes())
