"""The probe of an alias: what it connects with, and waiting for it in threads and in event loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import Any

import psycopg
from django.db import connections
from psycopg import Connection

from ..backends.mixin import PooledDatabaseMixin
from ..conf import copied
from ..pool.probing import APPLICATION, Probe, probe_of
from ..pool.question import Answer
from ..pool.registry import pools

MARGIN = 0.3
"""Seconds of a timeout that are left for everything but the wait, so that the answer is out before it ends."""


LONGEST_NAME = 40
"""Characters of the project's own ``application_name``; the server cuts the whole at 63 bytes."""


def patience(timeout: float) -> float:
    """How long to wait for a server, so that the whole answer takes ``timeout`` seconds."""
    return max(timeout - MARGIN, timeout / 2)


def ask(alias: str, *, fresh: bool = False) -> tuple[Probe, Answer | Future[Answer]]:
    """The probe of an alias, and the answer or the question that is under way. Doesn't wait."""
    probe = _probe(alias)
    found = probe.answer(fresh=fresh)
    if isinstance(found, Answer) and found.code == "closed":  # in this moment, as close_pool() does
        probe = _probe(alias)
        found = probe.answer(fresh=fresh)
    return probe, found


def wait(probe: Probe, found: Answer | Future[Answer], deadline: float, timeout: float) -> Answer:
    """
    Args:
        deadline: on the monotonic clock.
        timeout: seconds, for the report.
    """
    if isinstance(found, Answer):
        return found
    try:
        return found.result(max(0.0, deadline - monotonic()))
    except TimeoutError:
        return probe.give_up(found, timeout)


async def await_(probe: Probe, found: Answer | Future[Answer], deadline: float, timeout: float) -> Answer:  # noqa: ASYNC109
    """The same in an event loop, without a thread of its executor: they may all be waiting for the database."""
    if isinstance(found, Answer):
        return found
    loop = asyncio.get_running_loop()
    landed = asyncio.Event()

    def tell(_: Future[Answer]) -> None:
        # Not asyncio.wrap_future(): under WSGI each request has a loop of its own, which has ended when a question that
        # took too long is answered, and that is no error.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(landed.set)

    found.add_done_callback(tell)
    try:
        await asyncio.wait_for(landed.wait(), max(0.0, deadline - monotonic()))
    except TimeoutError:
        return probe.give_up(found, timeout)
    return found.result()


def _probe(alias: str) -> Probe:
    return probe_of(alias, lambda: Probe(alias, _connect_to(alias), let_in=lambda: _let_in(alias)))


def _let_in(alias: str) -> int:
    return sum(pool.connector.successes for pool in pools() if pool.alias == alias)


def _connect_to(alias: str) -> Callable[[], Connection[Any]]:
    """A function that connects as the alias's pool does, but for what its sessions are set to: nothing is read here."""
    made: list[tuple[dict[str, Any], PooledDatabaseMixin]] = []

    def connect() -> Connection[Any]:
        # Kept while the settings stay the same: it knows of a function behind PASSWORD what it gave last.
        if not made or made[0][0] != connections.settings[alias]:
            settings_dict = copied(connections.settings[alias])
            made[:] = [(settings_dict, _template(alias))]
        template = made[0][1]
        try:
            return _connected(template)
        except psycopg.Error as error:
            if not template._password_changed(error):
                raise
        return _connected(template)

    return connect


def _template(alias: str) -> PooledDatabaseMixin:
    wrapper = connections.create_connection(alias)
    assert isinstance(wrapper, PooledDatabaseMixin)
    template = wrapper.copy()
    template._is_template = True
    template._startup_options = False
    return template


def _connected(template: PooledDatabaseMixin) -> Connection[Any]:
    # Not through get_new_connection(): engines that are combined with this one count connections there.
    params = template._physical_connection_params()
    given = str(params.get("application_name") or os.environ.get("PGAPPNAME", ""))
    params["application_name"] = f"{given[:LONGEST_NAME]} {APPLICATION}".strip()
    connection: Connection[Any] = psycopg.connect(**params)  # noqa: DBP101  # the probe has it kept
    return connection
