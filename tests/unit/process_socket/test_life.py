"""The socket of a process: its begin and its end, forks, and what others have left in its place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from django_dbpool.conf import places
from django_dbpool.fleet import socket_server
from django_dbpool.fleet.socket_client import ask_local, local_processes
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child
from tests.unit.process_socket.clients import connected, say


def test_it_can_be_switched_off(path: Path) -> None:
    with override_settings(DBPOOL={"SOCKET": False}):
        socket_server.ensure_running()
        assert socket_server.running() is None
        assert not path.exists()


def test_once_is_enough_and_what_was_tidied_up_comes_back(path: Path) -> None:
    before = path.lstat().st_ino
    socket_server.ensure_running()
    assert path.lstat().st_ino == before
    path.unlink()
    path.parent.rmdir()
    socket_server.ensure_running()
    assert say(path, b'{"verb": "status"}\n')["ok"]


def test_the_end_takes_away_its_own_file_only(path: Path) -> None:
    path.unlink()
    path.write_text("another's")
    socket_server.stop()
    assert path.read_text() == "another's"
    path.unlink()


def test_a_socket_of_a_process_that_is_gone_is_removed(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = path.parent / f"{int(done.stdout)}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    other = path.parent / "999999998.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
    socket_server.stop()
    socket_server.ensure_running()
    assert not left.exists() and not other.exists(), "by the next process"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    (path.parent / "1.txt").write_text("")
    (path.parent / "0.sock").write_text("")
    assert [answer.pid for answer in local_processes().answers] == [os.getpid()]
    assert not left.exists()


def test_a_process_of_another_container_is_left_alone(path: Path) -> None:
    """Its number means nothing here, but it listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.parent / "999999999.sock"))
        listener.listen()
        socket_server.stop()
        socket_server.ensure_running()
        assert (path.parent / "999999999.sock").exists()


def test_a_process_that_lives_and_does_not_listen_is_told(path: Path) -> None:
    other = path.parent / f"{os.getppid()}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
    found = {answer.pid: answer for answer in local_processes().answers}
    assert found[os.getppid()].error == "no connection"
    assert other.exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own(path: Path) -> None:
    def child() -> Any:
        inherited = socket_server.running()
        socket_server.ensure_running()
        own = socket_server.running()
        assert own is not None and own != path
        pids = sorted(answer.pid for answer in local_processes().answers if answer.ok)
        socket_server.stop()
        return inherited, pids, path.exists(), own.exists()

    made = Child(child)
    inherited, pids, parents, own = made.result()
    assert (inherited, pids, parents, own) == (None, sorted([os.getpid(), made.pid]), True, False)
    assert say(path, b'{"verb": "status"}\n')["ok"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_no_child_keeps_a_client_or_the_socket_of_its_parent(path: Path) -> None:
    """A forked child lives on: the parent's clients see the end of their connection, and nobody waits in its queue."""
    read, write = os.pipe()
    with connected(path) as client:
        server = socket_server._server
        assert server is not None and wait_until(lambda: len(server._clients) == 1, PATIENCE)
        descriptors = [server._listener.fileno(), *(each.connection.fileno() for each in server._clients)]

        def live_on() -> list[int]:
            open_ones = []
            for descriptor in descriptors:
                with suppress(OSError):
                    os.fstat(descriptor)
                    open_ones.append(descriptor)
            os.read(read, 1)
            return open_ones

        child = Child(live_on)
        client.sendall(b'{"verb": "status"}\n')
        assert client.makefile("rb").read().endswith(b"\n"), "the end comes though the child has lived through it"
    socket_server.stop()
    with pytest.raises(OSError), connected(path):
        pass
    os.write(write, b"x")
    assert child.result() == []
    os.close(read)
    os.close(write)


ENDING = """
import os, sys, threading, time
import django
from django.conf import settings
settings.configure(SECRET_KEY="x", DBPOOL={"SOCKET": sys.argv[1]}, INSTALLED_APPS=["django_dbpool"])
django.setup()
from django_dbpool.fleet import socket_server
socket_server.ensure_running()
print(socket_server.running(), flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
if sys.argv[2] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("way", "code"), [("end", 0), ("raise", 3)])
def test_the_end_of_a_program(base: Path, way: str, code: int) -> None:
    """The file goes with it, and the thread that waits for clients keeps nobody from ending."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", ENDING, str(base), way],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(str(base))
    assert not Path(done.stdout.strip()).exists()


def test_a_program_that_is_killed_leaves_nothing_that_stays(base: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ENDING, str(base), "wait"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().decode().strip())
        # Both are configured without a database.
        (sibling,) = path.parent.parent.iterdir()
        assert sibling == path.parent
        process.kill()
    assert path.exists()
    path.parent.rename(base / places.project_digest())
    assert local_processes().answers == ()
    assert list((base / places.project_digest()).iterdir()) == []


def test_without_a_directory_for_temporary_files(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a container whose files are all read-only."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with override_settings(DBPOOL={}):
        monkeypatch.setattr(places, "_is_private", lambda directory: False)
        found = ask_local("status")
        assert not found.answers
        assert "there is no directory for temporary files" in found.refused[0]
        socket_server.ensure_running()
        assert socket_server.running() is None
    assert 'name one in DBPOOL["SOCKET"], or write False' in caplog.text
