"""`manage.py dbpool drain`, from its command line; and what a process's socket says while its database says nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.management import ManagementUtility
from django.db import OperationalError, connections
from django.test import override_settings

from django_dbpool.errors import PoolExhausted
from django_dbpool.fleet import socket_server
from django_dbpool.fleet.socket_client import ask_local, local_processes
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.command_line import Run, run_dbpool
from tests.fixtures.pools import alive, backend, execute, hold
from tests.fixtures.workers import PATIENCE, Worker

# `status` asks the servers of all pools that other tests have left.
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dbp") as directory, override_settings(DBPOOL={"SOCKET": directory}):
        yield Path(directory)


@pytest.fixture
def listening(base: Path) -> Iterator[None]:
    """This process has its socket."""
    socket_server.ensure_running()
    yield
    socket_server.stop()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(run_dbpool, capsys, "drain", "--no-color")


def test_connections_are_replaced(listening: None, run: Run, make_pool: Any, observer: Any) -> None:
    one, two = make_pool(), make_pool()
    before = backend(one), backend(two)
    code, out, err = run("--yes", "--using", one)
    assert (code, out, err) == (0, f"process {os.getpid()}: drained {one} (1)\n", "")
    assert wait_until(lambda: not alive(observer, before[0]), PATIENCE)
    assert backend(one) != before[0]
    assert backend(two) == before[1]


def test_a_lease_is_not_broken_off(listening: None, run: Run, make_pool: Any, worker: Worker, observer: Any) -> None:
    alias = make_pool()
    held = worker(hold, alias)
    assert run("--yes")[0] == 0
    assert worker(backend, alias) == held
    worker(connections.close_all)
    assert wait_until(lambda: not alive(observer, held), PATIENCE)


def test_it_asks(listening: None, run: Run, make_pool: Any, observer: Any) -> None:
    alias = make_pool()
    pid = backend(alias)
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err == f"This would replace all connections of processes {os.getpid()}. Say --yes.\n"
    for answer in ("n\n", "\n", "", "yesterday\n"):
        code, out, err = run("--using", alias, answer=answer)
        assert (code, err) == (2, "")
    assert out == f"Replace the connections of database {alias!r} of processes {os.getpid()}? [y/N] "
    assert alive(observer, pid)
    assert run("--using", alias, answer="y\n")[0] == 0
    assert wait_until(lambda: not alive(observer, pid), PATIENCE)


def test_nobody_there(base: Path, run: Run) -> None:
    code, out, err = run("--yes")
    assert (code, out) == (1, "")
    assert err.startswith("No process of this project answers on this host.")
    base.chmod(0o755)
    code, _, err = run("--yes", "--using", "nowhere")
    assert code == 2
    assert "argument --using: no database of this engine is called 'nowhere'; there are: " in err


def test_one_that_does_not_answer(base: Path, run: Run, listening: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from django_dbpool.fleet import verbs

    def fail(alias: str | None = None) -> None:
        raise RuntimeError("password=hunter2")

    broken = verbs.Verb(fail, verbs.VERBS["drain"].arguments, changes=True)
    monkeypatch.setattr(verbs, "VERBS", {**verbs.VERBS, "drain": broken})
    code, out, err = run("--yes")
    assert code == 1
    assert out.startswith(f"process {os.getpid()}: failed: RuntimeError; see the log of process")
    assert "hunter2" not in out + err
    assert run("--yes", "--pid", "999999999")[0] == 1


def test_status_names_the_holders_while_the_pool_is_exhausted(
    listening: None, make_pool: Any, worker: Worker, make_worker: Any
) -> None:
    """Nothing here takes a connection: neither the server of the socket nor its client."""
    alias = make_pool(POOL={"timeout": 0.1, "retry": False, "breaker": False})
    pid = worker(hold, alias)
    with pytest.raises(PoolExhausted):
        execute(alias, "SELECT 1")
    (answer,) = local_processes().answers
    (pool,) = [each for each in answer.result["pools"] if each["alias"] == alias]
    assert (pool["in_use"], pool["max_size"]) == (1, 1)
    assert [each["backend_pid"] for each in answer.result["holders"] if each["alias"] == alias] == [pid]
    (answer,) = ask_local("holders", stacks=True).answers
    (holder,) = [each for each in answer.result["holders"] if each["alias"] == alias]
    assert any("in _worker" in call or "_WorkItem" in call or "worker" in call for call in holder["stack"])


def test_one_lease_is_cancelled_as_its_holder_names_it(listening: None, make_pool: Any, worker: Worker) -> None:
    alias = make_pool(POOL={"max_size": 1})
    running = worker.start(execute, alias, "SELECT pg_sleep(60)")

    def holders() -> list[dict[str, Any]]:
        (answer,) = ask_local("holders").answers
        return [each for each in answer.result["holders"] if each["alias"] == alias and each["state"] == "running"]

    assert wait_until(lambda: len(holders()) == 1, PATIENCE)
    target = {name: holders()[0][name] for name in ("alias", "backend_pid", "generation")}
    assert ask_local("cancel", **target).answers[0].result == {"outcome": "done"}
    with pytest.raises(OperationalError, match="canceling statement"):
        running.result(PATIENCE)
    assert ask_local("cancel", **target).answers[0].result == {"outcome": "already over"}


def test_all_is_answered_while_the_server_is_frozen(
    listening: None, server: EmbeddedServer, make_alias: MakeAlias, make_worker: Any
) -> None:
    """Every thread hangs in a statement of a server that says nothing."""
    alias = make_alias(server=server, POOL={"min_size": 0, "max_size": 2, "retry": False, "breaker": False})
    workers = [make_worker(), make_worker()]
    held = [worker(hold, alias) for worker in workers]
    server.freeze()
    try:
        stuck = [worker.start(backend, alias) for worker in workers]
        for _ in range(3):
            (answer,) = local_processes().answers
            found = [each for each in answer.result["holders"] if each["alias"] == alias]
            assert {holder["backend_pid"] for holder in found} == set(held)
        (answer,) = ask_local("drain", alias=alias).answers
        assert answer.result == {"drained": {alias: 2}}
        assert not any(each.done() for each in stuck)
    finally:
        server.thaw()
    assert [each.result(PATIENCE) for each in stuck] == held


@pytest.mark.parametrize("option", ["--local", "--no-server"])
def test_status_asks_the_sockets(
    base: Path, listening: None, make_pool: Any, worker: Worker, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """If that is wanted, and where nothing is published."""
    alias = make_pool()
    pid = worker(hold, alias)
    published = {} if option == "--local" else {"FLEET": None}
    with override_settings(DBPOOL={"SOCKET": str(base), **published}), contextlib.suppress(SystemExit):
        ManagementUtility(["manage.py", "dbpool", "status", "--no-color", "--no-server", option]).execute()
    out, _ = capsys.readouterr()
    assert f":{os.getpid()}" in out
    assert alias in out and str(pid) in out


def test_status_where_nobody_answers(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", "dbpool", "status", "--local", "--no-color"]).execute()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "No process of this project answers on this host.\n"


def test_status_is_not_about_its_own_process(
    listening: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", "dbpool", "status"])
    with pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", "dbpool", "status", "--local", "--no-color"]).execute()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "No process of this project answers on this host.\n"


@pytest.mark.parametrize("subcommand", ["status", "drain"])
def test_faults_in_the_settings_are_told_without_a_traceback(
    subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with override_settings(DBPOOL={"SOKET": False}), pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", "dbpool", subcommand, "--no-color"]).execute()
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "unknown key 'SOKET'. Did you mean 'SOCKET'?" in err
    assert "Traceback" not in err
