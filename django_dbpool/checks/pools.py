"""Each pooled alias: its POOL, and what contradicts it in the same entry of DATABASES."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004

from ..conf import GIVEN_IN_BOTH, GIVEN_TWICE, KEEP_POOL, max_age_fault, name_of_setting, pooling_enabled
from ..conf.alias import Alias
from ..conf.engines import is_ours
from ..conf.packages import faults_of_packages
from ..conf.rules import faults_of_alias
from ..core.config import PoolConfig
from ..core.readers import ConfigError, Fault


def message(fault: Fault, where: str = "") -> CheckMessage:
    kind = Error if fault.refused else Warning
    return kind(fault.text(where), hint=fault.hint, id=fault.id)


def entries() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The aliases whose engine is ours, pooled or not."""
    for alias, database in settings.DATABASES.items():
        if is_ours(database.get("ENGINE")):
            yield alias, database


def pools() -> list[Alias]:
    """The aliases that have a pool, and whose POOL is without a fault."""
    found = []
    for alias, database in entries():
        if not pooling_enabled(database):
            continue
        where, ignored = name_of_setting(database, alias)
        try:
            config = PoolConfig.from_mapping(database.get("POOL", True), where=where, ignored=ignored)
        except ConfigError:
            continue
        found.append(Alias(alias, config, database))
    return found


@register("dbpool")
def check_pools(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Faults in POOL; where there is none, what the settings of one alias contradict in each other."""
    messages: list[CheckMessage] = []
    for alias, database in entries():
        where, ignored = name_of_setting(database, alias)
        try:
            config = PoolConfig.from_mapping(database.get("POOL", True), where=where, ignored=ignored)
        except ConfigError as error:
            messages += [message(fault, where) for fault in error.faults]
            continue
        if not pooling_enabled(database):
            continue
        if fault := max_age_fault(alias, database.get("CONN_MAX_AGE", 0)):
            messages.append(message(fault))
        messages += [message(fault, where) for fault in faults_of_alias(Alias(alias, config, database))]
    return messages


@register("dbpool")
def check_packages(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    return [message(fault) for fault in faults_of_packages()]


@register("dbpool")
def check_entries(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Entries of DATABASES in which a setting of pools is ignored."""
    messages: list[CheckMessage] = []
    for alias, database in settings.DATABASES.items():
        messages += [message(fault, f'DATABASES["{alias}"]') for fault in _ignored(database)]
    if not any(True for _ in entries()):
        fault = Fault(
            "INSTALLED_APPS",
            "django_dbpool is installed, but no entry of DATABASES uses its engine.",
            "Set ENGINE = 'django_dbpool.backends.postgresql', or remove the app.",
            "dbpool.W003",
        )
        messages.append(message(fault, "INSTALLED_APPS"))
    return messages


_PART_OF_ENTRY = frozenset({"POOL", "POOL_FROM_OPTIONS", GIVEN_TWICE})


def _ignored(database: Mapping[str, Any]) -> Iterator[Fault]:
    if not is_ours(database.get("ENGINE")):
        if "POOL" in database and pooling_enabled({"POOL": database["POOL"]}):
            yield Fault(
                "POOL",
                f"POOL has no effect with ENGINE = {database.get('ENGINE')!r}.",
                "Set ENGINE = 'django_dbpool.backends.postgresql', or remove POOL.",
                "dbpool.W002",
            )
        return
    options = database.get("OPTIONS")
    off = isinstance(options, Mapping) and "pool" in options and options["pool"] in (False, None)
    if database.get(GIVEN_TWICE):
        yield Fault("POOL", GIVEN_IN_BOTH, KEEP_POOL, "dbpool.W001")
    elif off and "POOL" in database and pooling_enabled({"POOL": database["POOL"]}):
        yield Fault(
            "POOL",
            'OPTIONS["pool"] switches the pool off, POOL on; it is off.',
            'Remove OPTIONS["pool"]; POOL = False switches off too.',
            "dbpool.W001",
        )
    for key in database:
        if "POOL" in str(key).upper() and key not in _PART_OF_ENTRY:
            yield Fault(
                str(key),
                f"{key} is no setting of this engine and has no effect.",
                'Write POOL = {"max_size": 10}; docs/settings.md has its keys.',
                "dbpool.W017",
            )
