"""Whoever may write to the store may write anything: it is shown harmlessly, or left out; nothing raises."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_dbpool import reports
from django_dbpool.fleet import Process
from django_dbpool.fleet.documents import Malformed, parse
from tests.fixtures.fleets import document, fleet, holder, pool, process

VIEWS: dict[str, Callable[[reports.Fleet], Any]] = {
    "overview": reports.overview,
    "processes": reports.processes,
    "holders": reports.holders,
    "strangers": reports.strangers,
    "operations": reports.operations,
    "operations that ended": lambda fleet: reports.operations(fleet, running=False),
    "slow statements": reports.slow_statements,
    "repeated statements": reports.repeated_statements,
    "alerts": reports.alerts,
    "advice": reports.advice,
}


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts_in(key)
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)


def shown(found: reports.Fleet) -> list[Any]:
    """Everything that is made of it, as JSON values that have been through JSON."""
    values = []
    for view in VIEWS.values():
        result = view(found)
        told = [each.to_json() for each in result] if isinstance(result, tuple) else result.to_json()
        values.append(json.loads(json.dumps(told, allow_nan=False)))
    return values


HOSTILE = "\x1b[2J\r\nok\u202e\ud800<script>" * 100
SECTIONS = (
    "alerts", "alerts_over", "circuits", "load", "operations", "operations_ended", "recent", "repeated_statements",
    "server", "slow_statements",
)  # fmt: skip


def rotten(value: Any) -> dict[str, Any]:
    """A document of ours in which every part that others have a hand in is this."""
    return document(
        pools=[pool(HOSTILE, measures=value, circuit=HOSTILE), pool(measures=value)],
        holders=[holder(unit=HOSTILE, name=HOSTILE, sql=HOSTILE, pinned=HOSTILE, since_seconds=9e9, state=HOSTILE)],
        sections=dict.fromkeys(SECTIONS, value),
        series={"ago": value, "pools": {"default": {"in_use": value, "waiting": value}}},
        missed=value,
        at=value,
        left_out=value,
    )


def _said(kind: str, value: Any) -> Any:
    names = [
        "id", "name", "kind", "state", "unit", "thread", "error", "sql", "where", "rule", "severity", "alias", "text",
        "todo", "subject", "reason", "before", "after",
    ]  # fmt: skip
    numbers = [
        "seconds", "ago", "count", "failed", "running", "total", "longest", "units", "most", "at", "since", "until",
        "all_roles", "max_connections", "leases",
    ]  # fmt: skip
    row: dict[str, Any] = {**dict.fromkeys(names, value), **dict.fromkeys(numbers, 99 if kind == "texts" else value)}
    row |= {"tags": {"a": value}, "progress": row.copy(), "held": [row.copy()], "holders": [value], "held_by": value}
    return row


VALUES: dict[str, Any] = {
    "none": None,
    "text": HOSTILE,
    "number": 10**18,
    "negative": -1.5,
    "list": [HOSTILE, None, 10**400, [], {}],
    "mapping": {HOSTILE: HOSTILE, "default": HOSTILE},
    "rows of texts": [_said("texts", HOSTILE)] * 3,
    "rows of numbers": [_said("numbers", 10**400), _said("numbers", -1), _said("numbers", True)],
    "by alias": {"default": _said("texts", HOSTILE), HOSTILE: [_said("texts", HOSTILE)]},
    "lists by alias": {"default": [_said("texts", HOSTILE)] * 3},
    "deep": [[[[[[[[[[[[[[HOSTILE]]]]]]]]]]]]]],
}


@pytest.mark.parametrize("name", VALUES)
def test_no_character_of_a_hostile_document_is_shown(name: str) -> None:
    for stale in (False, True):
        found = fleet(parse(rotten(VALUES[name]), age=1.0, stale=stale), process(1))
        for text in texts_in(shown(found)):
            assert text.isprintable() or ("\n" in text and "DATABASES" in text), text  # what is to be pasted has lines
            assert len(text) < 3000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@hypothesis_settings(max_examples=60, derandomize=True, database=None)
@given(
    st.dictionaries(st.sampled_from([*document(), "series", "missed", "left_out"]), json_values, max_size=4),
    st.dictionaries(st.sampled_from(SECTIONS), json_values | st.lists(json_values, max_size=3), max_size=5),
)
def test_whatever_is_said_is_shown_or_left_out(changes: dict[str, Any], sections: dict[str, Any]) -> None:
    try:
        hostile = parse(document() | {"sections": sections} | changes)
    except Malformed:
        return
    shown(fleet(hostile, process(1)))


def test_documents_are_looked_at_when_they_are_asked_for() -> None:
    found = process(sections={"a": {"b": [HOSTILE, math.inf, {"c": 10**400}]}, "n": {}})
    assert set(found.document["sections"]) == {"a", "n"}
    assert found.document["sections"]["a"]["b"][1:] == [None, {"c": None}]
    assert found.document["sections"]["a"]["b"][0].isprintable()
    assert "sections" in found.document
    assert found.document.get("no such part") is None
    json.dumps(found.to_json(), allow_nan=False)


def test_everything_has_its_fields_as_json() -> None:
    found = fleet(process(holders=[holder()]))
    for value in shown(found):
        assert value is not None
    row = reports.holders(found).items[0]
    assert set(row.to_json()) == {field.name for field in dataclasses.fields(row)}
    database = reports.databases(found)[0]
    assert set(database.to_json()) == {field.name for field in dataclasses.fields(database)}
    assert isinstance(found.processes[0], Process)
