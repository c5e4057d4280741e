"""DBP303: a server-side cursor kept open while something else is waited for."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ..bindings import COMPREHENSIONS, FORS
from ..code import Code, Problem
from ..facts import Bound, Function, Query
from ..orm import STREAMING
from ..text import spelled, way

FIX = "Read the rows in batches first, for example by slices of primary keys, and do the slow work between the batches."
_FETCHING = {"list", "tuple", "set", "frozenset", "sorted", "dict", "len", "sum"}


def check(code: Code) -> Iterator[Problem]:
    for node in code.module.nodes:
        if isinstance(node, FORS):
            yield from _loop(code, node.iter, node.body)
        elif isinstance(node, COMPREHENSIONS):
            values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            for index, generator in enumerate(node.generators):
                later = [each.iter for each in node.generators[index + 1 :]]
                conditions = [test for each in node.generators[index:] for test in each.ifs]
                yield from _loop(code, generator.iter, [*values, *later, *conditions])


def _loop(code: Code, iterated: ast.expr, body: list[ast.stmt] | list[ast.expr]) -> Iterator[Problem]:
    streamed = _streamed(code, iterated)
    if streamed is None:
        return
    text = _slow(code, body)
    if text is not None:
        yield Problem(streamed, f"{spelled(streamed)} holds its connection while the loop runs {text}", FIX)


def _streamed(code: Code, node: ast.expr, depth: int = 0) -> ast.expr | None:
    """The queryset that is read while the loop runs, through enumerate() and the like."""
    if any(isinstance(fact, Query) and fact.streaming for fact in code.inference.facts(node)):
        return node
    if not isinstance(node, ast.Call) or depth > 5:
        return None
    match node.func:
        case ast.Attribute(attr=name) if name in STREAMING:
            # Nobody else's iterator() has this argument.
            return node if any(keyword.arg == "chunk_size" for keyword in node.keywords) else None
        case ast.Name(id=name) if name in _FETCHING:
            return None
    if any(isinstance(fact, Bound | Function) for fact in code.inference.facts(node.func)):
        return None
    return next(filter(None, (_streamed(code, argument, depth + 1) for argument in node.args)), None)


def _slow(code: Code, body: list[ast.stmt] | list[ast.expr]) -> str | None:
    for node in code.module.nodes_in(*body):
        text = code.slow.call(node)
        if text is not None:
            return f"{text} (line {getattr(node, 'lineno', 0)})"
        found = code.waiting.at(node)
        if found is not None:
            return f"{way(found[1])} -> {found[0]} (line {getattr(node, 'lineno', 0)})"
    return None
