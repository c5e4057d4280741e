"""The processes of a project as one: what each says of itself, what the server says of them, what they may be told."""

from .documents import Process, ProcessPool
from .reading import processes
from .server import HeldSession, Server, Session, server_of
from .snapshot import register_section, snapshot
from .stores import FleetUnavailable

__all__ = [
    "FleetUnavailable",
    "HeldSession",
    "Process",
    "ProcessPool",
    "Server",
    "Session",
    "processes",
    "register_section",
    "server_of",
    "snapshot",
]
