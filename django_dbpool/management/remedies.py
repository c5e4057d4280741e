"""How to end a culprit: what else is known of it, the command, and what happens then."""

from __future__ import annotations

import shlex
import socket
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..core.words import one_line
from ..fleet.socket_client import ask_local
from ..reports import Culprit
from ..reports.holder_rows import target_of

TIMEOUT = 1.5
"""Seconds that a process has to say where its threads are."""

DOCS = "docs/runbook.md"


def docs_of(code: str) -> str:
    """Where more is said of a problem."""
    return f"{DOCS}#{code}"


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about one culprit."""

    culprit: Culprit
    facts: tuple[tuple[str, str], ...]
    calls: tuple[str, ...]
    """Where its thread is, innermost call last; empty where nobody can say."""
    introduction: str
    commands: tuple[str, ...]
    consequence: str
    """Of the command."""
    cure: str
    """So that it doesn't come back."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {
            **self.culprit.to_json(),
            "calls": list(self.calls),
            "commands": list(self.commands),
            "consequence": self.consequence,
            "cure": self.cure,
        }


def remedy_for(culprit: Culprit) -> Remedy:
    """It asks the culprit's process where its thread is, if that is on this host."""
    calls = _calls(culprit)
    commands, introduction, consequence = _ending(culprit)
    return Remedy(
        culprit=culprit,
        facts=tuple(_facts(culprit, calls)),
        calls=calls,
        introduction=introduction,
        commands=commands,
        consequence=consequence,
        cure=_CURES.get(_case(culprit), ""),
    )


# -- what is known ------------------------------------------------------------------------------------------------


def _facts(culprit: Culprit, calls: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if culprit.processes:
        yield "process", _listed(culprit.processes)
    if culprit.threads:
        yield "thread", _listed(culprit.threads)
    if culprit.backends:
        yield "backend", _listed([str(pid) for pid in culprit.backends])
    place = next((call for call in reversed(calls) if _is_of_the_project(call)), None)
    if place is not None:
        yield "it is in", _shown(place)
    if calls and calls[-1] != place:
        yield "waiting in", _shown(calls[-1])
    if culprit.sql:
        yield "last SQL", one_line(culprit.sql, 200)


def _listed(texts: Any, most: int = 4) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")


def _calls(culprit: Culprit) -> tuple[str, ...]:
    """Of the oldest lease's thread."""
    if not culprit.keys or not culprit.processes:
        return ()
    try:
        lease = target_of(culprit.keys[0])[1:]
    except ValueError:  # it was about to end when its process looked at it
        return ()
    for name in culprit.processes:
        host, _, pid = name.rpartition(":")
        if host != socket.gethostname() or not pid.isdecimal():
            continue
        for answer in ask_local("holders", timeout=TIMEOUT, pid=int(pid), stacks=True).answers:
            for held in _held(answer.result):
                if (held.get("alias"), held.get("backend_pid"), held.get("generation")) == lease:
                    return tuple(one_line(str(call)) for call in held.get("stack") or ())
    return ()


def _held(result: Any) -> Iterator[Mapping[str, Any]]:
    found = result.get("holders") if isinstance(result, Mapping) else None
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping):
            yield each


@cache
def _libraries() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    own = str(Path(__file__).resolve().parents[1])
    return tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {own})


def _is_of_the_project(call: str) -> bool:
    """Where the reader can change something."""
    libraries = ("site-packages", "dist-packages")
    return not call.startswith((*_libraries(), "<")) and not any(name in call for name in libraries)


def _shown(call: str) -> str:
    """A path from here, where that is shorter."""
    path, colon, rest = call.partition(":")
    try:
        return f"{Path(path).relative_to(Path.cwd())}{colon}{rest}"
    except ValueError:
        return call


# -- what to do ---------------------------------------------------------------------------------------------------


def _case(culprit: Culprit) -> str:
    if culprit.kind == "holder" and culprit.name.startswith("thread ") and culprit.state != "running":
        return "thread in transaction" if "transaction" in culprit.state else "thread idle"
    if culprit.state.startswith(("idle in transaction", "failed transaction")):
        return f"{culprit.kind} in transaction"
    return f"{culprit.kind} {'running' if culprit.state in ('running', 'active') else 'idle'}"


CONSEQUENCE = (
    "It lists what it is going to end, and asks. What is ended is rolled back, its caller gets an error, and its place "
    "in the pool is free at once."
)

_CURES = {
    "holder in transaction": "So that it doesn't come back: take what it waits for out of atomic(), or do it in "
    "on_commit(); give calls to other systems a timeout, and POOL['idle_in_transaction_timeout'] to what is left.",
    "thread in transaction": "So that it doesn't come back: a thread has to end its transaction before it waits for "
    "anything. Started by django_dbpool.threads.spawn() it gives back its connection when its work ends.",
    "holder running": "So that it doesn't come back: look at its plan (EXPLAIN), and set POOL['statement_timeout'].",
    "holder idle": "So that it doesn't come back: read iterators to their end, close cursors, and put listeners and "
    "session locks on transaction.dedicated().",
    "thread idle": "So that it doesn't come back: put listeners and session locks on transaction.dedicated(). Started "
    "by django_dbpool.threads.spawn() a thread gives back its connection when its work ends.",
    "stranger in transaction": "So that it doesn't come back: find who runs it (pg_stat_activity has its address); "
    "`manage.py dbpool audit` finds code of the project that goes around the pool.",
}


def _ending(culprit: Culprit) -> tuple[tuple[str, ...], str, str]:
    """Commands, what introduces them, and what they do."""
    database = f"--using {shlex.quote(culprit.alias)}"
    pids = culprit.backends
    if _case(culprit).endswith("in transaction"):
        age = max(1, int(0.9 * min(culprit.youngest, 3600.0)))
        return (
            (f"manage.py dbpool terminate {database} --older-than {age}s",),
            "To end it now:",
            CONSEQUENCE,
        )
    if not pids:
        return (
            (_statement(culprit.alias, "SELECT * FROM pg_prepared_xacts"),),
            "To see it:",
            "ROLLBACK PREPARED ends one.",
        )
    runs = culprit.state in ("running", "active")
    function = "pg_cancel_backend" if runs else "pg_terminate_backend"
    return (
        tuple(_statement(culprit.alias, f"SELECT {function}({pid})") for pid in pids[:3]),
        "To end it now, if nobody needs what it does (or on page Holders of the dashboard):",
        "It stops the statement; its caller gets an error."
        if runs
        else "It ends the session; what it has begun is rolled back, and its holder gets an error.",
    )


def _statement(alias: str, sql: str) -> str:
    return f'manage.py dbshell --database {shlex.quote(alias)} -- -c "{sql}"'
