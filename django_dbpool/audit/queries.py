"""Where the database is asked: calls of the ORM, cursors, and the places that evaluate a queryset."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from . import orm
from .bindings import Comprehension
from .calls import Calls
from .facts import Bound, Fact, Function, Query, Ref
from .infer import Inference
from .naming import CONNECTION
from .scopes import Module
from .text import spelled

Loop = ast.For | ast.AsyncFor | ast.While | Comprehension

_EVALUATING = frozenset(
    f"builtins.{name}"
    for name in [
        "all",
        "any",
        "bool",
        "dict",
        "enumerate",
        "filter",
        "frozenset",
        "iter",
        "len",
        "list",
        "map",
        "max",
        "min",
        "next",
        "reversed",
        "set",
        "sorted",
        "sum",
        "tuple",
        "zip",
    ]
)
_CAN_ASK = (
    ast.Call,
    ast.For,
    ast.AsyncFor,
    ast.comprehension,
    ast.Subscript,
    ast.Starred,
    ast.YieldFrom,
    ast.Compare,
    ast.If,
    ast.IfExp,
    ast.While,
    ast.Assert,
    ast.UnaryOp,
    ast.BoolOp,
)
_CURSOR = re.compile(rf"^{re.escape(CONNECTION)}\.(chunked_)?cursor\(\)\.(execute|callproc)$")
_USES = re.compile(
    rf"^({re.escape(CONNECTION)}\.(chunked_)?cursor(\(\)\.\w+)?|(django\.db|django_dbpool)\.transaction\.atomic"
    r"|(\w+\.)*prefetch_related_objects)$"
)


@dataclass(frozen=True, slots=True)
class Hit:
    node: ast.expr
    text: str
    prefetchable: bool = False
    """None if its instance was fetched with prefetch_related()."""


class Queries:
    def __init__(self, module: Module, inference: Inference, calls: Calls) -> None:
        self.module = module
        self.inference = inference
        self.calls = calls
        self._memo: dict[Function, Hit | None] = {}

    def query(self, node: ast.AST, loop: Loop | None = None) -> Hit | None:
        """Whether this node itself makes a query, those below it aside. In a loop: with each turn."""
        if not isinstance(node, _CAN_ASK):  # most nodes: the cases below would all be tried
            return None
        match node:
            case ast.Call():
                return self._call(node, loop)
            case ast.For() | ast.AsyncFor() | ast.comprehension():
                return self._evaluated(node.iter, loop)
            case ast.Subscript(ctx=ast.Load()) if not isinstance(node.slice, ast.Slice):
                return self._evaluated(node.value, loop, shown=node)
            case ast.Starred() | ast.YieldFrom():
                return self._evaluated(node.value, loop)
            case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[right]):
                return self._evaluated(right, loop)
            case _:
                return self._truth(node, loop)

    def _truth(self, node: ast.AST, loop: Loop | None) -> Hit | None:
        match node:
            case ast.If() | ast.IfExp() | ast.While() | ast.Assert():
                tested = [node.test]
            case ast.UnaryOp(op=ast.Not()):
                tested = [node.operand]
            case ast.BoolOp():
                tested = node.values[:-1]
            case _:
                return None
        for each in tested:
            if any(isinstance(fact, Query) and fact.standard for fact in self.inference.facts(each)):
                return self._evaluated(each, loop)
        return None

    def _call(self, call: ast.Call, loop: Loop | None) -> Hit | None:
        for fact in self.inference.facts(call.func):
            if isinstance(fact, Bound) and orm.executes(fact, call) and not _answered(fact):
                return Hit(call, f"{spelled(call)}", orm.prefetchable(fact))
            if isinstance(fact, Ref) and (_CURSOR.match(fact.path) or fact.last in _SHORTCUTS):
                return Hit(call, f"{spelled(call)}")
        evaluating = any(path in _EVALUATING for path in self.inference.refs(call.func))
        if evaluating or (isinstance(call.func, ast.Attribute) and call.func.attr in ("extend", "join")):
            for argument in call.args:
                hit = self._evaluated(argument, loop)
                if hit is not None:
                    return hit
        return None

    def _evaluated(self, node: ast.expr, loop: Loop | None, shown: ast.expr | None = None) -> Hit | None:
        for fact in self.inference.facts(node):
            if not isinstance(fact, Query) or fact.manager or (fact.related and fact.prefetched):
                continue
            if loop is None or self._made_in(node, loop):
                return Hit(shown or node, spelled(shown or node), fact.related)
        return None

    def _made_in(self, node: ast.expr, loop: Loop) -> bool:
        """A queryset keeps its result: only one that is made anew with each turn asks with each turn."""
        if isinstance(node, ast.Name):
            return any(loop in self.module.chain(binding.node) for binding in self.module.lookup(node))
        return not isinstance(node, ast.Attribute)

    def use(self, node: ast.AST) -> Hit | None:
        """Whether this node uses the database at all."""
        hit = self.query(node)
        if hit is None and isinstance(node, ast.Call):
            for fact in self.inference.facts(node.func):
                if self.uses(fact):
                    return Hit(node, spelled(node))
        return hit

    def uses(self, fact: Fact) -> bool:
        """Whether calling it uses the database."""
        match fact:
            case Bound(Query(), name):
                return name in orm.EXECUTING or name in orm.BULK
            case Bound(_, name):
                return name in orm.ROW_METHODS
            case Ref(path):
                return bool(_USES.match(path) or _CURSOR.match(path)) or fact.last in _SHORTCUTS
        return False

    def query_of(self, function: Function) -> Hit | None:
        """The first query that the function makes itself."""
        if function not in self._memo:
            self._memo[function] = None
            self._memo[function] = self._first_query(function)
        return self._memo[function]

    def _first_query(self, function: Function) -> Hit | None:
        prefetched = function.receiver is not None and function.receiver.prefetched
        for node in self.module.nodes_of(function.node):
            hit = self.query(node)
            if hit is not None and not (prefetched and hit.prefetchable):
                return hit
        return None


def _answered(bound: Bound) -> bool:
    return getattr(bound.of, "prefetched", False) and orm.prefetchable(bound)


_SHORTCUTS = frozenset({"get_object_or_404", "get_list_or_404", "aget_object_or_404", "aget_list_or_404"})
