"""Transactions and sessions for applications. A submodule for each kind; import the names from here."""

from ..cancellation import cancel_with_task
from .admission import group, priority, reserved
from .blocks import atomic, pin
from .outside import dedicated
from .variables import session

__all__ = ["atomic", "cancel_with_task", "dedicated", "group", "pin", "priority", "reserved", "session"]
