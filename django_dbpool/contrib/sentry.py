"""
Sentry: failures of the pool as one issue for each kind and alias, with what the pool looked like. Needs the extra
``sentry``.

Example:
    import sentry_sdk
    from django_dbpool.contrib.sentry import DatabasePoolIntegration

    sentry_sdk.init(dsn=..., integrations=[DatabasePoolIntegration()])
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sentry_sdk
from sentry_sdk.integrations import Integration
from sentry_sdk.scope import add_global_event_processor

if TYPE_CHECKING:
    from sentry_sdk._types import Event, Hint

    from ..core.ledger import Holder

__all__ = ["DatabasePoolIntegration"]

MOST_HOLDERS = 10
"""As many as Sentry keeps of a list."""

_DATABASE_LAYER = ("django.db", "django_dbpool.backends", "django_dbpool.pool", "psycopg", "psycopg_pool")
"""Packages below which nothing is called but by way of a statement or a connection."""


class DatabasePoolIntegration(Integration):
    """
    Adds to each event of a failed lease or lost connection: the tags ``dbpool.failure``, ``dbpool.alias`` and
    ``dbpool.expected``, the context ``dbpool`` with the pool's numbers and holders, and a fingerprint of failure and
    alias, so that a full pool is one issue and not one for each route. From Django's database layer downwards the
    frames of these events lose their local variables, which are parameters and passwords; those of the project's own
    functions stay.

    Args:
        expected: what becomes of an event whose connection was ended on purpose (by an administrator, a restart, a time
            limit or the end of this process) and which left no doubt about a change: "warning" lowers its level, "drop"
            keeps it back, "keep" leaves it as it is.

    Raises:
        ValueError: ``expected`` is none of these.
    """

    identifier = "django_dbpool"

    def __init__(self, *, expected: Literal["warning", "drop", "keep"] = "warning") -> None:
        if expected not in ("warning", "drop", "keep"):
            raise ValueError(f'DatabasePoolIntegration(expected={expected!r}): must be "warning", "drop" or "keep".')
        self.expected = expected

    @staticmethod
    def setup_once() -> None:
        # For all clients that will ever be: which of them has the integration is asked with each event.
        add_global_event_processor(_process)


def _process(event: Event, hint: Hint) -> Event | None:
    integration = sentry_sdk.get_client().get_integration(DatabasePoolIntegration)
    if integration is None or event.get("type") is not None:  # transactions and check-ins have one
        return event
    found = _of_exception(hint) or _of_record(hint)
    if found is None:
        return event
    if found.expected and integration.expected == "drop":
        return None
    if found.expected and integration.expected == "warning":
        event["level"] = "warning"
    _describe(event, found)
    _forget_locals(event)
    return event


@dataclass(frozen=True, slots=True)
class _Found:
    """A failure of ours that an event is about."""

    name: str
    expected: bool
    numbers: Any
    """What has the pool's numbers: an error, or a record of the log. Errors of the driver alone have none."""
    itself: bool = True
    """False if the event's error was raised while this one was handled, and may be another matter."""


def _of_exception(hint: Hint) -> _Found | None:
    from ..middleware.failures.failure import failure_of  # not before Django's settings are complete

    error, itself = (hint.get("exc_info") or (None, None, None))[1], True
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        failure = failure_of(error)
        if failure is not None:
            return _Found(failure.name, failure.is_expected, failure.error, itself)
        if error.__cause__ is not None:
            error = error.__cause__
        else:
            error, itself = (None if error.__suppress_context__ else error.__context__), False
    return None


def _of_record(hint: Hint) -> _Found | None:
    """What the middleware logs of a request that it has answered."""
    record = hint.get("log_record")
    name = getattr(record, "error_type", None)
    if not isinstance(record, logging.LogRecord) or name is None or not record.name.startswith("django_dbpool."):
        return None
    return _Found(name, getattr(record, "severity", None) == "expected", record)


def _describe(event: Event, found: _Found) -> None:
    tags = {"dbpool.failure": found.name, "dbpool.expected": str(found.expected).lower()}
    alias = getattr(found.numbers, "alias", None)
    if alias is not None:
        tags["dbpool.alias"] = alias
        event.setdefault("contexts", {})["dbpool"] = _context(found.numbers)
        if found.itself:
            event["fingerprint"] = ["django_dbpool", found.name, alias]
    # Tags may be pairs, too: whoever has set some means them.
    given = event.get("tags")
    event["tags"] = {**tags, **dict(given or {})}


def _context(numbers: Any) -> dict[str, Any]:
    holders: tuple[Holder, ...] = getattr(numbers, "holders", None) or ()
    return {
        "alias": numbers.alias,
        "in_use": numbers.in_use,
        "max": numbers.max_size,
        "waiting": numbers.waiting,
        "waited": round(numbers.waited, 3) if isinstance(numbers.waited, float) else numbers.waited,
        "retry_after": getattr(numbers, "retry_after", None),
        "maybe_committed": getattr(numbers, "maybe_committed", False),
        "holders": [str(holder) for holder in holders[:MOST_HOLDERS]],
        "type": "dbpool",
    }


def _forget_locals(event: Event) -> None:
    """
    From the first frame of the database layer on, whoever's the frames are: between Django and psycopg stand wrappers
    of instrumentation, and decorators, whose arguments are the same parameters.
    """
    for frames in _stacks(event):
        below = False
        for frame in frames:
            module = frame.get("module") or ""
            below = below or _is_in(module, _DATABASE_LAYER)
            if below or _is_in(module, ("django_dbpool",)):
                frame.pop("vars", None)


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _stacks(event: Event) -> Iterator[list[dict[str, Any]]]:
    """Frames of each, the outermost first."""
    for part in ("exception", "threads"):
        values: Any = event.get(part) or {}
        for value in values.get("values") or ():
            yield ((value or {}).get("stacktrace") or {}).get("frames") or []
