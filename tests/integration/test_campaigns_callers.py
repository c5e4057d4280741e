"""The clean-up of `testproject/audio` by each who may call `run_batches()`; nobody needs Celery for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from testproject.audio import store
from testproject.campaigns.counting import count_recordings
from testproject.campaigns.folder import VARIABLE
from testproject.harness.environment import ROOT, environment, manage
from testproject.postgres import Server
from tests.fixtures.databases import seeded_database

pytestmark = pytest.mark.ci

SETTINGS = "testproject.campaigns.settings"
RECORDINGS = 60
"""More than one batch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audio")


@pytest.fixture(scope="module")
def shop(session_server: Server, folder: Path) -> Iterator[Server]:
    variables = {"DJANGO_SETTINGS_MODULE": SETTINGS, VARIABLE: str(folder)}
    with seeded_database(session_server, "audio", **variables) as own:
        yield own


@pytest.fixture
def engine() -> str:
    return "dbpool"


@pytest.fixture
def env(engine: str, shop: Server, folder: Path) -> dict[str, str]:
    """With two shelves of recordings whose time is up, and one on each whose is not."""
    variables = {"DJANGO_SETTINGS_MODULE": SETTINGS, VARIABLE: str(folder), "DBPOOL_CAMPAIGNS_PAUSE": "0.01"}
    env = environment(shop, engine, None, **variables)
    with shop.connect() as connection:
        connection.execute("TRUNCATE django_dbpool_batchrun CASCADE")
    manage(env, "seed_audio", f"--recordings={RECORDINGS}")
    return env


def assert_clean(shop: Server, folder: Path, shelves: int) -> None:
    found = count_recordings(shop, folder)
    assert (found.expired, found.forgotten, found.lost) == (RECORDINGS * (2 - shelves), 0, 0)
    assert len(list(store.files(folder).iterdir())) == 2 + RECORDINGS * (2 - shelves)


@pytest.mark.parametrize("engine", ["dbpool", "stock"])
def test_management_command(env: dict[str, str], shop: Server, folder: Path) -> None:
    assert manage(env, "clean_up", "0") == f"shelf 0: {RECORDINGS} removed, done\n"
    assert_clean(shop, folder, shelves=1)


def test_script_of_cron_with_threads(env: dict[str, str], shop: Server, folder: Path) -> None:
    command = [sys.executable, "-m", "testproject.audio.nightly", "0", "1"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"shelf {shelf}: {RECORDINGS} removed, done" for shelf in (0, 1)], done.stderr
    assert_clean(shop, folder, shelves=2)


@pytest.mark.skipif(django.VERSION < (6, 0), reason="django.tasks came with 6.0")
def test_task_of_django(env: dict[str, str], shop: Server, folder: Path) -> None:
    code = """
from testproject.audio.background import clean_up
from django.db import transaction
with transaction.atomic():
    refused = clean_up.enqueue(shelf=1)
print(refused.status, refused.errors[0].exception_class_path)
found = clean_up.enqueue(shelf=1)
print(found.status, found.return_value)
"""
    output = manage(env, "shell", "--no-imports", "-c", code)
    # Run at once, it would be a part of the transaction.
    assert output == f"FAILED django_dbpool.batch.errors.BatchRefused\nSUCCESSFUL {RECORDINGS}\n"
    assert_clean(shop, folder, shelves=1)
