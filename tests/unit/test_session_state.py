"""Which SQL pins, by its text alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils.safestring import mark_safe
from psycopg import sql

from django_dbpool.pool import session_state
from django_dbpool.pool.session_state import CACHE_SIZE, CACHED_TEXT, analyse, known_neutral, reason_to_pin

PINNING = """
SET statement_timeout = 1000
SET SESSION statement_timeout = 1000
SET TIME ZONE 'Asia/Tokyo'
SET NAMES 'UTF8'
SET search_path TO tenant
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY
SET SESSION AUTHORIZATION somebody
SET ROLE somebody
RESET ALL
RESET ROLE
DISCARD ALL
SELECT set_config('app.tenant', '7', false)
SELECT set_config('app.tenant', '7', 'f')
SELECT set_config(%s, %s, %s)
SELECT pg_catalog.set_config('app.tenant', '7', false)
SELECT "pg_catalog" . "set_config"('app.tenant', '7', false)
SELECT set_config('a.b', '7', true), set_config('a.c', '7', false)
SELECT set_config('a.b', set_config('a.c', '7', false), true)
LISTEN jobs
UNLISTEN *
SELECT pg_advisory_lock(1)
SELECT pg_advisory_lock(1, 2)
SELECT pg_advisory_lock_shared(1)
SELECT pg_try_advisory_lock(1)
SELECT pg_try_advisory_lock_shared(1)
SELECT pg_advisory_lock (id) FROM app_item
CREATE TEMP TABLE t (n int)
CREATE TEMPORARY TABLE t (n int)
CREATE LOCAL TEMPORARY TABLE t (n int)
CREATE GLOBAL TEMP TABLE t (n int)
CREATE TEMP VIEW v AS SELECT 1
CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1
CREATE TEMP SEQUENCE s
CREATE TABLE pg_temp.t (n int)
CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'
SELECT 1 INTO TEMP t
SELECT n INTO TEMPORARY TABLE t FROM app_item
SELECT n INTO LOCAL TEMP t FROM app_item
SELECT n INTO TEMP"t" FROM app_item
WITH rows AS (SELECT 1) SELECT * INTO TEMP t FROM rows
PREPARE q AS SELECT 1
EXECUTE q
DEALLOCATE ALL
DECLARE c CURSOR WITH HOLD FOR SELECT 1
DECLARE c NO SCROLL CURSOR WITH  HOLD FOR SELECT 1
LOAD 'plpgsql'
SELECT setseed(0.5)
SELECT nextval('s')
SELECT currval('s')
SELECT lastval()
SELECT setval('s', 5)
INSERT INTO app_item (n) VALUES (nextval('s'))
DO $$ BEGIN END $$
CALL f()
SELECT dblink_connect('other', '')
frobnicate everything
"""

NEUTRAL = """
SELECT 1
(SELECT 1) UNION (SELECT 2)
WITH rows AS (SELECT 1) SELECT * FROM rows
VALUES (1)
TABLE app_item
INSERT INTO "app_item" ("name", "n") VALUES (%s, %s) RETURNING "app_item"."id"
UPDATE "app_item" SET "n" = 1 WHERE "app_item"."id" = 2
DELETE FROM "app_item"
SELECT "app_item"."temp", "app_item"."hold", "app_item"."nextval", "app_item"."currval" FROM "app_item"
SELECT "lastval" AS "set_config", "declare" FROM "temp" WHERE "advisory_lock" = %s
INSERT INTO "temp" ("temp") VALUES (1)
SELECT (n) AS with_hold, (temp) FROM app_item
SELECT nextvalue(1), my_setseed(2), pg_advisory_unlock(3)
SELECT pg_advisory_xact_lock(1)
SELECT pg_try_advisory_xact_lock_shared(1, 2)
SELECT set_config('app.tenant', '7', true)
SELECT set_config(%s, %s, true)
SELECT pg_catalog.set_config('app.tenant', %s, 't')
SELECT set_config('a.b', '7', true), set_config('a.c', '8', true)
SET LOCAL statement_timeout = 1000
SET TRANSACTION READ ONLY
SET CONSTRAINTS ALL IMMEDIATE
SECURITY LABEL ON TABLE t IS 'x'
BEGIN
START TRANSACTION
COMMIT
ROLLBACK TO SAVEPOINT "a"
SAVEPOINT "a"
RELEASE SAVEPOINT "a"
VACUUM
ANALYZE
EXPLAIN SELECT 1
SHOW server_version
NOTIFY jobs
COPY app_item TO STDOUT
LOCK TABLE app_item
DECLARE "c" NO SCROLL CURSOR FOR SELECT 1
FETCH FORWARD 5 FROM "c"
CREATE TABLE t (n int)
CREATE INDEX CONCURRENTLY i ON t (n)
ALTER TABLE t ADD COLUMN "temp" int
"""


def lines(block: str) -> list[str]:
    return block.strip().splitlines()


@pytest.fixture(autouse=True)
def fresh_memory() -> Iterator[None]:
    known_neutral.clear()
    yield
    known_neutral.clear()


@pytest.mark.parametrize("text", lines(PINNING))
def test_session_state_pins(text: str) -> None:
    assert reason_to_pin(text) is not None
    assert text not in known_neutral


@pytest.mark.parametrize("text", lines(NEUTRAL))
def test_what_leaves_nothing_does_not_pin(text: str) -> None:
    assert reason_to_pin(text) is None


DISGUISES = [
    "  \n\t{}",
    "-- a comment\n{}",
    "-- a comment\r{}",
    "/* one */ /* two\nlines */ {}",
    "/* outer /* inner */ still a comment */ {}",
    "/* outer /* inner */ SELECT */ {}",
    "--\n/**/--/*\n{}",
    ";;{}",
    "{};",
    "{} ; -- the end",
    "SELECT 1; {}",
    "SELECT 1;{};SELECT 2",
    "SELECT ';'; {}",
    "SET LOCAL a.b = 1; {}",
]


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("change", [str, str.lower, str.title])
@pytest.mark.parametrize("text", ["SET ROLE somebody", "LISTEN jobs", "CREATE TEMP TABLE t (n int)"])
def test_disguised_statements_pin(text: str, change: Any, disguise: str) -> None:
    """Comments as the server's scanner reads them, other statements around it, any case."""
    assert reason_to_pin(disguise.format(change(text))) is not None


