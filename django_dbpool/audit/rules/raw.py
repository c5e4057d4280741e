"""DBP102: the raw connection taken out of its wrapper."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ..code import Code, Problem
from ..naming import CONNECTION
from ..text import spelled

FIX = (
    "Use connection.cursor(); django_dbpool.transaction.pin() to keep one connection for a block, "
    "transaction.dedicated() for one of its own."
)
# What the engine answers without pinning.
_READ = {
    "adapters",
    "broken",
    "closed",
    "cursor_factory",
    "deferrable",
    "info",
    "isolation_level",
    "prepare_threshold",
    "prepared_max",
    "read_only",
    "row_factory",
    "server_cursor_factory",
}
_ASKING = {"bool", "id", "isinstance", "type"}


def check(code: Code) -> Iterator[Problem]:
    for node in code.module.nodes:
        if _takes(code, node) and not _harmless(code, node) and not _only_read(code, node):
            assert isinstance(node, ast.expr)
            text = f"{spelled(node.args[0])}.connection" if isinstance(node, ast.Call) and node.args else spelled(node)
            yield Problem(node, f"{text} is the raw connection: what uses it goes around the pool and pins", FIX)


def _takes(code: Code, node: ast.AST) -> bool:
    match node:
        # An engine's own, and that of a migration's operation: both belong to it.
        case ast.Attribute(value=ast.Name(id="self") | ast.Attribute(value=ast.Name(id="schema_editor"))):
            return False
        case ast.Attribute(attr="connection", ctx=ast.Load()):
            pass
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value="connection"), *_]):
            pass
        case _:
            return False
    return f"{CONNECTION}.connection" in code.inference.refs(node)


def _harmless(code: Code, node: ast.AST) -> bool:
    """Whether only its state is looked at."""
    parent = code.module.parents[node]
    match parent:
        case ast.Attribute(attr=name, ctx=ast.Load()):
            return name in _READ
        case ast.Compare(ops=[ast.Is() | ast.IsNot() | ast.Eq() | ast.NotEq()]):
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in _ASKING
        case ast.If() | ast.While() | ast.IfExp() | ast.Assert():
            return parent.test is node
        case ast.UnaryOp(op=ast.Not()):
            return True
        case ast.BoolOp():
            return parent.values[-1] is not node or not isinstance(code.module.parents[parent], ast.Assign)
    return False


def _only_read(code: Code, node: ast.AST) -> bool:
    """``raw = connection.connection``, and then nothing but ``raw.info``."""
    match code.module.parents[node]:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.NamedExpr(target=ast.Name(id=name)):
            scope = code.module.scope_of(node)
        case _:
            return False
    uses = [
        use
        for use in code.module.nodes
        if isinstance(use, ast.Name) and use.id == name and isinstance(use.ctx, ast.Load)
        if code.module.scope_of(use) is scope or isinstance(scope.node, ast.Module)
    ]
    return bool(uses) and all(_harmless(code, use) for use in uses)
