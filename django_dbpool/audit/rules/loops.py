"""DBP301: a query for each turn of a loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ..bindings import COMPREHENSIONS, FORS
from ..code import Code, Problem
from ..facts import Function
from ..queries import Loop
from ..text import spelled, way
from .excuses import excused, few_turns

FIX = (
    "Ask once, before or after the loop: filter(pk__in=...) or in_bulk(), prefetch_related() or select_related(), "
    "annotate(), bulk_create(), bulk_update(), update(), delete()."
)


def check(code: Code) -> Iterator[Problem]:
    reported: set[ast.AST] = set()
    for loop in code.module.nodes:
        if isinstance(loop, (*FORS, ast.While, *COMPREHENSIONS)) and not few_turns(code, loop):
            for node in code.module.nodes_in(*_body(loop)):
                problem = _problem(code, node, loop)
                if problem is not None and problem.node not in reported and not excused(code, problem.node, loop):
                    reported.add(problem.node)
                    yield problem


def _body(loop: Loop) -> list[ast.AST]:
    """What runs with each turn: not the first iterable, which is evaluated once, nor the test of a ``while``."""
    match loop:
        case ast.For() | ast.AsyncFor() | ast.While():
            return list(loop.body)
        case ast.DictComp():
            values = [loop.key, loop.value]
        case _:
            values = [loop.elt]
    return [*values, *loop.generators[0].ifs, *loop.generators[1:]]


def _problem(code: Code, node: ast.AST, loop: Loop) -> Problem | None:
    hit = code.queries.query(node, loop)
    if hit is not None:
        return Problem(hit.node, f"a query for each turn of the {_name(loop)}: {hit.text}", FIX)
    found = code.asking.at(node)
    if found is None or not isinstance(node, ast.expr):
        return None
    query, steps = found
    text = f"{_way(node, steps)} -> {query.text} (line {query.node.lineno})"
    return Problem(node, f"a query for each turn of the {_name(loop)}: {text}", FIX)


def _way(node: ast.expr, steps: list[Function]) -> str:
    return way(steps) if isinstance(node, ast.Call) else " -> ".join(filter(None, [spelled(node), way(steps[1:])]))


def _name(loop: Loop) -> str:
    if isinstance(loop, ast.While):
        return "while loop"
    return "for loop" if isinstance(loop, FORS) else "comprehension"
