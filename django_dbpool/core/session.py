"""
Declared session variables: what a unit of work wants to find set on whatever connection it is lent, and what is known
to be set on one connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

declared: ContextVar[Mapping[str, Mapping[str, str]] | None] = ContextVar("dbpool_session", default=None)
"""
Variables by database alias. The mappings are never changed once they are here, so that "nothing new" is a comparison
of two references. A context variable, since ``sync_to_async`` carries it into its threads.
"""


class SessionState:
    """
    What is set on one physical connection by us.

    A variable that was set inside a transaction goes back with its rollback, and so does one set after a savepoint.
    Those names are *doubtful* until they have been set outside of a transaction.
    """

    __slots__ = ("context", "doubtful", "original", "spoiled", "undone", "values")

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        """By name. Never changed in place: it may be the settings'."""
        self.context: object = self
        """The value of ``declared`` that ``values`` was made for; ``self`` while it has to be looked at each time."""
        self.doubtful: frozenset[str] = frozenset()
        self.original: dict[str, str | None] = {}
        """What the session had before we first set it: by its start-up packet or by connection_created receivers."""
        self.spoiled = False
        """Something was first set inside a transaction, where a SET LOCAL would be taken for the original."""
        self.undone = 0
        """How many rollbacks the wrapper had seen when the doubtful ones were last known to be set."""

    def changes(self, wanted: Mapping[str, str], undone: int, in_transaction: bool) -> dict[str, str | None]:
        """What to set, by name; None goes back to the session's default."""
        values = self.values
        changes: dict[str, str | None] = {name: value for name, value in wanted.items() if values.get(name) != value}
        changes |= {name: None for name in values if name not in wanted}
        if self.doubtful and not (in_transaction and self.undone == undone):
            changes |= {name: wanted.get(name) for name in self.doubtful}
        return changes

    def changed(self, wanted: Mapping[str, str], names: frozenset[str], undone: int, in_transaction: bool) -> None:
        """Note that the server has taken the changes."""
        self.values = wanted
        self.undone = undone
        self.doubtful = self.doubtful | names if in_transaction else frozenset()
