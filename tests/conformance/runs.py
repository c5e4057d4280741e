"""One run of Django's suite on one engine: its settings, its own server, its record."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from psycopg import Connection, sql

from testproject.postgres import EmbeddedServer, Server

from .compare import Outcome
from .environments import CACHE, ROOT, Environment
from .recorder import RECORD_FILE, TEST_LIMIT

STOCK = "stock"
# What each name on the command line means for DATABASES; "django-pool" shows what Django's own pool does.
ENGINES: dict[str, dict[str, Any]] = {
    STOCK: {"ENGINE": "django.db.backends.postgresql"},
    "transaction": {"ENGINE": "django_dbpool.backends.postgresql", "POOL": {"mode": "transaction"}},
    "session": {"ENGINE": "django_dbpool.backends.postgresql", "POOL": {"mode": "session"}},
    "django-pool": {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {"pool": True}},
}

GIS_ENGINES = {
    "django.db.backends.postgresql": "django.contrib.gis.db.backends.postgis",
    "django_dbpool.backends.postgresql": "django_dbpool.backends.postgis",
}

# Models of the suite have columns with it; a build without ICU gets a collation of that name.
ICU_COLLATION = "sv-x-icu"

SETTINGS = """\
from test_sqlite import *  # what this version of Django tests itself with

DATABASES = {databases!r}
TEST_RUNNER = "conformance_recorder.RecordingRunner"
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run; `labels` are apps or test ids, none means the whole suite."""

    environment: Environment
    engine: str
    labels: tuple[str, ...]
    parallel: str = "1"
    limit: float = 1800.0
    test_limit: float = 180.0
    gis: bool = False

    def __str__(self) -> str:
        return f"Django {self.environment.django} {self.mode}"

    @property
    def mode(self) -> str:
        """How expected differences and reports name it."""
        return f"{self.engine} gis" if self.gis else self.engine


@dataclasses.dataclass
class Run:
    plan: Plan
    outcomes: dict[str, Outcome]
    seconds: float
    problem: str = ""
    server: str = ""
    cached: bool = False

    def count(self, *outcomes: str) -> int:
        return sum(outcome.outcome in outcomes for outcome in self.outcomes.values())


class Interrupted(Exception):
    """The whole comparison is being stopped."""


class Processes:
    """The suites that run now, so that Ctrl-C in the main thread ends all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both; nothing is waited for under it
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    @contextlib.contextmanager
    def start(self, command: Sequence[str], **kwargs: Any) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            if self._stopped:
                raise Interrupted
            process = subprocess.Popen(command, start_new_session=True, **kwargs)
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)
            self.kill(process)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                self.kill(process, reap=False)

    @staticmethod
    def kill(process: subprocess.Popen[bytes], reap: bool = True) -> None:
        # The group, not the process: tests start servers and workers of their own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if reap:
            process.wait()


def execute(plan: Plan, processes: Processes) -> Run:
    started = time.monotonic()
    server = Server.embedded(extension="postgis" if plan.gis else None)
    with tempfile.TemporaryDirectory(prefix="django-suite-") as scratch, server:
        place = Path(scratch)
        server_version = complete(server)
        path = import_path(plan, server, place)
        record, log = place / "record.jsonl", place / "log"
        record.touch()
        env = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PG"))}
        env |= {
            "PYTHONPATH": str(path),
            "TMPDIR": str(place),
            RECORD_FILE: str(record),
            TEST_LIMIT: str(plan.test_limit),
        }
        command = [plan.environment.python, "runtests.py", "--settings=conformance_settings", "--noinput"]
        command += [f"--parallel={plan.parallel}", *plan.labels]
        with log.open("wb") as output:
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            with processes.start(command, cwd=plan.environment.tests, env=env, **pipes) as process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(plan.limit)
                code = process.poll()

        def readable(file: Path) -> list[str]:
            return file.read_text(encoding="utf-8", errors="replace").replace(str(path), str(ROOT)).splitlines()

        outcomes, problem = read_record(readable(record), code)
        if problem:
            problem = "\n".join([problem, *(f"    {line}" for line in readable(log)[-60:])])
    return Run(plan, outcomes, time.monotonic() - started, problem, server_version)


