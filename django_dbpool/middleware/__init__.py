"""Middleware: name these classes in ``MIDDLEWARE``."""

from .failures import DatabasePoolMiddleware

__all__ = ["DatabasePoolMiddleware"]
