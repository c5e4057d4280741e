"""Code as it is quoted in messages."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from .facts import Function

PARTS = 5


def spelled(node: ast.AST) -> str:
    """``Order.objects.filter().count``: names as written, arguments left out, long chains from their end."""
    parts: list[str] = []
    suffix = ""
    while len(parts) < PARTS:
        match node:
            case ast.Name(id=name):
                parts.append(name + suffix)
                break
            case ast.Attribute():
                parts.append(node.attr + suffix)
                suffix, node = "", node.value
            case ast.Call():
                suffix, node = "()" + suffix, node.func
            case ast.Subscript():
                suffix, node = "[]" + suffix, node.value
            case ast.Await() | ast.Starred():
                node = node.value
            case _:
                parts.append("..." + suffix)
                break
    else:
        parts.append("...")
    return ".".join(reversed(parts)).replace("....", "...")


def name_of(function: Function) -> str:
    return "lambda" if isinstance(function.node, ast.Lambda) else f"{function.node.name}()"


def way(functions: Sequence[Function]) -> str:
    """``close() -> notify()``"""
    return " -> ".join(name_of(each) for each in functions)
