"""Comments that tracing puts around a statement: they hide nothing, and make no text unknown."""

from __future__ import annotations

import pytest

from django_dbpool.pool.session_state import known_neutral, reason_to_pin, without_last_comment

TRACE = "/*db_driver='psycopg%3A3.3.9',traceparent='00-03afa25236b8cd948fa853d67038ac79-405ff022e8247c46-01'*/"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SELECT 1", None),
        ("UPDATE t SET a = '/*' WHERE b = '*/'", None),
        ("SET statement_timeout = 1", "SET STATEMENT_TIMEOUT"),
        ("SET LOCAL statement_timeout = 1", None),
        ("LISTEN something", "LISTEN"),
        ("SELECT set_config('a.b', 'c', false)", "set_config()"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_lock()"),
        ("CREATE TEMP TABLE t (a int)", "a temporary table"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
    ],
)
@pytest.mark.parametrize(
    "form", ["{0}", "{0} {1}", "{0}{1}", "{0};{1}", "{1} {0}", "{1}{0} {1}", "{0} {1} ", "{0} {1};"]
)
def test_a_comment_changes_nothing(statement: str, reason: str | None, form: str) -> None:
    known_neutral.clear()
    text = form.format(statement, TRACE)
    assert reason_to_pin(text) == reason
    assert reason_to_pin(text) == reason  # known by now, if it is harmless


def test_texts_that_differ_in_their_last_comment_are_one_text() -> None:
    known_neutral.clear()
    for number in range(100):
        assert reason_to_pin(f"SELECT 1 /*traceparent='{number}'*/") is None
    assert known_neutral == {"SELECT 1"}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT '/*'; SET a.b = 1 -- */",
        "SELECT 1 /* c */; SET a.b = 1 -- */",
        "SELECT 1 /* c */; SELECT set_config('a', 'b', false) /* d */ -- */",
        "SELECT '/* c */', set_config('a', 'b', false) -- */",
        "SET a.b = '*/'",
        "*/",
        "/* never closed",
    ],
)
def test_what_only_looks_like_a_last_comment_is_kept(text: str) -> None:
    assert without_last_comment(text) == text
    assert reason_to_pin(text) is not None


def test_nested_comments_pin_as_ever() -> None:
    assert reason_to_pin("SELECT 1 /* a /* b */ */") == "a nested comment"
    assert reason_to_pin("SELECT 1 /* a /* b */ SELECT set_config('a', 'b', false) */") is not None
