"""
A process that runs for months: leases leave nothing behind. Memory is compared between windows, after a first one in
which caches fill; what one lease left behind would show millionfold.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLACK = 4_000
"""Bytes, of the interpreter's own coming and going. One byte for each lease would be far more."""


def growth(kind: str, count: int) -> tuple[int, int]:
    """Bytes, and leases that are out at the end."""
    command = [sys.executable, "-m", "tests.integration.growth", kind, str(count)]
    # Measuring coverage allocates, and takes its time for each line.
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    grown, in_use = map(int, done.stdout.split())
    return grown, in_use


@pytest.mark.parametrize("count", [170_000, pytest.param(1_700_000, marks=pytest.mark.ci)])
def test_the_ledger_does_not_grow(count: int) -> None:
    """In six windows a million leases, or ten millions."""
    grown, in_use = growth("leases", count)
    assert grown < SLACK
    assert in_use == 0


@pytest.mark.parametrize("count", [1_000, pytest.param(34_000, marks=pytest.mark.ci)])
def test_statements_and_transactions_do_not_grow(count: int) -> None:
    """Real ones, with their round trips: in six windows six thousand, or two hundred thousand."""
    grown, in_use = growth("statements", count)
    assert grown < SLACK
    assert in_use == 0
