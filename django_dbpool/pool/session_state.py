"""
Which SQL changes the session, so that the connection must not go to another borrower afterwards.

The list is closed and documented. What a text can't show (a function that sets state inside) is not seen here.
Harmless texts are remembered: a look-up costs a hash, the analysis microseconds per kilobyte. SQL of the ORM goes
the same way, since RawSQL and Func can bring anything into it.
"""

from __future__ import annotations

import re
from typing import Any

CACHE_SIZE = 2048
CACHED_TEXT = 4096
"""Longer texts, in characters, are analysed each time: bulk statements differ each time anyway."""

known_neutral: set[str] = set()
"""Texts that were found to leave nothing in the session."""

# Between two words: the server's scanner ends a line comment at \r too.
GAP = r"(?:\s|--[^\n\r]*(?:[\n\r]|$)|/\*.*?\*/)"
_LEADING = re.compile(rf"(?:{GAP}|[(;])+", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_][\w$]*")
# With a dot behind it the word is no key word but the beginning of a setting's name: SET local.timeout = 1.
_SECOND = re.compile(rf"{GAP}*([A-Za-z_][\w$]*)({GAP}*\.)?", re.DOTALL)
_NESTED_COMMENT = re.compile(r"/\*(?:(?!\*/).)*?/\*", re.DOTALL)

# First words that leave nothing in the session by themselves. An unknown word pins.
# fmt: off
_NEUTRAL = frozenset([
    "ABORT", "ALTER", "ANALYZE", "BEGIN", "CHECKPOINT", "CLOSE", "CLUSTER", "COMMENT", "COMMIT", "COPY", "CREATE",
    "DECLARE", "DELETE", "DROP", "END", "EXPLAIN", "FETCH", "GRANT", "IMPORT", "INSERT", "LOCK", "MERGE", "MOVE",
    "NOTIFY", "REASSIGN", "REFRESH", "REINDEX", "RELEASE", "REVOKE", "ROLLBACK", "SAVEPOINT", "SECURITY", "SELECT",
    "SET", "SHOW", "START", "TABLE", "TRUNCATE", "UPDATE", "VACUUM", "VALUES", "WITH",
])
# fmt: on

# Reasons that are told wherever in a text they were found.
_TOLD = frozenset(
    ["CALL", "DEALLOCATE", "DISCARD", "DO", "EXECUTE", "LISTEN", "LOAD", "PREPARE", "RESET", "UNLISTEN"]
    + [f"SET {what}" for what in ("ROLE", "SEARCH_PATH", "SESSION", "STATEMENT_TIMEOUT", "TIME", "TIMEZONE")]
)

_FUNCTIONS = (
    "set_config",
    "advisory_lock",
    "nextval",
    "currval",
    "lastval",
    "setval",
    "setseed",
    "dblink_connect",
)
# These look for comments between the words instead of removing comments first: a literal may contain what looks like
# one, and would take the rest of the statement with it.
_CALL = re.compile(
    rf"(?<![a-z0-9_])(?:pg_catalog{GAP}*\.{GAP}*|\"pg_catalog\"{GAP}*\.{GAP}*)?\"?"
    r"(set_config|pg_(?:try_)?advisory_lock(?:_shared)?|nextval|currval|lastval|setval|setseed|dblink_connect)"
    rf"\"?{GAP}*\(",
    re.DOTALL,
)
_PARAMETER = r"(?:'[^']*'|%(?:\(\w+\))?s)"
_LOCAL_CONFIG = re.compile(rf"set_config\"?\s*\(\s*{_PARAMETER}\s*,\s*{_PARAMETER}\s*,\s*(?:true|'t(?:rue)?')\s*\)")
_TEMPORARY = re.compile(
    rf"\binto{GAP}+(?:local{GAP}+|global{GAP}+)?temp(?:orary)?\b"
    rf"|\bcreate{GAP}+(?:or{GAP}+replace{GAP}+)?(?:local{GAP}+|global{GAP}+)?temp(?:orary)?\b",
    re.DOTALL,
)
_WITH_HOLD = re.compile(rf"\bwith{GAP}+hold\b", re.DOTALL)


