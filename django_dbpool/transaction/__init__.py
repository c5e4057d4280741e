"""Transactions and sessions for applications. A submodule for each kind; import the names from here."""

from ..cancellation import cancel_with_task
from .admission import group, priority, reserved
from .blocks import atomic, pin
from .deadlines import deadline
from .idempotence import idempotent
from .outside import dedicated
from .retrying import retrying
from .variables import session

__all__ = [
    "atomic",
    "cancel_with_task",
    "deadline",
    "dedicated",
    "group",
    "idempotent",
    "pin",
    "priority",
    "reserved",
    "retrying",
    "session",
]
