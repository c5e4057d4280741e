"""The runs of the demo: each engine in a process of its own, first without HTTP, then behind gunicorn."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from testproject.demo.options import Options
from testproject.harness.environment import end, environment, start
from testproject.harness.interrupts import Interrupts
from testproject.harness.load import Figures, Progress, http_calls, run
from testproject.harness.observer import Observer
from testproject.harness.serving import Site
from testproject.postgres import Server

# Each client asks for another report; the seed has 240 of them, with the same ids every time.
PATHS = [f"/reports/{report}/priced/" for report in range(1, 241)]

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Engine:
    key: str
    name: str
    pooled: bool = True


DJANGO_POOL = Engine("stock-pool", "Django's pool")
OURS = Engine("dbpool", "django_dbpool")
PER_THREAD = Engine("stock", "a connection per thread", pooled=False)


@dataclass(frozen=True)
class Round:
    engine: Engine
    over_http: bool


@dataclass(frozen=True)
class Result:
    round: Round
    figures: Figures
    connections: int
    """Most connections at once that pg_stat_activity has shown."""


ROUNDS = [
    Round(DJANGO_POOL, over_http=False),
    Round(OURS, over_http=False),
    Round(PER_THREAD, over_http=False),
    Round(DJANGO_POOL, over_http=True),
    Round(OURS, over_http=True),
]


class RoundError(RuntimeError):
    """A round's process ended without figures."""


def play(one: Round, server: Server, options: Options, interrupts: Interrupts, on_progress: OnProgress) -> Result:
    env = round_environment(one.engine, server, options)
    drive = _over_http if one.over_http else _in_process
    with Observer(server) as observer:
        figures = drive(env, options, interrupts, on_progress)
    return Result(one, figures, observer.peak)


def round_environment(engine: Engine, server: Server, options: Options, **more: str) -> dict[str, str]:
    pool = options.pool if engine.pooled else None
    more = {"DBPOOL_DEMO_WAIT": str(options.wait), "DBPOOL_DEMO_CONN_MAX_AGE": "none", **more}
    return environment(server, engine.key, pool, **more)


def _over_http(env: dict[str, str], options: Options, interrupts: Interrupts, on_progress: OnProgress) -> Figures:
    with ExitStack() as stack:
        with interrupts.held():
            site = stack.enter_context(Site("gunicorn", env, threads=options.threads))
        paths = itertools.cycle(PATHS)
        clients = stack.enter_context(http_calls(site.host, site.port, options.threads, paths))
        clients[0]()  # loads the URLconf and what else a first request does
        return run(clients, seconds=options.seconds, on_progress=on_progress)


def _in_process(env: dict[str, str], options: Options, interrupts: Interrupts, on_progress: OnProgress) -> Figures:
    command = [sys.executable, "-m", "testproject.demo.worker", str(options.threads), str(options.seconds)]
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        with interrupts.held():
            process = start([*command, *PATHS], env, stdout=subprocess.PIPE, stderr=log, text=True)
            stack.callback(end, process)
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "figures" in message:
                return Figures(**message["figures"])
            on_progress(Progress(**message["progress"]))
        log.seek(0)
        raise RoundError(f"the process ended with {process.wait()}:\n{log.read()[-4000:]}")
