"""What an expression can be, as far as the audit wants to know."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from .bindings import FunctionNode


@dataclass(frozen=True, slots=True)
class Ref:
    """
    Something imported, and what is reached from there: ``requests.Session().get`` is the method of an instance,
    ``django.db.connections[]`` an element. Built-ins are ``builtins.*``; relative imports keep their dots.
    """

    path: str

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Function:
    """Defined in this module. Nodes are compared by identity."""

    node: FunctionNode
    receiver: Row | None = None
    """The model instance whose method it is, if it is one."""


@dataclass(frozen=True, slots=True)
class Class:
    node: ast.ClassDef


@dataclass(frozen=True, slots=True)
class Object:
    """An instance of a class of this module."""

    node: ast.ClassDef


@dataclass(frozen=True, slots=True)
class Query:
    """A manager or a queryset; nothing was asked yet."""

    model: ast.ClassDef | None = None
    manager: bool = False
    rows: bool = True
    """Iterating gives model instances, not values()."""
    prefetched: bool = False
    related: bool = False
    """Reached from an instance, which may have it prefetched already."""
    streaming: bool = False
    """Made by iterator(): its rows come through a server-side cursor."""
    standard: bool = True
    """Made by Django's own methods: what a method of the project returns is a queryset only by all appearances."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model instance."""

    model: ast.ClassDef | None = None
    prefetched: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """An attribute of a model instance: a value, another instance, or a related manager."""

    prefetched: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """A method of one of the above."""

    of: Query | Row | Part
    name: str


@dataclass(frozen=True, slots=True)
class Many:
    """A list, tuple, set or generator of these, already fetched."""

    of: frozenset[Fact]


Fact = Ref | Function | Class | Object | Query | Row | Part | Bound | Many
Facts = frozenset[Fact]
NOTHING: Facts = frozenset()
