"""Sentry, debug-toolbar and OpenTelemetry, active at the same time around every statement."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.company.conftest import ROOT

pytestmark = pytest.mark.ci

SAMPLE = ("test_cursors.py", "test_leases.py", "test_no_pin.py", "test_session_state.py", "test_stock_parity.py")
COMPANIONS = (
    "sentry-sdk",
    "django-debug-toolbar",
    "opentelemetry-instrumentation-psycopg",
    "opentelemetry-instrumentation-django",
)


INTEGRATION = ROOT / "tests/integration"
AROUND = (
    *("alerts", "api", "asking", "dashboard", "dbpool", "fleet", "growth", "health", "metrics", "permissions"),
    *("prometheus", "reports", "runbook", "status", "testproject", "typing"),
)
"""What is told of the pools, to whom, and processes of their own. The rest is about the engine: statements, batches."""
ENGINE = sorted(
    str(path.relative_to(INTEGRATION))
    for path in INTEGRATION.rglob("test_*.py")
    if not path.name.startswith(tuple(f"test_{name}" for name in AROUND))
)
PARTS = 6
"""All at once would take longer than one test may."""


@pytest.mark.parametrize(
    ("commenter", "files", "fewest"),
    [*((True, tuple(ENGINE[part::PARTS]), 60) for part in range(PARTS)), (False, SAMPLE, 180)],
    ids=[
        *(f"with SQL comments, part {part + 1} of {PARTS} of the engine's tests" for part in range(PARTS)),
        "without comments, those that look at statements",
    ],
)
def test_integration_tests_under_instrumentation(
    tmp_path: Path, commenter: bool, files: tuple[str, ...], fewest: int, tested_with: Any
) -> None:
    """They pass as without, but for what fails on Django's engine too, and no instrumentation pins."""
    tested_with(*COMPANIONS)
    report = tmp_path / "report.json"
    settings = "tests.company.instrumented_settings"
    command = ["-m", "pytest", "-q", "-p", "tests.company.instrumented", "-m", "not ci and not bench and not soak"]
    done = subprocess.run(
        [sys.executable, *command, "--ds", settings, *(f"tests/integration/{file}" for file in files)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": settings,
            "DBPOOL_INSTRUMENTED": str(report),
            "DBPOOL_INSTRUMENTED_COMMENTER": str(int(commenter)),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = json.loads(report.read_text())
    print(*re.findall(r"(?m)^SKIPPED .*|^\d+ passed.*", done.stdout), json.dumps(found), sep="\n")
    assert found["pins"] == {}
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= fewest
    recorded = found["recorded"]
    if files is SAMPLE:
        assert recorded["pins"] > 10  # the suite's own: pins are noticed
    assert min(recorded["toolbar"], recorded["sentry: db"], recorded["opentelemetry"]) > 100
