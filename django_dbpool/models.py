"""The tables by which processes on several hosts know of each other."""

from __future__ import annotations

from .fleet.command_model import Command

__all__ = ["Command"]
