"""DBP101: connections made around the pool."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ..code import Code, Problem
from ..facts import Class, Ref
from ..naming import identifier
from ..text import spelled

FIX = (
    "Use django.db.connection.cursor() or the ORM; for LISTEN loops and leader locks "
    "django_dbpool.transaction.dedicated()."
)
_OPENING = re.compile(
    r"psycopg\.(connect|((connection|connection_async)\.)?(Async)?Connection\.connect)"
    r"|psycopg2\.(connect|extensions\.connection|pool\.\w*ConnectionPool)"
    r"|psycopg_pool\.(\w+\.)?(Async)?(Null)?ConnectionPool"
    r"|asyncpg\.((connection|pool)\.)?(connect|create_pool)"
    r"|aiopg\.((connection|pool)\.)?(connect|create_pool)"
)

# Call what they are given, now or later.
_CALLING = {
    "Thread",
    "apply_async",
    "map",
    "partial",
    "run_in_executor",
    "run_sync",
    "submit",
    "sync_to_async",
    "to_thread",
}


def check(code: Code) -> Iterator[Problem]:
    for call in code.all_calls:
        if _opens(code, call.func):
            yield _problem(call, call.func)
        elif identifier(call.func) in _CALLING:
            for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
                if isinstance(value, ast.Name | ast.Attribute) and _passed(code, value):
                    yield _problem(value, value)


def _problem(node: ast.expr, function: ast.expr) -> Problem:
    return Problem(node, f"{spelled(function)}() opens connections that the pool doesn't know and can't limit", FIX)


def _opens(code: Code, function: ast.expr) -> bool:
    if isinstance(function, ast.Call) and not _is_getattr(code, function):
        return False  # partial(psycopg.connect)(): found where it is passed
    for fact in code.inference.facts(function):
        if isinstance(fact, Ref) and _OPENING.fullmatch(fact.path):
            return not _is_partial(code, function)
        if isinstance(fact, Class) and any(
            _OPENING.fullmatch(path) for base in fact.node.bases for path in code.inference.refs(base)
        ):
            return True
    return False


def _is_partial(code: Code, function: ast.expr) -> bool:
    """Whether the name stands for a call that was found already."""
    if not isinstance(function, ast.Name):
        return False
    values = [binding.value for binding in code.module.lookup(function)]
    return any(isinstance(value, ast.Call) and not _is_getattr(code, value) for value in values)


def _is_getattr(code: Code, call: ast.Call) -> bool:
    return "builtins.getattr" in code.inference.refs(call.func)


def _passed(code: Code, value: ast.expr) -> bool:
    """Functions only: a class of pools is passed to isinstance() and the like, too."""
    return any(
        _OPENING.fullmatch(path) and not path.endswith("Pool") for path in code.inference.refs(value)
    ) and not _is_partial(code, value)
