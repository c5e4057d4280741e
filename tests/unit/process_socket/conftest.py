"""The socket of this process, in a directory of its own."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from django_dbpool.fleet import socket_server
from testproject.processes import wait_until


@pytest.fixture
def base() -> Iterator[Path]:
    """A short path, which pytest's own directories are not; for DBPOOL["SOCKET"]."""
    with tempfile.TemporaryDirectory(prefix="dbp") as directory, override_settings(DBPOOL={"SOCKET": directory}):
        yield Path(directory)


@pytest.fixture
def path(base: Path) -> Iterator[Path]:
    """This process's own, open."""
    socket_server.ensure_running()
    running = socket_server.running()
    assert running is not None
    yield running
    socket_server.stop()
    names = [thread.name for thread in threading.enumerate()]
    assert wait_until(lambda: not any(t.name.startswith("dbpool-socket") for t in threading.enumerate()), 5), names
