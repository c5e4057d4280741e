"""What CI makes of tests that fail: a few get a second run, and nothing else is forgiven."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ci

TARGETS = """\
check:
test:
\t$(PYTEST) tests/test_first.py
test-ci: tests-together tests-alone tests-django
tests-together:
\t$(PYTEST) tests/test_second.py
tests-alone:
\t$(PYTEST) tests/test_third.py
tests-django:
\t$(DJANGO)
PYTEST := .venv/bin/python -m pytest
"""
FIRST_TIME = """\
from pathlib import Path

def test_first_time():
    seen = Path(__file__).with_suffix(".seen")
    assert seen.exists() or seen.touch()
"""
NEVER = (
    "\nimport pytest\n\n@pytest.mark.parametrize('number', range({number}))\ndef test_never(number):\n    assert 0\n"
)
FINE = "def test_fine():\n    pass\n"


def ci(folder: Path, first: str = FINE, second: str = FINE, django: str = "true") -> tuple[int, str]:
    """CI's script with these tests in the place of ours, and nothing to install."""
    script = re.sub(r"components=\(.*?\n\)", "components=()", (ROOT / ".ci/run").read_text(), flags=re.DOTALL)
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    programs = {".ci/run": script, ".ci/bootstrap": "#!/bin/sh\n", ".venv/bin/python": python}
    tests = {"tests/test_first.py": first, "tests/test_second.py": second, "tests/test_third.py": FINE}
    settings = '[tool.pytest]\naddopts = ["-ra"]\n'
    for name, text in {**programs, **tests, "Makefile": TARGETS, "pyproject.toml": settings}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in programs:
        (folder / name).chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    run = subprocess.run(
        [folder / ".ci/run"],
        env={**ours, "DJANGO": django, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return run.returncode, run.stdout


def test_a_second_run_is_named(tmp_path: Path) -> None:
    status, told = ci(tmp_path, first=FIRST_TIME, second=FIRST_TIME)
    assert status == 0, told
    assert "failed when other tests ran beside them: 2" in told
    assert "  FAILED tests/test_first.py::test_first_time" in told
    assert "  FAILED tests/test_second.py::test_first_time" in told


@pytest.mark.parametrize(
    ("tests", "again"),
    [
        (FIRST_TIME + NEVER.format(number=1), True),
        (FIRST_TIME + NEVER.format(number=3), False),
        ("import nothing_of_the_sort", False),
    ],
    ids=["fails again", "too many", "can't be imported"],
)
def test_what_stays_red_is_red(tests: str, again: bool, tmp_path: Path) -> None:
    status, told = ci(tmp_path, second=tests)
    assert status == 1, told
    assert "failed: make --keep-going test-ci (exit 2)" in told
    assert ("--last-failed" in told) == again


def test_a_second_run_hides_nothing_but_tests(tmp_path: Path) -> None:
    status, told = ci(tmp_path, second=FIRST_TIME, django="false")
    assert status == 1, told
    assert "--last-failed" not in told


UNCOVERED = "FAIL Required test coverage of 95 % not reached"
LOST = "=== xdist: worker gw1 crashed and worker restarting disabled ==="


@pytest.mark.parametrize("line", [UNCOVERED, LOST], ids=["uncovered", "lost"])
def test_a_second_run_is_not_for_what_more_than_a_test_says(line: str, tmp_path: Path) -> None:
    tests = FIRST_TIME + f"\ndef test_says():\n    print('\\n{line}')\n    assert 0\n"
    status, told = ci(tmp_path, first=tests)
    assert status == 1, told
    assert "failed: make test (exit 2)" in told
    assert "--last-failed" not in told
