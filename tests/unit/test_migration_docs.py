"""docs/migration.md: options of the other packages and what becomes of them, as their code and ours have it."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql.base import DatabaseWrapper as Stock
from psycopg_pool import ConnectionPool

from django_dbpool import conf
from django_dbpool.core.config import PoolConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs/migration.md").read_text()
SECTIONS = dict(re.findall(r"^## From (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OURS = {field.name for field in fields(PoolConfig)}
# A value of the right type for each option that is taken.
GIVEN = {"min_size": 1, "max_size": 3, "timeout": 3, "max_waiting": 3, "max_lifetime": 3, "max_idle": 3, "check": print}


def rows(section: str) -> dict[str, list[str]]:
    """Table rows whose first cell begins with code, by that code."""
    found = {}
    for line in SECTIONS[section].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and (name := re.match(r"`([^`]+)`", cells[0])):
            assert name.group(1) not in found, name.group(1)
            found[name.group(1)] = cells
    return found


DJANGO = rows("Django's own pool")


def test_every_option_of_psycopg_pool_is_there_with_its_default() -> None:
    parameters = inspect.signature(ConnectionPool.__init__).parameters
    expected = {
        name: str(p.default) if inspect.isclass(p.default) else repr(p.default) for name, p in parameters.items()
    }
    del expected["self"]
    assert {name: cells[1].strip("`") for name, cells in DJANGO.items()} == expected


@pytest.mark.parametrize("option", sorted(DJANGO))
def test_what_becomes_of_an_option(option: str) -> None:
    """Taken, without effect or refused; and a key of POOL or not."""
    settings: dict[str, Any] = {"NAME": "x", "OPTIONS": {"pool": {option: GIVEN.get(option, "x")}}}
    conf.adopt_django_option(settings, "default")
    what, in_pool = DJANGO[option][2:]
    if what == "refused":
        with pytest.raises(ImproperlyConfigured, match=option):
            conf.pool_config(settings, "default")
    else:
        config = conf.pool_config(settings, "default")
        if option == "check":
            assert conf.given_check(settings, None) is print
        elif what == "taken":
            assert getattr(config, option) == GIVEN[option]
        else:
            assert what == "no effect"
            assert config == conf.pool_config({"NAME": "x", "POOL": True}, "default")
    assert in_pool.startswith("not a key") == (option not in OURS)
    if (default := re.match(r"the same; default (\d+)", in_pool)) is not None:
        assert getattr(PoolConfig(), option) == int(default.group(1))


def test_what_django_sets_itself() -> None:
    """The three that the page says Django sets: giving them is an error of Django's."""
    for option in ("kwargs", "configure", "open"):
        wrapper = Stock({**_stock(), "OPTIONS": {"pool": {option: None}}}, "unused")
        with pytest.raises(TypeError, match=option):
            wrapper.pool  # noqa: B018


def test_an_empty_dictionary_is_off_there_and_refused_here() -> None:
    assert Stock({**_stock(), "OPTIONS": {"pool": {}}}, "unused").pool is None
    settings: dict[str, Any] = {"NAME": "x", "OPTIONS": {"pool": {}}}
    conf.adopt_django_option(settings, "default")
    with pytest.raises(ImproperlyConfigured, match="empty dictionary"):
        conf.pool_config(settings, "default")


def test_a_lone_min_size_needs_a_max_size() -> None:
    with pytest.raises(ImproperlyConfigured, match="min_size"):
        conf.pool_config({"POOL": {"min_size": 20}}, "default")


def _stock() -> dict[str, Any]:
    return {
        "NAME": "x",
        "USER": "",
        "PASSWORD": "",
        "HOST": "",
        "PORT": "",
        "TIME_ZONE": None,
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,
    }


# -- dj_db_conn_pool ------------------------------------------------------------------------------------------------


def test_every_option_of_dj_db_conn_pool_is_there_with_its_default() -> None:
    core = pytest.importorskip("dj_db_conn_pool.core")
    documented = {name: ast.literal_eval(cells[1].strip("`")) for name, cells in rows("dj_db_conn_pool").items()}
    assert documented == {name.upper(): value for name, value in core.pool_container.pool_default_params.items()}


def test_the_example_is_translated() -> None:
    block = re.search(r"```python\n(.*?)```", SECTIONS["dj_db_conn_pool"], re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block.group(1), names)
    before, after = names["POOL_OPTIONS"], PoolConfig.from_mapping(names["POOL"])
    assert set(before) <= set(rows("dj_db_conn_pool"))
    assert after.max_size == before["POOL_SIZE"] + before["MAX_OVERFLOW"]
    assert (after.min_size, after.max_lifetime, after.timeout) == (
        before["POOL_SIZE"],
        before["RECYCLE"],
        before["TIMEOUT"],
    )


# -- django-pg-real-pool --------------------------------------------------------------------------------------------


def test_settings_of_django_pg_real_pool_are_those_of_its_source() -> None:
    package = find_spec("django_pg_real_pool")
    if package is None or package.origin is None:
        pytest.skip("django-pg-real-pool is not installed")
    root = Path(package.origin).parent
    source = "\n".join(path.read_text() for path in root.rglob("*.py"))
    theirs = set(re.findall(r"getattr\(settings, '(\w+)'", source))
    theirs |= set(re.findall(r"database\.get\('([A-Z]{5,})'", source)) - {"HOST", "PORT"}
    theirs |= set(re.findall(r"environ\.get\('(\w+)'", source))
    documented = "\n".join(cells[0] for cells in rows("django-pg-real-pool").values())
    assert theirs == set(re.findall(r"DJANGO_PG\w+|TELEMETRY(?=\"\])", documented))
    engines = re.findall(r'ENGINE = "([\w.]+)"', documented)
    assert engines == ["django_pg_real_pool", "django_pg_real_pool.dj_db_conn_pool"]
    for engine in engines:
        assert root.parent.joinpath(*engine.split("."), "base.py").exists()


# -- all ------------------------------------------------------------------------------------------------------------


def test_keys_that_the_page_names_exist() -> None:
    """Keys of POOL in running text and tables."""
    named = set(re.findall(r"POOL\[\"(\w+)\"\]", PAGE)) | set(re.findall(r"`\"(\w+)\": ", PAGE)) - {"pool"}
    assert named >= {"session", "prepare", "pooler", "check_idle", "mode"}
    assert named <= OURS


def test_settings_samples_are_accepted() -> None:
    blocks = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "DATABASES" in block]
    assert len(blocks) == 2
    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)
        PoolConfig.from_mapping(names["DATABASES"]["default"]["POOL"])
