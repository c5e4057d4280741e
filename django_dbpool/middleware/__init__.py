"""Middleware: name these classes in ``MIDDLEWARE``."""

from .failures import DatabasePoolMiddleware
from .session import SessionVariablesMiddleware

__all__ = ["DatabasePoolMiddleware", "SessionVariablesMiddleware"]
