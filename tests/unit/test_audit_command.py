"""`manage.py dbpool audit`, from its command line. No test here may use a database, and pytest-django sees to it."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from django.apps import apps
from django.test import override_settings

from django_dbpool.management.subcommands import audit as subcommand
from tests.fixtures.command_line import Run, run_dbpool

VIEWS = """\
import psycopg
from shop.models import Order

def view(request, pks):
    for pk in pks:
        Order.objects.get(pk=pk)
    psycopg.connect()
    psycopg.connect()  # noqa: DBP101
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return partial(run_dbpool, capsys, "audit")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project, and the current directory."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/views.py").write_text(VIEWS)
    (tmp_path / "shop/clean.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "shop"


def test_findings_as_editors_know_them(shop: Path, run: Run) -> None:
    code, out, err = run("shop", "--no-color")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == "shop/views.py:6:9: DBP301 a query for each turn of the for loop: Order.objects.get()"
    assert lines[1].startswith("    Ask once, ")
    assert lines[2].startswith("shop/views.py:7:5: DBP101 psycopg.connect() ")
    assert lines[3].startswith("    Use django.db.connection.cursor()")
    assert lines[4:] == ["", "Audited 2 files: 2 findings (DBP101: 1, DBP301: 1), 1 silenced."]


@pytest.mark.parametrize("name", [b"caf\xe9.py", b"x\n\x1b[31mfine.py", b"a\xff:1:1: DBP101 forged.py"])
def test_files_whose_names_are_no_text(name: bytes, shop: Path, run: Run) -> None:
    Path(os.fsdecode(os.fsencode(shop) + b"/" + name)).write_text("import psycopg\npsycopg.connect()\n")
    code, out, err = run("shop", "--no-color", "--exclude", "views.py")
    assert (code, err) == (1, "")
    assert [line.partition("DBP101 psycopg")[0][:5] for line in out.splitlines()] == ["shop/", "    U", "", "Audit"]
    assert out.isascii()
    assert "\x1b" not in out
    out.encode()
    (finding,) = json.loads(run("shop", "--format", "json", "--exclude", "views.py")[1])
    assert os.fsencode(finding["path"]).endswith(name)


def test_nothing_found(shop: Path, run: Run) -> None:
    assert run("shop/clean.py", "--no-color") == (0, "Audited 1 file: 0 findings.\n", "")


def test_options(shop: Path, run: Run) -> None:
    for argv, rules in (
        (["--select", "DBP1,DBP302"], ["DBP101"]),
        (["--select", "DBP1", "--select", "DBP3"], ["DBP301", "DBP101"]),
        (["--ignore", "DBP101"], ["DBP301"]),
        (["--exclude", "views.py"], []),
        (["--exclude", "tests,shop/vi*"], []),
    ):
        code, out, _ = run("shop", "--format", "json", *argv)
        assert [finding["rule"] for finding in json.loads(out)] == rules, argv
        assert code == int(bool(rules))


def test_json(shop: Path, run: Run) -> None:
    code, out, err = run("--format", "json", "shop")
    first = json.loads(out)[0]
    assert (code, err) == (1, "")
    assert set(first) == {"path", "line", "column", "rule", "message", "fix"}
    assert (first["path"], first["line"], first["column"], first["rule"]) == ("shop/views.py", 6, 9, "DBP301")


def test_what_cannot_be_analysed_is_two_whatever_else_is_found(shop: Path, run: Run) -> None:
    (shop / "broken.py").write_text("def f(:\n")
    code, out, _ = run("shop", "--no-color")
    assert code == 2
    assert out.startswith("shop/broken.py:1:7: DBP000 not analysed: syntax error: ")
    assert out.endswith("Audited 3 files: 2 findings (DBP101: 1, DBP301: 1), 1 not analysed, 1 silenced.\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere"], "No such file or directory: nowhere"),
        (["shop", "--select", "DBP9"], "No rule 'DBP9'. There are: DBP101, "),
        (["shop", "--ignore", "E501"], "No rule 'E501'."),
        (["shop", "--format", "xml"], "invalid choice: 'xml'"),
        (["shop", "--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_wrong_usage(argv: list[str], said: str, shop: Path, run: Run) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert said in err


def test_without_paths_the_apps_of_the_project(shop: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those below BASE_DIR, an app within another only once; nothing that is installed there."""
    root = shop.parent
    installed = root / "env/lib/python3.13/site-packages/other"
    inner = shop / "inner"
    for folder in (installed, inner):
        folder.mkdir(parents=True)
        (folder / "views.py").write_text(VIEWS)

    class Config:
        def __init__(self, path: Path) -> None:
            self.path = str(path)

    here = [Config(path) for path in (inner, installed, shop, Path(__file__).parent)]
    monkeypatch.setattr(apps, "get_app_configs", lambda: here)
    with override_settings(BASE_DIR=root):
        assert subcommand.own_apps() == ["shop"]
        code, out, _ = run("--format", "json")
        assert code == 1
        assert {finding["path"] for finding in json.loads(out)} == {"shop/views.py", "shop/inner/views.py"}
    with override_settings(BASE_DIR=root / "env"):
        code, out, err = run()
        assert (code, out) == (2, "")
        assert "name the paths to audit" in err


def test_without_base_dir_the_current_directory(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(BASE_DIR=None):
        assert subcommand.base() == shop.parent.resolve()
