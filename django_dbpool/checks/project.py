"""DBPOOL, and how the pools fit the processes, threads and budget that it declares."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, register

from ..conf import session_function_fault
from ..conf.alias import Alias
from ..core.project import ProjectConfig
from ..core.readers import ConfigError, Fault, shown
from .pools import message, pools

MIDDLEWARE = "django_dbpool.middleware.DatabasePoolMiddleware"
VARIABLES = "SessionVariablesMiddleware"


def read_project() -> ProjectConfig:
    """
    Afresh, not conf.project_config(): a check must not depend on what was read before.

    Raises:
        ConfigError: with every fault found.
    """
    return ProjectConfig.from_mapping(getattr(settings, "DBPOOL", {}))


@register("dbpool")
def check_project(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    try:
        project = read_project()
    except ConfigError as error:
        return [message(fault, error.where) for fault in error.faults]
    faults = [fault for alias in pools() for fault in faults_of_pool(alias, project)]
    faults += [*_over_budget(project), *_middleware(project)]
    if fault := session_function_fault(project):
        faults.append(fault)
    return [message(fault, "DBPOOL") for fault in faults]


def faults_of_pool(alias: Alias, project: ProjectConfig) -> Iterator[Fault]:
    """What the settings of one pool and ``DBPOOL`` contradict in each other."""
    where = f'DATABASES["{alias.name}"]["POOL"]'
    config = alias.config
    for key in ("timeout", "command_timeout"):
        wait = getattr(config, key)
        if project.worker_timeout is not None and wait is not None and wait >= project.worker_timeout:
            yield Fault(
                key,
                f'{key} ({wait:g} s) is not below DBPOOL["WORKER_TIMEOUT"] ({project.worker_timeout:g} s): the worker '
                "is killed, with all its requests, before the error is raised.",
                f"Lower {key}, or give workers more time.",
                "dbpool.W006",
                where,
            )
    if config.mode == "session" and project.threads is not None and project.threads > config.max_size:
        yield Fault(
            "max_size",
            f'max_size ({config.max_size}) is below DBPOOL["THREADS"] ({project.threads}), and mode = "session" '
            "keeps a connection for each request that runs.",
            f'Raise max_size to {project.threads}, or use mode = "transaction".',
            "dbpool.W008",
            where,
        )
    yield from _slow_statement(alias, project)


def _slow_statement(alias: Alias, project: ProjectConfig) -> Iterator[Fault]:
    slow = project.slow_statement
    if slow is None or "SLOW_STATEMENT" not in getattr(settings, "DBPOOL", {}):
        return  # nobody is to explain a default
    for key in ("statement_timeout", "command_timeout"):
        limit = getattr(alias.config, key)
        if limit is not None and limit <= slow:
            yield Fault(
                "SLOW_STATEMENT",
                f'SLOW_STATEMENT ({slow:g} s) is not below {key} ({limit:g} s) of DATABASES["{alias.name}"]["POOL"]: '
                "a statement is ended before it is reported as slow.",
                "Lower SLOW_STATEMENT, or set it to None.",
                "dbpool.W033",
            )


def address(alias: Alias) -> Hashable:
    """What tells servers apart, as far as settings do."""
    database, options = alias.database, alias.options
    parts = [options.get("service"), options.get("hostaddr"), database.get("HOST"), database.get("PORT")]
    return tuple(shown(part or "", str) for part in parts)


def by_server(aliases: Sequence[Alias]) -> list[list[Alias]]:
    servers: dict[Hashable, list[Alias]] = defaultdict(list)
    for alias in aliases:
        servers[address(alias)].append(alias)
    return list(servers.values())


def total(aliases: Sequence[Alias], project: ProjectConfig) -> tuple[int, str]:
    """Connections that these pools may take in all processes, and how the number comes about."""
    processes, source = project.process_count(os.environ)
    sizes = sum(alias.config.max_size + alias.config.reserve_size for alias in aliases)
    each = ", ".join(f"{alias.config.max_size} + {alias.config.reserve_size} of {alias.name!r}" for alias in aliases)
    many = "1 process" if processes == 1 else f"{processes} processes"
    return processes * sizes, f"{many}{f' ({source})' if source else ''} x {sizes} (max_size + reserve_size: {each})"


def _over_budget(project: ProjectConfig) -> Iterator[Fault]:
    if project.budget is None:
        return
    for aliases in by_server(pools()):
        connections, sum_ = total(aliases, project)
        if connections > project.budget:
            yield Fault(
                "BUDGET",
                f"BUDGET = {project.budget}, but the pools may take {connections} connections: {sum_}.",
                "Lower max_size, run fewer processes, or raise BUDGET.",
                "dbpool.W010",
            )


def _middleware(project: ProjectConfig) -> Iterator[Fault]:
    given = getattr(settings, "MIDDLEWARE", None)
    if not given or not isinstance(given, (list, tuple)) or project.role not in (None, "web"):
        return
    yield from _session_variables(project, sets_them=any(str(name).endswith(f".{VARIABLES}") for name in given))
    if not pools() or given[0] == MIDDLEWARE:
        return
    if MIDDLEWARE in given:
        problem, check = f"{MIDDLEWARE} is not the first.", "dbpool.W005"
        hint = "Move it to the top: what stands above it gets a bare error where it would answer 503."
    else:
        problem, check = f"{MIDDLEWARE} is missing.", "dbpool.W004"
        hint = "Put it first: it answers 503 with Retry-After when there is no connection. Processes that answer no "
        hint += 'requests say so with DBPOOL["ROLE"].'
    yield Fault("MIDDLEWARE", problem, hint, check, "MIDDLEWARE")


def _session_variables(project: ProjectConfig, *, sets_them: bool) -> Iterator[Fault]:
    function = project.session_from_request is not None
    if function and not sets_them:
        yield Fault(
            "SESSION_FROM_REQUEST",
            f"SESSION_FROM_REQUEST is set, but {VARIABLES} is not in MIDDLEWARE: nobody calls it.",
            f"Add 'django_dbpool.middleware.{VARIABLES}' behind what the function needs.",
            "dbpool.W019",
        )
    elif sets_them and not function:
        yield Fault(
            "MIDDLEWARE",
            f'{VARIABLES} needs DBPOOL["SESSION_FROM_REQUEST"], a function that takes the request and returns a '
            "dictionary of session variables.",
            "Set it, or remove the middleware.",
            "dbpool.E014",
            "MIDDLEWARE",
        )
