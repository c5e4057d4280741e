"""What the audit says about one place in the code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    rule: str
    path: str
    """As it was given, or below the directory that was given."""
    line: int
    """From 1."""
    column: int
    """In characters, from 1, as editors count."""
    message: str
    fix: str


UNREADABLE = "DBP000"
"""The rule of findings that say: this file could not be analysed."""
