"""How far a run goes: the last key at its start, the number of rows up to there, and where to divide them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import OperationalError, connections, models, transaction

from ..backends.losses import driver_error
from ..errors import LeaseTimedOut
from ..transaction.retrying import retrying
from .holding import statement_limit
from .keys import Key, Keys

COUNT_FOR = 1.0
"""Seconds that counting the rows may take; a run of many more can do without a total."""
QUERY_CANCELED = "57014"


@dataclass(frozen=True)
class Extent:
    """Of the rows of a queryset that is ordered by the key."""

    rows: models.QuerySet[Any]
    key: Key
    alias: str

    @classmethod
    def of(cls, source: models.QuerySet[Any], key: Key, alias: str) -> Extent:
        rows = source.prefetch_related(None)  # without what only the handler's reading needs
        rows.query.select_for_update = False
        return cls(rows, key, alias)

    def upper(self) -> Keys | None:
        """The greatest key; None: there are no rows."""
        rows = self.rows.order_by(*[f"-{name}" for name in self.key.names])
        last = retrying(self.alias).call(rows.first)
        return None if last is None else self.key.of(last)

    def count(self, upper: Keys | None) -> int | None:
        """Rows up to there; None if to count them takes too long."""
        if upper is None:
            return 0
        try:
            with (
                transaction.atomic(using=self.alias),
                statement_limit(connections[self.alias], COUNT_FOR),
            ):
                return self._up_to(upper).order_by().count()
        except OperationalError as error:
            driver = driver_error(error)
            if isinstance(error, LeaseTimedOut) or (driver is not None and driver.sqlstate == QUERY_CANCELED):
                return None
            raise

    def count_all(self, upper: Keys | None) -> int:
        """However long that takes."""
        return 0 if upper is None else int(retrying(self.alias).call(self._up_to(upper).order_by().count))

    def places(self, upper: Keys, total: int, parts: int) -> list[Keys]:
        """
        The keys that divide the rows in parts of the same size: the last one of each part but of the last. Each is
        looked for from the one before, so that the server goes through the key's index once, and keeps nothing.
        """
        found: list[Keys] = []
        for part in range(parts - 1):
            number = share(total, parts, part)
            rows = self._up_to(upper)
            if found:
                rows = rows.filter(self.key.after(found[-1]))
            last = retrying(self.alias).call(rows[number - 1 : number].first)
            if last is None:  # deleted since they were counted
                break
            found.append(self.key.of(last))
        return found

    def _up_to(self, upper: Keys) -> models.QuerySet[Any]:
        return self.rows.filter(self.key.up_to(upper))


def share(total: int, parts: int, part: int) -> int:
    """Rows of one of the parts, numbered from 0, that all rows are divided in."""
    return total * (part + 1) // parts - total * part // parts
