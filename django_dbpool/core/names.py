"""Names and tags that come from anywhere, made fit to be shown: in logs, terminals and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from .readers import shown
from .words import one_line

LONGEST_NAME = 200
LONGEST_TAG = 100
MOST_TAGS = 20

NO_TAGS: Mapping[str, str] = MappingProxyType({})


def clean_name(call: str, name: object) -> str:
    """
    Raises:
        TypeError: it is no string.
        ValueError: it is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"{call}(name={shown(name)}): name must be a string.")
    if not name.strip():
        raise ValueError(f"{call}(name={shown(name)}): name must not be empty.")
    return one_line(name, LONGEST_NAME)


def clean_tags(call: str, tags: object) -> Mapping[str, str]:
    """
    Raises:
        TypeError: it is no mapping of strings to strings.
        ValueError: there are too many.
    """
    if tags is None:
        return NO_TAGS
    if not isinstance(tags, Mapping):
        raise TypeError(f'{call}(tags={shown(tags)}): tags must be a mapping, as in {{"customer": "7"}}.')
    if len(tags) > MOST_TAGS:
        raise ValueError(f"{call}(tags=...): {len(tags)} tags are too many, at most {MOST_TAGS}.")
    for key, value in tags.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"{call}(tags={shown(tags)}): tags must be strings; write str({shown(value)}).")
    return MappingProxyType({one_line(key, LONGEST_TAG): one_line(value, LONGEST_TAG) for key, value in tags.items()})


def amount(call: str, name: str, value: object) -> float:
    """
    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{call}({name}={shown(value)}): {name} must be a number.")
    if not 0 <= value < math.inf:
        raise ValueError(f"{call}({name}={shown(value)}): {name} must be 0 or more, and finite.")
    return value
