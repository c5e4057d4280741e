"""The engines that are compared, and how one process holds all of them.

Each engine gets one alias per pool size, all on the same server through the same loopback TCP address, so a
round can measure every engine within milliseconds of the others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import django
import django.db  # connects its receivers to the request signals
from django.conf import settings
from django.core.signals import request_finished, request_started
from django.db import connections
from django.dispatch import Signal

from testproject.postgres import Server

STOCK_BACKEND = "django.db.backends.postgresql"
POOL_TIMEOUT = 30
POOL_SIZES = (4, 8)


@dataclass(frozen=True)
class Engine:
    key: str
    label: str
    backend: str
    module: str
    entry: Callable[[int], dict[str, Any]]

    @property
    def installed(self) -> bool:
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:  # the parent package is what is missing
            return False

    def alias(self, pool_size: int) -> str:
        return f"{self.key}_{pool_size}"


def _persistent(_size: int) -> dict[str, Any]:
    return {"CONN_MAX_AGE": None}


def _psycopg_pool(size: int) -> dict[str, Any]:
    pool = {"min_size": size, "max_size": size, "timeout": POOL_TIMEOUT}
    return {"CONN_MAX_AGE": 0, "OPTIONS": {"pool": pool}}


def _checked_pool(size: int) -> dict[str, Any]:
    return {**_psycopg_pool(size), "CONN_HEALTH_CHECKS": True}


def _sqlalchemy_pool(size: int) -> dict[str, Any]:
    return {"POOL_OPTIONS": {"POOL_SIZE": size, "MAX_OVERFLOW": 0, "TIMEOUT": POOL_TIMEOUT}}


def _dbpool(mode: str) -> Callable[[int], dict[str, Any]]:
    def entry(size: int) -> dict[str, Any]:
        return {"POOL": {"mode": mode, "min_size": size, "max_size": size, "timeout": POOL_TIMEOUT}}

    return entry


OUR_BACKEND = "django_dbpool.backends.postgresql"
OUR_MODULE = OUR_BACKEND + ".base"

STOCK = Engine("stock", "stock, persistent", STOCK_BACKEND, STOCK_BACKEND, _persistent)
# The same engine twice: the ratio of the two is what this machine's noise alone makes of 1.00.
CONTROL = Engine("control", "stock, persistent, again", STOCK_BACKEND, STOCK_BACKEND, _persistent)
NATIVE = Engine("native", "Django's pool", STOCK_BACKEND, "psycopg_pool", _psycopg_pool)
CHECKED = Engine("checked", "Django's pool, health checks", STOCK_BACKEND, "psycopg_pool", _checked_pool)
REAL_POOL = Engine("realpool", "django-pg-real-pool", "django_pg_real_pool", "django_pg_real_pool", _psycopg_pool)
SQLALCHEMY = Engine(
    "sqlalchemy",
    "django-db-connection-pool",
    "dj_db_conn_pool.backends.postgresql",
    "dj_db_conn_pool",
    _sqlalchemy_pool,
)
OURS = Engine("ours", "django_dbpool", OUR_BACKEND, OUR_MODULE, _dbpool("transaction"))
OURS_SESSION = Engine("session", "django_dbpool, session mode", OUR_BACKEND, OUR_MODULE, _dbpool("session"))

# With server_side_binding, so that nothing but preparing differs.
_BINDING = {"OPTIONS": {"server_side_binding": True}}


def _binding(entry: Callable[[int], dict[str, Any]], **pool: Any) -> Callable[[int], dict[str, Any]]:
    def bound(size: int) -> dict[str, Any]:
        found = entry(size)
        return {**found, **_BINDING, **({"POOL": {**found["POOL"], **pool}} if pool else {})}

    return bound


STOCK_BINDING = Engine(
    "stockbinding", "stock, persistent, server-side binding", STOCK_BACKEND, STOCK_BACKEND, _binding(_persistent)
)
OURS_BINDING = Engine(
    "binding", "django_dbpool, server-side binding", OUR_BACKEND, OUR_MODULE, _binding(_dbpool("transaction"))
)
OURS_PREPARED = Engine(
    "prepared",
    "django_dbpool, prepared",
    OUR_BACKEND,
    OUR_MODULE,
    _binding(_dbpool("transaction"), prepare={"after": 2, "max": 10}),
)
BINDING_ENGINES = (STOCK_BINDING, OURS_BINDING, OURS_PREPARED)

ENGINES = (STOCK, CONTROL, NATIVE, CHECKED, REAL_POOL, SQLALCHEMY, OURS, OURS_SESSION)


def configure(server: Server) -> None:
    """Set Django up with every installed engine at every pool size; "default" is for set-up work."""
    databases = {"default": server.django(ENGINE=STOCK_BACKEND)}
    for engine in (*ENGINES, *BINDING_ENGINES):
        if engine.installed:
            for size in POOL_SIZES:
                databases[engine.alias(size)] = server.django(ENGINE=engine.backend, **engine.entry(size))
    apps = ["benchmarks", *(["django_dbpool"] if OURS.installed else [])]
    settings.configure(DATABASES=databases, INSTALLED_APPS=apps, USE_TZ=True, DEBUG=False, SECRET_KEY="benchmarks")
    for signal in REQUEST_SIGNALS:
        _receivers[signal] = {"django": list(signal.receivers)}
    django.setup()
    for signal in REQUEST_SIGNALS:
        _receivers[signal]["django_dbpool"] = list(signal.receivers)


REQUEST_SIGNALS = (request_started, request_finished)
_receivers: dict[Signal, dict[str, list[Any]]] = {}


@contextmanager
def alone(engine: Engine, pool_size: int) -> Iterator[None]:
    """Let Django see one database and the signal receivers that come with its engine, as in a real project.

    `close_old_connections()` visits every alias of the settings at both ends of each request. With twenty
    aliases that walk would be part of every engine's time, and would pull all ratios towards 1. And what this
    package's app does at each request must count for its own engine and for no other.
    """
    every = connections.settings
    alias = engine.alias(pool_size)
    connections.settings = {alias: every[alias]}
    for signal in REQUEST_SIGNALS:
        signal.receivers = _receivers[signal]["django_dbpool" if engine.backend == OUR_BACKEND else "django"]
    try:
        yield
    finally:
        connections.settings = every


def close_all() -> None:
    """Close this thread's connections and every pool, so that the server can stop."""
    connection: Any
    for connection in connections.all():
        connection.close()
        if connection.settings_dict["ENGINE"] == SQLALCHEMY.backend:
            _close_sqlalchemy_pool(connection.alias)
        else:
            connection.close_pool()


def _close_sqlalchemy_pool(alias: str) -> None:
    from dj_db_conn_pool.core import pool_container

    if pool_container.has(alias):
        pool_container.get(alias).dispose()
