"""The apps `campaigns` and `audio`: what the audit finds in them, and that their migrations are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from django_dbpool.audit import audit_paths
from testproject.harness.environment import ROOT, environment, manage
from testproject.postgres import Server

APPS = ("audio", "campaigns")
PATHS = [ROOT / "testproject" / app for app in APPS]


@pytest.mark.parametrize("app", APPS)
def test_audit_knows_the_naive_task(app: str) -> None:
    """An iterator that holds its connection while the loop sleeps, in a transaction that does."""
    found = audit_paths([ROOT / "testproject" / app])
    assert {Path(each.path).name for each in found} == {"naive.py"}
    assert {each.rule for each in found} >= {"DBP302", "DBP303"}


def test_audit_finds_nothing_in_the_batches() -> None:
    assert audit_paths(PATHS, exclude=["naive.py"]) == []


def test_migrations_are_complete(session_server: Server) -> None:
    env = environment(session_server, "dbpool", DJANGO_SETTINGS_MODULE="testproject.campaigns.settings")
    manage(env, "makemigrations", *APPS, "--check", "--dry-run")
