"""DBP201: threads that use the database and leave their connections open."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ..calls import Reach
from ..code import Code, Problem
from ..facts import Class, Facts, Function, Object, Query, Ref
from ..naming import CONNECTION, identifier, is_manager
from ..queries import Hit
from ..text import spelled, way

FIX = (
    "Start it with django_dbpool.threads.spawn() or in that module's ThreadPoolExecutor, or close them where its work "
    "ends: try: ... finally: django.db.connections.close_all()."
)

_TARGETS = (
    # What starts the work; the argument's position and its name.
    (re.compile(r"threading\.Thread"), 1, "target"),
    (re.compile(r"threading\.Timer"), 1, "function"),
    (re.compile(r"_thread\.start_new_thread"), 0, "function"),
    (re.compile(r"concurrent\.futures\.(thread\.)?ThreadPoolExecutor\(\)\.(submit|map)"), 0, "fn"),
    (
        re.compile(
            r"multiprocessing\.(pool\.ThreadPool|dummy\.Pool)\(\)\."
            r"(apply|apply_async|imap|imap_unordered|map|map_async|starmap|starmap_async)"
        ),
        0,
        "func",
    ),
    (re.compile(r"asyncio\.(threads\.)?to_thread"), 0, "func"),
    (re.compile(r"anyio\.to_thread\.run_sync"), 0, "func"),
)
_CLOSING = re.compile(
    rf"{re.escape(CONNECTION)}\.(close|close_if_unusable_or_obsolete)"
    r"|django\.db\.(connections\.close_all|close_old_connections|utils\.connections\.close_all)"
    r"|django_dbpool\.threads\.\w+"
)
# Of helpers from elsewhere the name is all that can be seen.
_SOUNDS_CLOSING = re.compile(r"(^|_)clos(e|es|ed|ing)_.*(connection|db|database)", re.IGNORECASE)
_MANAGED = "django_dbpool.threads."
"""What is started there gives its connections back."""
_THREADS = ("threading.Thread", "threading.Timer")


def check(code: Code) -> Iterator[Problem]:
    closing = Closing(code)

    def use(function: Function) -> Hit | None:
        return next(filter(None, map(code.queries.use, code.module.nodes_of(function.node))), None)

    using = Reach(code.calls, use, lambda each: not closing.closes(each))
    for call in code.all_calls:
        target = _target(code, call)
        if target is not None:
            found = _use(code, using, target, call)
            if found is not None:
                yield Problem(call, f"{spelled(call)} runs {found} in a thread that leaves its connections open", FIX)
    for node in code.module.classes:
        if _is_thread(code, node):
            run = [Function(each) for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "run"]
            found = _in_functions(using, run)
            if found is not None:
                yield Problem(node, f"thread {node.name} uses the database in {found} and leaves it connected", FIX)


def _target(code: Code, call: ast.Call) -> ast.expr | None:
    """What the call runs in a thread."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "run_in_executor" and len(call.args) > 1:
        elsewhere = any("ProcessPool" in path or path.startswith(_MANAGED) for path in _paths(code, call.args[0]))
        return None if elsewhere else call.args[1]
    paths = _paths(code, call.func)
    for pattern, position, keyword in _TARGETS:
        if any(pattern.fullmatch(path) for path in paths):
            named = [each.value for each in call.keywords if each.arg == keyword]
            return named[0] if named else call.args[position] if len(call.args) > position else None
    return None


def _paths(code: Code, expression: ast.expr) -> list[str]:
    """What it may be, or is derived from."""
    return code.inference.refs(expression) + [
        path
        for fact in code.inference.facts(expression)
        if isinstance(fact, (Class, Object))
        for base in fact.node.bases
        for path in code.inference.refs(base)
    ]


