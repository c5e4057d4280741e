"""What is a loop by its syntax, and yet no query for each item."""

from __future__ import annotations

import ast
import itertools
import re

from ..bindings import FORS, How
from ..code import Code
from ..facts import Object, Query
from ..naming import identifier
from ..queries import Loop

_LOOPS = (*FORS, ast.While)
_LEAVING = (ast.Return, ast.Raise, ast.Break)
FEW = 5
LONG = 50
_CHUNKS = re.compile(r"(^|_)(batch|batched|batches|chunk|chunked|chunks|grouper|page|pages|page_range|slices)($|_)")
_DATABASES = re.compile(r"django\.db\.connections(\.all\(\))?|django\.conf\.settings\.DATABASES(\.\w+\(\))?")
_WRAPPING = {"enumerate", "sorted", "reversed", "list", "tuple", "set", "zip", "iter"}
_WAITING = {"_input", "accept", "getpass", "input", "notifies", "poll", "recv", "select", "sleep", "wait"}


def few_turns(code: Code, loop: Loop) -> bool:
    """Loops over a handful of literals, over databases, over batches, and those that poll."""
    if isinstance(loop, ast.While):
        return _until(code, loop) or _waits(code, loop) or _slices(code, loop)
    if isinstance(loop, FORS):
        return _few(code, loop.iter) or _batches(code, loop, loop.target, loop.iter)
    return all(_few(code, each.iter) or _batches(code, loop, each.target, each.iter) for each in loop.generators)


def _few(code: Code, node: ast.AST, depth: int = 0) -> bool:
    match node:
        case ast.List() | ast.Tuple() | ast.Set():
            return len(node.elts) <= FEW and not any(isinstance(each, ast.Starred) for each in node.elts)
        case ast.Dict():
            return len(node.keys) <= FEW and None not in node.keys
        case ast.Name() if depth < 3:
            bindings = code.module.lookup(node)
            literal = [each for each in bindings if each.how is How.VALUE and each.index is None and each.value]
            return (
                bool(bindings)
                and len(literal) == len(bindings)
                and all(_few(code, each.value, depth + 1) for each in literal if each.value is not None)
                and not _grows(code, node)
            )
        case ast.Attribute(value=ast.Name() as owner, attr=attr) if depth < 3:
            return _always_few(code, owner, attr, depth)
        case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=int() as number)]):
            return number <= FEW
        case ast.Call(
            func=ast.Name(id="range"), args=[ast.Constant(value=int() as start), ast.Constant(value=int() as stop)]
        ):
            return stop - start <= FEW
        case ast.Call(func=ast.Name(id=name), args=[_, *_]) if name in _WRAPPING:
            return any(_few(code, each, depth + 1) for each in node.args) if name == "zip" else _few(code, node.args[0])
        case ast.Call(func=ast.Attribute(value=inner, attr="items" | "values" | "keys"), args=[]):
            return _few(code, inner, depth + 1)
    return any(map(_DATABASES.fullmatch, code.inference.refs(node)))


def _always_few(code: Code, owner: ast.Name, attr: str, depth: int) -> bool:
    """``self.created``, to which its class assigns short lists and nothing else."""
    classes = [fact.node for fact in code.inference.facts(owner) if isinstance(fact, Object)]
    values = code.module.attributes.get((classes[0], attr), []) if len(classes) == 1 else []
    grows = any((each, attr) in code.module.contents for each in (*classes, None))
    return bool(values) and not grows and all(_few(code, each, depth + 1) for each in values)


def _grows(code: Code, name: ast.Name) -> bool:
    """``found = []`` and then ``found.append(...)``."""
    return name.id in code.module.grown


def _batches(code: Code, loop: Loop, target: ast.expr, iterated: ast.expr) -> bool:
    names = [each.id for each in ast.walk(target) if isinstance(each, ast.Name)]
    called = iterated.func if isinstance(iterated, ast.Call) else iterated
    names.append(
        called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    )
    if any(map(_CHUNKS.search, names)):
        return True
    return _in_steps(code, iterated)


def _in_steps(code: Code, iterated: ast.expr, depth: int = 0) -> bool:
    match iterated:
        case ast.Name() if depth < FEW:
            values = [each.value for each in code.module.lookup(iterated) if each.how is How.VALUE]
            return len(values) == 1 and isinstance(values[0], ast.expr) and _in_steps(code, values[0], depth + 1)
        case ast.Call(func=ast.Name(id="enumerate"), args=[inner, *_]) if depth < FEW:
            return _in_steps(code, inner, depth + 1)
        case ast.Call(func=ast.Name(id="range"), args=[_, _, step]):
            return not (isinstance(step, ast.Constant) and step.value in (1, -1))
        case ast.Call(func=ast.Name(id="iter"), args=[_, _]):
            return True  # iter(lambda: list(islice(...)), [])
    return False


def _slices(code: Code, loop: ast.While) -> bool:
    """``while batch := list(qs[:500])``"""
    return any(
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Slice)
        and any(isinstance(fact, Query) for fact in code.inference.facts(node.value))
        for node in code.module.nodes_in(loop.test, *loop.body)
    )


