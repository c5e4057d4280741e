"""Processes that use the test project: their engine, server and pool sizes, their start and their end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from testproject.harness.interrupts import Interrupts
from testproject.postgres import Server

ROOT = Path(__file__).resolve().parents[2]


def environment(server: Server, engine: str, pool: Mapping[str, Any] | None = None, **more: str) -> dict[str, str]:
    """Return the variables for a process that uses `engine` on `server`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DBPOOL_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **inherited,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "testproject.settings",
        "DBPOOL_ENGINE": engine,
        "DBPOOL_DEMO_DATABASE": json.dumps(server.django()),
        "DBPOOL_DEMO_POOL": json.dumps(dict(pool or {})),
        "DBPOOL_DEMO_SOCKET": "0",
        **more,
    }


class CommandError(RuntimeError):
    """A management command ended with an error."""


def manage(env: Mapping[str, str], *arguments: str, interrupts: Interrupts | None = None) -> str:
    """Run a management command in a process of its own and return what it printed."""
    command = [sys.executable, "-m", "testproject.manage", *arguments]
    with ExitStack() as stack:
        with interrupts.held() if interrupts else nullcontext():
            process = start(command, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.callback(end, process)
        output, errors = process.communicate()
    if process.returncode:
        command_line = " ".join(arguments)
        raise CommandError(f"manage.py {command_line} ended with {process.returncode}:\n{errors[-4000:]}")
    return str(output)


def start(command: list[str], env: Mapping[str, str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process in a session of its own: Ctrl-C in the terminal reaches its starter alone, who ends it."""
    options = {"stdin": subprocess.DEVNULL, **options}
    return subprocess.Popen(command, env=dict(env), cwd=ROOT, start_new_session=True, **options)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill what is left of the process's session, and close its pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # of what it has not read any more
                pipe.close()
