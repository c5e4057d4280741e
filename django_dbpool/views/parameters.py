"""Query parameters: one declaration reads them, says what is wrong with them, and stands in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict

LONGEST = 200
"""Characters of a value."""

LAST_PAGE = 100_000


class Wrong(ValueError):
    """What is wrong with a value, and what could be written instead."""


class Invalid(Exception):
    """
    Args:
        errors: by parameter what is wrong with it.
    """

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(errors)
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    description: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    """Of the text in the URL; raises ``Wrong``."""

    @property
    def default(self) -> Any:
        return self.schema["default"]

    def to_openapi(self) -> dict[str, Any]:
        return {"name": self.name, "in": "query", "description": self.description, "schema": dict(self.schema)}


def text(name: str, description: str, default: str = "") -> Parameter:
    def read(raw: str) -> str:
        if len(raw) > LONGEST:
            raise Wrong(f"is longer than {LONGEST} characters")
        return raw

    return Parameter(name, description, {"type": "string", "maxLength": LONGEST, "default": default}, read)


def choice(name: str, description: str, values: Sequence[str], default: str = "") -> Parameter:
    """One of the values; where the default isn't among them, it means "whatever"."""
    known = list(dict.fromkeys([default, *values]))

    def read(raw: str) -> str:
        if raw not in known:
            raise Wrong(f"is none of {', '.join(filter(None, known))}")
        return raw

    return Parameter(name, description, {"type": "string", "enum": known, "default": default}, read)


def flag(name: str, description: str, *, default: bool = False) -> Parameter:
    def read(raw: str) -> bool:
        if raw not in ("true", "false"):
            raise Wrong("is neither true nor false")
        return raw == "true"

    return Parameter(name, description, {"type": "boolean", "default": default}, read)


def _page(raw: str) -> int:
    # int() takes digits of every script, signs, spaces and underscores.
    if not (raw.isascii() and raw.isdecimal()) or len(raw) > len(str(LAST_PAGE)) or not 1 <= int(raw) <= LAST_PAGE:
        raise Wrong(f"is no whole number from 1 to {LAST_PAGE}")
    return int(raw)


PAGE = Parameter(
    "page",
    "Which hundred. Of one that there is none of, the nearest is given.",
    {"type": "integer", "minimum": 1, "maximum": LAST_PAGE, "default": 1},
    _page,
)
SEARCH = text("q", "Words that must all be found somewhere in the item.")


def read(given: QueryDict, declared: Iterable[Parameter]) -> dict[str, Any]:
    """
    The value of every declared parameter.

    Raises:
        Invalid: with everything that is wrong.
    """
    known = {each.name: each for each in declared}
    values = {name: each.default for name, each in known.items()}
    errors = {}
    for name in given:
        if name not in known:
            errors[name[:LONGEST]] = f"is unknown here; known: {', '.join(known) or 'none'}"
            continue
        try:
            (raw,) = given.getlist(name)
            values[name] = known[name].read(raw)
        except Wrong as wrong:
            errors[name] = str(wrong)
        except ValueError:
            errors[name] = "is given more than once"
    if errors:
        raise Invalid(errors)
    return values
