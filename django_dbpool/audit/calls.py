"""Which functions of the module a piece of code calls, and theirs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from .facts import Class, Function, Object, Row
from .infer import Inference
from .naming import defined, is_property
from .scopes import Module

T = TypeVar("T")


class Calls:
    def __init__(self, module: Module, inference: Inference) -> None:
        self.module = module
        self.inference = inference
        self._known: dict[ast.AST, list[Function]] = {}

    def callees(self, node: ast.AST) -> list[Function]:
        """The functions of this module that run when this one node does; a property's is one of them."""
        if not isinstance(node, ast.Call | ast.Attribute):
            return []
        known = self._known.get(node)
        if known is None:
            known = self._known[node] = list(self._called(node) if isinstance(node, ast.Call) else self._read(node))
        return known

    def _called(self, call: ast.Call) -> Iterable[Function]:
        for fact in self.inference.facts(call.func):
            match fact:
                case Function():
                    yield fact
                case Class(node):
                    yield from self._method(node, "__init__")
                case Object(node):
                    yield from self._method(node, "__call__")

    def _method(self, node: ast.ClassDef, name: str) -> Iterable[Function]:
        for fact in self.inference.member(node, name, bound=True):
            if isinstance(fact, Function):
                yield fact

    def _read(self, node: ast.Attribute) -> Iterable[Function]:
        if not isinstance(node.ctx, ast.Load):
            return
        for fact in self.inference.facts(node.value):
            match fact:
                case Object(owner):
                    receiver = None
                case Row(ast.ClassDef() as owner):
                    receiver = fact
                case _:
                    continue
            member = defined(owner, node.attr)
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and is_property(member):
                yield Function(member, receiver)

    def first(
        self, start: Sequence[Function], hit: Callable[[Function], T | None], follow: Callable[[Function], bool]
    ) -> tuple[T, list[Function]] | None:
        """The first hit in these functions or in those that they call, the nearest first, with the way there."""
        queue: list[tuple[Function, ...]] = [(each,) for each in start]
        seen: set[ast.AST] = set()
        for way in queue:  # grows while it is read
            function = way[-1]
            if function.node in seen or not follow(function):
                continue
            seen.add(function.node)
            found = hit(function)
            if found is not None:
                return found, list(way)
            for node in self.module.nodes_of(function.node):
                queue.extend((*way, each) for each in self.callees(node))
        return None
