"""The test project behind a real web server, in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Literal, Self

from testproject.harness.environment import end, start
from testproject.harness.load import HttpClient

Kind = Literal["gunicorn", "uvicorn"]


class SiteError(RuntimeError):
    """The web server did not start or did not stop; the text ends with its log."""


class Site:
    """gunicorn with threads, or uvicorn, in front of the test project, on a port of 127.0.0.1."""

    def __init__(
        self, kind: Kind, env: Mapping[str, str], *, threads: int = 8, workers: int = 1, port: int = 0
    ) -> None:
        self.kind = kind
        self.workers = workers
        self.threads = threads
        self.workers = workers
        """Processes of gunicorn; uvicorn has one."""
        self._env = dict(env)
        # Bound here and handed on: the port is known before the server runs, and stays ours until then.
        self._socket = _listen(port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._log_at_end = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        if self._log is None:
            return self._log_at_end
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def start(self, timeout: float = 30) -> None:
        self.launch()
        self.wait_ready(timeout)

    def launch(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = start(
            self._command(),
            self._env,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[self._socket.fileno()],
        )
        # The server has its own copy; with ours open, clients would wait on a port that nobody serves.
        self._socket.close()

    def wait_ready(self, timeout: float = 30) -> None:
        """Wait until the site answers, without a query."""
        deadline = time.monotonic() + timeout
        client = HttpClient(self.host, self.port, timeout=1)
        while time.monotonic() < deadline:
            if self._ended() is not None:
                raise SiteError(f"{self.kind} ended with {self._ended()} at its start:\n{self.log()[-4000:]}")
            with contextlib.suppress(OSError):
                if client.get("/alive/").status == 200:
                    client.close()
                    return
            time.sleep(0.02)
        raise SiteError(f"{self.kind} does not answer after {timeout} s:\n{self.log()[-4000:]}")

    def wait(self) -> None:
        """Wait as long as it runs; its end, which nobody has asked for, is an error."""
        assert self._process is not None
        code = self._process.wait()
        raise SiteError(f"{self.kind} has ended by itself with {code}:\n{self.log()[-4000:]}")

    def stop(self, timeout: float = 20) -> int | None:
        """Stop as a supervisor does, with SIGTERM, and return the exit code; None if it was never started."""
        self._socket.close()
        process, self._process = self._process, None
        if process is None:
            return None
        process.terminate()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise SiteError(f"{self.kind} still runs {timeout} s after SIGTERM:\n{self.log()[-4000:]}") from None
        finally:
            end(process)  # also gunicorn's worker, if the master alone is gone
            self._close_log()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log_at_end = self.log()
            self._log.close()
            self._log = None

    def _ended(self) -> int | None:
        return self._process.poll() if self._process else None

    def _command(self) -> list[str]:
        descriptor = str(self._socket.fileno())
        if self.kind == "uvicorn":
            options = ["--fd", descriptor, "--log-level", "warning", "--timeout-graceful-shutdown", "15"]
            return [sys.executable, "-m", "uvicorn", "testproject.asgi:application", *options]
        options = ["--config", "python:testproject.gunicorn_conf", "--bind", f"fd://{descriptor}"]
        options += ["--workers", str(self.workers), "--threads", str(self.threads), "--log-level", "warning"]
        return [sys.executable, "-m", "gunicorn", *options, "testproject.wsgi:application"]


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    # As every server does: a port of a site that has just stopped can be used again at once.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener
