"""What the expressions of a module are: names followed to where they come from, calls to what they give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from . import orm
from .facts import NOTHING, Bound, Class, Fact, Facts, Function, Many, Object, Part, Query, Ref, Row
from .scopes import Binding, How, Module

DEPTH = 40
"""So many steps are followed, not more."""
CONNECTION = "django.db.connection"
_WRAPPERS = re.compile(
    r"^(django\.db\.connections\[\]|django\.db\.(utils\.)?connections\.(create_connection\(\)|__getitem__\(\))"
    r"|(django\.db|django_dbpool)\.transaction\.get_connection\(\)"
    r"|django\.db\.backends\.base\.base\.BaseDatabaseWrapper\(\)"
    r"|django\.db\.backends\.postgresql\.base\.DatabaseWrapper\(\)"
    r"|django\.db\.backends\.utils\.CursorWrapper\(\)\.db)(?=$|[.\[(])"
)
_MODEL_CALL = re.compile(r"(^|\.)get_(\w+_)?model\(\)$")
_MODEL_NAME = re.compile(r"(^|_)(model|klass)(_class|_cls)?$", re.IGNORECASE)
_QUERYSETS = {"queryset", "qs"}
_COPIES = {"list", "tuple", "set", "frozenset", "sorted", "reversed", "iter", "deque", "filter"}
_COLLECTIONS = {"list", "List", "set", "tuple", "Iterable", "Sequence", "Iterator", "Collection", "AsyncIterator"}
_FIRST_ARGUMENT = {"functools.partial", "contextlib.closing", "contextlib.aclosing", "copy.copy", "functools.wraps"}
_ABSTRACT = {"AbstractUser", "AbstractBaseUser", "TimeStampedModel", "MPTTModel"}


class Inference:
    def __init__(self, module: Module) -> None:
        self.module = module
        self._memo: dict[ast.AST, Facts] = {}
        self._running: set[ast.AST] = set()
        self._models: dict[ast.ClassDef, bool] = {}
        self._asked = {
            node.value.id
            for node in module.nodes
            if isinstance(node, ast.Attribute) and node.attr in orm.MANAGERS and isinstance(node.value, ast.Name)
        }
        """Names of classes that this module asks for ``objects``."""
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
            case ast.Await() | ast.NamedExpr() | ast.Starred():
                return self.facts(node.value)
            case ast.IfExp():
                return self.facts(node.body) | self.facts(node.orelse)
            case ast.BoolOp():
                return self._union(node.values[:10])
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return _many(self.facts(node.elt))
            case ast.List() | ast.Tuple() | ast.Set():
                return _many(self._union(node.elts[:10]))
            case ast.Lambda():
                return frozenset({Function(node)})
            case _:
                return NOTHING

    def _union(self, nodes: Iterable[ast.AST]) -> Facts:
        return frozenset().union(*(self.facts(node) for node in nodes))

    # -- names ------------------------------------------------------------------------------------------------------

    def _name(self, node: ast.Name) -> Facts:
        bindings = self.module.lookup(node)
        if not bindings:
            origins = [*self.module.stars, "builtins"]
            return frozenset(_ref(f"{origin}.{node.id}") for origin in origins)
        return frozenset().union(*(self.bound(binding) for binding in bindings))

    def bound(self, binding: Binding) -> Facts:
        match binding.how:
            case How.IMPORT:
                return frozenset({_ref(binding.imported)})
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
            return NOTHING if pair and binding.index else frozenset().union(*map(_elements, facts))
        return facts | self.annotated(binding.annotation) if binding.annotation is not None else facts

    def _element(self, binding: Binding) -> Facts:
        iterated = binding.value
        if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) and binding.index is not None:
            if iterated.func.id == "enumerate" and binding.index == 1 and iterated.args:
                return self.each(iterated.args[0])
            if iterated.func.id == "zip" and binding.index < len(iterated.args):
                return self.each(iterated.args[binding.index])
        return NOTHING if binding.index is not None else self.each(iterated)

    def each(self, iterated: ast.AST | None) -> Facts:
        """What iterating over it gives."""
        if isinstance(iterated, ast.Call) and self.refs(iterated.func) == ["django.db.connections.all"]:
            return frozenset({Ref(CONNECTION)})
        return frozenset().union(*map(_elements, self.facts(iterated)))

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
                return frozenset({self._instance(owner)})
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
                return _many(self.annotated(inner)) if name in _COLLECTIONS else NOTHING
        return NOTHING

    def _instances(self, fact: Fact) -> Facts:
        match fact:
            case Class(node):
                return frozenset({self._instance(node)})
            case Ref() if fact.last == "QuerySet":
                return frozenset({Query()})
            case Ref() if self._is_model_ref(fact):
                return frozenset({Row()})
            case Ref(path):
                return frozenset({_ref(f"{path}()")})
        return NOTHING

    # -- attributes -------------------------------------------------------------------------------------------------

    def attribute(self, base: ast.expr, name: str) -> Facts:
        if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super":
            return self._of_super(base, name)
        facts = self.facts(base)
        if name in orm.MANAGERS and self._has_manager(base, facts):
            model = next((fact.node for fact in facts if isinstance(fact, Class | Object)), None)
            return frozenset({Query(model=model, manager=True)})
        if name == "user" and _identifier(base) == "request":
            return frozenset({Row()})
        found: Facts = frozenset().union(*(self._attribute(fact, name) for fact in facts))
        if not found and name == "connection" and _identifier(base) == "schema_editor":
            return frozenset({Ref(CONNECTION)})
        if not found and name in ("queryset", "get_queryset") and _identifier(base) == "self":
            return frozenset({Query(standard=False)}) if name == "queryset" else frozenset({Bound(Query(), "all")})
        return found

    def _attribute(self, fact: Fact, name: str) -> Facts:
        match fact:
            case Ref(path):
                # A model that is known only by its name may have managers of other names.
                if self._is_model_ref(fact) and name.islower() and name.endswith("objects"):
                    return frozenset({Query(manager=True)})
                return frozenset({_ref(f"{path}.{name}")})
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
        if name in orm.ROW_METHODS and (row.model is None or name not in _names(row.model)):
            return frozenset({Bound(row, name)})
        if row.model is not None and name in _names(row.model):
            member = self.defined(row.model, name)
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                overridden = {Bound(row, name)} if name in orm.ROW_METHODS else set()
                return frozenset({Function(member, row), *overridden})
            kind = [path.rpartition(".")[2] for path in self.refs(member.func)] if isinstance(member, ast.Call) else []
            if kind and kind[0].endswith(("Field", "field")) and not kind[0].startswith(("ManyToMany", "OneToOne")):
                return NOTHING
        return self._part(name, prefetched=row.prefetched)

    def member(self, node: ast.ClassDef, name: str, *, bound: bool, depth: int = 0) -> Facts:
        defined = self.defined(node, name)
        if isinstance(defined, ast.FunctionDef | ast.AsyncFunctionDef):
            if bound and is_property(defined):
                return self._returned(Function(defined))
            return frozenset({Function(defined)})
        if isinstance(defined, ast.expr):
            return self.facts(defined)
        stored = [value for owner in (node, None) for value in self.module.attributes.get((owner, name), ())]
        if stored and bound:
            return self._union(stored[:5])
        return self._inherited(node, name, bound=bound, depth=depth)

    def _inherited(self, node: ast.ClassDef, name: str, *, bound: bool, depth: int = 0) -> Facts:
        found: set[Fact] = set()
        for base in node.bases if depth < 10 else ():
            for fact in self.facts(base):
                if isinstance(fact, Class) and fact.node is not node:
                    found |= self.member(fact.node, name, bound=bound, depth=depth + 1)
                elif isinstance(fact, Ref):
                    found.add(_ref(f"{fact.path}{'()' if bound else ''}.{name}"))
        return frozenset(found)

    def _of_super(self, call: ast.Call, name: str) -> Facts:
        function = self.module.function_around(call)
        owner = self.module.class_of(function) if function is not None else None
        if owner is None:
            return NOTHING
        if name == "get_queryset":
            return frozenset({Bound(Query(), "all")})
        if name in orm.ROW_METHODS and self.is_model(owner):
            return frozenset({Bound(Row(owner), name)})
        return self._inherited(owner, name, bound=True)

    @staticmethod
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

    # -- models -----------------------------------------------------------------------------------------------------

    def _has_manager(self, base: ast.expr, facts: Facts) -> bool:
        """Whether its ``objects`` is a manager and not a bucket's content."""
        for fact in facts:
            match fact:
                case Class(node) | Object(node):
                    return self.is_model(node) or self._may_be_model(node)
                case Row():
                    return True
                case Ref():
                    if self._is_model_ref(fact) or _capitalised(fact.last):
                        return True
                    if not fact.path.startswith("builtins."):
                        return False
        if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "type":
            return True
        return bool(_MODEL_NAME.search(_identifier(base)) or _identifier(base) in ("cls", "__class__"))

    def _is_model_ref(self, ref: Ref) -> bool:
        if _MODEL_CALL.search(ref.path):
            return True
        module = ref.path.rpartition(".")[0].split(".")
        if not _capitalised(ref.last) or ref.path.startswith("django.db."):
            return False
        return "models" in module or (ref.last in self._asked and not ref.path.startswith("builtins."))

    def is_model(self, node: ast.ClassDef) -> bool:
        if node not in self._models:
            self._models[node] = False  # a class that derives from itself ends here
            self._models[node] = any(map(self._is_model_base, node.bases)) or self._has_fields(node)
        return self._models[node]

    def _is_model_base(self, base: ast.expr) -> bool:
        for fact in self.facts(base):
            if isinstance(fact, Class) and self.is_model(fact.node):
                return True
            if isinstance(fact, Ref) and (
                fact.path in ("django.db.models.Model", "django.contrib.gis.db.models.Model")
                or fact.last in _ABSTRACT
                or (self._is_model_ref(fact) and not fact.last.endswith(("Form", "Admin", "Serializer", "Manager")))
            ):
                return True
        return False

    def _has_fields(self, node: ast.ClassDef) -> bool:
        values = [statement.value for statement in node.body if isinstance(statement, ast.Assign)]
        calls = [value.func for value in values if isinstance(value, ast.Call)]
        return any(
            re.match(r"django\.(contrib\.gis\.)?db\.models\.(\w+Field|ForeignKey)$", path)
            for call in calls
            for path in self.refs(call)
        )

    def _may_be_model(self, node: ast.ClassDef) -> bool:
        """It derives from something unknown, and doesn't say itself that its ``objects`` is something else."""
        if not any(isinstance(fact, Ref) for base in node.bases for fact in self.facts(base)):
            return False
        own = self.defined(node, "objects")
        return own is None or isinstance(own, ast.Call)

    def _instance(self, node: ast.ClassDef) -> Row | Object:
        return Row(node) if self.is_model(node) else Object(node)

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
                return frozenset({self._instance(node)})
            case Bound():
                return orm.result(fact, call)
        return NOTHING

    def _of_imported(self, ref: Ref, call: ast.Call) -> Facts:
        first = call.args[0] if call.args else None
        if ref.path in ("importlib.import_module", "builtins.__import__"):
            text = first.value if isinstance(first, ast.Constant) else None
            return frozenset({_ref(text)}) if isinstance(text, str) else NOTHING
        if ref.path in _FIRST_ARGUMENT:
            return self.facts(first)
        if ref.path == "typing.cast":
            return self._union(call.args[1:2])
        if ref.last in ("get_object_or_404", "aget_object_or_404"):
            return frozenset({Row()})
        if ref.last in ("get_list_or_404", "aget_list_or_404"):
            return _many(frozenset({Row()}))
        if ref.path.startswith("builtins."):
            return self._of_builtin(ref.last, call)
        if ref.last in _COPIES:
            return _many(self.each(first))
        return frozenset({Row() if self._is_model_ref(ref) else _ref(f"{ref.path}()")})

    def _of_builtin(self, name: str, call: ast.Call) -> Facts:
        first = call.args[0] if call.args else None
        if name == "filter":
            return _many(self.each(call.args[1])) if len(call.args) > 1 else NOTHING
        if name in _COPIES:
            return _many(self.each(first))
        if name in ("next", "anext", "min", "max"):
            return self.each(first) if len(call.args) == 1 or name.endswith("next") else NOTHING
        if name == "getattr" and len(call.args) > 1 and first is not None and isinstance(call.args[1], ast.Constant):
            return self.attribute(first, str(call.args[1].value))
        if name == "type" and len(call.args) == 1:
            return frozenset(
                Class(fact.node if isinstance(fact, Object) else fact.model)
                for fact in self.facts(first)
                if isinstance(fact, Object) or (isinstance(fact, Row) and fact.model is not None)
            )
        return NOTHING

    def _returned(self, function: Function) -> Facts:
        node = function.node
        if isinstance(node, ast.Lambda):
            return self.facts(node.body)
        own = [each for each in self.module.nodes_of(node) if isinstance(each, ast.Return | ast.Yield)]
        facts = self._union([each.value for each in own if each.value is not None][:5])
        return _many(facts) if any(isinstance(each, ast.Yield) for each in own) and not is_manager(node) else facts

    def _subscript(self, node: ast.Subscript) -> Facts:
        found: set[Fact] = set()
        for fact in self.facts(node.value):
            match fact:
                case Query() | Many() if isinstance(node.slice, ast.Slice):
                    found.add(fact)
                case Query() | Many():
                    found |= _elements(fact)
                case Ref(path):
                    found.add(_ref(f"{path}[]"))
        return frozenset(found)


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(_identifier(each) in ("property", "cached_property") for each in node.decorator_list)


def is_manager(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(_identifier(each) in ("contextmanager", "asynccontextmanager") for each in node.decorator_list)


def _elements(fact: Fact) -> Facts:
    match fact:
        case Many(of):
            return of
        case Query() if fact.rows:
            return frozenset({Row(fact.model, fact.prefetched and not fact.related)})
    return NOTHING


def _many(of: Facts) -> Facts:
    # Many of many of many: nobody asks.
    return frozenset({Many(frozenset(fact for fact in of if not isinstance(fact, Many)))})


def _ref(path: str) -> Ref:
    if len(path) > 300:
        path = "builtins.unknown"
    return Ref(_WRAPPERS.sub(CONNECTION, path))


def _identifier(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _capitalised(name: str) -> bool:
    """As classes are written, not constants, and no call of anything."""
    return name[:1].isupper() and name.isidentifier() and not (name.isupper() and len(name) > 4)


def _names(node: ast.ClassDef) -> set[str]:
    names: set[str] = set()
    for statement in node.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names
