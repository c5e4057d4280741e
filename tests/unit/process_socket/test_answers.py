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
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_dbpool.conf import places
from django_dbpool.fleet import protocol, socket_server, verbs
from django_dbpool.fleet.socket_client import ask_local, local_processes
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE
from tests.unit.process_socket.clients import AS_ROOT, connected, say


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


@settings(max_examples=200)
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
