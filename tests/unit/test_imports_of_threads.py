"""
Threads of ours import nothing after start-up: a process that forks meanwhile, as gunicorn --preload does, would leave
its children with modules that are half there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys, django
from django.db import connection
django.setup()
before = set(sys.modules)
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
mine = set(sys.modules)
from django_dbpool.core import reporter
reporter.flush()
from django_dbpool.fleet import publisher
publisher.tick()
print(json.dumps(sorted(name for name in set(sys.modules) - mine if name.startswith("django_dbpool"))))
"""


def test_jobs_import_nothing_of_ours() -> None:
    """Whichever thread calls them first."""
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.faults.fleet_import_settings"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
