"""Which engine and which server a process of the test project uses: decided by its environment alone.

DBPOOL_ENGINE            stock (one connection per thread), stock-pool (Django's own pool), dbpool (default)
DBPOOL_DEMO_DATABASE     the server: a DATABASES entry as JSON, or a libpq connection string
DBPOOL_TEST_DSN          the server if DBPOOL_DEMO_DATABASE is not set; without both, libpq's variables apply
DBPOOL_DEMO_POOL         pool sizes as JSON, the same keys for both pools: {"max_size": 8, "timeout": 1}
DBPOOL_DEMO_CONN_MAX_AGE of the stock engine: seconds, or "none" for persistent connections
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

STOCK_BACKEND = "django.db.backends.postgresql"
POOLED_BACKEND = "django_dbpool.backends.postgresql"
ENGINES = ("stock", "stock-pool", "dbpool")

# What pg_stat_activity shows for connections of this project, so that an observer counts no others.
APPLICATION_NAME = "testproject"

_DSN_TO_SETTING = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}


def database_from(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the DATABASES entry that `environ` describes."""
    engine = environ.get("DBPOOL_ENGINE", "dbpool")
    if engine not in ENGINES:
        raise ImproperlyConfigured(f"DBPOOL_ENGINE is {engine!r}, expected one of {', '.join(ENGINES)}")
    database = _server_from(environ)
    options = {**database.get("OPTIONS", {}), "application_name": APPLICATION_NAME}
    database |= {"ENGINE": STOCK_BACKEND, "OPTIONS": options}
    # True for the defaults: an empty dictionary would leave open whether a pool is wanted.
    pool = json.loads(environ.get("DBPOOL_DEMO_POOL", "{}")) or True
    if engine == "dbpool":
        database |= {"ENGINE": POOLED_BACKEND, "POOL": pool}
    elif engine == "stock-pool":
        options["pool"] = pool
    else:
        database["CONN_MAX_AGE"] = _max_age(environ.get("DBPOOL_DEMO_CONN_MAX_AGE", "0"))
    return database


def _server_from(environ: Mapping[str, str]) -> dict[str, Any]:
    given = environ.get("DBPOOL_DEMO_DATABASE") or environ.get("DBPOOL_TEST_DSN")
    if not given:
        return {"NAME": environ.get("PGDATABASE", "testproject")}
    if given.lstrip().startswith("{"):
        entry: dict[str, Any] = json.loads(given)
        return entry
    return _from_dsn(given)


def _from_dsn(dsn: str) -> dict[str, Any]:
    parameters = conninfo_to_dict(dsn)
    database: dict[str, Any] = {}
    for key, setting in _DSN_TO_SETTING.items():
        if (value := parameters.pop(key, None)) is not None:
            database[setting] = str(value)
    return {"NAME": "postgres", **database, "OPTIONS": parameters}


def _max_age(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)
