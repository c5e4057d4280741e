"""Middleware: name these classes in ``MIDDLEWARE``."""

from .session import SessionVariablesMiddleware

__all__ = ["SessionVariablesMiddleware"]
