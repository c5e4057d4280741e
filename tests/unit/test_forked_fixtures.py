"""A forked child that lives on has the pipes of its parent too: no fixture may wait until such a pipe has ended."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from testproject.postgres import EmbeddedServer, Server
from tests.faults import helpers
from tests.faults.helpers import PATIENCE, Child, Task
from tests.fixtures import measured_forks
from tests.fixtures.proxy import Proxy
from tests.fixtures.watchdog import Watchdog


@contextmanager
def child_that_stays() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for a fork beside threads
        pid = os.fork()
    if pid == 0:
        time.sleep(4 * PATIENCE)
        os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def remove_server() -> Callable[[], None]:
    server = Server.embedded()
    assert isinstance(server, EmbeddedServer)
    server._create()  # with its watchdog; it has not to run
    return server.remove


def stop_proxy() -> Callable[[], None]:
    proxy = Proxy("127.0.0.1", 9)
    proxy.start()
    return proxy.stop


def dismiss_watchdog() -> Callable[[], None]:
    return Watchdog().dismiss


@pytest.mark.parametrize("begin", [remove_server, stop_proxy, dismiss_watchdog])
def test_nobody_waits_for_it(begin: Callable[[], Callable[[], None]]) -> None:
    end = begin()
    with child_that_stays():
        Task(end).result()


def test_an_answer_is_whole_when_its_child_has_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a child of that child keeps the pipe open."""
    monkeypatch.setattr(helpers, "PATIENCE", 5.0)  # all of which is waited; a fork of a large process takes a second

    def body() -> int:
        grandchild = os.fork()
        if grandchild == 0:
            time.sleep(4 * PATIENCE)
            os._exit(0)
        return grandchild

    grandchild = Child(body).result()
    os.kill(grandchild, signal.SIGKILL)


def test_coverage_forks_with_its_lock_free() -> None:
    """Though another thread has just taken it."""
    collectors = measured_forks._collectors()
    if not collectors:
        pytest.skip("nothing is measured")
    lock, taken = collectors[-1].data_lock, threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            time.sleep(0.2)  # into the fork

    holder = Task(hold)
    taken.wait(PATIENCE)
    assert Child(lambda: lock.acquire(timeout=1)).result() is True
    holder.result()


def hang() -> None:
    time.sleep(4 * PATIENCE)


def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(helpers, "PATIENCE", 5.0)
    child = Child(hang)
    with pytest.raises(AssertionError, match="without an answer"):
        child.result()
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, 0)
    assert "in hang" in capfd.readouterr().err
