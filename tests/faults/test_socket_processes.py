"""Real processes, asked on their host by another one: programs, forked children, servers whose threads are all busy."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections

from django_dbpool.fleet.commands import send, wait_for
from testproject.postgres import Server
from testproject.processes import children_of, send_signal, wait_until
from tests.faults.helpers import PATIENCE, Task
from tests.faults.socket_site import LOCK
from tests.fixtures.pools import alive
from tests.settings import SERVER_VARIABLE

APPLICATION = "socket-processes"


class Project:
    """Processes of one project, and its command line."""

    def __init__(self, server: Server, sockets: str) -> None:
        self.sockets = Path(sockets)
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.faults.socket_settings",
            "DBPOOL_TEST_APPLICATION": APPLICATION,
            "DBPOOL_TEST_SOCKETS": sockets,
            SERVER_VARIABLE: server.dsn,
        }

    def listed(self) -> set[str]:
        return {path.name for path in self.sockets.glob("*/*")}

    def command(self, *argv: str) -> tuple[int, list[str], str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "django", "dbpool", *argv],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    @contextmanager
    def program(self, code: str) -> Iterator[Any]:
        """Runs until the block ends; gives it what it prints."""
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(PATIENCE)
                assert process.returncode == 0


@pytest.fixture
def project(session_server: Server) -> Iterator[Project]:
    with tempfile.TemporaryDirectory(prefix="dbp") as sockets:
        yield Project(session_server, sockets)


PROGRAM = """
import os, sys, warnings
import django
warnings.simplefilter("ignore", DeprecationWarning)
django.setup()
from django.db import connection
def use():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    print(os.getpid(), flush=True)
print(os.getpid(), flush=True)
sys.stdin.readline()
use()
child = os.fork()
if not child:
    use()
    sys.stdin.read()
    sys.exit()
sys.stdin.read()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_program_and_its_child_from_their_first_lease_to_their_end(project: Project) -> None:
    with project.program(PROGRAM) as process:
        process.stdout.readline()
        assert project.listed() == set(), "nothing is started before anybody leases"
        process.stdin.write("\n")
        process.stdin.flush()
        pids = sorted(int(process.stdout.readline()) for _ in range(2))
        assert pids[0] != pids[1]
        assert wait_until(lambda: project.listed() == {f"{pid}.sock" for pid in pids}, PATIENCE)
        code, lines, err = project.command("drain", "--yes")
        assert (code, err) == (0, "")
        assert lines == [f"process {pid}: drained default (1)" for pid in pids]
    assert project.listed() == set()


WORKER = """
import sys
import django
django.setup()
from django.db import connection
from django_dbpool.core.process import this_process
with connection.cursor() as cursor:
    cursor.execute("SELECT pg_backend_pid()")
    print(this_process().instance, cursor.fetchone()[0], flush=True)
sys.stdin.read()
"""


@pytest.mark.django_db(transaction=True)
def test_a_process_on_another_host_obeys(project: Project, observer: psycopg.Connection[Any]) -> None:
    """As far as it knows it is on another host: it is told by the table alone."""
    project.environment["DBPOOL_TEST_FLEET"] = str(connections["default"].settings_dict["NAME"])
    with project.program(WORKER) as process:
        instance, backend = process.stdout.readline().split()
        sent = send(instance, "drain", alias="default")
        found = wait_for(sent)
        assert found.outcome == "done"
        assert found.result["drained"]["default"] >= 1
        assert wait_until(lambda: not alive(observer, int(backend)), PATIENCE)


# -- servers ----------------------------------------------------------------------------------------------------------

SERVERS = {
    "threads": ["-w", "2", "-k", "gthread", "--threads", "2", "--worker-connections", "2", "--keep-alive", "0"],
    "gevent": ["-w", "2", "-k", "gevent", "--worker-connections", "4"],
}


@contextmanager
def serving(project: Project, kind: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        command = ["gunicorn", *SERVERS[kind], "--timeout", "60", "-b", f"fd://{listener.fileno()}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "tests.faults.socket_site"],
                env=project.environment,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
            )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/busy/"
    try:
        yield url, process
    finally:
        process.send_signal(signal.SIGINT)  # at once, whatever a failed test has left hanging
        process.wait(PATIENCE)


def get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return int(response.read())


@pytest.mark.ci
@pytest.mark.parametrize("kind", SERVERS)
def test_workers_that_are_all_busy_answer(project: Project, session_server: Server, kind: str, tmp_path: Path) -> None:
    """Each thread or greenlet hangs in a statement, and each connection is leased; one worker is killed."""
    log = tmp_path / "log"

    def sessions(observer: psycopg.Connection[Any], state: str = "%") -> int:
        row = observer.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state LIKE %s",
            [APPLICATION, state],
        ).fetchone()
        return int(row[0]) if row else 0

    with session_server.connect(application_name="observer") as observer, serving(project, kind, log) as (url, server):
        pids: set[int] = set()

        def both_have_answered() -> bool:
            with suppress(OSError):
                pids.add(get(url))
            return len(pids) == 2

        assert wait_until(both_have_answered, PATIENCE), log.read_text()
        assert pids == set(children_of(server.pid))
        assert wait_until(lambda: project.listed() == {f"{pid}.sock" for pid in pids}, PATIENCE), log.read_text()

        observer.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        # More than both have room for, so that both are full, whichever accepts which.
        tasks = [Task(get, url) for _ in range(12)]
        assert wait_until(lambda: sessions(observer, "active") == 4, PATIENCE), log.read_text()
        code, lines, err = project.command("drain", "--yes", "--using", "default")
        assert (code, err) == (0, "")
        assert lines == [f"process {pid}: drained default (2)" for pid in sorted(pids)]
        observer.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
        for task in tasks:
            task.error()  # some have waited for a connection for too long

        killed = min(pids)
        send_signal(killed, 9)
        assert wait_until(lambda: killed not in children_of(server.pid), PATIENCE)
        code, lines, err = project.command("drain", "--yes")
        assert (code, err) == (0, "")
        assert lines[0].split(":")[0] in {f"process {pid}" for pid in children_of(server.pid)}
        assert f"{killed}.sock" not in project.listed(), "who sees that its process is gone takes it away"
    assert project.listed() == set(), log.read_text()
    assert "Traceback" not in log.read_text()
