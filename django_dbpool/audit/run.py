"""Files in, findings out."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from .code import Code, Problem
from .files import python_files
from .finding import UNREADABLE, Finding
from .rules import RULES
from .source import Source, Unreadable, read

UNREADABLE_FIX = "Correct it, or leave it out with --exclude."


@dataclass(slots=True)
class Report:
    findings: list[Finding] = field(default_factory=list)
    """Sorted by place."""
    files: int = 0
    """How many were looked at."""
    silenced: int = 0
    """How many findings a ``noqa`` comment has silenced."""


def audit_paths(
    paths: Sequence[str | Path], *, select: Sequence[str] = (), ignore: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[Finding]:
    """
    What is wrong in these files and directories, sorted by place. Nothing is imported or run.

    Args:
        paths: Files, and directories with all Python files below. Hidden directories, virtual environments and
            ``site-packages`` are left out, unless they are named themselves.
        select: Only these rules; ``DBP3`` means all that begin so.
        ignore: All but these rules.
        exclude: Files and directories to leave out, by name or pattern: ``migrations``, ``shop/test_*.py``.

    Returns:
        Findings. What can't be analysed is one too, with the rule ``DBP000``, which can't be deselected.

    Raises:
        ValueError: A rule of ``select`` or ``ignore`` is unknown.
        FileNotFoundError: One of the paths doesn't exist.
    """
    return audit(paths, select=select, ignore=ignore, exclude=exclude).findings


def audit(
    paths: Sequence[str | Path], *, select: Sequence[str] = (), ignore: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Report:
    """As :func:`audit_paths`, with the numbers."""
    paths, select, ignore, exclude = map(_listed, (paths, select, ignore, exclude))
    rules = chosen(select, ignore)
    for path in paths:
        if not Path(path).exists():
            raise FileNotFoundError(f"No such file or directory: {path}")
    report = Report()

    def on_error(error: OSError) -> None:
        reason = error.strerror or str(error)
        report.findings.append(_unreadable(Path(str(error.filename)), Unreadable(reason)))

    for path in python_files(paths, exclude, on_error):
        report.files += 1
        try:
            _audit_file(path, rules, report)
        except Unreadable as error:
            report.findings.append(_unreadable(path, error))
        except RecursionError:
            report.findings.append(_unreadable(path, Unreadable("nested too deeply")))
    report.findings.sort(key=attrgetter("path", "line", "column", "rule"))
    return report


def _listed(given: Any) -> Any:
    """A single one is meant as such, though a string is a sequence, too."""
    return [given] if isinstance(given, str | Path) else given


def chosen(select: Sequence[str], ignore: Sequence[str]) -> list[str]:
    """The ids of the rules that are asked for."""
    for prefix in (*select, *ignore):
        if not re.fullmatch(r"DBP\d{0,3}", prefix) or not any(rule.startswith(prefix) for rule in RULES):
            raise ValueError(f"No rule {prefix!r}. There are: {', '.join(RULES)}.")
    return [
        rule for rule in RULES if (not select or rule.startswith(tuple(select))) and not rule.startswith(tuple(ignore))
    ]


def _audit_file(path: Path, rules: Sequence[str], report: Report) -> None:
    source = read(path)
    code = Code(source.tree)
    seen = set()
    for rule in rules:
        for problem in RULES[rule](code):
            if (rule, problem.node) in seen:
                continue
            seen.add((rule, problem.node))
            if source.silences(rule, _lines(code, problem.node)):
                report.silenced += 1
            else:
                report.findings.append(_finding(path, source, rule, problem))


def _lines(code: Code, node: ast.expr | ast.stmt) -> list[int]:
    statement = code.module.statement(node)
    return [node.lineno, getattr(statement, "lineno", node.lineno)]


def _finding(path: Path, source: Source, rule: str, problem: Problem) -> Finding:
    node = problem.node
    return Finding(rule, str(path), node.lineno, source.column(node), problem.message, problem.fix)


def _unreadable(path: Path, error: Unreadable) -> Finding:
    return Finding(UNREADABLE, str(path), error.line, error.column, f"not analysed: {error}", UNREADABLE_FIX)
