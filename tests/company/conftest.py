"""Small projects, each in a process of its own: companions patch Django and psycopg for good."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from testproject.postgres import Server
from tests.company.settings import NAME_VARIABLE
from tests.integration.conftest import make_worker  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 180.0
"""Seconds for one process; far more than any needs."""


class Project:
    """A new database and processes that use it."""

    def __init__(self, database: str, python: str = sys.executable) -> None:
        self.database = database
        self.python = python

    def run(self, settings: str, *arguments: str, **environment: str) -> str:
        """Run ``python`` with these arguments under ``tests.company.<settings>``; what it printed."""
        env = {**os.environ, **self.environment(settings), **environment}
        done = subprocess.run(
            [self.python, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT
        )
        if done.returncode:
            pytest.fail(f"{' '.join(arguments)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}", pytrace=False)
        print(done.stderr)
        return done.stdout

    def environment(self, settings: str) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": f"tests.company.{settings}",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
            NAME_VARIABLE: self.database,
        }

    def manage(self, settings: str, *arguments: str) -> str:
        return self.run(settings, "-m", "django", *arguments)

    def scenario(self, settings: str, name: str, **environment: str) -> dict[str, Any]:
        """Run a module of ``tests.company.scenarios``; the object that its last line is."""
        output = self.run(settings, "-m", f"tests.company.scenarios.{name}", **environment)
        found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return found


@pytest.fixture
def project(session_server: Server) -> Iterator[Project]:
    name = f"company_{uuid.uuid4().hex[:12]}"
    with session_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield Project(name)
    with session_server.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def python_for_psqlextra() -> str:
    """An interpreter with a Django that it supports: the newest release excludes 6.0, older ones need psycopg2."""
    place = ROOT / ".cache" / "company-venv" / "psqlextra"
    python, complete = place / "bin" / "python", place / ".complete"
    if not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        commands: tuple[list[Any], ...] = (
            [sys.executable, "-m", "venv", place],
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "Django==5.2.*",
                "psycopg[binary,pool]",
                "django-postgres-extra>=3.0.1",
            ],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.fail(f"{command}\n{done.stderr[-3000:]}", pytrace=False)
        complete.touch()
    return str(python)


@pytest.fixture
def tested_with(record_property: Any) -> Any:
    """Prints the version of each package, for docs/company.md."""

    def say(*packages: str) -> None:
        found = ", ".join(f"{package} {version(package)}" for package in ("Django", "psycopg", *packages))
        record_property("tested_with", found)
        print(f"tested with {found}")

    return say
