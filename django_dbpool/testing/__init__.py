"""For the tests of projects that use the engine."""

from .sessions import SessionStateLeaked, strict_sessions

__all__ = ["SessionStateLeaked", "strict_sessions"]
