"""Tests that can fail: each planted defect turns the tests of its rule red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, Mutant
from tests.settings import SERVER_VARIABLE

pytestmark = pytest.mark.ci

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("django_dbpool", "tests", "testproject", "pyproject.toml", "setup.cfg")
TESTS_FAILED = 1  # pytest's exit code; others mean that the tests did not run
LIMIT = 240
HUNG = 75
"""Seconds after which tests that hang because of the defect count as red."""


def copy_project(to: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / name)
    return to


def plant(mutant: Mutant, project: Path) -> None:
    for file, text, replacement in mutant.edits:
        path = project / "django_dbpool" / file
        source = path.read_text()
        assert source.count(text) == 1, f"{mutant.name}: {file} has {source.count(text)} times {text!r}"
        path.write_text(source.replace(text, replacement))


def run(project: Path, tests: tuple[str, ...], limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
    """The tests in the copy, on a server of their own."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("COVERAGE") and key != SERVER_VARIABLE
    }
    # The copy must win over an editable installation of the original.
    environment["PYTHONPATH"] = str(project)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-m",
        "not ci",
        *tests,
    ]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=limit)


def test_without_a_defect_the_same_tests_pass(tmp_path: Path) -> None:
    """What turns red below does so because of the defect, and the copy is what is tested."""
    project = copy_project(tmp_path)
    probe = project / "tests/unit/test_where.py"
    probe.write_text(
        "import django_dbpool, pathlib\n\n"
        "def test_where():\n"
        f"    assert pathlib.Path(django_dbpool.__file__).is_relative_to({str(project)!r})\n"
    )
    killers = dict.fromkeys(killer for mutant in MUTANTS for killer in mutant.killers)
    done = run(project, ("tests/unit/test_where.py", *killers))
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_defect_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    plant(mutant, project)
    try:
        done = run(project, mutant.killers, HUNG)
    except subprocess.TimeoutExpired:
        print(f"{mutant.rule}: {mutant.name} -> the tests hang")
        return
    assert done.returncode == TESTS_FAILED, f"survived: {mutant.name} ({mutant.rule})\n{done.stdout[-4000:]}"
    red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print(f"{mutant.rule}: {mutant.name} -> {red[0] if red else done.stdout[-200:]}")
