"""SQL that is shown has no literal in it, whatever was written; the server itself says what a literal is."""

from __future__ import annotations

import itertools
import re

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql as composing

from django_dbpool.core.sqltext import CUT, LONGEST, READ, without_literals
from testproject.postgres import Server


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT 1", "SELECT ?"),
        ("SELECT a1, t2.b FROM t2 WHERE c = 'x''y' AND d = 4.5e-3", "SELECT a1, t2.b FROM t2 WHERE c = ? AND d = ?"),
        ('SELECT "a"."b" AS "it\'s" FROM "a" LIMIT 21', 'SELECT "a"."b" AS "it\'s" FROM "a" LIMIT ?'),
        ("SELECT %s, %(name)s, $1, x %% 2", "SELECT %s, %(name)s, $1, x %% ?"),
        ("SELECT a FROM t WHERE id IN (1, 2,3)", "SELECT a FROM t WHERE id IN (?, ...)"),
        ("SELECT a FROM t WHERE id IN (%s, %s, %s)", "SELECT a FROM t WHERE id IN (%s, ...)"),
        ("INSERT INTO t (a, b) VALUES (%s, %s), (%s, %s), (%s, %s)", "INSERT INTO t (a, b) VALUES (%s, ...), ..."),
        ("SELECT\n  a,\t b\n", "SELECT a, b"),
        ("SELECT a -- of Ann\n, b", "SELECT a , b"),
        ("/* Ann /* and */ Bob */ SELECT a", "SELECT a"),
        ("SELECT a/* Ann */+b", "SELECT a +b"),
        ("SELECT a+--Ann\nb", "SELECT a+ b"),
        ("SELECT a::text, b->>'k', c@>d, e ? 'f'", "SELECT a::text, b->>?, c@>d, e ? ?"),
        (r"SELECT E'it\'s', a", "SELECT ?, a"),
        ("SELECT $$it's$$, $x$ $$ $y$ $x$, a", "SELECT ?, ..., a"),
        ("SELECT foo$bar$, a$1", "SELECT foo$bar$, a$1"),
        ("SELECT date '2020-01-01', x'1F', B'01', N'n', U&'n'", "SELECT date ?, ..."),
        ("SELECT 0x1F, 1_000, .5, 5., 0b1", "SELECT ?, ..."),
        ("SELECT größe FROM t", "SELECT größe FROM t"),
        ("UPDATE t SET a = 1, b = c", "UPDATE t SET a = ?, b = c"),
        ("", ""),
    ],
)
def test_examples(sql: str, shown: str) -> None:
    assert without_literals(sql) == shown


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT 'hunter2", "SELECT ..."),
        ('SELECT "hunter2', "SELECT ..."),
        ("SELECT E'hunter2\\'", "SELECT ..."),
        ("SELECT $$hunter2$", "SELECT ..."),
        ("SELECT a /* hunter2 /* */", "SELECT a ..."),
        ("SELECT 1hunter2", "SELECT ..."),
        ("SELECT \\ hunter2", "SELECT ..."),
        ("SELECT a \x00 hunter2", "SELECT a ..."),
        # Two readings, by standard_conforming_strings.
        (r"SELECT 'a\', ' hunter2", "SELECT ? ..."),
        # Values that somebody has put between quotes by hand.
        ("SELECT a FROM t WHERE name = 'O'Hara hunter2'", "SELECT a FROM t WHERE name = ? ..."),
        ("SELECT a FROM t WHERE name = 'rock ' hunter2'", "SELECT a FROM t WHERE name = ? ..."),
        ("SELECT a, 'x', b FROM t WHERE c = '", "SELECT a, ? ..."),
        # Values without quotes.
        ("SET app.token = hunter2", "SET app.token = ..."),
        ("set local app.token to hunter2", "set local app.token to ..."),
        ("BEGIN; SET app.token = hunter2", "BEGIN; SET app.token = ..."),
        ("ALTER ROLE ann SET app.token TO hunter2", "ALTER ROLE ann SET app.token TO ..."),
    ],
)
def test_what_cannot_be_told_is_left_out(sql: str, shown: str) -> None:
    assert without_literals(sql) == shown


