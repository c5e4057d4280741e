"""The ticket shop's own tests pass on every engine, as a project's do when it changes its ENGINE."""

from __future__ import annotations

import pytest

from testproject.harness.environment import environment, manage
from testproject.postgres import Server

ENGINES = ["stock-pool", "dbpool"]


@pytest.mark.parametrize("engine", ENGINES)
def test_tests_of_the_shop(session_server: Server, engine: str) -> None:
    env = environment(session_server, engine, {"max_size": 4} if engine != "stock" else None)
    env |= {"PYTHONWARNINGS": "error"}
    manage(env, "test", "testproject.tickets", "--noinput")


def test_migrations_are_complete(session_server: Server) -> None:
    manage(environment(session_server, "dbpool"), "makemigrations", "--check", "--dry-run")
