"""What a process does at the server while nobody asks anything of it: nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest

from django_dbpool.core.config import PoolConfig
from django_dbpool.core.ledger import Owner
from django_dbpool.pool.managed import ManagedPool
from testproject.harness.environment import end, start
from testproject.postgres import Server, free_port
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Clock

SECONDS = 60
APPLICATION = "idle-process"


@pytest.fixture
def observer(session_server: Server) -> Iterator[psycopg.Connection[Any]]:
    with session_server.connect(application_name="observer") as connection:
        yield connection


def sessions(observer: psycopg.Connection[Any], application: str) -> list[Any]:
    """Each backend, the start of its last statement and its last change of state."""
    return observer.execute(
        "SELECT pid, query_start, state_change, state, query FROM pg_stat_activity WHERE application_name = %s "
        "ORDER BY pid",
        [application],
    ).fetchall()


def test_sixty_seconds_after_the_last_lease(session_server: Server, observer: psycopg.Connection[Any]) -> None:
    """
    On a clock of the test's own the background thread's work of a minute, as often as it is due and each second
    besides. The server's side says whether a statement came; a sent byte would change ``state_change``.
    """
    clock = Clock()
    kwargs = psycopg.conninfo.conninfo_to_dict(session_server.dsn, application_name=APPLICATION)
    # check_idle, max_idle and leak_after all fall into the minute.
    config = PoolConfig(min_size=1, max_size=3, check_idle=5.0, max_idle=20.0, leak_after=10.0, pin_max=10.0)
    pool = ManagedPool(config, alias="idle", connect_kwargs=lambda: dict(kwargs), clock=clock)
    pool.housekeeping._started = True
    try:
        entries = [pool.lease(Owner()) for _ in range(3)]
        for entry in entries:
            entry.conn.execute("SELECT 'last'")
            pool.release(entry, entry.owner)
        assert wait_until(lambda: all(row[3] == "idle" for row in sessions(observer, APPLICATION)), PATIENCE)
        before = sessions(observer, APPLICATION)
        assert len(before) == 3
        due = clock.now
        for _ in range(SECONDS):
            if clock.now >= due:
                due = clock.now + pool.housekeeping.tick()
            pool.housekeeping.tick()
            clock.advance(1)
        assert wait_until(lambda: len(sessions(observer, APPLICATION)) == 1, PATIENCE), "two were idle for too long"
        assert set(sessions(observer, APPLICATION)) <= set(before)
    finally:
        for entry in tuple(pool.entries):
            pool.discard(entry)
        pool.close()


# -- processes -----------------------------------------------------------------------------------------------------


def environment(application: str, settings: str) -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": settings, "DBPOOL_TEST_APPLICATION": application}


def outcome(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment("fresh", "tests.faults.idle_settings"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout.strip()


def test_setup_starts_no_thread_and_opens_nothing_the_first_lease_starts_daemons() -> None:
    printed = outcome(
        "import threading, django\n"
        "def threads(): return [(t.name, t.daemon) for t in threading.enumerate()][1:]\n"
        "django.setup()\n"
        "from django.core.management import call_command\n"
        "call_command('check', verbosity=0)\n"
        "from django.db import connection\n"
        "from django_dbpool.pool import registry\n"
        "print(threads(), registry.pools())\n"
        "connection.pool\n"
        "print(threads())\n"
        "for _ in range(3): connection.cursor().execute('SELECT 1')\n"
        "print(sorted(threads()))\n"
    )
    daemons = [("dbpool-background", True), ("dbpool-reporter", True)]
    before, with_pool, after = printed.splitlines()[-3:]
    assert (before, with_pool) == ("[] ()", "[]")
    # The reporter's first round may have started what needs threads of their own.
    later = ("dbpool-socket", "dbpool-server-counts")
    assert [thread for thread in ast.literal_eval(after) if thread[0] not in later] == daemons


def test_importing_the_engine_reads_no_settings_and_starts_no_thread() -> None:
    printed = outcome(
        "import threading, os\n"
        "del os.environ['DJANGO_SETTINGS_MODULE']\n"
        "import django_dbpool, django_dbpool.transaction, django_dbpool.errors, django_dbpool.conf\n"
        "import django_dbpool.backends.postgresql.base\n"
        "from django.conf import settings\n"
        "print(threading.active_count(), settings.configured)\n"
    )
    assert printed == "1 False"


def test_no_file_of_linux_is_read() -> None:
    """
    macOS has no /proc. Every file that is opened is reported by the interpreter, from the import to the exit. Whether
    there is a /proc/stat is tried, and nothing is missing without it.
    """
    printed = outcome(
        "import sys\n"
        "opened = []\n"
        "def hook(event, args):\n"
        "    if event in ('open', 'os.listdir', 'os.scandir') and isinstance(args[0], str): opened.append(args[0])\n"
        "import ctypes.util, django, multiprocessing, psycopg, psycopg_pool\n"
        "django.setup()\n"
        "sys.addaudithook(hook)\n"
        "from django.db import connection, transaction\n"
        "with transaction.atomic(): connection.cursor().execute('SELECT 1')\n"
        "pool = connection.pool\n"
        "pool.housekeeping.tick(); pool.snapshot(); pool.holders(stacks=True); pool.drain(); pool.close()\n"
        "print([name for name in opened if name.startswith(('/proc', '/sys')) and name != '/proc/stat'])\n"
    )
    assert printed == "[]"


def test_without_select_poll(observer: psycopg.Connection[Any]) -> None:
    """As gevent's monkey-patching leaves it, and some builds of Python for macOS."""
    printed = outcome(
        "import select\n"
        "del select.poll\n"
        "import django, threading\n"
        "django.setup()\n"
        "from django.db import connection, connections\n"
        "def backend():\n"
        "    with connection.cursor() as cursor:\n"
        "        cursor.execute('SELECT pg_backend_pid()')\n"
        "        return cursor.fetchone()[0]\n"
        "first = backend()\n"
        "same = backend() == first\n"
        "import psycopg\n"
        "params = connection.get_connection_params()\n"
        "killer = psycopg.connect(**params, autocommit=True)\n"
        "killer.execute('SELECT pg_terminate_backend(%s, 5000)', [first])\n"
        "killer.close()\n"
        "print(same, backend() != first)\n"
    )
    assert printed == "True True"


@pytest.mark.parametrize("reload", [False, True], ids=["noreload", "autoreloader"])
def test_runserver_holds_nothing_before_the_first_query(observer: psycopg.Connection[Any], reload: bool) -> None:
    """
    It looks at the migrations when it starts, with one connection, and closes that again. A request that asks
    nothing opens nothing; the first that does opens one.
    """
    application, port = f"runserver-{reload}", free_port()
    command = [sys.executable, "-m", "testproject.manage", "runserver", f"127.0.0.1:{port}"]
    command += [] if reload else ["--noreload"]
    process = start(command, environment(application, "tests.faults.idle_settings"))
    try:
        assert wait_until(lambda: served(port, "nothing/") == "served", PATIENCE)
        assert wait_until(lambda: not sessions(observer, application), PATIENCE)
        for _ in range(3):
            assert served(port, "nothing/") == "served"
        assert sessions(observer, application) == []
        pid = int(served(port, "query/") or 0)
        assert [row[0] for row in sessions(observer, application)] == [pid]
        assert served(port, "query/") == str(pid), "from then on it is kept"
    finally:
        end(process)


def served(port: int, path: str) -> str | None:
    try:
        with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except (URLError, ConnectionError):
        time.sleep(0.1)
        return None
