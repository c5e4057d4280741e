"""Django's ORM by the names of its methods."""

from __future__ import annotations

import ast

from .facts import NOTHING, Bound, Facts, Many, Part, Query, Row


def _with_async(*names: str) -> frozenset[str]:
    return frozenset(names) | {f"a{name}" for name in names}


MANAGERS = frozenset({"objects", "_default_manager", "_base_manager"})
LAZY = frozenset(
    [
        "aiterator",
        "alias",
        "all",
        "annotate",
        "complex_filter",
        "dates",
        "datetimes",
        "db_manager",
        "defer",
        "difference",
        "distinct",
        "exclude",
        "extra",
        "filter",
        "intersection",
        "iterator",
        "only",
        "order_by",
        "prefetch_related",
        "raw",
        "reverse",
        "select_for_update",
        "select_related",
        "union",
        "using",
        "values",
        "values_list",
    ]
)
"""Give another queryset and ask nothing."""
STREAMING = frozenset({"iterator", "aiterator"})
ONE = _with_async("create", "earliest", "first", "get", "last", "latest")
"""Ask at once and give an instance."""
PAIR = _with_async("get_or_create", "update_or_create")
OTHERS = _with_async("aggregate", "contains", "count", "delete", "exists", "explain", "update")
BULK = _with_async("bulk_create", "bulk_update", "in_bulk")
"""One query for many rows: what a loop should do."""
EXECUTING = ONE | PAIR | OTHERS
ROW_METHODS = _with_async("delete", "refresh_from_db", "save")

_PREFETCHABLE = _with_async("all", "count", "exists", "first", "last", "contains")
"""Answered from what was prefetched."""
_PART_LAZY = LAZY - {"union", "difference", "intersection", "reverse", "extra", "dates", "values", "using"}
_PART_PLAIN = _with_async("count", "exists", "first", "last", "latest", "earliest")
_PART_NAMED = _with_async("get", "create", "get_or_create", "update_or_create", "aggregate")
_PART_ADDING = _with_async("add", "set")


def executes(bound: Bound, call: ast.Call) -> bool:
    """Whether this call asks the database, bulk operations aside."""
    match bound.of:
        case Query():
            return bound.name in EXECUTING or bound.name.startswith("create_") or bound.name == "get_by_natural_key"
        case Row():
            return bound.name in ROW_METHODS
        case Part():
            return _part_executes(bound.name, call)


def _part_executes(name: str, call: ast.Call) -> bool:
    """The attribute may be a string, a dictionary, a list, a file: ``row.data.get("x")`` asks nobody."""
    if name in _PART_PLAIN:
        return not call.args or name.endswith(("latest", "earliest"))
    if name in _PART_NAMED:
        return bool(call.keywords) and not call.args
    if name in _PART_ADDING:
        return bool(call.args)
    # A file's save() and delete() save the instance too, unless told not to.
    return name in ROW_METHODS and not any(keyword.arg == "save" for keyword in call.keywords)


def prefetchable(bound: Bound) -> bool:
    """Whether a related manager answers it without a query if it was prefetched."""
    related = isinstance(bound.of, Part) or (isinstance(bound.of, Query) and bound.of.related)
    return related and bound.name in _PREFETCHABLE


def result(bound: Bound, call: ast.Call) -> Facts:
    match bound.of:
        case Query() as query:
            return _of_query(query, bound.name)
        case Part(prefetched):
            if bound.name in _PART_LAZY and not (bound.name == "all" and call.args):
                all_of_it = bound.name == "all"
                streaming = bound.name in STREAMING
                return frozenset({Query(related=all_of_it, prefetched=prefetched and all_of_it, streaming=streaming)})
            return frozenset({Row()}) if bound.name in ONE and _part_executes(bound.name, call) else NOTHING
        case _:
            return NOTHING


def _of_query(query: Query, name: str) -> Facts:
    row = Row(query.model, query.prefetched and not query.related)
    if name in ONE:
        return frozenset({row})
    if name in PAIR or name.endswith("in_bulk"):
        return frozenset({Many(frozenset({row}))})
    if name in EXECUTING or name in BULK or name == "none" or name.startswith(("get_", "create_", "_", "clear_")):
        return NOTHING
    return frozenset(
        {
            Query(
                model=query.model,
                rows=query.rows and name not in {"values", "values_list", "dates", "datetimes"},
                prefetched=name == "prefetch_related" or (query.prefetched and (not query.related or name == "all")),
                related=query.related and name == "all",
                streaming=query.streaming or name in STREAMING,
                standard=query.standard and name in LAZY,
            )
        }
    )
