"""The socket of a process: who may ask, what is answered, and whom a bad client keeps waiting. No database is used."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from django_dbpool.conf import places
from django_dbpool.fleet import protocol, socket_server, verbs
from django_dbpool.fleet.socket_client import ask_local, local_processes
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


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


# -- asked and answered -----------------------------------------------------------------------------------------------


def test_status_over_the_wire(path: Path) -> None:
    said = say(path, b'{"verb": "status"}\n')
    assert (said["ok"], said["result"]["pid"]) == (True, os.getpid())
    (answer,) = local_processes().answers
    assert answer.ok and (answer.pid, answer.path, answer.result["pid"]) == (os.getpid(), path, os.getpid())
    assert isinstance(answer.result["pools"], list)
    assert json.loads(json.dumps(answer.to_json()))["result"] == answer.result


def test_only_the_user_can_come_near_it(path: Path) -> None:
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o700
    assert path.parent.name == places.project_digest()
    assert [each.name for each in path.parent.iterdir()] == [f"{os.getpid()}.sock"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\n", "bad request"),
        (b"[]\n", "bad request"),
        (b"[" * 3000 + b"\n", "bad request"),
        (b'{"verb": NaN}\n', "bad request"),
        (b"\xff\n", "bad request"),
        (b"1" * 4000 + b"\n", "bad request"),
        (b"{}\n", "unknown verb"),
        (b'{"verb": ["status"]}\n', "unknown verb"),
        (b'{"verb": "__init__"}\n', "unknown verb"),
        (b'{"verb": "status", "x": 1}\n', "bad arguments"),
        (b'{"verb": "holders", "stacks": "yes"}\n', "bad arguments"),
        (b'{"verb": "drain", "alias": 7}\n', "bad arguments"),
        (b'{"verb": "drain", "alias": "' + b"a" * 300 + b'"}\n', "bad arguments"),
        (b'{"verb": "cancel"}\n', "bad arguments"),
        (b'{"verb": "cancel", "alias": "x", "backend_pid": true, "generation": 1}\n', "bad arguments"),
        (b'{"verb": "status"}', "bad request"),
        (b"x" * 5000, "bad request"),
    ],
)
def test_what_is_no_request_is_refused_in_words(path: Path, line: bytes, error: str) -> None:
    with connected(path) as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        answer = json.loads(client.makefile("rb").readline())
    assert (answer["ok"], answer["error"]) == (False, error)
    assert answer["message"].isprintable()


@pytest.mark.parametrize("line", [b"[" * 200_000, b'{"a":' * 200_000, b'{"a": -Infinity}', b"\xed\xa0\x80"])
def test_what_json_cannot_read(line: bytes) -> None:
    with pytest.raises(protocol.BadLine):
        protocol.decode(line)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer_or_none(line: bytes) -> None:
    try:
        request = protocol.decode(line)
    except protocol.BadLine:
        return
    assert json.loads(socket_server.answer_to(request, 0))["ok"] in (True, False)


def test_errors_inside_stay_inside(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def fail() -> dict[str, Any]:
        raise ValueError("password=hunter2")

    monkeypatch.setattr(verbs, "snapshot_provider", fail)
    answer = say(path, b'{"verb": "status"}\n')
    assert (answer["error"], "ValueError" in answer["message"]) == ("failed", True)
    assert "hunter2" not in str(answer)
    assert "hunter2" in caplog.text


def test_an_answer_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "snapshot_provider", lambda: {"x": "y" * protocol.LONGEST_ANSWER})
    assert say(path, b'{"verb": "status"}\n')["error"] == "too long"


def test_what_changes_something_is_logged_in_one_line(path: Path, caplog: Any) -> None:
    assert ask_local("drain", alias="x\nERROR forged").answers[0].result == {"drained": {}}
    ask_local("holders")
    lines = [record.getMessage() for record in caplog.records if record.name == "django_dbpool.commands"]
    assert len(lines) == 1
    assert lines[0].startswith("drain {'alias': 'x\\nERROR forged'}, asked for by user ")
    assert lines[0].isprintable()


def test_a_lease_that_is_over_is_no_target(path: Path) -> None:
    lease = {"alias": "default", "backend_pid": 2**31 - 1, "generation": 1}
    for more in ({}, {"instance": "0" * 16}, {"backend_start": 1.5, "xact_start": None}):
        for verb in ("cancel", "terminate"):
            (answer,) = ask_local(verb, **lease, **more).answers  # type: ignore[arg-type]
            assert answer.result == {"outcome": "already over"}
    (answer,) = ask_local("cancel", **lease, backend_start="now").answers  # type: ignore[arg-type]
    assert answer.error == "bad arguments"


def test_stacks_have_no_source_in_them(path: Path) -> None:
    frame = sys._getframe(); secret = "hunter2"  # noqa: E702  # fmt: skip
    found = verbs.calls(frame)
    assert found[-1].endswith("in test_stacks_have_no_source_in_them") and secret
    assert "hunter2" not in str(found)


# -- bad clients ------------------------------------------------------------------------------------------------------


def test_silent_clients_keep_nobody_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many more than are served at one time, with all the time in the world; the first to come have to go."""
    monkeypatch.setattr(socket_server, "READ_TIMEOUT", PATIENCE)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(6 * socket_server.MOST_CLIENTS)]
    try:
        for client in silent:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            with suppress(BrokenPipeError):
                client.sendall(b'{"verb"')
        for _ in range(3):
            assert ask_local("status").answers[0].ok
        with suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""
        server = socket_server._server
        assert server is not None and wait_until(lambda: len(server._clients) <= socket_server.MOST_CLIENTS, PATIENCE)
    finally:
        for client in silent:
            client.close()


