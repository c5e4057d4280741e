"""How fast recordings may be removed. Seconds here stand for minutes in production."""

from __future__ import annotations

from testproject.campaigns.rhythm import PAUSE, TAKEOVER_AFTER

__all__ = ["PAUSE", "SIZE", "TAKEOVER_AFTER"]

SIZE = 50
"""Recordings at a time."""
