"""
What only the server knows: whether there is room for this project, and whether it takes the declared settings.
Asked on a connection of its own, with short limits; ``manage.py check --database default``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.core.checks import CheckMessage, Tags, register

from ..conf.alias import Alias
from ..core.config import SERVER_LIMITS
from ..core.project import ProjectConfig
from ..core.readers import ConfigError, Fault
from .ask import Answer, NoAnswer, ask
from .pools import message, pools
from .project import by_server, read_project, total


@register(Tags.database)
def check_servers(app_configs: Any = None, databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    chosen = set(databases or ())
    return judge({alias.name: ask(alias) for alias in pools() if alias.name in chosen})


def judge(answers: Mapping[str, Answer | NoAnswer]) -> list[CheckMessage]:
    """The messages about servers that were asked, by alias."""
    try:
        project = read_project()
    except ConfigError:
        return []  # check_project says so
    faults: list[tuple[str, Fault]] = []
    for group in by_server(pools()):
        rooms: set[object] = set()
        for alias in group:
            if (answer := answers.get(alias.name)) is None:
                continue
            found = list(_of_server(alias, answer))
            if isinstance(answer, Answer):
                found += _of_room(group, alias, answer, project, rooms)
            faults += [(alias.name, fault) for fault in found]
    return [message(fault, f'DATABASES["{name}"]') for name, fault in faults]


def _of_server(alias: Alias, answer: Answer | NoAnswer) -> Iterator[Fault]:
    if isinstance(answer, NoAnswer):
        yield Fault(
            "HOST",
            f"could not ask the server: {answer.reason}",
            "Is it up, and do HOST, PORT, NAME, USER and PASSWORD name it? Checks that need it were skipped.",
            "dbpool.E020",
        )
        return
    for name, reason in answer.refused.items():
        key = next((key for key, variable in SERVER_LIMITS.items() if variable == name), f"session[{name!r}]")
        hint = "Remove it, or write a value that the server takes; until then no connection can be used."
        if name == "transaction_timeout" and answer.version < _TRANSACTION_TIMEOUT:
            hint = "transaction_timeout needs PostgreSQL 17. Remove it."
        yield Fault(key, f"PostgreSQL {answer.release} refuses {key}: {reason}", hint, "dbpool.E021")
    if answer.behind_pooler and alias.config.pooler is None:
        yield Fault(
            "pooler",
            "there is a pooler between here and the server, and POOL doesn't say so.",
            'Set POOL["pooler"] to "transaction" or "session", whichever it is configured for.',
            "dbpool.W023",
        )


_TRANSACTION_TIMEOUT = 17_00_00


def _of_room(
    group: Sequence[Alias], alias: Alias, answer: Answer, project: ProjectConfig, seen: set[object]
) -> Iterator[Fault]:
    """Whether the pools of one server fit its limits, each limit once. A pooler in front has limits of its own."""
    if answer.behind_pooler or alias.config.pooler is not None:
        return
    direct = [each for each in group if each.config.pooler is None]
    reserved = f"(max_connections {answer.max_connections}, {answer.reserved} of them reserved)"
    limits = [
        ("dbpool.W020", None, f"the server has {answer.room} connections for applications {reserved}", answer.room),
        ("dbpool.W021", "USER", f"role {answer.user!r} may have {answer.role_limit} connections", answer.role_limit),
        ("dbpool.W022", "NAME", f"database {answer.dbname!r} may have {answer.database_limit}", answer.database_limit),
    ]
    for check, key, what, limit in limits:
        sharing = [each for each in direct if key is None or each.database.get(key) == alias.database.get(key)]
        connections, how = total(sharing, project)
        if limit >= 0 and (check, what) not in seen:
            seen.add((check, what))
            if connections > limit:
                problem = f"{what}; this project may take {connections}: {how}."
                yield Fault("max_size", problem, _MORE_ROOM[check], check)
            elif key is None and project.budget is not None and project.budget > limit:
                yield Fault("BUDGET", f'{what}; DBPOOL["BUDGET"] is {project.budget}.', _MORE_ROOM[check], check)


_MORE_ROOM = {
    "dbpool.W020": "Lower max_size, run fewer processes, raise max_connections, or put a pooler in front.",
    "dbpool.W021": "Lower max_size, run fewer processes, or ALTER ROLE ... CONNECTION LIMIT.",
    "dbpool.W022": "Lower max_size, run fewer processes, or ALTER DATABASE ... CONNECTION LIMIT.",
}
