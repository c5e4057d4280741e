"""A Celery worker in a process of its own, and a broker that needs nothing but a folder."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from testproject.harness.environment import end, start
from testproject.processes import children_of

FOLDERS = ("queue", "control", "results")


class WorkerError(RuntimeError):
    """The worker did not start or did not stop; the text ends with its log."""


def settings(folder: Path) -> dict[str, Any]:
    """Of Celery, for a worker and for who sends it something."""
    return {
        "broker_url": "localhost",
        "broker_transport": "testproject.harness.folder:Transport",
        "broker_transport_options": {
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.1,
        },
        "result_backend": f"file://{folder / 'results'}",
        "worker_prefetch_multiplier": 1,
    }


class Queue:
    """Sends tasks to a worker."""

    def __init__(self, folder: Path) -> None:
        try:
            from celery import Celery
        except ImportError as error:
            raise WorkerError('this needs Celery: pip install "django-pg-dbpool[celery]"') from error
        for name in FOLDERS:
            (folder / name).mkdir()
        self._app = Celery("sender", set_as_current=False)
        self._app.conf.update(settings(folder))

    def send(self, task: str, **arguments: Any) -> Any:
        """Returns Celery's AsyncResult."""
        return self._app.send_task(task, kwargs=arguments)


class Worker:
    """A prefork worker of the test project: one process that starts, feeds and ends its children."""

    def __init__(self, env: Mapping[str, str], children: int) -> None:
        self._env = dict(env)
        self._children = children
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._log_at_end = ""

    def children(self) -> list[int]:
        assert self._process is not None
        return children_of(self._process.pid)

    def log(self) -> str:
        if self._log is None:
            return self._log_at_end
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "celery", "-A", "testproject.celery", "worker", "-P", "prefork"]
        options = ["-c", str(self._children), "-l", "INFO", "--without-gossip", "--without-mingle"]
        self._process = start([*command, *options], self._env, stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait_ready(60)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        if kind is not None:
            self.kill()  # whoever fails or is stopped does not wait for tasks
        else:
            self.stop()

    def stop(self, timeout: float = 30) -> None:
        """As a supervisor does, with SIGTERM."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"the worker still runs {timeout} s after SIGTERM:\n{self.log()[-4000:]}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """With its children."""
        if self._process is not None:
            end(self._process)
            self._process = None
        if self._log is not None:
            self._log_at_end = self.log()
            self._log.close()
            self._log = None

    def _wait_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise WorkerError(f"the worker ended with {self._process.poll()} at its start:\n{self.log()[-4000:]}")
            if " ready." in self.log():
                return
            time.sleep(0.05)
        raise WorkerError(f"the worker is not ready after {timeout} s:\n{self.log()[-4000:]}")
