"""Clients of a process's socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.helpers import PATIENCE

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        yield client


def say(path: Path, line: bytes) -> dict[str, Any]:
    with connected(path) as client:
        with suppress(BrokenPipeError):  # where it was answered unasked
            client.sendall(line)
        return json.loads(client.makefile("rb").readline())
