"""The socket of a process: in which directories it may be."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from django_dbpool.conf import places
from django_dbpool.fleet import socket_server
from django_dbpool.fleet.socket_client import local_processes
from tests.unit.process_socket.clients import AS_ROOT


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
