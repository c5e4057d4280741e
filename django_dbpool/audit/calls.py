"""Which functions of the module a piece of code calls, and theirs."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Generic, TypeVar

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

    @cached_property
    def callers(self) -> dict[Function, list[Function]]:
        """For each function, as it is called anywhere in the module: the functions that call it."""
        for node in self.module.nodes:
            self.callees(node)
        found: dict[Function, list[Function]] = {Function(node): [] for node in self.module.functions}
        found.update((each, []) for called in self._known.values() for each in called)
        for function in list(found):
            for node in self.module.nodes_of(function.node):
                for callee in self.callees(node):
                    found[callee].append(function)
        return found


class Reach(Generic[T]):
    """
    What functions do themselves or through others. Computed for the whole module at once, from the functions that do it
    back to their callers: one search for each call would take hours on generated code.

    Args:
        hit: What a function does itself, or ``None``.
        follow: Whether a function counts at all, and is to be looked into.
    """

    def __init__(
        self, calls: Calls, hit: Callable[[Function], T | None], follow: Callable[[Function], bool] = lambda _: True
    ) -> None:
        self._calls = calls
        self._hits: dict[Function, T] = {}
        self._next: dict[Function, Function] = {}
        for function in calls.callers:
            found = hit(function) if follow(function) else None
            if found is not None:
                self._hits[function] = found
        queue = deque(self._hits)
        while queue:
            callee = queue.popleft()
            for caller in calls.callers[callee]:
                if caller not in self._hits and caller not in self._next and follow(caller):
                    self._next[caller] = callee
                    queue.append(caller)

    def of(self, function: Function) -> tuple[T, list[Function]] | None:
        """What calling it does, and the way there: the function itself first."""
        way = [function]
        while way[-1] in self._next:
            way.append(self._next[way[-1]])
        return (self._hits[way[-1]], way) if way[-1] in self._hits else None

    def at(self, node: ast.AST) -> tuple[T, list[Function]] | None:
        """The same for what this node calls."""
        return next(filter(None, map(self.of, self._calls.callees(node))), None)
