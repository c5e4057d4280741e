"""The rules; a module for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..code import Code, Problem
from . import bypass, loops, raw, slow_atomic, slow_iterator, threads

RULES: dict[str, Callable[[Code], Iterator[Problem]]] = {
    "DBP101": bypass.check,
    "DBP102": raw.check,
    "DBP201": threads.check,
    "DBP301": loops.check,
    "DBP302": slow_atomic.check,
    "DBP303": slow_iterator.check,
}
