"""
The read of each batch. Between two of them nothing in it changes but the key that it begins after, so that it is
compiled once: what Django does for each query, a third of what a small batch costs in this process, is done once a run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import QuerySet, Value, prefetch_related_objects
from django.db.models.query import ModelIterable

from .keys import Key, Keys, RowComparison


class Reader:
    """
    Of the rows of one run.

    Args:
        source: ordered by the key, on the alias.
        size: of a batch that nothing has gone wrong with.
    """

    def __init__(self, source: QuerySet[Any], key: Key, alias: str, size: int) -> None:
        self._source = source
        self._key = key
        self._alias = alias
        self._size = size
        self._upper: Keys | None = None
        self._bounded = source
        """The rows up to the run's end; never evaluated itself."""
        self._statement: _Statement | None = None
        # Who has another way to evaluate a queryset gets the queryset.
        self._as_django_does = all(
            getattr(type(source), name) is getattr(QuerySet, name) for name in ("__iter__", "_fetch_all", "_clone")
        )

    def read(self, after: Keys | None, upper: Keys, limit: int) -> Iterable[Any]:
        """Items, in a transaction. They may repeat where the queryset's joins repeat them."""
        if upper is not self._upper:
            self._upper, self._bounded = upper, self._source.filter(self._key.up_to(upper))
            self._statement = None
        if after is None:
            return self._bounded[:limit]
        if limit == self._size and self._as_django_does:
            connection = connections[self._alias]
            if self._statement is None or self._statement.connection is not connection:
                self._statement = self._compiled(after)
            if self._statement is not None:
                return self._statement.read(self._key.prepared(after, connection))
        return self._bounded.filter(self._key.after(after))[:limit]

    def _compiled(self, after: Keys) -> _Statement | None:
        slots = [_Slot(value, field, n) for n, (value, field) in enumerate(zip(after, self._key.plain, strict=True))]
        rows = self._bounded.filter(RowComparison(">", self._key, tuple(slots)))[: self._size]
        try:
            return _Statement(rows, self._alias, len(slots))
        except (EmptyResultSet, _Unexpected):
            return None


class _Unexpected(Exception):
    """The statement's parameters are not where they were put: it is compiled anew each time."""


class _Slot(Value):
    """A value that is filled in for each execution."""

    def __init__(self, value: Any, field: Any, number: int) -> None:
        super().__init__(value, output_field=field)
        self.number = number

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        text, params = super().as_sql(compiler, connection)
        return text, [self for _ in params]


class _Statement:
    """A compiled query that makes its instances as Django does."""

    def __init__(self, rows: QuerySet[Any], alias: str, slots: int) -> None:
        self.connection = connections[alias]
        self._rows: Any = rows
        self._compiler: Any = rows.query.get_compiler(using=alias)
        self._text, params = self._compiler.as_sql()
        self._params = list(params)
        self._places = [number for number, param in enumerate(params) if isinstance(param, _Slot)]
        if [self._params[place].number for place in self._places] != list(range(slots)):
            raise _Unexpected
        self._compiler.as_sql = self._as_sql
        rows.query.get_compiler = lambda *args, **kwargs: self._compiler  # type: ignore[method-assign]

    def read(self, values: list[Any]) -> Iterable[Any]:
        for place, value in zip(self._places, values, strict=True):
            self._params[place] = value
        items: list[Any] = list(ModelIterable(self._rows))
        if lookups := self._rows._prefetch_related_lookups:
            prefetch_related_objects(items, *lookups)
        return items

    def _as_sql(self, *args: Any, **kwargs: Any) -> tuple[str, tuple[Any, ...]]:
        if hasattr(self.connection, "_read"):  # of a pool: what a compiler has made, it doesn't look at
            self.connection._read = self._text
        return self._text, tuple(self._params)
