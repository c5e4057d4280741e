"""What the expressions of a module are: names followed to where they come from, calls to what they give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from . import orm
from .bindings import Binding, How
from .facts import NOTHING, Bound, Class, Fact, Facts, Function, Many, Object, Part, Query, Ref, Row
from .models import Models
from .naming import CONNECTION, defined, elements, identifier, is_manager, is_property, many, names_of, ref
from .scopes import Module

DEPTH = 40
"""So many steps are followed, not more."""
_QUERYSET = re.compile(
    r"(^|\.)\w*QuerySet$|^django\.(\w+\.)*\w*Manager(\.from_queryset\(\))?$|(^|\.)(models|managers)\.\w*Manager$"
)
_QUERYSETS = {"queryset", "qs"}
_COPIES = {"list", "tuple", "set", "frozenset", "sorted", "reversed", "iter", "deque", "filter"}
_COLLECTIONS = {"list", "List", "set", "tuple", "Iterable", "Sequence", "Iterator", "Collection", "AsyncIterator"}
_FIRST_ARGUMENT = {"functools.partial", "contextlib.closing", "contextlib.aclosing", "copy.copy", "functools.wraps"}


class Inference:
    def __init__(self, module: Module) -> None:
        self.module = module
        self._memo: dict[ast.AST, Facts] = {}
        self._running: set[ast.AST] = set()
        self.models = Models(self)
        self._uses_django = any("django" in path for path in self._imports())

    def _imports(self) -> Iterable[str]:
        for node in self.module.nodes:
            if isinstance(node, ast.ImportFrom):
                yield node.module or ""
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    def facts(self, node: ast.AST | None) -> Facts:
        if node is None:
            return NOTHING
        known = self._memo.get(node)
        if known is not None:
            return known
        if node in self._running or len(self._running) >= DEPTH:
            return NOTHING
        self._running.add(node)
        try:
            found = self._infer(node)
        finally:
            self._running.discard(node)
        self._memo[node] = found
        return found

    def refs(self, node: ast.AST | None) -> list[str]:
        return [fact.path for fact in self.facts(node) if isinstance(fact, Ref)]

    def _infer(self, node: ast.AST) -> Facts:
        match node:
            case ast.Name():
                return self._name(node)
            case ast.Attribute():
                return self.attribute(node.value, node.attr)
            case ast.Call():
                return self._call(node)
            case ast.Subscript():
                return self._subscript(node)
            case ast.Lambda():
                return frozenset({Function(node)})
            case ast.Await() | ast.NamedExpr() | ast.Starred():
                return self.facts(node.value)
            case _:
                return self._several(node)

    def _several(self, node: ast.AST) -> Facts:
        """Of expressions that can be one of their parts, or consist of them."""
        match node:
            case ast.IfExp():
                return self.facts(node.body) | self.facts(node.orelse)
            case ast.BoolOp():
                return self._union(node.values[:10])
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return many(self.facts(node.elt))
            case ast.List() | ast.Tuple() | ast.Set():
                return many(self._union(node.elts[:10]))
        return NOTHING

    def _union(self, nodes: Iterable[ast.AST]) -> Facts:
        return frozenset().union(*(self.facts(node) for node in nodes))

    # -- names ------------------------------------------------------------------------------------------------------

    def _name(self, node: ast.Name) -> Facts:
        bindings = self.module.lookup(node)
        if not bindings:
            origins = [*self.module.stars, "builtins"]
            return frozenset(ref(f"{origin}.{node.id}") for origin in origins)
        return frozenset().union(*(self.bound(binding) for binding in bindings))

    def bound(self, binding: Binding) -> Facts:
        match binding.how:
            case How.IMPORT:
                return frozenset({ref(binding.imported)})
            case How.VALUE | How.ENTERED:
                return self._value(binding)
            case How.ELEMENT:
                return self._element(binding)
            case How.DEFINED:
                node = binding.node
                return frozenset({Class(node) if isinstance(node, ast.ClassDef) else Function(node)})  # type: ignore[arg-type]
            case How.PARAMETER:
                return self._parameter(binding)
            case How.UNKNOWN:
                return NOTHING

    def _value(self, binding: Binding) -> Facts:
        facts = self.facts(binding.value)
        if binding.index is not None:
            # obj, created = get_or_create(): the row is the first.
            pair = isinstance(binding.value, ast.Call | ast.Await)
            return NOTHING if pair and binding.index else frozenset().union(*map(elements, facts))
        return facts | self.annotated(binding.annotation) if binding.annotation is not None else facts

    def _element(self, binding: Binding) -> Facts:
        iterated = binding.value
        if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) and binding.index is not None:
            if iterated.func.id == "enumerate" and binding.index == 1 and iterated.args:
                return self.each(iterated.args[0])
            if iterated.func.id == "zip" and binding.index < len(iterated.args):
                return self.each(iterated.args[binding.index])
        match iterated, binding.index:
            case (ast.Call(func=ast.Attribute(value=of, attr="items"), args=[]), 1) | (
                ast.Call(func=ast.Attribute(value=of, attr="values"), args=[]),
                None,
            ) if any(isinstance(fact, Many) for fact in self.facts(of)):
                return self.each(of)  # what in_bulk() gave
            case _, None:
                return self.each(iterated)
        return NOTHING

    def each(self, iterated: ast.AST | None) -> Facts:
        """What iterating over it gives."""
        if isinstance(iterated, ast.Call) and self.refs(iterated.func) == ["django.db.connections.all"]:
            return frozenset({Ref(CONNECTION)})
        return frozenset().union(*map(elements, self.facts(iterated)))

    def _parameter(self, binding: Binding) -> Facts:
        arg, function = binding.node, binding.value
        assert isinstance(arg, ast.arg)
        assert function is not None
        if binding.annotation is not None:
            return self.annotated(binding.annotation)
        owner = self.module.class_of(function)
        arguments = function.args if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) else None
        first = [*arguments.posonlyargs, *arguments.args][:1] if arguments is not None else []
        if owner is not None and first == [arg]:
            if arg.arg == "cls":
                return frozenset({Class(owner)})
            if arg.arg == "self":
                return frozenset({self.models.instance(owner)})
        if arg.arg in _QUERYSETS:
            return frozenset({Query(standard=False)})
        if arg.arg == "cursor" and self._uses_django:
            return frozenset({Ref(f"{CONNECTION}.cursor()")})
        return NOTHING

    def annotated(self, node: ast.AST | None) -> Facts:
        """What a value is that is annotated so."""
        match node:
            case ast.Name() | ast.Attribute():
                return frozenset().union(*(self._instances(fact) for fact in self.facts(node)))
            case ast.BinOp(op=ast.BitOr()):
                return self.annotated(node.left) | self.annotated(node.right)
            case ast.Constant(value=str() as text) if text.isidentifier():
                bindings = self.module.scopes[self.module.tree].bindings.get(text, [])
                facts: Facts = frozenset().union(*(self.bound(each) for each in bindings[-1:]))
                return frozenset().union(*(self._instances(fact) for fact in facts))
            case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name)):
                if name in ("Optional", "Annotated"):
                    return self.annotated(node.slice)
                if name in ("QuerySet", "Manager"):
                    return frozenset({Query()})
                inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
                return many(self.annotated(inner)) if name in _COLLECTIONS else NOTHING
        return NOTHING

    def _instances(self, fact: Fact) -> Facts:
        match fact:
            case Class(node):
                return frozenset({self.models.instance(node)})
            case Ref() if fact.last == "QuerySet":
                return frozenset({Query()})
            case Ref() if self.models.is_model_ref(fact):
                return frozenset({Row()})
            case Ref(path):
                return frozenset({ref(f"{path}()")})
        return NOTHING

    # -- attributes -------------------------------------------------------------------------------------------------

    def attribute(self, base: ast.expr, name: str) -> Facts:
        if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super":
            return self._of_super(base, name)
        facts = self.facts(base)
        if name in orm.MANAGERS and self.models.has_manager(base, facts):
            model = next((fact.node for fact in facts if isinstance(fact, Class | Object)), None)
            own = self.facts(defined(model, name)) if model is not None else NOTHING
            # The methods of a manager that is defined here are followed.
            return frozenset({Query(model=model, manager=True), *(fact for fact in own if isinstance(fact, Object))})
        if name == "user" and identifier(base) == "request":
            return frozenset({Row()})
        found: Facts = frozenset().union(*(self._attribute(fact, name) for fact in facts))
        if not found and name == "connection" and identifier(base) == "schema_editor":
            return frozenset({Ref(CONNECTION)})
        if not found and name in ("queryset", "get_queryset") and identifier(base) == "self":
            return frozenset({Query(standard=False)}) if name == "queryset" else frozenset({Bound(Query(), "all")})
        return found

    def _attribute(self, fact: Fact, name: str) -> Facts:
        match fact:
            case Ref(path):
                # A model that is known only by its name may have managers of other names.
                if self.models.is_model_ref(fact) and name.islower() and name.endswith("objects"):
                    return frozenset({Query(manager=True)})
                return frozenset({ref(f"{path}.{name}")})
            case Query() | Part():
                return frozenset({Bound(fact, name)}) if not isinstance(fact, Part) else self._of_part(fact, name)
            case Row():
                return self._of_row(fact, name)
            case Class(node):
                return self.member(node, name, bound=False)
            case Object(node):
                return self.member(node, name, bound=True)
        return NOTHING

    def _of_part(self, part: Part, name: str) -> Facts:
        return frozenset({Bound(part, name)}) | self._part(name, prefetched=False)

    def _part(self, name: str, *, prefetched: bool) -> Facts:
        # What is assigned to somewhere is no related manager: Django refuses that.
        if name.startswith("_") or name in self.module.stored:
            return NOTHING
        return frozenset({Part(prefetched)})

    def _of_row(self, row: Row, name: str) -> Facts:
        if name in orm.ROW_METHODS and (row.model is None or name not in names_of(row.model)):
            return frozenset({Bound(row, name)})
        if row.model is not None and name in names_of(row.model):
            member = defined(row.model, name)
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                overridden = {Bound(row, name)} if name in orm.ROW_METHODS else set()
                return frozenset({Function(member, row), *overridden})
            kind = [path.rpartition(".")[2] for path in self.refs(member.func)] if isinstance(member, ast.Call) else []
            if kind and kind[0].endswith(("Field", "field")) and not kind[0].startswith(("ManyToMany", "OneToOne")):
                return NOTHING
        return self._part(name, prefetched=row.prefetched)

    def member(self, node: ast.ClassDef, name: str, *, bound: bool, depth: int = 0) -> Facts:
        own = defined(node, name)
        if isinstance(own, ast.FunctionDef | ast.AsyncFunctionDef):
            if bound and is_property(own):
                return self._returned(Function(own))
            return frozenset({Function(own)})
        if isinstance(own, ast.expr):
            return self.facts(own)
        stored = self.module.attributes.get((node, name), ())
        if stored and bound:
            contents = self._union(self.module.contents.get((node, name), ())[:5])
            return self._union(stored[:5]) | (many(contents) if contents else NOTHING)
        return self._inherited(node, name, bound=bound, depth=depth)

    def _inherited(self, node: ast.ClassDef, name: str, *, bound: bool, depth: int = 0) -> Facts:
        found: set[Fact] = set()
        for base in node.bases if depth < 10 else ():
            for fact in self.facts(base):
                if isinstance(fact, Class) and fact.node is not node:
                    found |= self.member(fact.node, name, bound=bound, depth=depth + 1)
                elif isinstance(fact, Ref) and bound and _QUERYSET.search(fact.path):
                    found.add(Bound(Query(), name))
                elif isinstance(fact, Ref):
                    found.add(ref(f"{fact.path}{'()' if bound else ''}.{name}"))
        return frozenset(found)

    def _of_super(self, call: ast.Call, name: str) -> Facts:
        function = self.module.function_around(call)
        owner = self.module.class_of(function) if function is not None else None
        if owner is None:
            return NOTHING
        if name == "get_queryset":
            return frozenset({Bound(Query(), "all")})
        if name in orm.ROW_METHODS and self.models.is_model(owner):
            return frozenset({Bound(Row(owner), name)})
        return self._inherited(owner, name, bound=True)

    # -- calls and subscripts ---------------------------------------------------------------------------------------

    def _call(self, call: ast.Call) -> Facts:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "get_model":
            return frozenset({Ref("django.apps.apps.get_model()")})  # of a migration's apps, too
        return frozenset().union(*(self._result(fact, call) for fact in self.facts(call.func)))

    def _result(self, fact: Fact, call: ast.Call) -> Facts:
        match fact:
            case Ref():
                return self._of_imported(fact, call)
            case Function():
                return self._returned(fact)
            case Class(node):
                return frozenset({self.models.instance(node)})
            case Bound():
                return orm.result(fact, call)
        return NOTHING

    def _of_imported(self, called: Ref, call: ast.Call) -> Facts:
        first = call.args[0] if call.args else None
        if called.path in ("importlib.import_module", "builtins.__import__"):
            text = first.value if isinstance(first, ast.Constant) else None
            return frozenset({ref(text)}) if isinstance(text, str) else NOTHING
        if called.path in _FIRST_ARGUMENT:
            return self.facts(first)
        if called.path == "typing.cast":
            return self._union(call.args[1:2])
        if called.last in ("get_object_or_404", "aget_object_or_404"):
            return frozenset({Row()})
        if called.last in ("get_list_or_404", "aget_list_or_404"):
            return many(frozenset({Row()}))
        if called.path.startswith("builtins."):
            return self._of_builtin(called.last, call)
        if called.last in _COPIES:
            return many(self.each(first))
        return frozenset({Row() if self.models.is_model_ref(called) else ref(f"{called.path}()")})

    def _of_builtin(self, name: str, call: ast.Call) -> Facts:
        first = call.args[0] if call.args else None
        if name == "filter":
            return many(self.each(call.args[1])) if len(call.args) > 1 else NOTHING
        if name in _COPIES:
            return many(self.each(first))
        if name in ("next", "anext", "min", "max"):
            return self.each(first) if len(call.args) == 1 or name.endswith("next") else NOTHING
        if name == "getattr" and len(call.args) > 1 and first is not None and isinstance(call.args[1], ast.Constant):
            return self.attribute(first, str(call.args[1].value))
        if name == "type" and len(call.args) == 1:
            return frozenset().union(*map(_class_of, self.facts(first)))
        return NOTHING

    def _returned(self, function: Function) -> Facts:
        node = function.node
        if isinstance(node, ast.Lambda):
            return self.facts(node.body)
        own = [each for each in self.module.nodes_of(node) if isinstance(each, ast.Return | ast.Yield)]
        facts = self._union([each.value for each in own if each.value is not None][:5])
        return many(facts) if any(isinstance(each, ast.Yield) for each in own) and not is_manager(node) else facts

    def _subscript(self, node: ast.Subscript) -> Facts:
        found: set[Fact] = set()
        for fact in self.facts(node.value):
            match fact:
                case Query() | Many() if isinstance(node.slice, ast.Slice):
                    found.add(fact)
                case Query() | Many():
                    found |= elements(fact)
                case Ref(path):
                    found.add(ref(f"{path}[]"))
        return frozenset(found)


def _class_of(fact: Fact) -> Facts:
    match fact:
        case Object(node) | Row(ast.ClassDef() as node):
            return frozenset({Class(node)})
    return NOTHING