def test_one_byte_at_a_time_gains_no_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_server, "READ_TIMEOUT", 0.3)
    stop = time.monotonic() + PATIENCE
    with connected(path) as client:
        with pytest.raises(OSError):
            while time.monotonic() < stop:
                client.sendall(b" ")
                time.sleep(0.02)
        assert time.monotonic() < stop


def test_who_does_not_read_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_server, "WRITE_TIMEOUT", 0.2)
    monkeypatch.setattr(verbs, "snapshot_provider", lambda: {"x": "y" * 2_000_000})
    with connected(path) as client:
        client.sendall(b'{"verb": "status"}\n')
        server = socket_server._server
        assert server is not None
        assert wait_until(lambda: not server._clients, PATIENCE)


def test_busy_clients_are_not_broken_off_and_one_more_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, at_work = threading.Event(), threading.Semaphore(0)

    def wait() -> dict[str, Any]:
        at_work.release()
        assert go.wait(PATIENCE)
        return {"waited": True}

    monkeypatch.setattr(verbs, "snapshot_provider", wait)
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(say(path, b'{"verb": "status"}\n')))
        for _ in range(socket_server.MOST_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert at_work.acquire(timeout=PATIENCE)
    assert say(path, b"")["error"] == "busy"
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [answer["result"] for answer in answers] == [{"waited": True}] * socket_server.MOST_CLIENTS


def test_another_user_is_not_answered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "peer_uid", lambda _: os.geteuid() + 1)
    with connected(path) as client, suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(b'{"verb": "status"}\n')
        assert client.recv(100) == b""


@AS_ROOT
def test_the_system_tells_who_asks() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert protocol.peer_uid(left) == os.geteuid()
    with tempfile.TemporaryDirectory(prefix="dbp") as directory, socket.socket(socket.AF_UNIX) as listener:
        Path(directory).chmod(0o755)
        listener.bind(f"{directory}/s")
        Path(f"{directory}/s").chmod(0o666)
        listener.listen()
        program = f"import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect('{directory}/s')"
        process = subprocess.Popen([sys.executable, "-c", program])
        connection, _ = listener.accept()
        with connection:
            assert protocol.peer_uid(connection) == 65534
        assert process.wait(PATIENCE) == 0


# -- places -----------------------------------------------------------------------------------------------------------


def refusal(base: Path, *, given: bool = True) -> str:
    with pytest.raises(places.NoPlace) as caught:
        places.make_directory(base, given=given)
    return str(caught.value)


def test_a_directory_open_to_others_is_refused(base: Path) -> None:
    (base / places.project_digest()).mkdir(0o755)
    assert "is open to others (mode 0755)" in refusal(base)
    assert "is open to others" in ask_refused()


def ask_refused() -> str:
    found = local_processes()
    assert found.answers == ()
    return found.refused[0]


def test_a_symbolic_link_is_refused(base: Path) -> None:
    (base / "mine").mkdir(0o700)
    (base / places.project_digest()).symlink_to(base / "mine")
    assert "is no directory of ours" in refusal(base)
    assert "is no directory of ours" in ask_refused()


def test_a_file_in_its_place_is_refused(base: Path) -> None:
    (base / places.project_digest()).write_text("")
    assert "is no directory of ours" in refusal(base)