@pytest.mark.parametrize(
    "text",
    [
        "SET/**/ROLE/**/somebody",
        "CREATE /* a */ TEMP -- b\n TABLE t (n int)",
        "SELECT 1 INTO /* a */ TEMP /* b */ t",
        "DECLARE c CURSOR WITH /* a */ HOLD FOR SELECT 1",
        "SELECT set_config /* a */ ('a.b', 'c', false)",
        "SELECT pg_advisory_lock -- a\n (1)",
    ],
)
def test_comments_between_the_words(text: str) -> None:
    assert reason_to_pin(text) is not None
    assert reason_to_pin(text.lower()) is not None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT '--', set_config('a.b', 'c', false)",
        "SELECT '/*', pg_advisory_lock(1), '*/'",
        "SELECT '--' AS dashes INTO TEMP t",
        "DECLARE c CURSOR /* ' */ WITH HOLD FOR SELECT '--'",
        "SELECT \"--\", nextval('s') FROM app_item",
    ],
)
def test_literals_that_look_like_comments_hide_nothing(text: str) -> None:
    assert reason_to_pin(text) is not None


@pytest.mark.parametrize(
    "text", ["SET local.setting = 1", "SET LOCAL . setting = 1", "SET transaction.x = 1", "SET constraints.x = 1"]
)
def test_settings_whose_name_begins_with_a_key_word(text: str) -> None:
    """A custom setting may be called local.anything; LOCAL is then no key word."""
    assert reason_to_pin(text) is not None


@pytest.mark.parametrize("text", ["", " ", ";", "-- nothing", "/* nothing */", "SELECT 1;", "SELECT 1; ; SELECT 2"])
def test_empty_statements_do_not_pin(text: str) -> None:
    assert reason_to_pin(text) is None


@pytest.mark.parametrize(
    ("query", "pins"),
    [
        (b"SET statement_timeout = 1", True),
        (b"SELECT 1", False),
        (b"SELECT '\xff'", True),  # can't be read as text
        (sql.SQL("SET {} = 1").format(sql.Identifier("statement_timeout")), True),
        (sql.SQL("SELECT {}").format(sql.Identifier("nextval")), False),
        (sql.SQL("SELECT {}").format(sql.Literal(5)), False),
        (sql.Composed([sql.SQL("LISTEN "), sql.Identifier("jobs")]), True),
        (mark_safe("SET ROLE somebody"), True),
        (mark_safe("SELECT 2"), False),
        (object(), True),
        (None, True),
    ],
)
def test_types_of_query(query: object, pins: bool) -> None:
    assert (reason_to_pin(query) is not None) is pins


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("set role somebody", "SET ROLE"),
        ("SELECT pg_try_advisory_lock(1)", "pg_try_advisory_lock()"),
        ("create temp table t (n int)", "a temporary table"),
        ("declare c cursor with hold for select 1", "DECLARE ... WITH HOLD"),
        ("call f()", "CALL"),
        ("SELECT * FROM pg_temp.t", "pg_temp"),
    ],
)
def test_the_reason_names_the_statement(text: str, reason: str) -> None:
    assert reason_to_pin(text) == reason


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'a;hunter2'",
        "SELECT 'a; hunter2 b'",
        "SELECT 'a;set hunter2'",
        "SELECT 'a;''hunter2'",
        "SELECT 1; 'hunter2'",
        "('hunter2')",
        "'hunter2'",
        "$$hunter2$$",
    ],
)
def test_the_reason_has_no_value_in_it(text: str) -> None:
    """It is shown in errors, logs and reports."""
    reason = reason_to_pin(text)
    assert reason is not None
    assert "hunter" not in reason.lower()


def test_the_reason_is_told_of_a_later_statement_too() -> None:
    assert reason_to_pin("SELECT 1; LISTEN news") == "LISTEN"
    assert reason_to_pin("SELECT 1; SET ROLE somebody") == "SET ROLE"
    assert reason_to_pin("SELECT 1; SET work_mem = 1") == "one of several statements"


def test_neutral_texts_are_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    analysed = []

    def count(text: str) -> str | None:
        analysed.append(text)
        return analyse(text)

    monkeypatch.setattr(session_state, "analyse", count)
    for _ in range(3):
        assert reason_to_pin("SELECT 1") is None
        assert reason_to_pin("SET ROLE somebody") is not None
    assert analysed.count("SELECT 1") == 1
    assert analysed.count("SET ROLE somebody") == 3


def test_memory_is_bounded() -> None:
    for n in range(CACHE_SIZE + 10):
        reason_to_pin(f"SELECT {n}")
    assert 0 < len(known_neutral) <= CACHE_SIZE
    long = "SELECT 1 -- " + "x" * CACHED_TEXT
    assert reason_to_pin(long) is None
    assert long not in known_neutral
