"""A throw-away PostgreSQL for tests, demo and benchmarks: `with Server.embedded() as server: ...`."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NoReturn, Self

from testproject import processes
from testproject.postgres_binaries import (
    ServerError,
    find_binaries,
    locale_options,
    make_directory,
    unprivileged,
)
from testproject.processes import children_of, kill_tree, send_signal, wait_gone, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg
    from psycopg.rows import TupleRow

DEFAULTS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %e ",
}
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

__all__ = ["EmbeddedServer", "Server", "ServerError", "free_port"]


class Server:
    """A PostgreSQL server that somebody else runs: it can be used, not controlled."""

    data_dir: Path | None = None

    def __init__(
        self, host: str, port: int, user: str = "postgres", dbname: str = "postgres", password: str = ""
    ) -> None:
        self.host = host
        self.port = port
        self.user = user
        self.dbname = dbname
        self.password = password
        self.options: dict[str, Any] = {}

    @staticmethod
    def embedded(settings: dict[str, str] | None = None, extension: str | None = None) -> EmbeddedServer:
        """
        A cluster of its own; nothing exists before `start()` and nothing is left after `remove()`.

        `extension`: use binaries that come with it; ServerError at `start()` where there are none.
        """
        return EmbeddedServer(settings, extension)

    @staticmethod
    def from_env_or_embedded(settings: dict[str, str] | None = None) -> Server:
        """The server that DBPOOL_TEST_DSN names, else an embedded one."""
        dsn = os.environ.get("DBPOOL_TEST_DSN")
        return Server.from_dsn(dsn) if dsn else EmbeddedServer(settings)

    @staticmethod
    def from_dsn(dsn: str) -> Server:
        from psycopg.conninfo import conninfo_to_dict

        values: dict[str, Any] = dict(conninfo_to_dict(dsn))
        user = str(values.pop("user", None) or os.environ.get("PGUSER") or pwd.getpwuid(os.getuid()).pw_name)
        server = Server(
            host=str(values.pop("host", None) or os.environ.get("PGHOST", "127.0.0.1")),
            port=int(values.pop("port", None) or os.environ.get("PGPORT", "5432")),
            user=user,
            dbname=str(values.pop("dbname", None) or user),
            password=str(values.pop("password", None) or os.environ.get("PGPASSWORD", "")),
        )
        server.options = values
        return server

    @property
    def dsn(self) -> str:
        from psycopg.conninfo import make_conninfo

        values: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "dbname": self.dbname,
        }
        if self.password:
            values["password"] = self.password
        return make_conninfo("", **values, **self.options)

    def django(self, name: str | None = None, **extra: Any) -> dict[str, Any]:
        """An entry of Django's DATABASES, but for its ENGINE."""
        entry: dict[str, Any] = {
            "NAME": name or self.dbname,
            "USER": self.user,
            "PASSWORD": self.password,
            "HOST": self.host,
            "PORT": str(self.port),
            **extra,
        }
        if self.options:
            entry["OPTIONS"] = {**self.options, **entry.get("OPTIONS", {})}
        return entry

    def connect(self, **kwargs: Any) -> psycopg.Connection[TupleRow]:
        """An autocommit connection, for looking at things from the server's side."""
        import psycopg

        # An observer must not depend on the pool that it observes.
        return psycopg.connect(self.dsn, **{"autocommit": True, "connect_timeout": 5, **kwargs})  # noqa: DBP101

    def start(self) -> None:
        self._not_ours("start")

    def stop(self, mode: str = "fast", timeout: float = 30) -> None:
        self._not_ours("stop")

    def kill(self) -> None:
        self._not_ours("kill")

    def freeze(self) -> None:
        self._not_ours("freeze")

    def thaw(self) -> None:
        self._not_ours("thaw")

    def remove(self) -> None:
        """Nothing to remove: somebody else's server stays as it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    def _not_ours(self, verb: str) -> NoReturn:
        raise ServerError(
            f"can't {verb} the server at {self.host}:{self.port}: it was given by DBPOOL_TEST_DSN "
            "and is not run by these tests; use Server.embedded() where a server must be controlled"
        )


class EmbeddedServer(Server):
    """A cluster of our own below the temporary directory, on TCP port `port` of 127.0.0.1."""

    def __init__(self, settings: dict[str, str] | None = None, extension: str | None = None) -> None:
        super().__init__("127.0.0.1", free_port())
        self.extension = extension
        self.settings = {**DEFAULTS, **(settings or {})}
        self._owner = os.getpid()
        self._root: Path | None = None
        self._bindir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        return None

    def log(self) -> str:
        """What the server has written to its log so far."""
        log = self._root and self._root / "log"
        return log.read_text(errors="replace") if log and log.exists() else ""

    def start(self) -> None:
        """Create the cluster at the first call; later calls start it again on the same port."""
        if self.pid is not None:
            return
        fresh = self._root is None
        if fresh:
            self._create()
        for attempt in range(5):
            self._launch()
            if self._wait_ready(timeout=60):
                return
            # Another process may have taken the port since free_port(); after the first start it is kept.
            if not fresh or attempt == 4 or "Address already in use" not in self.log():
                break
            (self._root_dir / "log").unlink()
            self.port = free_port()
        message = f"PostgreSQL did not start on port {self.port}; the end of its log:\n{self.log()[-2000:]}"
        if fresh:
            self.remove()
        raise ServerError(message)

    def stop(self, mode: str = "fast", timeout: float = 30) -> None:
        """Stop as `pg_ctl stop -m mode` does; the data stay for another `start()`."""
        if self.pid is None:
            return
        process = self._running
        children = children_of(process.pid)
        self.thaw()
        os.kill(process.pid, STOP_SIGNALS[mode])
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerError(f"PostgreSQL did not stop within {timeout} s (mode {mode})") from None
        wait_gone(children)

    def kill(self) -> None:
        """SIGKILL for the postmaster and all its backends, as a crash of the machine would end them."""
        if self._process is None or self._process.poll() is not None:
            return
        kill_tree(self._process.pid)
        self._process.wait()
        self._remove_shared_memory()
        self._forget_pid()

    def _remove_shared_memory(self) -> None:
        """
        Of a killed server a small System V segment is left, by which the next one would see that it is gone, and of
        those a machine has only so many: https://www.postgresql.org/docs/current/kernel-resources.html
        """
        assert self.data_dir is not None
        with contextlib.suppress(OSError, IndexError):
            segment = (self.data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1]
            subprocess.run(["ipcrm", "-m", segment], stderr=subprocess.DEVNULL, check=False)

    def freeze(self) -> None:
        """Stop every process of the server: the kernel still completes TCP handshakes, nobody answers."""
        pid = self._running.pid
        os.kill(pid, signal.SIGSTOP)
        for child in children_of(pid):
            send_signal(child, signal.SIGSTOP)

    def thaw(self) -> None:
        pid = self._running.pid
        for child in children_of(pid):
            send_signal(child, signal.SIGCONT)
        os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        """Stop the server at once and remove all its files; safe to call twice, and in a forked child."""
        if self._owner != os.getpid():
            return
        atexit.unregister(self.remove)
        self.kill()
        if self._watchdog is not None:
            assert self._watchdog.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.write(processes.DONE)
                self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None
        if self._root is not None:
            shutil.rmtree(self._root)
            self._root = self.data_dir = self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerError("the server is not running")
        return self._process

    @property
    def _root_dir(self) -> Path:
        assert self._root is not None
        return self._root

    def _create(self) -> None:
        root = self._root = make_directory()
        atexit.register(self.remove)
        self._watchdog = subprocess.Popen(
            [sys.executable, "-IS", processes.__file__, str(root)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._bindir = find_binaries(root, self.extension)
        self.data_dir = root / "data"
        initdb = [
            "initdb",
            "-D",
            str(self.data_dir),
            "-U",
            self.user,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        done = subprocess.run(
            [self._bindir / initdb[0], *initdb[1:], *locale_options(self._bindir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self._run_as(),
        )
        if done.returncode:
            self.remove()
            raise ServerError(f"initdb failed:\n{done.stdout.decode(errors='replace')[-2000:]}")
        # In the file, not on the command line, so that a test may still use ALTER SYSTEM.
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {quoted(value)}\n" for name, value in self.settings.items())

    def _launch(self) -> None:
        assert self._bindir is not None
        self._forget_pid()
        command = [str(self._bindir / "postgres"), "-D", str(self._root_dir / "data"), "-p", str(self.port)]
        with (self._root_dir / "log").open("ab") as log:
            # A session of its own keeps the terminal's Ctrl-C away from the server.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._run_as(),
            )

    def _forget_pid(self) -> None:
        """Remove what a killed server leaves: the watchdog must never take a reused process id for it."""
        (self._root_dir / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _wait_ready(self, timeout: float) -> bool:
        pidfile = self._root_dir / "data" / "postmaster.pid"

        def ready() -> bool:
            lines = pidfile.read_text().splitlines() if pidfile.exists() else []
            return len(lines) >= 8 and lines[7].strip() == "ready"

        return wait_until(lambda: self.pid is None or ready(), timeout) and self.pid is not None

    def _run_as(self) -> dict[str, Any]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
        where: dict[str, Any] = {"cwd": self._root_dir, "env": {**env, "LC_ALL": "C"}}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = unprivileged()
            where |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        return where


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def free_port() -> int:
    """A port that stays refused while the server is down.

    Not from the ephemeral range: there the kernel may give the port to a client's own socket, which then
    connects to itself, or keeps the server from coming back.
    """
    for port in random.SystemRandom().sample(range(20000, 32000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError("no free TCP port between 20000 and 32000")
