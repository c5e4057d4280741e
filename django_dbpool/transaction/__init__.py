"""Transactions and sessions for applications. A submodule for each kind; import the names from here."""

from .blocks import atomic, pin
from .outside import dedicated
from .variables import session

__all__ = ["atomic", "dedicated", "pin", "session"]
