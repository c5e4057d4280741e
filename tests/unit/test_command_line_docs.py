"""docs/command-line.md and docs/runbook.md are held to the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class

from django_dbpool.core.alerts.rules import RULES
from django_dbpool.management.commands import dbpool
from django_dbpool.management.remedies import docs_of
from django_dbpool.management.subcommands import runbook
from django_dbpool.reports.trouble import CODES
from django_dbpool.reports.trouble.processes import code_of_rule

ROOT = Path(__file__).resolve().parents[2]
COMMAND_LINE = (ROOT / "docs/command-line.md").read_text()
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
CODE_OF_EACH = [*CODES, *(code for code in map(code_of_rule, RULES) if code not in CODES)]
PARTS = ["Symptom", "Likely causes", "Look at", "Do", "Don't"]


def section(text: str, heading: str) -> str:
    return text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]


def test_every_command_has_its_exit_codes_in_the_table() -> None:
    rows = [line for line in section(COMMAND_LINE, "## Exit codes").splitlines() if line.startswith("| `")]
    expected = [
        f"| `{name}` | {' | '.join(kind.exit_codes[code] for code in (0, 1, 2))} |"
        for name, kind in dbpool.found().items()
    ]
    assert rows == expected


def test_every_command_is_in_the_list() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", COMMAND_LINE.partition("## Exit codes")[0], re.MULTILINE)
    assert sorted(listed) == sorted(dbpool.found())


def test_every_problem_has_an_entry_in_the_order_of_urgency() -> None:
    """What an alert says has one, too."""
    entries = re.findall(r"^### (.*)$", RUNBOOK, re.MULTILINE)
    assert sorted(entries) == sorted(CODE_OF_EACH)
    assert [entry for entry in entries if entry in CODES] == list(CODES)


@pytest.mark.parametrize("code", CODE_OF_EACH)
def test_an_entry_is_complete(code: str) -> None:
    text = RUNBOOK.partition(f"\n### {code}\n")[2].partition("\n### ")[0]
    assert re.findall(r"^- \*\*(.*?)\*\*: \S", text, re.MULTILINE) == PARTS
    page, _, anchor = docs_of(code).partition("#")
    assert (ROOT / page).exists()
    assert anchor == code


def test_what_a_culprit_explains_are_codes() -> None:
    for codes in (*runbook.CAUSED.values(), *runbook.WITHOUT_LOCKS.values()):
        assert codes <= set(CODES)


def examples() -> list[Any]:
    found = [pytest.param(command, id=command) for command, _ in dbpool.EXAMPLES]
    for name, kind in dbpool.found().items():
        assert kind.examples, name
        found += [pytest.param(command, id=f"{name}: {command}") for command, _ in kind.examples]
    return found


@pytest.mark.parametrize("example", examples())
def test_examples_of_the_help_are_understood(example: str) -> None:
    parser = load_command_class(get_commands()["dbpool"], "dbpool").create_parser("manage.py", "dbpool")
    words = shlex.split(example.partition(" | ")[0])
    words = [{"replica": "default", "shop/views.py": str(ROOT / "setup.cfg")}.get(word, word) for word in words]
    assert parser.parse_args(words).subcommand == words[0]
