"""One module as the rules see it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property

from .calls import Calls, Reach
from .facts import Function
from .infer import Inference
from .queries import Hit, Queries
from .scopes import Module
from .slow import Slow


@dataclass(frozen=True, slots=True)
class Problem:
    node: ast.expr | ast.stmt
    message: str
    fix: str


class Code:
    def __init__(self, tree: ast.Module) -> None:
        self.module = Module(tree)
        self.inference = Inference(self.module)
        self.calls = Calls(self.module, self.inference)
        self.queries = Queries(self.module, self.inference, self.calls)
        self.slow = Slow(self.inference)

    @cached_property
    def all_calls(self) -> list[ast.Call]:
        return [node for node in self.module.nodes if isinstance(node, ast.Call)]

    @cached_property
    def asking(self) -> Reach[Hit]:
        """Which functions make a query."""
        return Reach(self.calls, self.queries.query_of, lambda each: not _remembers(each))

    @cached_property
    def waiting(self) -> Reach[str]:
        """Which functions make a slow call."""
        return Reach(self.calls, self._slow_in)

    def _slow_in(self, function: Function) -> str | None:
        return next(filter(None, map(self.slow.call, self.module.nodes_of(function.node))), None)


def _remembers(function: Function) -> bool:
    """lru_cache and its kind."""
    if isinstance(function.node, ast.Lambda):
        return False
    decorators = [each.func if isinstance(each, ast.Call) else each for each in function.node.decorator_list]
    names = [each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in decorators]
    return any(name in ("cache", "cached", "lru_cache", "memoize") for name in names)
