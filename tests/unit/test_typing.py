"""The package is typed, and tests/typing shows it: what type checkers accept there also runs."""

from __future__ import annotations

import ast
import asyncio
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.db import connections

import django_dbpool
from django_dbpool import asgi, decorators, errors, middleware, testing, transaction
from django_dbpool.core.errors import Expiry, Refusal
from django_dbpool.core.ledger import Holder
from django_dbpool.pool import stopping
from tests.fixtures.pools import value
from tests.typing import project, transactions

ROOT = Path(__file__).resolve().parents[2]
NODES = [node for path in (ROOT / "tests/typing").glob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
USED = {node.id for node in NODES if isinstance(node, ast.Name)} | {
    f"{node.value.id}.{node.attr}"
    for node in NODES
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
}
REFUSAL = Refusal(
    alias="default",
    waited=1.0,
    in_use=1,
    max_size=1,
    waiting=0,
    holders=(Holder("default", 1, "thread", 1, None, 1.0, None, "idle"),),
)
EXPIRY = Expiry(setting="command_timeout", limit=1.0, age=1.1, maybe_committed=False, answered=True)
ERRORS = [
    errors.PoolExhausted(REFUSAL),
    errors.DatabaseUnavailable(REFUSAL),
    errors.CircuitOpen(REFUSAL),
    errors.ServerConnectionsExhausted(REFUSAL),
    errors.ShuttingDown(REFUSAL),
    errors.LeaseTimedOut(REFUSAL, EXPIRY),
    errors.RawAccessRefused("raw"),
    errors.RawAccessWarning("raw"),
    errors.RetryingInsideTransaction("retrying"),
]


def test_type_checkers_are_told() -> None:
    assert files("django_dbpool").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    ("module", "prefix"),
    [(transaction, "transaction."), (errors, "errors."), (middleware, ""), (testing, ""), (asgi, ""), (decorators, "")],
)
def test_every_public_name_is_used(module: ModuleType, prefix: str) -> None:
    assert {f"{prefix}{name}" for name in module.__all__} - USED == set()


def test_names_of_the_package_are_used() -> None:
    functions = set(django_dbpool.__all__) - {"__version__"}
    assert {f"django_dbpool.{name}" for name in functions} - USED == set()


def test_user_code_is_checked_strictly() -> None:
    """What is loosened for tests is strict again there, so that an annotation that is missing here is an error."""
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    overrides: dict[str, dict[str, Any]] = {
        entry["module"]: entry for entry in mypy["overrides"] if isinstance(entry["module"], str)
    }
    loose, strict = overrides["tests.*"], overrides["tests.typing.*"]
    assert set(loose["disable_error_code"]) <= set(strict["enable_error_code"])
    kept = {"module", "disable_error_code"}
    wanted = {key: not key.startswith("allow_") for key in loose if key not in kept}
    assert mypy["strict"]
    assert {key: strict.get(key, loose[key]) for key in wanted} == wanted


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "example",
    [
        transactions.atomic,
        transactions.pin,
        transactions.dedicated,
        transactions.session,
        transactions.retrying,
        transactions.limits,
        project.pool,
        project.strict,
    ],
)
def test_it_runs(example: Callable[[], None]) -> None:
    example()
    assert value("default", "SELECT current_setting('app.tenant', true)") in (None, "")


@pytest.mark.django_db(transaction=True)
def test_a_process_starts_and_ends() -> None:
    try:
        project.start_and_end()
    finally:
        stopping.resume()


def test_it_runs_without_a_database() -> None:
    assert asyncio.run(transactions.cancelling()) == 1
    assert project.settings() == {"default": {"NAME": "shop"}}
    project.middleware()
    project.decorators()
    project.sources()
    project.of_leak(testing.SessionStateLeaked("default", (), ()))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors(error: Exception) -> None:
    assert transactions.kind_of(error)


@pytest.mark.django_db(transaction=True)
def test_an_engine_may_derive(make_alias: Any) -> None:
    alias = make_alias()
    before = connections[alias]
    connections[alias] = project.DatabaseWrapper(before.settings_dict, alias)
    try:
        assert value(alias, "SELECT current_setting('app.tenant')") == "7"
    finally:
        connections[alias].close_pool()
        connections[alias] = before
