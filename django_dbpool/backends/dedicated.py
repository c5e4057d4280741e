"""A connection of one's own, made as the alias's pool makes its connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection

from ..conf import copied
from ..core import writes
from ..core.errors import Refusal
from ..errors import DatabaseUnavailable
from ..pool import dedicated
from ..pool.registry import pools
from .mixin import PooledDatabaseMixin

NO_LIMITS = {
    "statement_timeout": None,
    "lock_timeout": None,
    "idle_in_transaction_timeout": None,
    "transaction_timeout": None,
}
"""Such a connection waits for long: a limit is set on it by whoever wants one."""


@contextmanager
def dedicated_connection(
    db: PooledDatabaseMixin, autocommit: bool, connect_kwargs: dict[str, Any]
) -> Iterator[Connection[Any]]:
    template = _template(db)
    start = monotonic()
    try:
        conn = _connect(template, connect_kwargs)
    except psycopg.Error as error:
        raise _unavailable(db.alias, monotonic() - start) from error
    try:
        entry = dedicated.register(db.alias, conn)
    except BaseException:
        conn.close()
        raise
    try:
        if conn.autocommit is not autocommit:
            conn.autocommit = autocommit
        writes.note_statement(in_transaction=False)  # nobody sees what is done with it
        yield conn
    finally:
        dedicated.close(entry)


def _template(db: PooledDatabaseMixin) -> PooledDatabaseMixin:
    template = type(db)(copied(db.settings_dict), db.alias)
    settings_dict = template.settings_dict
    pool = settings_dict.get("POOL")
    settings_dict["POOL"] = {**(pool if isinstance(pool, dict) else {}), **NO_LIMITS}
    return template


def _connect(template: PooledDatabaseMixin, connect_kwargs: dict[str, Any]) -> Connection[Any]:
    params = template._physical_connection_params()
    given = dict(connect_kwargs)
    row_factory = given.pop("row_factory", None)
    if "options" in given:
        given["options"] = " ".join(filter(None, (params.get("options"), given["options"])))
    try:
        conn: Connection[Any] = psycopg.connect(**{**params, **given, "autocommit": True})  # noqa: DBP101  # in the ledger
    except psycopg.Error as error:
        if template._retry_without_startup_options(error):
            return _connect(template, connect_kwargs)
        raise
    try:
        template._prepare_physical_connection(conn)
    except BaseException:
        conn.close()
        raise
    if row_factory is not None:  # not before: the line above reads rows
        conn.row_factory = row_factory
    return conn


def _unavailable(alias: str, waited: float) -> DatabaseUnavailable:
    snapshots = [pool.snapshot() for pool in pools() if pool.alias == alias]
    refusal = Refusal(
        alias=alias,
        waited=waited,
        in_use=sum(snapshot.in_use for snapshot in snapshots),
        max_size=max((snapshot.max_size for snapshot in snapshots), default=0),
        waiting=sum(snapshot.waiting for snapshot in snapshots),
    )
    return DatabaseUnavailable(refusal)
