"""``manage.py dbpool runbook`` and the readings of ``status --watch``, from the command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import OutputWrapper
from django.db import connections
from django.test import override_settings

from django_dbpool.fleet import snapshot, socket_server
from django_dbpool.fleet.snapshot import encoded
from django_dbpool.fleet.table import TableStore
from django_dbpool.management.commands import dbpool
from django_dbpool.management.terminal import Ended
from django_dbpool.management.watching import RULE, Reader, Watch
from django_dbpool.reports import Fleet, read
from testproject.processes import wait_until
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.command_line import Run, run_dbpool
from tests.fixtures.pools import alive, backend, hold
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def alias(make_pool: Callable[..., str]) -> Iterator[str]:
    """Of two connections; it has the table of the fleet. Processes of this host answer."""
    alias = make_pool(size=2)
    with (
        tempfile.TemporaryDirectory(prefix="dbp") as directory,
        override_settings(DBPOOL={"FLEET": {"using": alias}, "SOCKET": directory}),
    ):
        socket_server.ensure_running()
        try:
            yield alias
        finally:
            socket_server.stop()


def publish(alias: str, **changes: Any) -> None:
    store = TableStore(alias)
    store.put("0" * 16, encoded({**snapshot(), "instance": "0" * 16, **changes}), delay=0, expire=30)
    store.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(run_dbpool, capsys)


@pytest.fixture
def aged(alias: str, make_worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch) -> int:
    """A lease that has sat in its transaction for long, which is a moment here."""
    monkeypatch.setattr(sys.modules["django_dbpool.reports.culprits"], "LONG", 0.0)
    monkeypatch.setattr(sys.modules["django_dbpool.reports.trouble.holders"], "IDLE_LONG", 0.0)
    pid = make_worker()(hold, alias)
    publish(alias)
    return pid


def test_nothing_is_wrong(alias: str, run: Run) -> None:
    backend(alias)
    publish(alias)
    code, out, err = run("runbook")
    assert (code, err) == (0, "")
    assert out.startswith("Nothing is wrong. 1 process, nobody waits for a connection")
    assert json.loads(run("runbook", "--json")[1])["problems"] == []
    connections[alias].close()


def test_nobody_is_at_work(alias: str, run: Run) -> None:
    assert run("runbook")[:2] == (0, "Nothing is wrong, as far as anybody says: no process is at work.\n")


def test_it_names_who_it_is(alias: str, aged: int, run: Run) -> None:
    """With the line of code in which its thread is: it answers on this host."""
    code, out, err = run("runbook")
    assert (code, err) == (1, "")
    text = " ".join(out.split())
    assert f"holds 1 connection to database '{alias}', the longest for 0." in text
    assert "it is idle in transaction: it waits for something that is not the database" in text
    assert f"backend {aged} " in text
    assert f"manage.py dbpool terminate --using {alias} --older-than 1s" in text
    assert "waiting in " in text
    assert "docs/runbook.md#held-idle" in text
    assert "Goes away with 1 above." in text
    document = json.loads(run("runbook", "--json")[1])
    (culprit,) = document["culprits"]
    assert culprit["backends"] == [aged]
    assert culprit["calls"], "as its process says"
    assert document["exit_code"] == 1
    assert [problem["docs"] for problem in document["problems"]] == ["docs/runbook.md#held-idle"]


def test_of_one_database_only(alias: str, aged: int, run: Run) -> None:
    assert run("runbook", "--using", alias)[0] == 1
    code, out, _ = run("runbook", "--using", "default")
    assert code == 0
    assert "Nothing is wrong" in out
    code, _, err = run("runbook", "--using", "nope")
    assert code == 2
    assert "no database of this engine is called 'nope'; there are: " in err


def test_it_cannot_be_told(make_alias: MakeAlias, run: Run) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="dbp") as directory,
        override_settings(DBPOOL={"FLEET": {"using": make_alias()}, "SOCKET": directory}),
    ):
        code, out, err = run("runbook")
        assert (code, out) == (2, "")
        assert "has no table django_dbpool_process" in err
        assert "as the user that its processes run as" in err
        assert json.loads(run("runbook", "--json")[1])["status"] is None


def test_colours_are_for_terminals(alias: str, aged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def told(stream: io.StringIO, **options: Any) -> str:
        with pytest.raises(SystemExit):
            call_command(dbpool.Command(stdout=stream), "runbook", **options)  # type: ignore[arg-type]
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in told(Terminal(), force_color=True)
    assert "\x1b[" not in told(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in told(Terminal())


# -- status --watch -------------------------------------------------------------------------------------------------


def watched(alias: str, end: BaseException, readings: int = 2) -> tuple[int, str, list[int]]:
    """Exit code, what was printed, and the backends that were used for it."""
    used: list[int] = []

    def look() -> Fleet:
        if len(used) == readings:
            raise end
        used.append(backend(alias))
        return read(servers=True)

    out = OutputWrapper(io.StringIO())
    watch = Watch(look, out, every=0.01, colours=True, code_of=lambda view: 7)
    return watch.run(), out._out.getvalue(), used  # type: ignore[attr-defined]


def test_blocks_and_no_connection_between_them(alias: str, observer: psycopg.Connection[Any]) -> None:
    publish(alias)
    code, text, used = watched(alias, KeyboardInterrupt())
    assert code == 7, "as of what was shown last"
    assert text.count(RULE) == 2
    assert "\x1b" not in text
    assert text.count("fleet: 1 process") == 2
    assert len(set(used)) == 2, "each reading has a connection of its own"
    assert wait_until(lambda: not any(alive(observer, pid) for pid in used), PATIENCE)


def test_the_end_by_a_signal(alias: str) -> None:
    assert watched(alias, Ended(15))[0] == 143
    assert watched(alias, KeyboardInterrupt(), readings=0)[0] == 2, "nothing was shown"


def test_faults_of_a_reading_are_not_hidden(alias: str) -> None:
    """Also those in the thread that reads for the screen."""
    with pytest.raises(ZeroDivisionError):
        watched(alias, ZeroDivisionError())

    def fail() -> Fleet:
        raise ZeroDivisionError

    told: list[int] = []
    reader = Reader(fail, lambda: told.append(1))
    reader.start()
    reader.want()
    assert wait_until(lambda: bool(told), PATIENCE)
    reader.end()
    assert isinstance(reader.error, ZeroDivisionError)
    reader._thread.join(PATIENCE)


def test_watch_and_json_exclude_each_other(alias: str, run: Run) -> None:
    code, out, err = run("status", "--watch", "--json")
    assert (code, out) == (2, "")
    assert "ask again with --json" in err
    for wrong in ("0.1", "nan", "x"):
        assert run("status", "--watch", wrong)[0] == 2


def test_its_own_process_is_none_of_the_fleet() -> None:
    """It looks at the others; nothing of it is published or asked for."""
    code = (
        "import sys; sys.argv = ['manage.py', 'dbpool', 'status']\n"
        "import django; django.setup()\n"
        "from django_dbpool.core import reporter\n"
        "print(sorted(reporter._jobs))"
    )
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.fixtures.fleet_settings",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
