"""Code in the guides is the code that runs; the table of contents is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXCERPTS = [
    pytest.param(path, code, id=f"{page.name} {number}: {path}: {code.splitlines()[0]}")
    for page in sorted(DOCS.glob("*.md"))
    for number, (path, code) in enumerate(
        re.findall(r"^<!-- (\S+) -->\n```\w+\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL), 1
    )
]


@pytest.mark.parametrize(("path", "code"), EXCERPTS)
def test_excerpt_is_in_its_file(path: str, code: str) -> None:
    source = re.sub(r"  # type: ignore\[.*?\]", "", (ROOT / path).read_text())
    assert code in source


def test_the_tenants_guide_has_its_excerpts() -> None:
    assert len(EXCERPTS) >= 13


def test_index_has_every_page_once() -> None:
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text())
    assert sorted(linked) == sorted(page.name for page in DOCS.glob("*.md") if page.name != "index.md")
