"""Where each name of a module comes from: scopes, bindings, and which of them can reach a use."""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property

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


class Module:
    """The parents, scopes and bindings of a tree. Nothing here recurses: trees may be thousands of levels deep."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.parents: dict[ast.AST, ast.AST] = {}
        self.fields: dict[ast.AST, str] = {}
        self.nodes: list[ast.AST] = []
        self.stars: list[str] = []
        self.attributes: dict[tuple[ast.AST | None, str], list[ast.expr]] = {}
        """What is assigned to ``self.<name>``, by class."""
        self.stored: set[str] = set()
        """Names of all attributes that are assigned."""
        self.scopes: dict[ast.AST, Scope] = {}
        self._bodies: dict[ast.AST, list[ast.AST]] = {}
        self._link()
        self._bind()

    def _link(self) -> None:
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            self.nodes.append(node)
            below = []
            for name, value in ast.iter_fields(node):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        # Load() and its kind are the same object everywhere.
                        if not isinstance(
                            child, ast.expr_context | ast.operator | ast.unaryop | ast.boolop | ast.cmpop
                        ):
                            self.parents[child] = node
                            self.fields[child] = name
                            below.append(child)
            stack.extend(reversed(below))

    def _bind(self) -> None:
        for node in self.nodes:
            if isinstance(node, SCOPES):
                above = self.scope_of(node) if node is not self.tree else None
                self.scopes[node] = Scope(node, above)
        for node in self.nodes:
            if isinstance(node, ast.Global | ast.Nonlocal):
                self.scope_of(node).elsewhere.update(node.names)
        binder = _Binder(self)
        for node in self.nodes:
            binder.visit(node)
        for scope in self.scopes.values():
            for bindings in scope.bindings.values():
                bindings.sort(key=_after)

    def scope_of(self, node: ast.AST) -> Scope:
        """The scope in which an expression or a statement is evaluated; of a definition: in which it stands."""
        child, parent = node, self.parents[node]
        while not (isinstance(parent, SCOPES) and self._inside(child, parent)):
            child, parent = parent, self.parents[parent]
        return self.scopes[parent]

    def _inside(self, child: ast.AST, scope: ScopeNode) -> bool:
        """Not all that stands below a scope's node belongs to it: decorators and defaults don't, nor do bases."""
        return isinstance(scope, (*COMPREHENSIONS, ast.Module)) or self.fields[child] == "body"

    def chain(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around it, innermost first."""
        parent = self.parents.get(node)
        while parent is not None:
            yield parent
            parent = self.parents.get(parent)

    def function_around(self, node: ast.AST) -> ast.AST | None:
        """The innermost function whose body it is in."""
        child = node
        for parent in self.chain(node):
            if isinstance(parent, FUNCTIONS) and self.fields[child] == "body":
                return parent
            child = parent
        return None

    def class_of(self, function: ast.AST) -> ast.ClassDef | None:
        """Of a method: its class."""
        parent = self.parents.get(function)
        return parent if isinstance(parent, ast.ClassDef) else None

    def statement(self, node: ast.AST) -> ast.AST:
        """The innermost statement that it is part of."""
        while not isinstance(node, ast.stmt | ast.ExceptHandler | ast.Module):
            node = self.parents[node]
        return node

    def lookup(self, name: ast.Name) -> list[Binding]:
        """The bindings that can be what the name means here, the nearest first."""
        scope: Scope | None = self.scope_of(name)
        here = True
        while scope is not None:
            if name.id in scope.bindings and name.id not in scope.elsewhere:
                if not isinstance(scope.node, ast.ClassDef) or here:
                    bindings = scope.bindings[name.id]
                    return self._reaching(bindings, name) if here else bindings[-MANY:][::-1]
            here = here and isinstance(scope.node, COMPREHENSIONS)
            scope = scope.parent
        return []

    def _reaching(self, bindings: list[Binding], use: ast.Name) -> list[Binding]:
        """Those before it, back to the first that certainly ran. In a loop, with none before it, any."""
        before = bisect_right(bindings, (use.lineno, use.col_offset), key=_after)
        places = self._places(use)
        reaching: list[Binding] = []
        for binding in reversed(bindings[max(0, before - 10 * MANY) : before]):
            if self._excludes(binding, places):
                continue
            reaching.append(binding)
            if self._container(binding.node) in places or len(reaching) == MANY:
                break
        return reaching or bindings[-MANY:][::-1]

    def _container(self, node: ast.AST) -> tuple[ast.AST, str] | None:
        """The list of statements it stands in. The body of a ``with`` runs whenever the ``with`` does."""
        statement = self.statement(node) if not isinstance(node, ast.arg | ast.comprehension) else node
        parent = self.parents.get(statement)
        while isinstance(parent, WITHS):
            statement, parent = parent, self.parents[parent]
        return (parent, self.fields[statement]) if parent is not None else None

    def _places(self, node: ast.AST) -> set[tuple[ast.AST, str]]:
        places = set()
        child = node
        for parent in self.chain(node):
            places.add((parent, self.fields[child]))
            child = parent
        return places

    def _excludes(self, binding: Binding, places: set[tuple[ast.AST, str]]) -> bool:
        """Whether it is in the other branch of an ``if`` that the use is in too."""
        container = self._container(binding.node)
        if container is None or not isinstance(container[0], ast.If):
            return False
        other = {"body": "orelse", "orelse": "body"}[container[1]]
        return (container[0], other) in places and container not in places

    def nodes_in(self, *roots: ast.AST) -> Iterator[ast.AST]:
        """What runs when these run, in the order of the text: what they only define is left out."""
        stack = list(reversed(roots))
        while stack:
            node = stack.pop()
            yield node
            below = [
                child
                for name, value in ast.iter_fields(node)
                if not (name == "body" and isinstance(node, FUNCTIONS))
                for child in (value if isinstance(value, list) else [value])
                if child in self.fields
            ]
            stack.extend(reversed(below))

    def nodes_of(self, function: FunctionNode) -> list[ast.AST]:
        """What runs when the function is called."""
        known = self._bodies.get(function)
        if known is None:
            body = function.body
            known = list(self.nodes_in(*body) if isinstance(body, list) else self.nodes_in(body))
            self._bodies[function] = known
        return known

    @cached_property
    def functions(self) -> list[FunctionNode]:
        return [node for node in self.nodes if isinstance(node, FUNCTIONS)]

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in self.nodes if isinstance(node, ast.ClassDef)]


