"""The culprits: how each is planted, and what it was."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from testproject.harness.environment import end, start
from testproject.harness.load import HttpClient
from testproject.harness.serving import Site

VISITS = 12
"""To two workers of four connections each: whoever gets more of them refuses the rest."""


@dataclass(frozen=True)
class Scene:
    """Where a culprit is planted; what it starts ends with the stack."""

    site: Site
    env: Mapping[str, str]
    stack: ExitStack


@dataclass(frozen=True)
class Culprit:
    name: str
    plant: Callable[[Scene], None]
    was: str
    """Told when it is over."""


class Payments:
    """A service that takes calls and never answers them."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


def _view(scene: Scene) -> None:
    for pk in range(1, VISITS + 1):
        _visit_and_wait(scene, f"/invoices/{pk}/pay/")


def _visit_and_wait(scene: Scene, path: str) -> None:
    """A visitor who waits for a page that never comes."""
    client = HttpClient(scene.site.host, scene.site.port, timeout=86_400)

    def visit() -> None:
        with contextlib.suppress(Exception), contextlib.closing(client):
            client.get(path)

    threading.Thread(target=visit, daemon=True).start()


def _threads(scene: Scene) -> None:
    for pk in range(1, VISITS + 1):
        # Each on a connection of its own, so that both workers get some.
        with contextlib.closing(HttpClient(scene.site.host, scene.site.port)) as client:
            client.get(f"/prices/{pk}/follow/")


def _stranger(scene: Scene) -> None:
    process = start(
        [sys.executable, "-m", "testproject.culprits.stranger"],
        scene.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    scene.stack.callback(end, process)
    process.stdout.readline()  # type: ignore[union-attr]  # now it holds its locks


_ALL = (
    Culprit(
        "view",
        _view,
        "GET /invoices/<int:pk>/pay/ waits for the answer of another service inside of transaction.atomic()",
    ),
    Culprit(
        "threads",
        _threads,
        "threads that run follow_prices() hold a transaction open and wait for something that never comes",
    ),
    Culprit(
        "stranger",
        _stranger,
        "a script, application name 'nightly-export', has locked the table of reports and sits idle in a transaction",
    ),
)

CULPRITS = {culprit.name: culprit for culprit in _ALL}

NOBODY = Culprit("nobody", lambda scene: None, "nobody")
"""The same site without a culprit."""
