"""Small questions about nodes and names, answered without knowing where anything comes from."""

from __future__ import annotations

import ast
import re

from .facts import NOTHING, Fact, Facts, Many, Query, Ref, Row

CONNECTION = "django.db.connection"
"""What every wrapper is called here, whatever way it was reached."""
WRAPPERS = re.compile(
    r"^(django\.db\.connections\[\]|django\.db\.(utils\.)?connections\.(create_connection\(\)|__getitem__\(\))"
    r"|(django\.db|django_dbpool)\.transaction\.get_connection\(\)"
    r"|django\.db\.backends\.base\.base\.BaseDatabaseWrapper\(\)"
    r"|django\.db\.backends\.postgresql\.base\.DatabaseWrapper\(\)"
    r"|django\.db\.backends\.utils\.CursorWrapper\(\)\.db|django\.db\.connection\.(chunked_)?cursor\(\)\.db)(?=$|[.\[(])"
)


def defined(node: ast.ClassDef, name: str) -> ast.AST | None:
    """What the body of the class says it is."""
    for statement in reversed(node.body):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if statement.name == name:
                return statement
            case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                return statement.value
            case ast.AnnAssign(target=ast.Name(id=target)) if target == name:
                return statement.value
    return None


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(identifier(each) in ("property", "cached_property") for each in node.decorator_list)


def is_manager(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(identifier(each) in ("contextmanager", "asynccontextmanager") for each in node.decorator_list)


def elements(fact: Fact) -> Facts:
    match fact:
        case Many(of):
            return of
        case Query() if fact.rows:
            return frozenset({Row(fact.model, fact.prefetched and not fact.related)})
    return NOTHING


def many(of: Facts) -> Facts:
    # Many of many of many: nobody asks.
    return frozenset({Many(frozenset(fact for fact in of if not isinstance(fact, Many)))})


def ref(path: str) -> Ref:
    if len(path) > 300:
        path = "builtins.unknown"
    return Ref(WRAPPERS.sub(CONNECTION, path))


def identifier(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def capitalised(name: str) -> bool:
    """As classes are written, not constants, and no call of anything."""
    return name[:1].isupper() and name.isidentifier() and not (name.isupper() and len(name) > 4)


def names_of(node: ast.ClassDef) -> set[str]:
    found: set[str] = set()
    for statement in node.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found
