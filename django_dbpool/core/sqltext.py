"""
SQL for logs and pages: what was asked for, without the values it was asked about.

Every literal becomes ``?``, comments go, lists of values are shortened. Where the text can't be told for certain, the
rest is left out: a lexer that guesses will one day show a password. The rules are PostgreSQL's
(https://www.postgresql.org/docs/current/sql-syntax-lexical.html), with psycopg's placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 1000
"""Characters that are shown."""

READ = 20_000
"""Characters that are looked at; what comes later doesn't exist for a report."""

CUT = "..."

# One token each. Non-ASCII characters are letters to PostgreSQL, a dollar sign is one within a name.
_TOKEN = re.compile(
    r"""
    (?P<space> [ \t\r\n\f\v]+ | --[^\r\n]* )
  | (?P<comment> /\* )
  | (?P<escape> [eE]'(?:[^'\\]|''|\\.)*' )
  | (?P<string> (?:[nN]|[bB]|[xX]|[uU]&)?'(?:[^']|'')*' )
  | (?P<dollar> \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?)\$ )
  | (?P<number> (?:0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?) )
  | (?P<placeholder> %(?:\(\w+\))?[sbt] | \$\d+ | \? )
  | (?P<quoted> (?:[uU]&)?"(?:[^"\x00]|"")*" )
  | (?P<word> (?![eE]') [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]* )
  | (?P<operator> (?:(?!--|/\*|%(?:\(\w+\))?[sbt])[-+*/<>=~!@\#%^&|`])+ )
  | (?P<other> :: | [(){}\[\],;:.] )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_QUOTED = frozenset({"escape", "string", "dollar"})
_LITERALS = _QUOTED | {"number"}
_LITERAL = "\0"  # no token has it
_NAME_GOES_ON = re.compile(r"[\w$\x80-\U0010ffff]", re.ASCII)
_COMMENT_MARK = re.compile(r"/\*|\*/")
_LIST = re.compile(r"(\?|%s)(?:, ?\1)+")
_ROWS = re.compile(r"(\((?:\?|%s)(?:, \.\.\.)?\))(?:, ?\1)+")


def without_literals(sql: object, longest: int = LONGEST) -> str:
    """
    A statement's text with its literals replaced.

    Args:
        sql: what was given to ``execute()``. Of an object that isn't text (psycopg's ``sql.Composed``) only the type is
            told: it may have literals in it.
        longest: characters of the result.

    Example:
        >>> without_literals("SELECT * FROM visitors WHERE name = 'Ann' AND id IN (1, 2, 3) -- Ann again")
        'SELECT * FROM visitors WHERE name = ? AND id IN (?, ...)'
    """
    if isinstance(sql, bytes):
        sql = sql.decode("utf-8", "replace")
    if not isinstance(sql, str):
        return f"<{type(sql).__name__}>"
    text = _join(_shown(sql[:READ]), whole=len(sql) <= READ)
    text = _ROWS.sub(rf"\1, {CUT}", _LIST.sub(rf"\1, {CUT}", text))
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT


def _shown(sql: str) -> Iterator[str | None]:
    """What may be shown, token by token; None, and nothing after it, where the text can't be told."""
    begins = True  # a statement
    setting = False
    for kind, text in _lexemes(sql):
        if kind is None:
            yield None
            return
        yield _LITERAL if kind == "literal" else text
        if setting and text.upper() in ("=", "TO"):
            # SET app.token TO hunter2: to the server a value needs no quotes here.
            yield None
            return
        if text == ";":
            begins, setting = True, False
        elif begins and text != " ":
            begins, setting = False, text.upper() in ("SET", "ALTER")


def _lexemes(sql: str) -> Iterator[tuple[str | None, str]]:
    """Kinds are "literal" and whatever the pattern calls them; None at the end of what can be told."""
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        kind, end = (None, 0) if match is None else _extent(sql, match)
        text = sql[at:end]
        if (kind == "string" and "\\" in text) or (kind in _QUOTED and _NAME_GOES_ON.match(sql, end)):
            # Where standard_conforming_strings is off a backslash may have escaped the quote: who can tell? And a name
            # right behind a literal was a part of it, if somebody has put the values into the text: 'O'Hara'.
            yield "literal", text
            kind = None
        if kind is None or (kind == "number" and _NAME_GOES_ON.match(sql, end)):
            yield None, ""
            return
        if kind in ("space", "comment"):
            yield "space", " "
        else:
            yield ("literal" if kind in _LITERALS else kind), text
        at = end


def _extent(sql: str, match: re.Match[str]) -> tuple[str | None, int]:
    """Kind and end of the token that begins with this match."""
    if match["comment"]:
        end = _end_of_comment(sql, match.end())
        return ("comment" if end else None), end
    if match["dollar"]:
        end = sql.find(match["dollar"], match.end())
        return ("dollar", end + len(match["dollar"])) if end >= 0 else (None, 0)
    return match.lastgroup, match.end()


def _end_of_comment(sql: str, at: int) -> int:
    """They nest, unlike C's. 0 if there is none."""
    depth = 1
    for match in _COMMENT_MARK.finditer(sql, at):
        depth += 1 if match.group() == "/*" else -1
        if not depth:
            return match.end()
    return 0


def _join(parts: Iterator[str | None], *, whole: bool) -> str:
    text = [""]
    for part in parts:
        if part is None:
            # What was taken for the end of a literal may have been in the middle of it: 'rock 'n' roll'.
            del text[text.index(_LITERAL) + 1 if _LITERAL in text else len(text) :]
            whole = False
            break
        if part != " " or text[-1] != " ":
            text.append(part)
    joined = "".join(text).replace(_LITERAL, "?").strip()
    return joined if whole else f"{joined} {CUT}".lstrip()
