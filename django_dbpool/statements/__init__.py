"""
What this process, and the server, know about statements: which took long, which one request repeats, who holds the
connections. All of it is for reading: nothing here changes anything, and no text has a literal in it.
"""

from __future__ import annotations

from ..backends.activity import repeated_statements, slow_statements
from ..backends.sampler import activity
from ..core.activity import Activity, Averages
from ..core.statements import RepeatedStatement, SlowStatement
from .server import ServerStatement, ServerStatements, server_statements

__all__ = [
    "Activity",
    "Averages",
    "RepeatedStatement",
    "ServerStatement",
    "ServerStatements",
    "SlowStatement",
    "activity",
    "repeated_statements",
    "server_statements",
    "slow_statements",
]
