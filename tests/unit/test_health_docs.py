"""docs/health.md: its codes are those of the code, its probes ask what there is, its plug-ins exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from django.test import override_settings
from django.urls import resolve, reverse

from django_dbpool.health import words
from django_dbpool.pool.question import Code

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/health.md").read_text()
MANIFEST = (ROOT / "tests/fixtures/kubernetes.yaml").read_text()


def test_every_code_is_in_the_table() -> None:
    table = PAGE.partition("| code | ready |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(words.TEXTS)
    assert set(get_args(Code)) <= set(words.TEXTS)


@override_settings(ROOT_URLCONF="tests.fixtures.api_site")
def test_probes_ask_endpoints_that_exist() -> None:
    """And the database has no say in whether a pod is killed."""
    asked = dict(re.findall(r"(\w+Probe):\n +httpGet:\n +path: (\S+)", MANIFEST))
    names = {probe: resolve(path).view_name for probe, path in asked.items()}
    live, ready = "django_dbpool:health-live", "django_dbpool:health-ready"
    assert names == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}


def test_the_grace_period_is_long_enough() -> None:
    grace = int(re.findall(r"terminationGracePeriodSeconds: (\d+)", MANIFEST)[0])
    served = int(re.findall(r'--graceful-timeout, "(\d+)"', MANIFEST)[0])
    before = int(re.findall(r'command: \[sleep, "(\d+)"', MANIFEST)[0])
    assert grace > served + before


@override_settings(ROOT_URLCONF="tests.fixtures.health_check_urls")
def test_the_plugins_of_the_page_exist() -> None:
    view = resolve(reverse("health-databases")).func
    checks = list(view.view_class(**view.view_initkwargs).get_checks())
    assert [type(check).__name__ for check in checks] == ["PoolConnectivity", "PoolSaturation", "CircuitState"]
