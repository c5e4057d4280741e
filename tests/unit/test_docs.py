"""The prose is held to the code: settings, defaults, check ids, names and samples."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from django_dbpool import errors, transaction
from django_dbpool.core.config import PoolConfig
from django_dbpool.core.ledger import Holder

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "docs/settings.md").read_text()
ERRORS = (ROOT / "docs/errors.md").read_text()
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def rows(text: str) -> list[list[str]]:
    """Cells of every table row whose first cell is code."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def test_settings_table_is_the_dataclass() -> None:
    """docs/settings.md lists every key of POOL with its default, in the order of the code."""
    documented = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in rows(SETTINGS) if len(row) == 3}
    assert documented == {field.name: field.default for field in fields(PoolConfig)}
    assert list(documented) == [field.name for field in fields(PoolConfig)]


def test_check_ids_are_the_ones_in_the_code() -> None:
    """Every check id of the code is documented, and no other."""
    code = (ROOT / "django_dbpool/checks.py").read_text()
    ids = set(re.findall(r'id="(dbpool\.[EW]\d{3})"', code))
    assert set(re.findall(r"dbpool\.[EW]\d{3}", SETTINGS)) == ids
    assert set(re.findall(r"dbpool\.[EW]\d{3}", README)) == ids


def test_readme_settings_work() -> None:
    """The README's settings block is valid Python whose POOL is accepted, and names an engine that exists."""
    block = re.search(r"```python\n(INSTALLED_APPS.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block.group(1), names)
    database = names["DATABASES"]["default"]
    assert PoolConfig.from_mapping(database["POOL"]).max_size == 10
    assert database["ENGINE"] == settings.DATABASES["default"]["ENGINE"]
    assert "django_dbpool" in names["INSTALLED_APPS"]


def test_error_attributes_exist() -> None:
    """docs/errors.md documents the public errors and the fields of a holder."""
    for name in errors.__all__:
        assert name == "PoolError" or f"`{name}`" in ERRORS
    for field in fields(Holder):
        assert f"`{field.name}`" in ERRORS or field.name == "alias"


def test_public_names_are_documented() -> None:
    """What transaction.py offers is in the guide."""
    guide = (ROOT / "docs/transaction-mode.md").read_text()
    for name in transaction.__all__:
        assert f"transaction.{name}(" in guide


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_samples_compile(page: Path) -> None:
    """Every Python sample is valid syntax."""
    for sample in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(sample, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page: Path) -> None:
    """Relative links lead to files that exist."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
