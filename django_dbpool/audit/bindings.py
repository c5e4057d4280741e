"""What each kind of statement binds names to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
ScopeNode = ast.Module | ast.ClassDef | FunctionNode | Comprehension
SCOPES = (
    ast.Module,
    ast.ClassDef,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
WITHS = (ast.With, ast.AsyncWith)
FORS = (ast.For, ast.AsyncFor)
_BIND_NOTHING = (ast.Name, ast.Attribute, ast.Constant, ast.Call, ast.keyword, ast.Expr)
MANY = 20
"""So many bindings of one name are looked at, not more: generated code has thousands."""


class How(Enum):
    IMPORT = auto()
    VALUE = auto()
    ENTERED = auto()
    ELEMENT = auto()
    DEFINED = auto()
    PARAMETER = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A name is bound at ``node``, by what ``how`` says."""

    how: How
    node: ast.AST
    value: ast.AST | None = None
    """The expression it comes from: assigned, entered by ``with``, or iterated over."""
    imported: str = ""
    index: int | None = None
    """Which part of the value, where it is unpacked."""
    annotation: ast.expr | None = None
    after: tuple[int, int] = (0, 0)
    """The position from which on it holds."""


@dataclass(slots=True, eq=False)
class Scope:
    node: ScopeNode
    parent: Scope | None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    """Names declared global or nonlocal."""


Bound = tuple[ast.AST | tuple[ast.AST, str], Binding]
"""A target, or a node and the name that it binds."""


def bindings_of(node: ast.AST) -> Iterator[Bound]:
    """What this one node binds; names bound by those below it are theirs."""
    if isinstance(node, _BIND_NOTHING):  # most nodes: the cases below would all be tried
        return
    match node:
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign() | ast.NamedExpr():
            yield from _assigned(node)
        case ast.Import() | ast.ImportFrom():
            yield from _imported(node)
        case ast.For() | ast.AsyncFor():
            yield node.target, Binding(How.ELEMENT, node.target, node.iter, after=_end(node.iter))
        case ast.comprehension():
            yield node.target, Binding(How.ELEMENT, node.target, node.iter)
        case ast.withitem() if node.optional_vars is not None:
            after = _end(node.context_expr)
            yield node.optional_vars, Binding(How.ENTERED, node.optional_vars, node.context_expr, after=after)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
            yield from _defined(node)
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar() if node.name:
            yield (node, node.name), Binding(How.UNKNOWN, node, after=(node.lineno, node.col_offset))


def _assigned(node: ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) -> Iterator[Bound]:
    if isinstance(node, ast.AugAssign):
        yield node.target, Binding(How.UNKNOWN, node, after=_end(node))
        return
    annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        yield target, Binding(How.VALUE, node, node.value, annotation=annotation, after=_end(node))


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[Bound]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.partition(".")[0]
            binding = Binding(How.IMPORT, node, imported=alias.name if alias.asname else first, after=_end(node))
            yield (node, alias.asname or first), binding
        return
    origin = origin_of(node)
    for alias in node.names:
        if alias.name != "*":
            dotted = f"{origin}{'' if origin.endswith('.') else '.'}{alias.name}"
            yield (node, alias.asname or alias.name), Binding(How.IMPORT, node, imported=dotted, after=_end(node))


def origin_of(node: ast.ImportFrom) -> str:
    return "." * node.level + (node.module or "")


def _defined(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda) -> Iterator[Bound]:
    if not isinstance(node, ast.Lambda):
        yield (node, node.name), Binding(How.DEFINED, node, node, after=_end(node))
    if isinstance(node, ast.ClassDef):
        return
    for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
        yield (node, arg.arg), Binding(How.PARAMETER, arg, node, annotation=arg.annotation)
    for rest in (node.args.vararg, node.args.kwarg):
        if rest is not None:
            yield (node, rest.arg), Binding(How.UNKNOWN, rest)


def _end(node: ast.stmt | ast.expr) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