def complete(server: EmbeddedServer) -> str:
    """Give the server what Django's tests take for granted and some builds lack; returns its version."""
    with server.connect() as connection:
        version = str(connection.execute("SHOW server_version").fetchall()[0][0]).split()[0]
        if connection.info.server_version >= 180000:
            add_empty_extensions(server, connection)
    # Test databases are copies of template1.
    with server.connect(dbname="template1") as connection:
        collations = connection.execute("SELECT collname FROM pg_collation").fetchall()
        if (ICU_COLLATION,) not in collations:
            name = sql.Identifier(ICU_COLLATION)
            connection.execute(sql.SQL("CREATE COLLATION public.{} (locale = 'C')").format(name))
    return version


def add_empty_extensions(server: EmbeddedServer, connection: Connection[Any]) -> None:
    """Django's tests create both before anything else; builds without their libraries leave them out."""
    assert server.data_dir is not None
    available = {name for (name,) in connection.execute("SELECT name FROM pg_available_extensions").fetchall()}
    extra = server.data_dir.parent / "extra"
    (extra / "extension").mkdir(parents=True)
    for name in {"uuid-ossp", "pgcrypto"} - available:
        (extra / "extension" / f"{name}.control").write_text("default_version = '0'\nrelocatable = true\n")
        (extra / "extension" / f"{name}--0.sql").write_text("-- empty\n")
    value = sql.Literal(f"$system:{extra}")
    connection.execute(sql.SQL("ALTER SYSTEM SET extension_control_path = {}").format(value))
    connection.execute("SELECT pg_reload_conf()")


def import_path(plan: Plan, server: Server, place: Path) -> Path:
    """A folder with nothing but the settings, the recorder and the package under test: the repository's other
    top-level names must not be importable by Django's tests."""
    path = place / "path"
    path.mkdir()
    (path / "django_dbpool").symlink_to(ROOT / "django_dbpool")
    (path / "conformance_recorder.py").symlink_to(Path(__file__).with_name("recorder.py"))
    engine = dict(ENGINES[plan.engine])
    if plan.gis:
        engine["ENGINE"] = GIS_ENGINES[engine["ENGINE"]]
    databases = {
        "default": {**server.django("django"), **engine},
        "other": {**server.django("django_other"), **engine},
    }
    (path / "conformance_settings.py").write_text(SETTINGS.format(databases=databases))
    return path


def read_record(lines: Sequence[str], code: int | None) -> tuple[dict[str, Outcome], str]:
    """What was recorded, and why the run is not to be trusted, if so."""
    outcomes: dict[str, Outcome] = {}
    current, finished = None, False
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # half a line: the process was killed while it wrote
            break
        if "started" in entry:
            current = entry["started"]
        elif "finished" in entry:
            finished = True
        else:
            # Overlapping labels run a test twice: a failure must not be covered by a success.
            known = outcomes.get(entry["id"])
            if known is None or known.outcome == "ok":
                outcomes[entry["id"]] = Outcome(**entry)
            current = None
    if code is None:
        where = f"in {current}" if current else "after the last test" if finished else "between tests"
        return outcomes, f"the run did not end in time, it was {where}"
    if not finished:
        where = f"in {current}" if current else f"after {len(outcomes)} tests"
        return outcomes, f"the run broke off {where} (exit code {code})"
    if code not in (0, 1):
        return outcomes, f"the suite ended with exit code {code} after its last test"
    return outcomes, ""


def cache_file(plan: Plan) -> Path:
    # All that shapes a stock result; the server's version is checked when results are compared.
    code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("recorder.py", "runs.py")]
    versions = sorted(plan.environment.versions.items())
    what = [versions, plan.labels, plan.parallel, plan.engine, code, os.environ.get("DBPOOL_PG_BIN")]
    what += ["gis"] * plan.gis
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return CACHE / "django-suite" / f"{plan.engine}-{plan.environment.django}-{digest}.json"


def cached(plan: Plan) -> Run | None:
    try:
        kept = json.loads(cache_file(plan).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    outcomes = {entry["id"]: Outcome(**entry) for entry in kept["outcomes"]}
    return Run(plan, outcomes, kept["seconds"], server=kept["server"], cached=True)


def keep(run: Run) -> None:
    if run.problem:
        return
    target = cache_file(run.plan)
    target.parent.mkdir(parents=True, exist_ok=True)
    entries = [dataclasses.asdict(outcome) for outcome in run.outcomes.values()]
    unfinished = target.with_suffix(f".{os.getpid()}")
    kept = {"server": run.server, "seconds": run.seconds, "outcomes": entries}
    unfinished.write_text(json.dumps(kept), encoding="utf-8")
    unfinished.replace(target)
