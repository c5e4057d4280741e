"""The audit: each rule by samples and by its documentation, silence, files, and what can't be analysed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from django_dbpool.audit import RULES, UNREADABLE, Finding, audit, audit_paths
from django_dbpool.audit.run import chosen
from tests.unit.audit_cases import CASES

DOCS = (Path(__file__).resolve().parents[2] / "docs/audit.md").read_text()
SECTIONS = dict(re.findall(r"^## (DBP\d+)\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL))
CONNECT = "import psycopg\n{}\n"


def places(findings: list[Finding]) -> set[tuple[int, str]]:
    return {(finding.line, finding.rule) for finding in findings}


def marked(source: str, mark: str) -> set[tuple[int, str]]:
    lines = enumerate(source.splitlines(), 1)
    return {(number, rule) for number, line in lines for rule in re.findall(rf"{mark} (DBP\d+)", line)}


@pytest.fixture
def found(tmp_path: Path):
    """What is found in this source."""

    def found(source: str | bytes, **options: list[str]) -> list[Finding]:
        path = tmp_path / "sample.py"
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
        return audit_paths([path], **options)

    return found


# -- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_marked_lines_are_found(name, found) -> None:
    assert places(found(CASES[name])) == marked(CASES[name], "#>")


def test_every_rule_has_samples_of_both_kinds() -> None:
    wanted = {rule for source in CASES.values() for _, rule in marked(source, "#>")}
    assert wanted == set(RULES)
    assert sum(not marked(source, "#>") for source in CASES.values()) >= len(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_the_documentation_shows_each_rule_once_wrong_and_once_right(rule: str, found) -> None:
    assert "**Why.**" in SECTIONS[rule]
    wrong, right = re.findall(r"```python\n(.*?)```", SECTIONS[rule], re.DOTALL)
    assert places(found(wrong)) == marked(wrong, "#")
    assert {each for _, each in marked(wrong, "#")} == {rule}
    assert found(right) == []


def test_no_rule_is_documented_that_does_not_exist() -> None:
    assert list(SECTIONS) == list(RULES)
    assert set(re.findall(r"DBP\d{3}", DOCS)) == {*RULES, UNREADABLE}


def test_a_finding_says_where_what_and_how_to_mend_it(found) -> None:
    (finding,) = found(
        "import requests\nfrom django.db import transaction\n\n"
        "def notify():\n    requests.get('x')\n\n"
        "with transaction.atomic():\n    ß = 'ä'; notify()\n"
    )
    assert finding.path.endswith("sample.py")
    assert (finding.rule, finding.line, finding.column) == ("DBP302", 8, 14)
    assert finding.message.startswith("notify() -> requests.get() in a transaction: ")
    assert "transaction.on_commit" in finding.fix


# -- silence and choice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "silent"),
    [
        ("# noqa", True),
        ("#noqa", True),
        ("# NOQA: dbp101", True),
        ("# noqa: E501,DBP101", True),
        ("# noqa: DBP301 DBP101", True),
        ("# noqa:DBP1", True),
        ("# type: ignore  # noqa: DBP101", True),
        ("# noqa: DBP301", False),
        ("# noqa: E501", False),
        ("# noqa: because", False),
        ("# noqable", False),
        ("", False),
    ],
)
def test_noqa(comment: str, silent: bool, found) -> None:
    assert (found(CONNECT.format(f"psycopg.connect()  {comment}")) == []) is silent


def test_noqa_is_a_comment(found) -> None:
    assert len(found(CONNECT.format("psycopg.connect('# noqa')"))) == 1
    assert found(CONNECT.format("psycopg.connect('# noqa: DBP301')  # noqa: DBP101")) == []
    assert len(found(CONNECT.format("psycopg.connect('''  # noqa\n  # noqa\n''')"))) == 1
    assert found(CONNECT.format("'#'; psycopg.connect(f'{x}#')  # noqa")) == []


def test_noqa_on_the_first_line_of_the_statement(found) -> None:
    assert found(CONNECT.format("x = [  # noqa: DBP101\n    1,\n    psycopg.connect(),\n]")) == []
    assert found(CONNECT.format("x = [\n    1,\n    psycopg.connect(),  # noqa: DBP101\n]")) == []
    assert len(found(CONNECT.format("x = [\n    1,  # noqa: DBP101\n    psycopg.connect(),\n]"))) == 1
    assert len(found(CONNECT.format("if x:  # noqa: DBP101\n    psycopg.connect()"))) == 1


def test_lines_are_those_of_the_parser(found) -> None:
    """A form feed and a line separator in a string end no line."""
    source = "import psycopg\n\x0c\nx = '\u2028'\npsycopg.connect()\npsycopg.connect()  # noqa: DBP101\n"
    assert [finding.line for finding in found(source)] == [4]


def test_what_is_silenced_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CONNECT.format("psycopg.connect()  # noqa\npsycopg.connect()"))
    report = audit([tmp_path])
    assert (report.files, report.silenced, len(report.findings)) == (1, 1, 1)


def test_rules_are_chosen_by_id_and_by_the_beginning_of_it() -> None:
    assert chosen((), ()) == list(RULES)
    assert chosen(["DBP101", "DBP2"], ()) == ["DBP101", "DBP201"]
    assert chosen(["DBP3"], ["DBP301", "DBP1"]) == ["DBP302", "DBP303"]
    for wrong in ("DBP9", "E501", "", "DBP1010"):
        with pytest.raises(ValueError, match=f"No rule '{wrong}'"):
            chosen([wrong], ())


def test_one_path_and_one_rule_need_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CONNECT.format("psycopg.connect()"))
    assert len(audit_paths(str(tmp_path), select="DBP101")) == len(audit_paths(tmp_path)) == 1  # type: ignore[arg-type]


# -- files ----------------------------------------------------------------------------------------------------------


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CONNECT.format("psycopg.connect()"))


def names(root: Path, **options: list[str]) -> list[str]:
    return [Path(finding.path).relative_to(root).as_posix() for finding in audit_paths([root], **options)]


def test_which_files_of_a_directory(tmp_path: Path) -> None:
    tree(tmp_path, "b.py", "a/c.py", "a/notes.txt", "a/stub.pyi", ".hidden/d.py", "a/.lock.py")
    tree(tmp_path, "venv/e.py", "venv/pyvenv.cfg", "lib/site-packages/f.py", "a/__pycache__/g.py", "node_modules/h.py")
    assert names(tmp_path) == ["a/c.py", "b.py"]
    assert names(tmp_path / "lib/site-packages") == ["f.py"]
    assert names(tmp_path / ".hidden/d.py") == ["."]


def test_excluded_files(tmp_path: Path) -> None:
    tree(tmp_path, "shop/views.py", "shop/migrations/1.py", "shop/tests/test_x.py", "shop/test_y.py", "tests.py")
    everything = names(tmp_path)
    assert len(everything) == 5
    assert names(tmp_path, exclude=["migrations"]) == [name for name in everything if "migrations" not in name]
    for pattern in ("shop/tests", "shop/tests/", "tests/*", "*/tests/*", str(tmp_path / "shop/tests")):
        assert names(tmp_path, exclude=[pattern]) == [name for name in everything if "tests/" not in name], pattern
    assert names(tmp_path, exclude=["*/migrations/*", "tests", "test_*", "tests.py"]) == ["shop/views.py"]
    assert names(tmp_path, exclude=["shop"]) == ["tests.py"]
    assert names(tmp_path / "tests.py", exclude=["tests.py"]) == []


def test_a_file_is_read_once_and_links_lead_nowhere_new(tmp_path: Path) -> None:
    tree(tmp_path, "a/b.py")
    (tmp_path / "a/again.py").symlink_to("b.py")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "a/self.py").symlink_to("self.py")
    os.mkfifo(tmp_path / "a/fifo.py")
    (tmp_path / "a/folder.py").mkdir()
    findings = audit_paths([tmp_path, tmp_path / "a", tmp_path / "a/b.py"])
    assert [Path(finding.path).name for finding in findings if finding.rule == "DBP101"] == ["again.py"]
    assert {Path(finding.path).name for finding in findings if finding.rule == UNREADABLE} == {"self.py"}


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*nowhere"):
        audit_paths([tmp_path, tmp_path / "nowhere"])


# -- hostile sources ------------------------------------------------------------------------------------------------

READABLE = {
    "latin-1": b"# -*- coding: latin-1 -*-\nimport psycopg\nx = '\xe9'; psycopg.connect()\n",
    "byte order mark": b"\xef\xbb\xbfimport psycopg\npsycopg.connect()\n",
    "old Macintosh": b"import psycopg\rpsycopg.connect()\r",
    "form feed": b"import psycopg\n\x0c\npsycopg.connect()  # noqa\npsycopg.connect()\n",
    "long chain": b"import psycopg\npsycopg.connect()\nfor y in z:\n    Order.objects"
    + b".filter()" * 2000
    + b".x()\n",
    "long sum": b"import psycopg\npsycopg.connect()\nx = " + b"+".join([b"f()"] * 2000) + b"\n",
    "long elif": b"import psycopg\npsycopg.connect()\nif x: pass\n" + b"elif x: pass\n" * 1000,
    "circles": b"import psycopg\npsycopg.connect()\na = b\nb = a\nclass C(C): pass\nC.x()\ndef f(): return f()\nf()\n",
    "invalid escape": b"import psycopg\npsycopg.connect()\nx = '\\d'\nx is 1\n",
}
UNPARSABLE = {
    "syntax": (b"x = 1\ndef f(:\n", 2, "syntax error: invalid syntax"),
    "Python 2": (b"print 'x'\n", 1, "syntax error"),
    "wrong encoding": (b"x = '\xe9'\n", 1, ""),
    "unknown encoding": (b"# coding: klingon\n", 1, "unknown encoding"),
    "null byte": (b"x = 1\0\n", 1, "null byte"),
    "binary": (bytes(range(256)), 1, ""),
    "parentheses": (b"x = " + b"(" * 5000 + b")" * 5000, 1, ""),
    "deep": (b"x = " + b"+".join([b"1"] * 100_000), 1, "nested too deeply"),
    "large": (b"x = 1\n" * 1_000_000, 1, "larger than 5 MB"),
}


@pytest.mark.parametrize("name", READABLE)
def test_odd_sources_are_analysed(name: str, found) -> None:
    assert [finding.rule for finding in found(READABLE[name])] == ["DBP101"]


@pytest.mark.parametrize("name", UNPARSABLE)
def test_what_cannot_be_analysed_is_said_and_the_rest_is(name: str, tmp_path: Path) -> None:
    source, line, reason = UNPARSABLE[name]
    (tmp_path / "a.py").write_bytes(source)
    tree(tmp_path, "b.py")
    unread, finding = audit_paths([tmp_path], select=["DBP101"])
    assert (unread.rule, unread.line, Path(unread.path).name) == (UNREADABLE, line, "a.py")
    assert unread.message.startswith("not analysed: ")
    assert reason in unread.message
    assert finding.rule == "DBP101"


def test_generated_code_takes_no_hours(found) -> None:
    """Functions that call each other in a circle, each from a loop: quadratic work would show."""
    count = 1000
    source = "from shop.models import Order\n" + "".join(
        f"def f{number}(xs):\n    for x in xs:\n        f{(number + 1) % count}(x)\n" for number in range(count)
    )
    assert found(source) == []
    assert len(found(source + "    Order.objects.count()\n")) == count
