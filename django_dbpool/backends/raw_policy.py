"""``DBPOOL["RAW_ACCESS"]``: what happens when the raw connection is used in a way that pins."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from ..conf import project_config
from ..errors import RawAccessRefused, RawAccessWarning

RAW_ACCESS_REASON = "connection.connection was used"

_INSIDE = frozenset({"contextlib", "django_dbpool", "psycopg", "psycopg_pool"})
_warned: set[tuple[str, int]] = set()


def apply_policy(alias: str, what: str) -> None:
    """
    Warn or refuse as the setting says.

    Raises:
        RawAccessRefused: for "error".
    """
    policy = project_config().raw_access
    if policy == "allow":
        return
    frame = _caller()
    if frame is None:
        return
    location = (frame.f_code.co_filename, frame.f_lineno)
    message = (
        f"{location[0]}:{location[1]} uses {what} of the raw connection to database {alias!r}. "
        'DBPOOL["RAW_ACCESS"] is {policy!r}, because such a connection is kept to the end of the request or task and '
        "then closed. Use connection.cursor(); for session state `with transaction.pin():`, for LISTEN or a lock held "
        "for long `with transaction.dedicated() as connection:` (both of django_dbpool)."
    ).replace("{policy!r}", repr(policy))
    if policy == "error":
        raise RawAccessRefused(message)
    if location not in _warned:
        warnings.warn_explicit(message, RawAccessWarning, *location)
        _warned.add(location)  # not before: where warnings are errors, each caller is to see it


def _caller() -> FrameType | None:
    """Where the access was written; None if that is in Django, which a project can't change."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package == "django":
            return None
        if package not in _INSIDE:
            return frame
        frame = frame.f_back
    return None
