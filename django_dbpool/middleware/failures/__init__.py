"""
503 for what the database could not serve. ``middleware`` says where failures are met, ``failure`` which they are,
``answer`` what a visitor sees, ``report`` what the log gets, ``uncaught`` and ``stream`` are the difficult places.
"""

from .middleware import DatabasePoolMiddleware

__all__ = ["DatabasePoolMiddleware"]
