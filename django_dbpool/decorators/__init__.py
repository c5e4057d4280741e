"""Decorators for views and functions that have something better to do than to fail."""

from .degrading import fallback
from .replaying import replayable

__all__ = ["fallback", "replayable"]