class _Binder:
    """Enters each node that binds names into the scope that it binds them in."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def visit(self, node: ast.AST) -> None:
        method = getattr(self, type(node).__name__, None)
        if method is not None:
            method(node)

    def add(self, node: ast.AST, name: str, binding: Binding) -> None:
        scope: Scope | None = self.module.scope_of(node)
        while scope is not None and self._goes_up(scope, name, binding):
            scope = scope.parent
        if scope is not None:
            scope.bindings.setdefault(name, []).append(binding)

    def _goes_up(self, scope: Scope, name: str, binding: Binding) -> bool:
        # A walrus in a comprehension binds in the function around it.
        walrus = isinstance(binding.node, ast.NamedExpr) and isinstance(scope.node, COMPREHENSIONS)
        return walrus or (name in scope.elsewhere and scope.parent is not None)

    def target(self, target: ast.AST, binding: Binding) -> None:
        """The target of an assignment, an unpacking of one level included."""
        match target:
            case ast.Name():
                self.add(target, target.id, binding)
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                self.module.stored.add(target.attr)
                function = self.module.function_around(target)
                owner = self.module.class_of(function) if function is not None else None
                if binding.how in (How.VALUE, How.ENTERED) and isinstance(binding.value, ast.expr):
                    self.module.attributes.setdefault((owner, target.attr), []).append(binding.value)
            case ast.Attribute():
                self.module.stored.add(target.attr)
            case ast.Tuple() | ast.List():
                for index, element in enumerate(target.elts):
                    self._part(element, index, binding)

    def _part(self, element: ast.expr, index: int, binding: Binding) -> None:
        how, value = binding.how, binding.value
        deeper: int | None = index
        if how is How.VALUE and isinstance(value, ast.Tuple | ast.List) and index < len(value.elts):
            value, deeper = value.elts[index], None
        if binding.index is not None or how not in (How.VALUE, How.ELEMENT):
            how = How.UNKNOWN
        for name in [element] if isinstance(element, ast.Name | ast.Attribute) else ast.walk(element):
            if isinstance(name, ast.Name | ast.Attribute):
                kind = how if name is element else How.UNKNOWN
                self.target(name, Binding(kind, binding.node, value, index=deeper, after=binding.after))

    def Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            dotted = alias.name if alias.asname else name
            self.add(node, name, Binding(How.IMPORT, node, imported=dotted, after=_end(node)))

    def ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                self.module.stars.append(origin)
                continue
            dotted = f"{origin}{'' if origin.endswith('.') else '.'}{alias.name}"
            self.add(node, alias.asname or alias.name, Binding(How.IMPORT, node, imported=dotted, after=_end(node)))

    def Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self.target(target, Binding(How.VALUE, node, node.value, after=_end(node)))

    def AnnAssign(self, node: ast.AnnAssign) -> None:
        binding = Binding(How.VALUE, node, node.value, annotation=node.annotation, after=_end(node))
        self.target(node.target, binding)

    def AugAssign(self, node: ast.AugAssign) -> None:
        self.target(node.target, Binding(How.UNKNOWN, node, after=_end(node)))

    def NamedExpr(self, node: ast.NamedExpr) -> None:
        self.target(node.target, Binding(How.VALUE, node, node.value, after=_end(node)))

    def For(self, node: ast.For | ast.AsyncFor) -> None:
        self.target(node.target, Binding(How.ELEMENT, node.target, node.iter, after=_end(node.iter)))

    AsyncFor = For

    def comprehension(self, node: ast.comprehension) -> None:
        self.target(node.target, Binding(How.ELEMENT, node.target, node.iter))

    def withitem(self, node: ast.withitem) -> None:
        if node.optional_vars is not None:
            binding = Binding(How.ENTERED, node.optional_vars, node.context_expr, after=_end(node.context_expr))
            self.target(node.optional_vars, binding)

    def ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.add(node, node.name, Binding(How.UNKNOWN, node, after=(node.lineno, node.col_offset)))

    def FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.add(node, node.name, Binding(How.DEFINED, node, node, after=_end(node)))
        self.parameters(node)

    AsyncFunctionDef = FunctionDef

    def Lambda(self, node: ast.Lambda) -> None:
        self.parameters(node)

    def ClassDef(self, node: ast.ClassDef) -> None:
        self.add(node, node.name, Binding(How.DEFINED, node, node, after=_end(node)))

    def parameters(self, node: FunctionNode) -> None:
        arguments = node.args
        bindings = self.module.scopes[node].bindings
        plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for arg in plain:
            bindings.setdefault(arg.arg, []).append(Binding(How.PARAMETER, arg, node, annotation=arg.annotation))
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                bindings.setdefault(rest.arg, []).append(Binding(How.UNKNOWN, rest))

    def MatchAs(self, node: ast.MatchAs) -> None:
        if node.name:
            self.add(node, node.name, Binding(How.UNKNOWN, node))

    def MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.add(node, node.name, Binding(How.UNKNOWN, node))


def _after(binding: Binding) -> tuple[int, int]:
    return binding.after


def _end(node: ast.stmt | ast.expr) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
