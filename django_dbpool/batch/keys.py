"""
The key that rows are gone through by. It is compared and put in order by the server and nobody else: only that knows
the order of a text's collation or of a UUID. Here keys are carried, never looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models import F, Func, Q, Value

from ..core.readers import shown

Keys = tuple[Any, ...]
"""Values of the key's fields, of one row."""


@dataclass(frozen=True)
class Key:
    """Fields of a model that together are unique and never NULL."""

    model: type[models.Model]
    fields: tuple[Any, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Attributes: of a foreign key the one with the value. By its name, the other model's ordering would count."""
        return tuple(field.attname for field in self.fields)

    @cached_property
    def plain(self) -> tuple[Any, ...]:
        """The same with the fields that foreign keys lead to, which know how a value is written and read."""
        return tuple(_plain(field) for field in self.fields)

    @cached_property
    def of(self) -> Callable[[models.Model], Keys]:
        """Called with each item."""
        if len(self.names) == 1:
            get = attrgetter(*self.names)
            return lambda item: (get(item),)
        return attrgetter(*self.names)

    def after(self, values: Keys) -> Q | RowComparison:
        # Of one column Django's own lookup, which is made in half the time: this is asked for with each batch.
        return Q((f"{self.names[0]}__gt", values[0])) if len(values) == 1 else RowComparison(">", self, values)

    def up_to(self, values: Keys) -> Q | RowComparison:
        return Q((f"{self.names[0]}__lte", values[0])) if len(values) == 1 else RowComparison("<=", self, values)

    def prepared(self, values: Keys, connection: Any) -> list[Any]:
        """As parameters of a statement."""
        return [field.get_db_prep_value(value, connection) for field, value in zip(self.plain, values, strict=True)]

    def as_jsonb(self, connection: Any) -> str:
        """SQL with a parameter for each field: the key as it is stored, in the server's own words."""
        casts = ", ".join(f"CAST(%s AS {_type(field, connection)})" for field in self.plain)
        return f"jsonb_build_array({casts})"

    def stored(self, column: str) -> dict[str, Func]:
        """Annotations that read a stored key again, whatever ``as_jsonb`` has made of it."""
        return {f"{column}_{number}": Stored(column, number, field) for number, field in enumerate(self.plain)}

    def digest(self, name: str, values: Keys) -> str:
        """A name of one item in one run that is the same for every attempt."""
        texts = [name, self.model._meta.label_lower]
        texts += [str(field.get_prep_value(value)) for field, value in zip(self.plain, values, strict=True)]
        text = "\0".join(f"{len(each)}:{each}" for each in texts)
        return hashlib.sha256(text.encode()).hexdigest()[:40]


class RowComparison(Func):
    """
    ``(a, b) > (1, 2)``: one condition that an index on the same columns serves.

    Args:
        values: of the key, or expressions of them.
    """

    output_field = models.BooleanField()

    def __init__(self, operator: str, key: Key, values: Keys) -> None:
        columns = [F(name) for name in key.names]
        super().__init__(
            *columns,
            *[
                value if isinstance(value, Value) else Value(value, output_field=field)
                for field, value in zip(key.plain, values, strict=True)
            ],
        )
        self.operator = operator

    def as_sql(self, compiler: Any, connection: Any, **extra: Any) -> Any:  # type: ignore[override]
        texts, params = [], []
        for expression in self.source_expressions:
            text, its = compiler.compile(expression)
            texts.append(text)
            params += its
        half = len(texts) // 2
        return f"({', '.join(texts[:half])}) {self.operator} ({', '.join(texts[half:])})", params


class Stored(Func):
    """One field of a stored key."""

    def __init__(self, column: str, number: int, field: Any) -> None:
        super().__init__(F(column), output_field=field)
        self.number = number

    def as_sql(self, compiler: Any, connection: Any, **extra: Any) -> Any:  # type: ignore[override]
        text, params = compiler.compile(self.source_expressions[0])
        return f"CAST({text} ->> {self.number} AS {_type(self.output_field, connection)})", list(params)


def key_of(model: type[models.Model], given: object) -> Key:
    """
    The fields that were asked for, and those of the primary key if else two rows could be in the same place.

    Raises:
        TypeError: it is no name or sequence of names.
        ValueError: there is no such field, or rows can't be gone through by it.
    """
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"run_batches(key={shown(given)}): key must be the name of a field, or a sequence of names.")
    fields = [field for name in names for field in _fields(model, name)]
    for field in fields:
        _refuse(model, field)
    if not _unique(model, fields):
        fields += model._meta.pk_fields
    fields = list(dict.fromkeys(fields))
    return Key(model, tuple(fields))


def _fields(model: type[models.Model], name: str) -> list[Any]:
    if name == "pk":
        return list(model._meta.pk_fields)
    try:
        return [model._meta.get_field(name)]
    except FieldDoesNotExist:
        for field in model._meta.concrete_fields:
            if field.attname == name:
                return [field]
    hint = " Descending keys are not supported." if name.startswith("-") else ""
    raise ValueError(
        f"run_batches(key=...): {name!r} is no field of {model._meta.label}; a key is made of the model's own "
        f"fields, not of annotations or fields of other models.{hint}"
    ) from None


def _refuse(model: type[models.Model], field: Any) -> None:
    name = f"{model._meta.label}.{field.name}"
    if not getattr(field, "concrete", False) or field.many_to_many or getattr(field, "column", None) is None:
        raise ValueError(f"run_batches(key=...): {name} has no column that rows could be put in order by.")
    if field.null:
        raise ValueError(
            f"run_batches(key=...): {name} may be NULL, which is neither before nor after anything: such rows would "
            "be left out. Take another key, or none: the primary key is the default."
        )


def _unique(model: type[models.Model], fields: Sequence[Any]) -> bool:
    names = {field.name for field in fields}
    if {field.name for field in model._meta.pk_fields} <= names or any(field.unique for field in fields):
        return True
    together = [set(each) for each in model._meta.unique_together]
    together += [
        set(each.fields)
        for each in model._meta.constraints
        if isinstance(each, models.UniqueConstraint)
        and each.fields
        and each.condition is None
        and getattr(each, "deferrable", None) is None
    ]
    return any(each <= names for each in together)


def _plain(field: Any) -> Any:
    while field.is_relation:
        field = field.target_field
    return field


def _type(field: Any, connection: Any) -> str:
    # Not varchar(n): a cast to that cuts off, silently, and nobody says that the column is as short as the model.
    if isinstance(field, (models.CharField, models.TextField)) and type(field).db_type is models.Field.db_type:
        return "text"
    return str(field.cast_db_type(connection))
