"""What a pool can't know by itself, from whoever does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Literal, NamedTuple, Protocol, overload

from ..core.logs import get_logger

logger = get_logger("django_dbpool.alerts")

COMPLAIN = 60.0
"""Seconds between two log records of the same provider's failures."""


class _Held(Protocol):
    @property
    def minute(self) -> float: ...


class Active(Protocol):
    """What one route does with the connections of one database: ``django_dbpool.core.activity.Activity``."""

    @property
    def alias(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def held(self) -> _Held: ...
    @property
    def baseline(self) -> float: ...
    @property
    def observed(self) -> float: ...


class BatchTrouble(NamedTuple):
    """What is wrong with the runs of batches of one database."""

    stuck: tuple[str, ...]
    """Names of open runs that nobody gets on with, once for each part."""
    failed: int
    """Items that could not be done, of the last hour."""
    failing: tuple[str, ...]
    """Names of their runs."""


ServerConnections = Callable[[str], tuple[int, int] | None]
Strangers = Callable[[str], int | None]
Activity = Callable[[], Iterable[Active]]
Batches = Callable[[str], BatchTrouble | None]

NAMES = ("server_connections", "strangers", "activity", "batches")

_providers: dict[str, Callable[..., Any]] = {}
_defaults: dict[str, Callable[..., Any]] = {}
"""Of this package; asked where nobody else says that he knows."""
_complained: dict[str, float] = {}


@overload
def provide(name: Literal["server_connections"], function: ServerConnections | None) -> None: ...
@overload
def provide(name: Literal["strangers"], function: Strangers | None) -> None: ...
@overload
def provide(name: Literal["activity"], function: Activity | None) -> None: ...
@overload
def provide(name: Literal["batches"], function: Batches | None) -> None: ...
def provide(name: str, function: Callable[..., Any] | None) -> None:
    """
    Say who knows what a rule looks at. Without a provider its rule never raises an alert.

    Args:
        name: ``server_connections``: called with an alias, returns how many connections of its server are taken, and
            how many it has. ``strangers``: called with an alias, returns how many connections of the project's role
            belong to none of its pools. ``activity``: returns what each route holds. ``batches``: called with an alias,
            returns the ``BatchTrouble`` of its database. None from any of them: not known now.
        function: must answer at once, from what it has: it is called every few seconds in a thread that serves others
            too. What it raises is logged, and means "not known". None: what this package finds out by itself.

    Raises:
        ValueError: there is no such name.

    Example:
        provide("server_connections", lambda alias: (87, 100))
    """
    if name not in NAMES:
        raise ValueError(f"django_dbpool.alerts.provide({name!r}): there are {', '.join(NAMES)}.")
    if function is None:
        _providers.pop(name, None)
    else:
        _providers[name] = function


def default(name: str, function: Callable[..., Any]) -> None:
    """The same for this package's own, which give way to a project's."""
    _defaults[name] = function


def ask(name: str, *args: str) -> Any:
    """What the provider says; None if there is none, or it failed."""
    function = _providers.get(name) or _defaults.get(name)
    if function is None:
        return None
    try:
        return function(*args)
    except Exception:
        now = monotonic()
        if now - _complained.get(name, -COMPLAIN) >= COMPLAIN:
            _complained[name] = now
            logger.exception("provider of %s failed", name)
        return None