@AS_ROOT
def test_another_users_directory_is_refused(base: Path) -> None:
    directory = base / places.project_digest()
    directory.mkdir(0o700)
    os.chown(directory, 65534, 65534)
    assert "belongs to another user (uid 65534)" in refusal(base)
    assert "belongs to another user" in ask_refused()
    os.chown(directory, 0, 0)
    os.chown(base, 65534, 65534)
    assert f"{str(base)!r} belongs to another user" in refusal(base)


def test_a_parent_that_others_may_write_to_is_refused(base: Path) -> None:
    base.chmod(0o777)
    assert "can be written to by others (mode 0777)" in refusal(base)
    base.chmod(0o1777)  # as /tmp
    assert places.make_directory(base, given=True).parent == base


def test_the_default_in_a_hostile_tmp(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody was first: with an open directory, with a link to one of ours."""
    base.chmod(0o1777)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(base))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    default = places.base_of_server(True)
    assert default == base / f"django_dbpool-{os.geteuid()}"
    default.mkdir(0o777)
    default.chmod(0o777)
    assert "is open to others" in refusal(default, given=False)
    default.rmdir()
    (base / "mine").mkdir(0o700)
    default.symlink_to(base / "mine")
    assert "is no directory of ours" in refusal(default, given=False)
    default.unlink()
    directory = places.make_directory(default, given=False)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (directory, default)] == [0o700, 0o700]


def test_the_runtime_directory_is_used_if_it_is_what_it_should_be(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    assert places.base_of_server(True) == base / "django_dbpool"
    assert places.bases_of_client(True)[0] == base / "django_dbpool"
    assert len(places.bases_of_client(True)) >= 2, "a service may have been started without the variable"
    base.chmod(0o755)
    assert base not in places.base_of_server(True).parents
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert places.base_of_server(True).is_absolute()


@pytest.mark.parametrize("name", ["x" * 100, "é" * 50])
def test_a_path_that_no_address_holds(name: str) -> None:
    assert "is too long a path" in refusal(Path(f"/tmp/{name}"))


def test_the_longest_path_that_an_address_holds(base: Path) -> None:
    room = places.LONGEST_PATH - places.LONGEST_NAME - len(f"{base}//{places.project_digest()}")
    deep = base / ("x" * room)
    deep.mkdir(0o700)
    directory = places.make_directory(deep, given=True)
    server = socket_server.SocketServer(directory)
    server.start()
    server.stop()
    assert "is too long" in refusal(base / ("x" * (room + 1)))


def test_no_place_is_told_once_and_harms_nobody(base: Path, caplog: Any) -> None:
    base.chmod(0o777)
    for _ in range(3):
        socket_server.ensure_running()
    assert socket_server.running() is None
    (record,) = [record for record in caplog.records if record.name == "django_dbpool.commands"]
    assert "can be written to by others" in record.getMessage()


# -- a life -----------------------------------------------------------------------------------------------------------


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


@contextmanager
def impostor(path: Path, answer: bytes) -> Iterator[None]:
    """Something at the place of a process, that says this to each client."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(PATIENCE)
                    connection.recv(100)
                    with suppress(OSError):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
    path.unlink()


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (b"", "bad answer", "hung up"),
        (b"[1]\n", "bad answer", "hung up"),
        (b"y" * (protocol.LONGEST_ANSWER + 2), "bad answer", "hung up"),
        (b'{"ok": "yes"}\n', "failed", ""),
        (b'{"ok": false, "error": "a\\u001b[2J", "message": "b\\nc"}\n', "a\\x1b[2J", "b\\nc"),
        (b'{"ok": false, "error": {"a": 1}, "message": 7}\n', "{'a': 1}", "7"),
    ],
)
def test_answers_that_nobody_understands(base: Path, said: bytes, error: str, message: str) -> None:
    directory = places.make_directory(base, given=True)
    with impostor(directory / "77.sock", said):
        (answer,) = local_processes().answers
    assert (answer.pid, answer.ok, answer.error) == (77, False, error)
    assert message in answer.message


def test_a_process_that_is_stopped(base: Path) -> None:
    directory = places.make_directory(base, given=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "77.sock"))
        listener.listen()
        (answer,) = local_processes(timeout=0.2).answers
    assert (answer.error, answer.message) == ("no answer", "It did not answer within 0.2 s.")


def test_the_servers_user_is_looked_at_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uid(connection: socket.socket) -> int:
        asks = threading.current_thread().name.startswith("dbpool-ask")
        return os.geteuid() + asks

    monkeypatch.setattr(protocol, "peer_uid", uid)
    (answer,) = local_processes().answers
    assert (answer.error, answer.message) == ("not trusted", "The socket is another user's.")


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
