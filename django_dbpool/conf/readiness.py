"""``DBPOOL["READINESS"]`` against the databases that the project has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.readers import Fault, shown
from ..core.readiness import ReadinessConfig
from .engines import is_ours

BAD_DATABASE = "dbpool.E036"
NEVER = "dbpool.W046"


def faults_of_readiness(readiness: ReadinessConfig, databases: Mapping[str, Any]) -> Iterator[Fault]:
    for alias in readiness.aliases or ():
        if not is_ours(databases.get(alias, {}).get("ENGINE")):
            yield _fault(
                BAD_DATABASE,
                f"aliases names {shown(alias)}, which is no database with this engine.",
                "Name aliases of DATABASES whose ENGINE is 'django_dbpool.backends.postgresql'.",
            )
    if readiness.longest_wait is not None:
        yield from _of_wait(readiness.longest_wait, readiness.aliases, databases)


def _of_wait(limit: float, aliases: tuple[str, ...] | None, databases: Mapping[str, Any]) -> Iterator[Fault]:
    for alias, database in databases.items():
        pool = database.get("POOL")
        if not is_ours(database.get("ENGINE")) or (aliases is not None and alias not in aliases):
            continue
        timeout = pool.get("timeout", 10.0) if isinstance(pool, Mapping) else 10.0
        if isinstance(timeout, (int, float)) and limit >= timeout:
            yield _fault(
                NEVER,
                f'longest_wait ({limit:g} s) is not below POOL["timeout"] ({timeout:g} s) of database {alias!r}: '
                "nobody waits for so long.",
                "Lower it, or leave it out.",
            )


def _fault(check: str, problem: str, hint: str) -> Fault:
    return Fault("READINESS", f"READINESS: {problem}", hint, check)
