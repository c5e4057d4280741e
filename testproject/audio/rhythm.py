"""How fast recordings may be removed. Seconds here stand for minutes in production."""

from __future__ import annotations

from testproject.campaigns.rhythm import PAUSE

__all__ = ["PAUSE", "SIZE"]

SIZE = 50
"""Recordings at a time."""
