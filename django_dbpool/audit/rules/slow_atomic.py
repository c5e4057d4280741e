"""DBP302: waiting for something else while a transaction is open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from ..bindings import FUNCTIONS, WITHS
from ..calls import Reach
from ..code import Code, Problem
from ..facts import Function
from ..naming import is_manager
from ..text import way

FIX = (
    "Call it before or after the block, from transaction.on_commit(lambda: ...), or in a thread by "
    "django_dbpool.threads.spawn_on_commit()."
)
_ATOMIC = re.compile(
    r"(django\.db|django_dbpool)\.transaction\.((blocks\.)?atomic|Atomic)(\(\))?|\.*(\w+\.)*transaction\.atomic(\(\))?"
)
_METHOD = re.compile(r"(^|\.)method_decorator$")
_HANDLERS = {"delete", "dispatch", "get", "head", "options", "patch", "post", "put", "trace"}


def check(code: Code) -> Iterator[Problem]:
    transactions = Transactions(code)
    inside: dict[ast.AST, None] = {}
    for region in transactions.regions():
        inside.update(dict.fromkeys(code.module.nodes_in(*region)))

    def slow(function: Function) -> str | None:
        # Within a transaction of its own it is reported there.
        calls = (node for node in code.module.nodes_of(function.node) if node not in inside)
        return next(filter(None, map(code.slow.call, calls)), None)

    # What is decorated is reported there, too.
    waiting = Reach(code.calls, slow, lambda each: not transactions.decorated(each.node))
    for node in inside:
        text = code.slow.call(node)
        if text is not None and isinstance(node, ast.expr):
            yield Problem(node, f"{text} in a transaction: its connection and its locks are held meanwhile", FIX)
            continue
        found = waiting.at(node)
        if found is not None and isinstance(node, ast.expr):
            text, steps = found
            yield Problem(
                node, f"{way(steps)} -> {text} in a transaction: its connection and its locks are held meanwhile", FIX
            )


class Transactions:
    """Where ``atomic()`` holds."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self._known: dict[ast.AST, bool] = {}

    def regions(self) -> Iterator[Sequence[ast.AST]]:
        for node in self.code.module.nodes:
            if isinstance(node, WITHS):
                yield from self._of_with(node)
            elif isinstance(node, FUNCTIONS) and self.decorated(node):
                yield node.body if isinstance(node.body, list) else [node.body]
            elif isinstance(node, ast.Call) and self._enters(node):
                yield self._rest_of_block(node)

    def _of_with(self, node: ast.With | ast.AsyncWith) -> Iterator[Sequence[ast.AST]]:
        for index, item in enumerate(node.items):
            if self.opens(item.context_expr):
                yield [*(later.context_expr for later in node.items[index + 1 :]), *node.body]
                return

    def opens(self, expression: ast.expr) -> bool:
        """Whether entering it opens a transaction."""
        if any(map(_ATOMIC.fullmatch, self.code.inference.refs(expression))):
            return True
        return any(self._manager(each) for each in self.code.calls.callees(expression))

    def _manager(self, function: Function) -> bool:
        """A context manager of this module that yields in a transaction."""
        node = function.node
        if isinstance(node, ast.Lambda) or not is_manager(node):
            return False
        if node not in self._known:
            self._known[node] = False
            self._known[node] = self.decorated(node) or any(
                isinstance(inner, ast.Yield)
                for each in self.code.module.nodes_of(node)
                if isinstance(each, WITHS) and any(self.opens(item.context_expr) for item in each.items)
                for inner in self.code.module.nodes_in(*each.body)
            )
        return self._known[node]

    def _enters(self, call: ast.Call) -> bool:
        match call:
            case ast.Call(func=ast.Attribute(attr="enter_context" | "enter_async_context"), args=[entered, *_]):
                return self.opens(entered)
        return False

    def _rest_of_block(self, call: ast.Call) -> Sequence[ast.AST]:
        """What follows in the same list of statements: until the stack is closed, at the latest."""
        statement = self.code.module.statement(call)
        parent = self.code.module.parents[statement]
        block: list[ast.AST] = getattr(parent, self.code.module.fields[statement], [])
        return block[block.index(statement) + 1 :] if statement in block else []

    def decorated(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return False
        if any(map(self._decorates, node.decorator_list)):
            return True
        owner = self.code.module.class_of(node)
        return owner is not None and any(self._decorates(each, node.name) for each in owner.decorator_list)

    def _decorates(self, decorator: ast.expr, method: str = "") -> bool:
        called = self.code.inference.refs(decorator.func) if isinstance(decorator, ast.Call) else []
        if isinstance(decorator, ast.Call) and decorator.args and any(_METHOD.search(path) for path in called):
            return self._names(decorator, method) and self._decorates(decorator.args[0])
        return not method and any(map(_ATOMIC.fullmatch, self._refs(decorator)))

    def _refs(self, decorator: ast.expr) -> list[str]:
        if isinstance(decorator, ast.List | ast.Tuple):
            return [path for each in decorator.elts for path in self.code.inference.refs(each)]
        return self.code.inference.refs(decorator)

    @staticmethod
    def _names(decorator: ast.Call, method: str) -> bool:
        """Of a class: which method method_decorator() means."""
        if not method:
            return True
        named = [each.value.value for each in decorator.keywords if isinstance(each.value, ast.Constant)]
        return method in named or ("dispatch" in named and method in _HANDLERS)