def _until(code: Code, loop: ast.While) -> bool:
    """``while user is None:``, ``while not done:``: until something succeeds, not for each of many."""
    match loop.test:
        case ast.Compare(left=ast.Name(id=name), ops=[ast.Is() | ast.Eq()], comparators=[ast.Constant()]):
            pass
        case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id=name)):
            pass
        case _:
            return False
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in code.module.nodes_in(*loop.body)
    )


def _waits(code: Code, loop: ast.While) -> bool:
    """A service that polls, a dialogue: its turns are no items."""
    return any(
        isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in _WAITING
        for node in code.module.nodes_in(loop.test, *loop.body)
    )


def excused(code: Code, node: ast.AST, loop: Loop) -> bool:
    return _last_turn(code, node, loop) or _differs(code, node, loop)


def _last_turn(code: Code, node: ast.AST, loop: Loop) -> bool:
    """Whether the loop ends after it: it is searched for, or tried again."""
    child, parents = node, code.module.parents
    around = code.module.chain(node)
    inner = [each for each in itertools.takewhile(lambda each: each is not loop, around) if isinstance(each, _LOOPS)]
    while child is not loop:
        parent = parents[child]
        if _next_one(code, parent, child, node, loop):
            return False
        block = getattr(parent, code.module.fields[child], None)
        # A break in an inner loop ends only that.
        leaves = (ast.Return, ast.Raise) if inner else _LEAVING
        if isinstance(child, ast.stmt) and isinstance(block, list):
            ends = [block[-1]]
            if isinstance(parent, ast.Try) and block is parent.body and parent.orelse:
                ends.append(parent.orelse[-1])
            if isinstance(child, ast.Return | ast.Raise) or any(isinstance(end, leaves) for end in ends):
                return True
        if inner and parent is inner[0]:
            del inner[0]
        child = parent
    return False


def _next_one(code: Code, parent: ast.AST, child: ast.AST, node: ast.AST, loop: Loop) -> bool:
    """``try: return Order.objects.get(pk=pk)``, ``except Order.DoesNotExist: continue``: then the next is asked for."""
    match parent:
        case ast.Try() if code.module.fields[child] == "body":
            goes_on = any(_not_found(each.type) and not isinstance(each.body[-1], _LEAVING) for each in parent.handlers)
        case ast.With(items=items):
            calls = [each.context_expr for each in items if isinstance(each.context_expr, ast.Call)]
            goes_on = any(
                path == "contextlib.suppress" and any(map(_not_found, call.args))
                for call in calls
                for path in code.inference.refs(call.func)
            )
        case _:
            return False
    return goes_on and _of_this_turn(code, node, loop)


def _not_found(caught: ast.expr | None) -> bool:
    # Of another error it can't be told: an attempt that failed and is repeated is no query for each item.
    if isinstance(caught, ast.Tuple):
        return any(map(_not_found, caught.elts))
    return caught is not None and identifier(caught).endswith("DoesNotExist")


def _of_this_turn(code: Code, node: ast.AST, loop: Loop) -> bool:
    """Whether it asks with something that the loop binds."""
    return any(
        loop in code.module.chain(binding.node)
        for name in ast.walk(node)
        if isinstance(name, ast.Name)
        for binding in code.module.lookup(name)
    )


def _differs(code: Code, node: ast.AST, loop: Loop) -> bool:
    """Whether each turn asks another database or another table, or for a whole batch."""
    targets = _targets(loop)
    for inner in _chain(code, node, loop):
        match inner:
            case ast.Call(func=ast.Attribute(attr="using" | "db_manager"), args=[ast.Name(id=name)]) if name in targets:
                return True
            case ast.Attribute(attr="objects" | "_default_manager" | "_base_manager", value=ast.Name(id=name)) if (
                name in targets
            ):
                return True
            case ast.Call(keywords=keywords) if any(
                (keyword.arg or "").endswith("__in")
                and isinstance(keyword.value, ast.Name)
                and keyword.value.id in targets
                for keyword in keywords
            ):
                return True
    return False


def _targets(loop: Loop) -> set[str]:
    if isinstance(loop, ast.While):
        return set()
    targets = [loop.target] if isinstance(loop, FORS) else [each.target for each in loop.generators]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _chain(code: Code, node: ast.AST, loop: Loop) -> list[ast.AST]:
    """``a.b().c`` and what it consists of; names that the loop binds are followed."""
    chain = [node]
    while len(chain) < LONG:
        match node:
            case ast.Call():
                node = node.func
            case ast.Attribute() | ast.Subscript() | ast.Await():
                node = node.value
            case ast.Name():
                values = [each.value for each in code.module.lookup(node) if each.how is How.VALUE]
                if len(values) != 1 or values[0] is None or loop not in code.module.chain(values[0]):
                    break
                node = values[0]
            case _:
                break
        chain.append(node)
    return chain
