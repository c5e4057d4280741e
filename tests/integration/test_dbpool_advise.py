"""`manage.py dbpool advise`, from its command line: on what was measured here, on what others say, on nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings

from django_dbpool import advice
from django_dbpool.alerts.service import service, stop
from django_dbpool.conf import pool_config
from django_dbpool.core.advice import Measured
from django_dbpool.fleet import FleetUnavailable
from django_dbpool.management.subcommands import advise as subcommand
from testproject.postgres import free_port
from tests.fixtures.command_line import Run, run_dbpool
from tests.fixtures.pools import execute

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
BUSY = Measured(seconds=900, leases=90_000, hold=0.05, load=5.0, usual_load=5.0, peak_load=8.0, most=10, executing=0.9)


@pytest.fixture(autouse=True)
def no_measures_of_other_tests() -> Iterator[None]:
    stop()
    yield
    stop()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs it in a project with these aliases."""

    def run(*argv: str, aliases: tuple[str, ...] = (), **project: Any) -> tuple[int, str, str]:
        only = {alias: connections.settings[alias] for alias in aliases}
        with monkeypatch.context() as patch, override_settings(DBPOOL={"ROLE": "web"} | project):
            patch.delenv("WEB_CONCURRENCY", raising=False)
            patch.setattr(settings, "DATABASES", only)
            return run_dbpool(capsys, "advise", "--no-color", *argv)

    return run


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have processes of these loads in the fleet."""

    def publish(*loads: Any) -> None:
        documents = [
            {"host": "web-1", "pid": number, "role": "web", "sections": {"load": load}}
            for number, load in enumerate(loads, 100)
        ]
        monkeypatch.setattr(subcommand, "SOURCES", {"fleet": lambda: documents})

    return publish


def test_from_settings_alone(make_pool: MakePool, run: Run) -> None:
    alias = make_pool(size=30, POOL={"min_size": 1})
    code, out, err = run(aliases=(alias,), THREADS=8)
    assert (code, err) == (1, "")
    assert "Nothing was measured; advice is from settings alone." in out
    assert "max_size: 30 -> 8 (prior)" in out
    assert f'DATABASES["{alias}"]["POOL"] = {{' in out


def test_from_the_fleet(make_pool: MakePool, run: Run, published: Callable[..., None]) -> None:
    alias = make_pool(size=30, POOL={"min_size": 5, "statement_timeout": 20})
    calm = dataclasses.replace(BUSY, peak_load=1.0)
    published({alias: calm.to_json()}, {alias: BUSY.to_json(), "elsewhere": BUSY.to_json()}, {"elsewhere": {}})
    code, out, _ = run("--using", alias, "--threads", "40", aliases=(alias,))
    assert code == 1
    assert "Measured by 2 processes (fleet); the busiest, web-1:101: 90000 leases in 15 min, 0 timeouts." in out
    assert "max_size: 30 -> 13 (measured)" in out
    assert "min_size: 5 fits (measured)" in out


def test_what_is_pasted_is_accepted(make_pool: MakePool, run: Run, published: Callable[..., None]) -> None:
    alias = make_pool(size=30)
    published({alias: BUSY.to_json()})
    code, out, _ = run("--json", "--processes", "2", aliases=(alias,), THREADS=40, WORKER_TIMEOUT=2)
    assert code == 1
    document = json.loads(out)
    (database,) = document["databases"]
    assert (document["source"], document["processes"], database["alias"]) == ("fleet", 1, alias)
    changes = {each["setting"]: each["proposed"] for each in database["advice"] if each["kind"] == "change"}
    assert set(changes) == {"max_size", "min_size", "timeout", "statement_timeout"}
    after = {alias: dict(connections.settings[alias])}
    exec(database["paste"], {"DATABASES": after})
    config = pool_config(after[alias], alias)
    assert {key: getattr(config, key) for key in changes} == changes
    with pytest.MonkeyPatch.context() as patch, override_settings(DBPOOL={"ROLE": "command", "WORKER_TIMEOUT": 2}):
        patch.setattr(settings, "DATABASES", after)
        assert not [message for message in run_checks(tags=["dbpool"]) if alias in message.msg]


def test_from_what_this_process_has_measured(make_pool: MakePool, run: Run) -> None:
    alias = make_pool()
    service().look()
    for _ in range(5):
        execute(alias, "SELECT 1")
    service().look()
    section = advice.load_section()
    assert section is not None
    assert section[alias]["leases"] == 5
    assert advice.loads_in([{"sections": {"load": section}}])[0].aliases == advice.own_load().aliases
    _, out, _ = run(aliases=(alias,))
    assert "Measured by 1 process (this process)" in out
    assert "Only 5 leases" in out


@pytest.mark.parametrize(
    "section",
    [
        None,
        [],
        {"x": 7},
        {"x": {}},
        {"x": {**BUSY.to_json(), "leases": "many"}},
        {"x": {**BUSY.to_json(), "leases": True}},
        {"x": {**BUSY.to_json(), "hold": 1e999}},
        {"x": {**BUSY.to_json(), "hold": float("nan")}},
    ],
)
def test_what_others_say_is_not_trusted(
    make_pool: MakePool, run: Run, published: Callable[..., None], section: Any
) -> None:
    alias = make_pool(POOL={"statement_timeout": 5})
    published({alias: section["x"]} if section else section)
    code, out, _ = run(aliases=(alias,))
    assert code == 0
    assert "Nothing was measured" in out
    assert "Nothing to change." in out


def test_a_server_that_is_away_is_not_known(make_pool: MakePool, run: Run) -> None:
    alias = make_pool(PORT=str(free_port()))
    code, out, _ = run(aliases=(alias,))
    assert code == 1
    assert "How many connections the server has: it could not be asked." in out


def test_sources_that_fail_are_told_without_their_words(
    make_pool: MakePool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = make_pool(POOL={"statement_timeout": 5})

    def fail() -> Any:
        raise OSError("postgres://shop:secret@db/shop")

    def away() -> Any:
        raise FleetUnavailable("nothing is published")

    monkeypatch.setattr(subcommand, "SOURCES", {"fleet": fail, "processes of this host": away})
    code, out, err = run(aliases=(alias,))
    assert code == 0
    assert err.splitlines() == [
        "The fleet can't be asked: OSError",
        "The processes of this host can't be asked: nothing is published",
    ]
    assert "Nothing was measured" in out


def test_wrong_usage(make_pool: MakePool, run: Run) -> None:
    alias = make_pool()
    code, _, err = run("--using", "nobody", aliases=(alias,))
    assert (code, err) == (2, f"No database of this engine: nobody. There are: {alias}.\n")
    assert run("--cpus", "0", aliases=(alias,))[0] == 2
    code, _, err = run(aliases=(alias,), THREADS="many")
    assert code == 2
    assert "DBPOOL: THREADS = 'many'" in err


def test_hostile_names_do_not_steer_the_terminal() -> None:
    load = {"x": BUSY.to_json()}
    (found,) = advice.loads_in([{"host": "a\x1b[2J\n", "pid": "7\r", "sections": {"load": load}}])
    assert found.process == "a?[2J?:7?"
