"""Which process this is, for whoever reads of several."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["web", "worker", "command", "process"]


def _unknown() -> Kind:
    return "process"


determine_role: Callable[[], Kind] = _unknown
"""Replaced by whoever knows more of the process; asked once in each."""

version = ""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Two processes are the same if their ``instance`` is: hosts may share a name, and pids are used again."""

    host: str
    pid: int
    role: Kind
    started: float
    """Unix time at which it was first asked for."""
    version: str
    """Of this package."""
    instance: str
    """16 random hexadecimal digits."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_known: dict[int, ProcessIdentity] = {}
"""This one, by its pid."""


def this_process() -> ProcessIdentity:
    """Of the process that asks; a forked child is another one than its parent."""
    pid = os.getpid()
    found = _known.get(pid)
    if found is None:
        made = ProcessIdentity(
            host=socket.gethostname(),
            pid=pid,
            role=determine_role(),
            started=time.time(),
            version=version,
            instance=secrets.token_hex(8),
        )
        # Of threads that ask at once one is the first, and all get its answer.
        found = _known.setdefault(pid, made)
    return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_known.clear)  # pids are used again, perhaps that of an ancestor