def _use(code: Code, using: Reach[Hit], target: ast.expr, call: ast.Call) -> str | None:
    """How the target uses the database."""
    facts = code.inference.facts(target)
    if any(code.queries.uses(fact) for fact in facts):
        return f"{spelled(target)}()"
    if any(isinstance(fact, Ref) and fact.path.startswith("builtins.") for fact in facts):
        evaluated = any(
            isinstance(fact, Query) and not fact.manager for arg in call.args for fact in code.inference.facts(arg)
        )
        return f"{spelled(target)}() of a queryset" if evaluated else None
    functions = [fact for fact in facts if isinstance(fact, Function)]
    if any(isinstance(fact, Ref) and fact.path == "asyncio.run" for fact in facts):
        given = [node for argument in [*call.args, *call.keywords] for node in ast.walk(argument)]
        functions = [each for node in given for each in code.calls.callees(node)]
    return _in_functions(using, functions)


def _in_functions(using: Reach[Hit], functions: list[Function]) -> str | None:
    found = next(filter(None, map(using.of, functions)), None)
    if found is None:
        return None
    hit, steps = found
    return f"{way(steps)}, which uses the database ({hit.text}, line {hit.node.lineno})"


def _is_thread(code: Code, node: ast.ClassDef, depth: int = 0) -> bool:
    for fact in [fact for base in node.bases for fact in code.inference.facts(base)]:
        if isinstance(fact, Ref) and fact.path in _THREADS:
            return True
        if isinstance(fact, Class) and fact.node is not node and depth < 10 and _is_thread(code, fact.node, depth + 1):
            return True
    return False


class Closing:
    """Which functions close the connections of their thread, whatever happens."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self._known: dict[ast.AST, bool] = {}

    def closes(self, function: Function) -> bool:
        node = function.node
        if node not in self._known:
            self._known[node] = False  # for functions that call themselves
            self._known[node] = any(map(self._covers, self.code.module.nodes_of(node))) or self._decorated(function)
        return self._known[node]

    def _covers(self, node: ast.AST) -> bool:
        match node:
            case ast.Try() | ast.TryStar() if node.finalbody:
                return any(map(self._call_closes, self.code.module.nodes_in(*node.finalbody)))
            case ast.With() | ast.AsyncWith():
                return any(self._entered_closes(item.context_expr) for item in node.items)
            case ast.Call(func=ast.Attribute(attr="callback" | "push"), args=[first, *_]):
                return self._is_closing(self.code.inference.facts(first))
        return False

    def _call_closes(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        return self._is_closing(self.code.inference.facts(node.func)) or any(
            self._call_closes(inner)
            for function in self.code.calls.callees(node)
            if not self._known.setdefault(function.node, False)
            for inner in self.code.module.nodes_of(function.node)
            if isinstance(inner, ast.Call) and self._is_closing(self.code.inference.facts(inner.func))
        )

    def _is_closing(self, facts: Facts) -> bool:
        return any(isinstance(fact, Ref) and _CLOSING.fullmatch(fact.path) for fact in facts)

    def _entered_closes(self, entered: ast.expr) -> bool:
        """``closing(connection)``, or a context manager of this module."""
        if isinstance(entered, ast.Call) and any(
            path == "contextlib.closing" for path in self.code.inference.refs(entered.func)
        ):
            return CONNECTION in self.code.inference.refs(entered)
        if isinstance(entered, ast.Call) and _SOUNDS_CLOSING.search(identifier(entered.func)):
            return True
        return any(
            not isinstance(each.node, ast.Lambda) and is_manager(each.node) and self.closes(each)
            for each in self.code.calls.callees(entered)
        )

    def _decorated(self, function: Function) -> bool:
        """By a function of this module within which connections are closed, or as a method of it."""
        if isinstance(function.node, ast.Lambda):
            return False
        for decorator in function.node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            facts = self.code.inference.facts(called)
            if (
                _SOUNDS_CLOSING.search(identifier(called))
                or self._is_closing(facts)
                or any(
                    self._covers(inner) for fact in facts if isinstance(fact, Function) for inner in ast.walk(fact.node)
                )
            ):
                return True
        return False
