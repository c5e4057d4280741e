"""The prose is held to the code: settings, defaults, check ids, names and samples."""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from django_dbpool import errors, transaction
from django_dbpool.conf.urls import POOL_PARAMETERS
from django_dbpool.core.config import PoolConfig
from django_dbpool.core.ledger import Holder
from django_dbpool.core.project import ProjectConfig

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "docs/settings.md").read_text()
CHECKS = (ROOT / "docs/checks.md").read_text()
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


def section(text: str, heading: str) -> str:
    """What stands between a heading and the next of its level."""
    return text.partition(f"\n{heading}")[2].partition("\n## ")[0]


def test_settings_table_is_the_dataclass() -> None:
    """docs/settings.md lists every key of POOL with its default, in the order of the code."""
    table = rows(SETTINGS.partition("## DBPOOL")[0])
    documented = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in table}
    assert documented == dataclasses.asdict(PoolConfig())
    assert list(documented) == [field.name for field in fields(PoolConfig)]
    assert all(len(row) == 3 for row in table)


def test_project_table_is_the_dataclass() -> None:
    """The same for DBPOOL, whose keys are written in capitals."""
    table = rows(section(SETTINGS, "## DBPOOL"))
    documented = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in table}
    assert documented == {key.upper(): value for key, value in dataclasses.asdict(ProjectConfig()).items()}
    assert list(documented) == [field.name.upper() for field in fields(ProjectConfig)]


def test_url_table_is_the_code() -> None:
    documented = " ".join(row[0] for row in rows(section(SETTINGS, "## Settings from a URL")))
    assert all(f"`{name}=" in documented for name in POOL_PARAMETERS)


def test_check_ids_are_the_ones_in_the_code() -> None:
    """Every check id of the code has one row in docs/checks.md, with all cells filled; no other is mentioned."""
    code = "".join(path.read_text() for path in (ROOT / "django_dbpool").rglob("*.py"))
    ids = re.findall(r"dbpool\.[EW]\d{3}", code)
    table = rows(CHECKS)
    documented = [row[0].strip("`") for row in table]
    assert sorted(documented) == sorted(set(ids))
    assert all(len(row) == 4 and all(row) for row in table)
    for page in PAGES:
        assert set(re.findall(r"dbpool\.[EW]\d{3}", page.read_text())) <= set(ids), page.name


def test_errors_and_warnings_are_in_their_tables() -> None:
    errors_, warnings = CHECKS.split("## Warnings")
    assert {row[0][:9] for row in rows(errors_)} == {"`dbpool.E"}
    assert {row[0][:9] for row in rows(warnings)} == {"`dbpool.W"}


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
    """What transaction.py offers is in a guide."""
    guides = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for name in transaction.__all__:
        assert f"transaction.{name}(" in guides


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
