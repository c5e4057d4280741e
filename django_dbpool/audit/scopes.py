"""Where each name of a module comes from: its scopes, and which of the bindings can reach a use."""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property

from .bindings import (
    COMPREHENSIONS,
    FUNCTIONS,
    MANY,
    SCOPES,
    WITHS,
    Binding,
    FunctionNode,
    How,
    Scope,
    ScopeNode,
    bindings_of,
    origin_of,
)

# Load() and its kind: one object for all places.
_SHARED = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)

_PUTTING = {"add", "append", "extend", "insert", "setdefault", "update"}


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
        self.contents: dict[tuple[ast.AST | None, str], list[ast.expr]] = {}
        """What is put into ``self.<name>``, as far as it can be seen; into others' attributes: without a class."""
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
            _unquote(node)
            below = []
            for name, value in ast.iter_fields(node):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST) and not isinstance(child, _SHARED):
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
            elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                self.stars.append(origin_of(node))
        for node in self.nodes:
            for target, binding in bindings_of(node):
                self._bind_target(target, binding)
            self._fill(node)
        for scope in self.scopes.values():
            for bindings in scope.bindings.values():
                bindings.sort(key=_after)

    def _add(self, node: ast.AST, name: str, binding: Binding) -> None:
        parameter = isinstance(node, FUNCTIONS) and binding.node is not node
        scope: Scope | None = self.scopes[node] if parameter else self.scope_of(node)
        while scope is not None and _goes_up(scope, name, binding):
            scope = scope.parent
        if scope is not None:
            scope.bindings.setdefault(name, []).append(binding)

    def _bind_target(self, target: ast.AST | tuple[ast.AST, str], binding: Binding) -> None:
        """The target of an assignment, an unpacking of one level included; or a node and the name that it binds."""
        match target:
            case (node, name):
                self._add(node, name, binding)
            case ast.Name():
                self._add(target, target.id, binding)
            case ast.Attribute():
                self._store(target, binding)
            case ast.Tuple() | ast.List():
                for index, element in enumerate(target.elts):
                    self._bind_part(element, index, binding)

    def _store(self, target: ast.Attribute, binding: Binding) -> None:
        self.stored.add(target.attr)
        if isinstance(target.value, ast.Name) and target.value.id in ("self", "cls"):
            owner = self._class_around(target)
            if binding.how in (How.VALUE, How.ENTERED) and isinstance(binding.value, ast.expr):
                self.attributes.setdefault((owner, target.attr), []).append(binding.value)

    def _class_around(self, node: ast.AST) -> ast.ClassDef | None:
        """Whose ``self`` it is, in functions of a method, too."""
        return next((each for each in self.chain(node) if isinstance(each, ast.ClassDef)), None)

    def _fill(self, node: ast.AST) -> None:
        """``self.created.append(order)``"""
        values: list[ast.expr] = []
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute() as filled, attr=method)) if method in _PUTTING:
                values = node.args if method in ("add", "append") else []
            case ast.Subscript(value=ast.Attribute() as filled, ctx=ast.Store()):
                pass
            case ast.AugAssign(target=ast.Attribute() as filled):
                pass
            case _:
                return
        own = isinstance(filled.value, ast.Name) and filled.value.id in ("self", "cls")
        owner = self._class_around(filled) if own else None
        self.contents.setdefault((owner, filled.attr), []).extend(values)

    def _bind_part(self, element: ast.expr, index: int, binding: Binding) -> None:
        how, value = binding.how, binding.value
        deeper: int | None = index
        if how is How.VALUE and isinstance(value, ast.Tuple | ast.List) and index < len(value.elts):
            value, deeper = value.elts[index], None
        if binding.index is not None or how not in (How.VALUE, How.ELEMENT):
            how = How.UNKNOWN
        for name in [element] if isinstance(element, ast.Name | ast.Attribute) else ast.walk(element):
            if isinstance(name, ast.Name | ast.Attribute):
                kind = how if name is element else How.UNKNOWN
                self._bind_target(name, Binding(kind, binding.node, value, index=deeper, after=binding.after))

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
            visible = here or not isinstance(scope.node, ast.ClassDef)
            if visible and name.id in scope.bindings and name.id not in scope.elsewhere:
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
        return reaching if before else bindings[-MANY:][::-1]

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
    def grown(self) -> set[str]:
        """Names of containers that something is put into."""
        found = set()
        for node in self.nodes:
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr in _PUTTING:
                    found.add(name)
                case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()) | ast.AugAssign(target=ast.Name(id=name)):
                    found.add(name)
        return found

    @cached_property
    def functions(self) -> list[FunctionNode]:
        return [node for node in self.nodes if isinstance(node, FUNCTIONS)]

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in self.nodes if isinstance(node, ast.ClassDef)]


def _goes_up(scope: Scope, name: str, binding: Binding) -> bool:
    # A walrus in a comprehension binds in the function around it.
    walrus = isinstance(binding.node, ast.NamedExpr) and isinstance(scope.node, COMPREHENSIONS)
    return walrus or (name in scope.elsewhere and scope.parent is not None)


def _unquote(node: ast.AST) -> None:
    """An annotation in quotes becomes what it says."""
    quoted = getattr(node, "annotation", None)
    if isinstance(quoted, ast.Constant) and isinstance(quoted.value, str) and len(quoted.value) < 200:
        try:
            parsed = ast.parse(quoted.value.strip(), mode="eval").body
        except (SyntaxError, ValueError):
            return
        for inner in ast.walk(parsed):
            ast.copy_location(inner, quoted)
        node.annotation = parsed  # type: ignore[attr-defined]


def _after(binding: Binding) -> tuple[int, int]:
    return binding.after
