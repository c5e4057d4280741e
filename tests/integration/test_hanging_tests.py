"""A test that hangs fails, says where, and is the only one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ci

TESTS = """\
import threading

import pytest
from django.db import transaction

from tests.app.models import Item


@pytest.mark.django_db(transaction=True)
def test_hangs():
    held = threading.Event()

    def hold():
        with transaction.atomic():
            Item.objects.create(name="x", n=1)
            held.set()
            threading.Event().wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait(30)
    threading.Event().wait()  # here


@pytest.mark.django_db
def test_hangs_in_a_transaction():
    Item.objects.create(name="x", n=1)
    threading.Event().wait()


@pytest.mark.django_db
def test_after_it():
    assert not Item.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_after_all():
    assert not Item.objects.exists()
"""


def test_the_others_run(tmp_path: Path) -> None:
    """Though it leaves a transaction in a thread, whose locks the clean-up of tables would wait for."""
    path = tmp_path / "test_hanging.py"
    path.write_text(TESTS)
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    options += ["--timeout", "2", "-o", "timeout_func_only=true"]  # a database is made first
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, *options, path],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1, done.stdout[-6000:] + done.stderr[-2000:]
    assert "2 failed, 2 passed" in done.stdout, done.stdout[-6000:]
    assert "threading.Event().wait()  # here" in done.stdout
    assert "Failed: Timeout (>2.0s) from pytest-timeout" in done.stdout
