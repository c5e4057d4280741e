"""Middleware: name these classes in ``MIDDLEWARE``."""

from .session import SessionVariablesMiddleware
from .unavailable import DatabasePoolMiddleware

__all__ = ["DatabasePoolMiddleware", "SessionVariablesMiddleware"]
