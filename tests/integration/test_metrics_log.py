"""Numbers of real pools, by themselves, in the log."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connections
from django.test import override_settings

from django_dbpool import metrics_log
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import execute
from tests.settings import SERVER_VARIABLE

ROOT = Path(__file__).resolve().parents[2]


def test_settings_are_all_it_takes(
    make_alias: MakeAlias, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_log, "SHORTEST", 0.0)
    alias = make_alias(POOL={"min_size": 0, "max_size": 3})
    caplog.set_level(logging.INFO, "django_dbpool.metrics")

    def told() -> dict[str, int]:
        """Of all blocks together."""
        found = [
            json.loads(record.getMessage())
            for record in tuple(caplog.records)
            if record.name == metrics_log.logger.name
        ]
        return {name: sum(each[name] for each in found if each["alias"] == alias) for name in ("leases", "opened")}

    with override_settings(DBPOOL={"LOG_INTERVAL": 0.05, "LOG_FORMAT": "json"}):
        for _ in range(5):
            execute(alias, "SELECT 1")
        assert wait_until(lambda: told() == {"leases": 5, "opened": 1}, PATIENCE), told()
        connections[alias].close_pool()
        assert wait_until(lambda: 'closed": 1' in caplog.text, PATIENCE)
    assert metrics_log.JOB not in metrics_log.reporter._jobs


PROGRAM = """
import logging
import django
django.setup()
from django.test import override_settings
from django_dbpool import metrics_log
from tests.fixtures.pools import execute

logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
metrics_log.SHORTEST = 0.0
override_settings(DBPOOL={"FLEET": None, "LOG_INTERVAL": 3600, "LOG_FORMAT": "json"}).enable()
for _ in range(3):
    execute("default", "SELECT 1")
"""


def test_last_block_of_a_process(session_server: Server) -> None:
    """When it is written, Python starts no threads any more."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.faults.preloaded_settings",
            SERVER_VARIABLE: session_server.dsn,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in done.stderr.splitlines()]
    blocks = [json.loads(text) for name, _, text in lines if name == metrics_log.logger.name]
    assert sum(block["leases"] for block in blocks) == 3, done.stderr
    assert (blocks[-1]["max"], blocks[-1]["used"]) == (0, 0)