def test_what_is_no_text() -> None:
    query = composing.SQL("SELECT {}").format(composing.Literal("hunter2"))
    assert without_literals(query) == "<Composed>"
    assert without_literals(None) == "<NoneType>"
    assert without_literals(b"SELECT 'x', \xff") == "SELECT ?, \ufffd"


def test_length() -> None:
    names = ", ".join(f"column_{number}" for number in range(READ))
    shown = without_literals(f"SELECT {names}")
    assert len(shown) == LONGEST
    assert shown.endswith(CUT)
    assert without_literals("SELECT a" + " " * READ + "'hunter2'") == "SELECT a ..."
    assert without_literals("x" * READ + "y", longest=READ * 2) == "x" * READ + " ..."


# -- literals in every form -------------------------------------------------------------------------------------------

SECRET = "hunter2"  # it is what must not be seen
FORMS = (
    lambda text: "'" + text.replace("'", "''") + "'",
    lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'",
    lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'",
    lambda text: "N'" + text.replace("'", "''") + "'",
    lambda text: next(f"${tag}${text}${tag}$" for tag in ("", "a", "_q1", "zz") if f"${tag}$" not in f"{text}$"),
)
hostile = st.lists(
    st.sampled_from(
        ["'", "''", '"', "\\", "$$", "$a$", "--", "/*", "*/", "\n", ";", "%", "?", " ", "E", "=", "x", "é", "0"]
    ),
    max_size=12,
).map("".join)


@st.composite
def literals(draw: st.DrawFn) -> tuple[str, str]:
    """A value with the secret in it, and one of the ways to write it."""
    value = draw(hostile) + SECRET + draw(hostile)
    return value, draw(st.sampled_from(FORMS))(value)


@settings(max_examples=300)
@given(st.lists(literals(), min_size=1, max_size=4), st.sampled_from([", ", " /* x */, ", "\n,\t", " -- 'x\n, "]))
def test_no_literal_is_shown(values: list[tuple[str, str]], separator: str) -> None:
    shown = without_literals("SELECT " + separator.join(text for _, text in values) + " FROM t")
    assert SECRET not in shown
    assert re.fullmatch(r"SELECT \?(?:, \?|, \.\.\.| , \?)*(?: FROM t| \.\.\.)", shown)


@settings(max_examples=500)
@given(st.text(alphabet="'\"\\$-/* \n;eEaxX01_.%s(=", max_size=40), st.text(alphabet="'\"\\$*/ \n", max_size=4))
@example("'", "")
@example("$a$ $", "a$")
def test_noise(before: str, after: str) -> None:
    """Never an error, never a value that stood between quotes, if the quote before it was one."""
    without_literals(before + SECRET + after)
    shown = without_literals(f"SELECT E'{SECRET}' {before}")
    assert SECRET not in shown


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(literals(), min_size=1, max_size=3))
def test_the_server_reads_the_same_literals(session_server: Server, values: list[tuple[str, str]]) -> None:
    """What is taken for a literal here is one there, and ends where it ends there."""
    with _connection(session_server) as connection:
        row = connection.execute("SELECT " + ", ".join(text for _, text in values)).fetchone()
    assert row == tuple(value for value, _ in values)
    shown = without_literals("SELECT " + ", ".join(text for _, text in values))
    if not any("\\" in value for value, _ in values):
        assert shown == ("SELECT ?" if len(values) == 1 else "SELECT ?, ...")


def _connection(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    return server.connect()


def test_many_literals_take_linear_time() -> None:
    """A text that backtracks would never end."""
    for hard in ("'" * READ, "$" * READ, "/*" * READ, "E'\\" * READ, '"' * READ, "1" * READ, "a$" * READ, "(" * READ):
        without_literals(hard)
    assert list(itertools.islice(without_literals("1," * READ), 1)) == ["?"]