def reason_to_pin(query: Any) -> str | None:
    """
    Why this statement binds the session to its sender, or None.

    Args:
        query: what was given to ``cursor.execute``: text, bytes or a ``psycopg.sql`` object. Anything that can't be
            turned into text pins.
    """
    if type(query) is not str:
        return _reason_for_object(query)
    text = without_last_comment(query)
    if text in known_neutral:
        return None
    reason = analyse(text)
    if reason is None and len(text) <= CACHED_TEXT:
        if len(known_neutral) >= CACHE_SIZE:
            known_neutral.clear()
        known_neutral.add(text)
    return reason


def without_last_comment(text: str) -> str:
    """
    The text up to a comment that ends it: tracing appends one that differs each time (sqlcommenter's ``traceparent``),
    so that no text would ever be known.

    In a valid statement a ``*/`` at the end closes the last comment that was opened, unless it is part of a ``--``.
    """
    if not text.endswith("*/"):
        return text
    start = text.rfind("/*")
    if start < 0 or text.find("*/", start + 2) != len(text) - 2 or text.find("--", start) >= 0:
        return text
    return text[:start].rstrip()


def _reason_for_object(query: Any) -> str | None:
    try:
        text = text_of(query)
    except Exception:  # noqa: BLE001  # foreign code; whatever goes wrong, nothing is known about the statement
        return f"a statement of type {type(query).__name__}"
    return reason_to_pin(text)


def text_of(query: Any) -> str:
    """Of what was given to ``cursor.execute``. An object that is none of these may raise anything."""
    if isinstance(query, str):
        return str.__str__(query)  # str() of a SafeString is a SafeString
    if isinstance(query, bytes):
        return query.decode()
    text: str = query.as_string(None)
    return text


def without_leading_comments(text: str) -> str:
    """The text from its first word on."""
    lead = _LEADING.match(text)
    return text[lead.end() :] if lead else text


def analyse(sql: str) -> str | None:
    """``reason_to_pin`` for one text, without the memory."""
    text = sql.strip().rstrip(";").rstrip()
    if text.count("/*") > 1 and _NESTED_COMMENT.search(text):
        return "a nested comment"
    # Psycopg sends several statements in one text. Semicolons inside literals split too: the halves then begin with
    # unknown words and pin, which costs speed, never safety.
    parts = text.split(";") if ";" in text else (text,)
    for part in parts:
        reason = _first_word(part)
        if reason is not None:
            # What stands behind a semicolon may be the rest of a literal, and the reason is shown.
            return reason if part is parts[0] or reason in _TOLD else "one of several statements"
    return _functions(text.lower())


def _first_word(sql: str) -> str | None:
    lead = _LEADING.match(sql)
    start = lead.end() if lead else 0
    if start == len(sql):
        return None
    word = _WORD.match(sql, start)
    first = word.group().upper() if word else f"a statement that begins with {sql[start]!r}"
    if first not in _NEUTRAL:
        return first
    assert word is not None
    if first not in ("SET", "SECURITY"):
        return None
    match = _SECOND.match(sql, word.end())
    second = match.group(1).upper() if match else ""
    key_word = match is not None and not match.group(2) and second in ("LOCAL", "TRANSACTION", "CONSTRAINTS")
    if first == "SET" and not key_word:
        return f"SET {second}".rstrip()
    return None


def _functions(lowered: str) -> str | None:
    if any(name in lowered for name in _FUNCTIONS):
        local = len(_LOCAL_CONFIG.findall(lowered))
        for name in _CALL.findall(lowered):
            if name == "set_config" and local:
                local -= 1
                continue
            return f"{name}()"
    if "temp" in lowered:
        if "pg_temp" in lowered:
            return "pg_temp"
        if _TEMPORARY.search(lowered):
            return "a temporary table"
    if "hold" in lowered and "declare" in lowered and _WITH_HOLD.search(lowered):
        return "DECLARE ... WITH HOLD"
    return None
