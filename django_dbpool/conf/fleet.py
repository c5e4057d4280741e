"""``DBPOOL["FLEET"]`` against the databases and caches that the project has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings

from ..core.fleet import FleetConfig
from ..core.readers import Fault, shown
from .engines import is_ours

BAD_DATABASE = "dbpool.E026"
NO_CACHE = "dbpool.E027"
NOT_SHARED = "dbpool.E028"
SHORT = "dbpool.W036"
NO_RESERVE = "dbpool.W037"
NO_EFFECT = "dbpool.W038"

_OF_ONE_PROCESS = ("locmem.LocMemCache", "dummy.DummyCache")


def database_of(fleet: FleetConfig, databases: Mapping[str, Any]) -> str | None:
    """The alias whose database has the table, if possible one with a pool; None if none of the project's is ours."""
    from . import pooling_enabled  # which is told of this module's faults

    if fleet.using is not None:
        return fleet.using
    ours = [alias for alias, entry in databases.items() if is_ours(entry.get("ENGINE"))]
    ours = [alias for alias in ours if pooling_enabled(databases[alias])] or ours
    return "default" if "default" in ours else next(iter(ours), None)


def cache_of(fleet: FleetConfig) -> str:
    return fleet.cache or "default"


def faults_of_fleet(fleet: FleetConfig, databases: Mapping[str, Any]) -> Iterator[Fault]:
    if fleet.store is None:
        return
    yield from _of_times(fleet)
    if fleet.store == "cache":
        yield from _of_cache(fleet)
    else:
        yield from _of_database(fleet, databases)


def _fault(check: str, problem: str, hint: str) -> Fault:
    return Fault("FLEET", f"FLEET: {problem}", hint, check)


def _of_times(fleet: FleetConfig) -> Iterator[Fault]:
    if fleet.expire < 2 * fleet.interval:
        yield _fault(
            SHORT,
            f"expire ({fleet.expire:g} s) is less than two intervals ({fleet.interval:g} s): whoever publishes a "
            "little late counts as gone.",
            f"Raise expire to {6 * fleet.interval:g}, or lower interval.",
        )


def _of_database(fleet: FleetConfig, databases: Mapping[str, Any]) -> Iterator[Fault]:
    if fleet.cache is not None:
        yield _fault(
            NO_EFFECT,
            'cache is given, and store is "database".',
            'Remove cache, or write {"store": "cache"}.',
        )
    alias = database_of(fleet, databases)
    if alias is None:
        return  # dbpool.W003: nobody uses the engine
    entry = databases.get(alias)
    if entry is None or not is_ours(entry.get("ENGINE")):
        yield _fault(
            BAD_DATABASE,
            f"using = {shown(alias)} is no database with this engine.",
            "Name an alias of DATABASES whose ENGINE is 'django_dbpool.backends.postgresql'.",
        )
        return
    pool = entry.get("POOL")
    if isinstance(pool, Mapping) and pool.get("reserve_size") == 0 and pool.get("enabled") is not False:
        yield _fault(
            NO_RESERVE,
            f"database {alias!r} has reserve_size = 0: when its pool is full, which is when you want to see it, "
            "nothing can be published.",
            'Leave POOL["reserve_size"] at 1, or use another database or a cache.',
        )


def _of_cache(fleet: FleetConfig) -> Iterator[Fault]:
    if fleet.using is not None:
        yield _fault(
            NO_EFFECT, 'using is given, and store is "cache".', 'Remove using, or write {"store": "database"}.'
        )
    alias = cache_of(fleet)
    caches = getattr(settings, "CACHES", {})
    entry = caches.get(alias) if isinstance(caches, Mapping) else None
    if entry is None:
        yield _fault(NO_CACHE, f"cache = {shown(alias)} is not in CACHES.", "Name an alias of CACHES.")
    elif isinstance(entry, Mapping) and str(entry.get("BACKEND", "")).endswith(_OF_ONE_PROCESS):
        backend = str(entry["BACKEND"]).rpartition(".")[2]
        yield _fault(
            NOT_SHARED,
            f"cache {alias!r} is a {backend}, which processes don't share.",
            'Name a cache that they share (Redis, Memcached), or write {"store": "database"}.',
        )
