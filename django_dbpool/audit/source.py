"""A file, parsed; and the comments with which it asks for silence."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

LIMIT = 5_000_000
"""Bytes. A syntax tree takes a hundred times as much memory as its text; what is larger is data, not code."""

_NOQA = re.compile(r"#\s*noqa\b(?P<colon>\s*:)?(?P<codes>[\sA-Z0-9,]*)", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]+[0-9]+", re.IGNORECASE)


class Unreadable(Exception):
    """Can't be analysed; ``line`` and ``column`` say where, as far as known."""

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column


class Source:
    def __init__(self, tree: ast.Module, lines: Sequence[str]) -> None:
        self.tree = tree
        self._lines = lines

    def column(self, node: ast.expr | ast.stmt) -> int:
        """In characters from 1; the tree counts bytes of UTF-8."""
        before = self._line(node.lineno).encode()[: node.col_offset]
        return len(before.decode(errors="replace")) + 1

    def silences(self, rule: str, lines: Sequence[int]) -> bool:
        # The whole file is taken apart, to know a comment from a string, only where one of these lines looks like one.
        return any(_silences(self._comments.get(line, ""), rule) for line in lines if _NOQA.search(self._line(line)))

    @cached_property
    def _comments(self) -> dict[int, str]:
        readline = (f"{line}\n" for line in self._lines).__next__
        comments: dict[int, str] = {}
        try:
            for token in tokenize.generate_tokens(readline):
                if token.type == tokenize.COMMENT:
                    comments[token.start[0]] = token.string
        except (tokenize.TokenError, SyntaxError):
            # It was parsed: this tokenizer, Python's own up to 3.11, knows less than the parser. Those before count.
            pass
        return comments

    def _line(self, number: int) -> str:
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""


def _silences(line: str, rule: str) -> bool:
    match = _NOQA.search(line)
    if match is None:
        return False
    if match["colon"] is None:
        return True
    # A colon and then no rule, but a reason: that silences none.
    return any(rule.startswith(code.upper()) for code in _CODE.findall(match["codes"]))


def read(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT + 1)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if len(content) > LIMIT:
        raise Unreadable(f"larger than {LIMIT // 1_000_000} MB")
    return parse(content)


def parse(content: bytes) -> Source:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = content.decode(encoding)
        with warnings.catch_warnings():
            # Invalid escape sequences and the like: not what is asked for here.
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except SyntaxError as error:
        raise Unreadable(f"syntax error: {error.msg}", error.lineno or 1, max(error.offset or 1, 1)) from error
    except (ValueError, LookupError) as error:  # bytes of another encoding, null bytes
        raise Unreadable(str(error)) from error
    except (RecursionError, MemoryError) as error:
        raise Unreadable("nested too deeply") from error
    # Not str.splitlines(), which splits at form feeds too, where the parser doesn't.
    return Source(tree, re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")))
