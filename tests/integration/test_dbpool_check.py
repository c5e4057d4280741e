"""`manage.py dbpool check`, from its command line."""

from __future__ import annotations

import io
from typing import Any

import pytest
from django.conf import settings
from django.core.management import ManagementUtility, call_command
from django.core.management.base import OutputWrapper
from django.db import connections
from django.test import override_settings

from django_dbpool.management.commands import dbpool
from testproject.postgres import EmbeddedServer
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.command_line import Run, run_dbpool

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs it in a project with these aliases."""

    def run(*argv: str, aliases: tuple[str, ...], project: dict[str, Any] | None = None) -> tuple[int, str, str]:
        only = {alias: connections.settings[alias] for alias in aliases}
        with monkeypatch.context() as patch, override_settings(DBPOOL=project or {"ROLE": "command"}):
            patch.delenv("WEB_CONCURRENCY", raising=False)
            patch.setattr(settings, "DATABASES", only)
            return run_dbpool(capsys, "check", *argv)

    return run


def test_what_was_checked_and_that_it_passed(server: EmbeddedServer, make_alias: MakeAlias, run: Run) -> None:
    one = make_alias(server=server, POOL={"max_size": 5, "timeout": 2}, OPTIONS={"application_name": "x"})
    two = make_alias(server=server, POOL={"max_size": 1, "reserve_size": 0})
    code, out, err = run(aliases=(one, two), project={"PROCESSES": 3, "ROLE": "worker"})
    assert (code, err) == (0, "")
    release = out.partition("PostgreSQL ")[2].partition(" ")[0]
    line = f"  PostgreSQL {release} at 127.0.0.1:{server.port}, 27 of 30 connections for applications"
    assert out.splitlines() == [
        one,
        line,
        "  ok",
        two,
        line,
        "  ok",
        (
            f"Checked 7 settings, 2 databases, PostgreSQL {release}, 30 connections, this project may take 21: "
            "0 errors, 0 warnings."
        ),
    ]


def test_what_is_wrong_is_grouped_by_alias_with_ids_and_hints(make_alias: MakeAlias, run: Run) -> None:
    faulty = make_alias(POOL={"maxsize": 5})
    warned = make_alias(POOL={"max_size": 5, "timeout": 10_000})
    away = make_alias(HOST="127.0.0.1", PORT="1")
    code, out, _ = run(aliases=(faulty, warned, away), project={"ROLE": "worker", "SESSION_FROM_REQUEST": "no.such"})
    assert code == 1
    blocks = {name: out.partition(f"{name}\n")[2] for name in (faulty, warned, away, "project")}
    assert blocks[faulty].startswith(
        f'  dbpool.E001: DATABASES["{faulty}"]["POOL"]: unknown key \'maxsize\'.\n'
        "    HINT: Did you mean 'max_size'?\n"
    )
    assert "dbpool.W014" in blocks[warned].partition(away)[0]
    assert "connections for applications" in blocks[warned].partition(away)[0]
    assert blocks[away].startswith(f'  dbpool.E020: DATABASES["{away}"]: could not ask the server: ')
    assert blocks["project"].startswith("  dbpool.E004: DBPOOL: SESSION_FROM_REQUEST = 'no.such' can't be imported")
    assert out.rstrip().endswith(": 3 errors, 1 warning.")


def test_only_the_named_aliases(make_alias: MakeAlias, run: Run) -> None:
    here, away = make_alias(), make_alias(HOST="127.0.0.1", PORT="1", POOL={"maxsize": 3})
    code, out, _ = run(here, aliases=(here, away))
    assert code == 0
    assert away not in out
    code, out, err = run("nowhere", aliases=(here, away))
    assert (code, out) == (2, "")
    assert f"No database of this engine: nowhere. There are: {here}, {away}." in err


@pytest.mark.parametrize(("level", "code"), [("ERROR", 0), ("WARNING", 1), ("INFO", 1)])
def test_the_level_from_which_on_it_fails(level: str, code: int, make_alias: MakeAlias, run: Run) -> None:
    alias = make_alias(POOL={"max_size": 5, "timeout": 10_000})
    assert run("--fail-level", level, aliases=(alias,))[0] == code


def test_silenced_checks_are_counted_only(make_alias: MakeAlias, run: Run) -> None:
    alias = make_alias(POOL={"max_size": 5, "timeout": 10_000})
    with override_settings(SILENCED_SYSTEM_CHECKS=["dbpool.W014"]):
        code, out, _ = run("--fail-level", "WARNING", aliases=(alias,))
    assert code == 0
    assert "W014" not in out
    assert out.rstrip().endswith("0 errors, 0 warnings (1 silenced).")


def test_static_asks_no_server(make_alias: MakeAlias, run: Run) -> None:
    alias = make_alias(HOST="127.0.0.1", PORT="1")
    code, out, _ = run("--static", aliases=(alias,))
    assert code == 0
    assert out.splitlines() == [alias, "  ok", "Checked 1 setting, 1 database: 0 errors, 0 warnings."]


def test_a_pool_that_is_switched_off_is_not_asked_for(make_alias: MakeAlias, run: Run) -> None:
    off = make_alias(HOST="127.0.0.1", PORT="1", POOL=False)
    stock = make_alias(HOST="127.0.0.1", PORT="1", ENGINE="django.db.backends.postgresql")
    code, out, _ = run(aliases=(off, stock))
    assert code == 0
    assert stock not in out


def test_colours_only_on_a_terminal(make_alias: MakeAlias, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = io.StringIO()
    call_command("dbpool", "check", "--static", stdout=plain)
    assert "\x1b" not in plain.getvalue()
    command = dbpool.Command(stdout=Terminal(), force_color=True)  # type: ignore[arg-type]
    call_command(command, "check", "--static")
    assert isinstance(command.stdout, OutputWrapper)
    assert "\x1b" in command.stdout._out.getvalue()  # type: ignore[attr-defined]


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["dbpool", "--help"], ["dbpool", "check", "--help"]):
        with pytest.raises(SystemExit) as caught:
            ManagementUtility(["manage.py", *argv]).execute()
        assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Checks all settings of the pools, and asks the servers whether there is room." in text
    assert "exit codes: 0 nothing found at or above --fail-level 1 something was 2 wrong usage" in text
    assert "examples: manage.py dbpool check everything" in text


def test_a_sub_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["dbpool"], ["dbpool", "chekc"]):
        with pytest.raises(SystemExit) as caught:
            ManagementUtility(["manage.py", *argv]).execute()
        assert caught.value.code == 2
    assert "check" in capsys.readouterr().err


def test_every_module_of_subcommands_is_one() -> None:
    for name, kind in dbpool.found().items():
        assert kind.__name__ == "Subcommand"
        assert kind.help.endswith("."), name
