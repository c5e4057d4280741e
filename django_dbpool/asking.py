"""
What alerts need to know of servers, from the parts of this package that ask them: one process of all, and only while it
works. Where such a part is switched off, its rules keep silent. And what the others are told of this
process: its alerts and its load.
"""

from __future__ import annotations

import logging
import os
import threading
from time import monotonic

from django.db import connections

from . import fleet, server_counts
from .advice import SECTION, load_section
from .alerts.providers import default
from .alerts.service import alerts_section
from .backends import sampler
from .conf import management_command, project_config
from .fleet.stores import Unusable

logger = logging.getLogger("django_dbpool.alerts")

INTERVAL = 60.0
"""Seconds between two questions. Longer than a process stays awake for its own questions' sake."""

FRESH = 3 * INTERVAL
UNUSABLE_PAUSE = 3600.0
"""Seconds after which it is tried again where the fleet has no table, or no right to read it."""

_pid = 0


def begin() -> None:
    """Once in a process, with the first look."""
    global _pid
    if _pid == os.getpid():
        return
    _pid = os.getpid()
    default("activity", sampler.activity)
    fleet.register_section("alerts", alerts_section)
    fleet.register_section(SECTION, load_section)
    rules = project_config().alerts
    # Asking takes a connection of its own. Commands end soon, and a development server is to hold none.
    if rules is None or management_command() is not None:
        return
    if rules.get("server_connections", {}) is not None or rules.get("strangers", {}) is not None:
        server_counts.watch("alerts", interval=INTERVAL)
        default("server_connections", _taken)
        default("strangers", Strangers())


def _taken(alias: str) -> tuple[int, int] | None:
    found = server_counts.latest(alias)
    return None if found is None else (found.all_roles, found.max_connections)


class Strangers:
    """
    Connections that no process of the fleet knows of, counted in a thread of its own by the process that asks the
    server anyway.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, int]] = {}
        self._asked: dict[str, float] = {}

    def __call__(self, alias: str) -> int | None:
        now = monotonic()
        if server_counts.latest(alias) is not None and now - self._asked.get(alias, -INTERVAL) >= INTERVAL:
            self._asked[alias] = now
            threading.Thread(target=self.ask, args=(alias,), name="dbpool-strangers", daemon=True).start()
        found = self._found.get(alias)
        return found[1] if found is not None and now - found[0] < FRESH else None

    def ask(self, alias: str) -> None:
        """Ask the fleet who it is, and the server who else is there."""
        try:
            known = fleet.processes()
            self._found[alias] = monotonic(), len(fleet.server_of(alias, known).strangers)
        except Unusable as error:
            # Each question would be an error in the server's log.
            self._asked[alias] = monotonic() + UNUSABLE_PAUSE
            logger.debug("database %r: strangers can't be counted: %s", alias, error)
        except Exception as error:  # noqa: BLE001  # nothing is published, or whatever a store or a server raises
            logger.debug("database %r: strangers can't be counted: %s", alias, type(error).__name__)
        finally:
            connections.close_all()
