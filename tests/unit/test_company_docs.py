"""docs/company.md shows the engines that the tests run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/company.md").read_text()
ENGINES = sorted(path.parent.name for path in (ROOT / "tests/company/engines").glob("*/base.py"))


def code(source: str) -> str:
    """Without docstrings, comments and blank lines; `from __future__` is not shown."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    tree.body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    return ast.unparse(tree)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_are_shown_as_they_are_tested(engine: str) -> None:
    samples = [code(sample) for sample in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)]
    assert code((ROOT / f"tests/company/engines/{engine}/base.py").read_text()) in samples


def test_sections_that_are_linked_exist() -> None:
    headings = {re.sub(r"[^\w-]", "", line.lower().replace(" ", "-")) for line in re.findall(r"(?m)^#+ (.*)$", PAGE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
