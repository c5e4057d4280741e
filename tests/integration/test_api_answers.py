"""What the endpoints answer: what the OpenAPI document says, and harmless whatever things are called."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from django.db import connections
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from tests.fixtures.api import DOCUMENT, LET_IN, POOL, ROLES, body, client_of, hostile, publish, site

pytestmark = pytest.mark.django_db(databases=["default", "other"])

LISTS = (
    "pools", "processes", "holders", "operations", "batches", "batches/failures", "statements/slow",
    "statements/repeated", "alerts", "advice", "metrics", "openapi.json",
)  # fmt: skip
PROBES = ("health/live", "health/ready")


@pytest.fixture(autouse=True)
def endpoints() -> Iterator[None]:
    with site():
        yield


@pytest.fixture
def get() -> Callable[..., Any]:
    client = client_of("token")
    return lambda path, **parameters: client.get(f"/dbpool/{path}", parameters)


def strict(schema: Any) -> Any:
    """The same, in which nothing may be left unsaid: clients are promised no more than the document has."""
    if isinstance(schema, dict):
        made = {key: strict(each) for key, each in schema.items()}
        return {**made, "additionalProperties": False} if isinstance(schema.get("properties"), dict) else made
    return [strict(each) for each in schema] if isinstance(schema, list) else schema


class Contract:
    """What the document says of each response."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._components = strict(document["components"])
        self._validators: dict[tuple[str, int, str], Any] = {}

    def check(self, path: str, response: Any) -> None:
        key = path, response.status_code, response["Content-Type"].partition(";")[0]
        if key not in self._validators:
            told = self.document["paths"][f"/{path}"]["get"]["responses"][str(key[1])]
            schema = {**strict(told["content"][key[2]]["schema"]), "components": self._components}
            self._validators[key] = jsonschema.Draft202012Validator(schema)
        self._validators[key].validate(body(response))


@pytest.fixture
def contract(get: Callable[..., Any]) -> Contract:
    return Contract(body(get("openapi.json")))


def test_the_document_is_valid_and_names_every_endpoint(contract: Contract) -> None:
    document = contract.document
    validate(document)
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "/dbpool"}]
    assert sorted(document["paths"]) == sorted(f"/{path}" for path in (*LISTS, *PROBES))
    operations = [each["get"] for each in document["paths"].values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    database = document["components"]["schemas"]["Database"]["properties"]
    wanted = "active idle total max utilization_percent response_time_ms recent_activity is_pooler is_shutting_down"
    assert set(wanted.split()) <= set(database)
    assert database["max"] == {"type": "integer", "description": "The limit, without the reserve."}
    assert document["paths"]["/holders"]["get"]["parameters"][0]["schema"]["maximum"] == 100_000


def test_it_says_where_it_was_asked_for() -> None:
    """Within a project's own namespace, too."""
    response = client_of("token").get("/ops/pöols/openapi.json")
    assert response.status_code == 200
    assert body(response)["servers"] == [{"url": "/ops/p%C3%B6ols"}]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("filled", [True, False], ids=["filled", "empty"])
def test_every_answer_is_as_documented(role: str, filled: bool, contract: Contract) -> None:
    if filled:
        publish()
        publish("b" * 16, age=300.0, host="web-2", role="worker", state="idle")
    client = client_of(role)
    for path in (*LISTS, *PROBES):
        contract.check(path, client.get(f"/dbpool/{path}"))
        if role in LET_IN and path not in PROBES:
            contract.check(path, response := client.get(f"/dbpool/{path}?nonsense=1&page=0"))
            assert response.status_code == 400
    if role in LET_IN:
        for path in ("holders?servers=true", "pools?servers=true", "operations?running=false", "alerts?state=over"):
            contract.check(path.partition("?")[0], response := client.get(f"/dbpool/{path}"))
            assert response.status_code == 200


def test_figures_are_those_that_were_published(get: Callable[..., Any]) -> None:
    publish()
    publish("b" * 16, host="web-2", holders=[], sections={})
    pools = body(get("pools"))
    (database,) = pools["databases"]
    told = {key: database[key] for key in ("alias", "active", "idle", "total", "max", "waiting", "utilization_percent")}
    assert told == {
        "alias": "default", "active": 4, "idle": 2, "total": 6, "max": 8, "waiting": 2, "utilization_percent": 50.0,
    }  # fmt: skip
    assert (pools["source"], pools["processes"], pools["healthy"]) == ("fleet", 2, False)
    assert [each["name"] for each in body(get("processes"))["items"]] == ["web-1:7", "web-2:7"]
    (holder,) = body(get("holders"))["items"]
    assert (holder["who"], holder["backend_pid"], holder["sql"]) == ("GET /a/<int:pk>/", 11, "SELECT %s")
    assert holder["held"] >= 63.5
    assert body(get("holders"))["left_out"] == 4
    (operation,) = body(get("operations"))["items"]
    assert (operation["name"], operation["percent"]) == ("import", 30.0)
    assert body(get("statements/slow"))["items"][0]["count"] == 3
    assert body(get("statements/repeated"))["items"][0]["most"] == 120
    assert [each["active"] for each in body(get("alerts"))["items"]] == [True, False]
    counted = body(get("metrics"))["items"]
    assert [(each["process"], each["leases"], each["timeouts"]) for each in counted] == [
        ("web-1:7", 40, 3),
        ("web-2:7", 40, 3),
    ]
    assert counted[0]["wait"]["count"] == len(counted[0]["wait"]["counts"]) == len(counted[0]["wait"]["bounds"]) + 1
    assert body(get("advice"))["items"]


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("processes?role=web", 1),
        ("processes?role=worker", 1),
        ("processes?state=idle", 1),
        ("processes?q=web-2", 1),
        ("processes?q=web-2%20web-1", 0),
        ("holders?alias=default", 2),
        ("holders?alias=other", 0),
        ("holders?process=web-1:7", 1),
        ("holders?process=bbbbbbbbbbbbbbbb", 1),
        ("holders?state=pinned", 2),
        ("holders?state=running", 0),
        ("holders?q=SELECT", 2),
        ("operations?kind=operation", 2),
        ("operations?kind=task", 0),
        ("operations?running=false", 2),
        ("statements/slow?q=pg_sleep", 1),
        ("statements/slow?alias=other", 0),
        ("alerts?severity=critical", 2),
        ("alerts?state=over", 2),
        ("alerts?state=over&severity=critical", 0),
    ],
)
def test_lists_are_filtered(path: str, number: int, get: Callable[..., Any]) -> None:
    publish()
    publish("b" * 16, host="web-2", role="worker", state="idle")
    found = body(get(path))
    assert (found["total"], len(found["items"])) == (number, number)


def test_lists_come_in_hundreds(get: Callable[..., Any]) -> None:
    for number in range(5):
        holders = [{**DOCUMENT["holders"][0], "backend_pid": pid, "generation": number} for pid in range(50)]
        publish(f"{number:016}", host=f"web-{number}", holders=holders)
    pages = [body(get("holders", page=page)) for page in (1, 2, 3, 99)]
    assert [(each["page"], each["pages"], each["total"], len(each["items"])) for each in pages] == [
        (1, 3, 250, 100),
        (2, 3, 250, 100),
        (3, 3, 250, 50),
        (3, 3, 250, 50),
    ]
    assert len({item["key"] for each in pages[:3] for item in each["items"]}) == 250


def test_a_list_is_one_query_however_long(get: Callable[..., Any]) -> None:
    for number in range(20):
        publish(f"{number:016}", host=f"web-{number}")
    for path in LISTS[:-1]:
        if path.startswith("batches"):
            continue  # databases are asked for these
        with CaptureQueriesContext(connections["default"]) as queries:
            assert get(path).status_code == 200
        asked = [each["sql"] for each in queries if not each["sql"].startswith(("SAVEPOINT", "RELEASE"))]
        assert len(asked) == 1, (path, asked)


@pytest.mark.parametrize(
    ("query", "parameter", "said"),
    [
        ("pag=2", "pag", "unknown here; known: page, q, role, state"),
        ("page=0", "page", "whole number from 1"),
        ("page=-1", "page", "whole number"),
        ("page=1.0", "page", "whole number"),
        ("page=%D9%A1", "page", "whole number"),
        ("page=+1", "page", "whole number"),
        ("page=1_0", "page", "whole number"),
        ("page=" + "9" * 5000, "page", "whole number"),
        ("page=", "page", "whole number"),
        ("page=1&page=2", "page", "more than once"),
        ("role=chef", "role", "none of web, worker, command, process"),
        ("role=web&role=web", "role", "more than once"),
        ("q=" + "a" * 201, "q", "longer than 200"),
        ("<script>=1", "<script>", "unknown"),
    ],
    ids=lambda value: value[:20],
)
def test_parameters_that_cant_be_used(query: str, parameter: str, said: str, get: Callable[..., Any]) -> None:
    response = get(f"processes?{query}")
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert said in body(response)["errors"][parameter]


def test_flags_are_true_or_false(get: Callable[..., Any]) -> None:
    for value in ("1", "True", "yes", ""):
        assert "neither true nor false" in body(get("holders", servers=value))["errors"]["servers"]


HOSTILE = (
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "</script></style></textarea>",
    "{{ 7|add:7 }}{% debug %}",
    "a\nERROR forged 2026\r\n\x1b[2J\u202e\u2028\0\x7f",
    "\ud800 & &amp; ' \" `",
    "javascript:alert(1)",
    "x" * 100_000,
)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_whatever_things_are_called(text: str, get: Callable[..., Any], contract: Contract) -> None:
    """Routes, tasks, threads, statements, hosts: visitors and whoever may write to the store have a hand in them."""
    publish(**hostile(text))
    for path in LISTS[:-1]:
        response = get(path)
        contract.check(path, response)
        assert response["Content-Type"] == "application/json"
        assert response.content.isascii()
        judge(body(response))
        assert len(response.content) < 100_000


def judge(value: Any) -> None:
    """Every string is one line, of some length."""
    if isinstance(value, str):
        assert value.isprintable() or (value.replace("\n", "").isprintable() and "POOL" in value), value
        assert len(value) < 2500
    elif isinstance(value, dict):
        for key, each in value.items():
            judge(key)
            judge(each)
    elif isinstance(value, list):
        for each in value:
            judge(each)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PLACES = [
    ("pools", 0, "measures"), ("pools", 0, "measures", "wait"), ("pools", 0, "measures", "refused"), ("pools", 0),
    ("pools", 0, "measures", "leases"), ("pools", 0, "measures", "use", "counts"), ("holders", 0), ("series",),
    ("missed",), ("sections",), ("sections", "operations", 0), ("sections", "operations", 0, "progress"),
    ("sections", "slow_statements", 0, "total"), ("sections", "alerts", 0, "since"), ("sections", "server"),
    ("sections", "alerts", 0, "severity"), ("sections", "circuits", "default", 0), ("left_out",),
    ("pools", 0, "circuit"),
]  # fmt: skip


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(place=st.sampled_from(PLACES), value=json_values)
def test_whatever_is_written_to_the_store_is_answered_as_documented(
    place: tuple[Any, ...], value: Any, get: Callable[..., Any], contract: Contract
) -> None:
    changed = copy.deepcopy(DOCUMENT)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with connections["default"].cursor() as cursor:
        cursor.execute("DELETE FROM django_dbpool_process")
    publish(**changed)
    for path in LISTS[:-1]:
        response = get(path)
        assert response.status_code == 200, (path, response.content)
        contract.check(path, response)


@pytest.mark.parametrize(
    ("accept", "exported"),
    [
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
        ("application/vnd.google.protobuf;proto=x;q=0.7,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
        ("text/plain", True),
        ("application/json", False),
        ("application/json, text/plain;q=0.5", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_prometheus_gets_its_own_format_where_the_app_is_installed(
    accept: str, exported: bool, get: Callable[..., Any]
) -> None:
    from django.conf import settings as project

    client = client_of("token")
    publish()
    assert client.get("/dbpool/metrics", HTTP_ACCEPT=accept)["Content-Type"] == "application/json"
    with override_settings(INSTALLED_APPS=[*project.INSTALLED_APPS, "django_dbpool.contrib.prometheus"]):
        response = client.get("/dbpool/metrics", HTTP_ACCEPT=accept)
    assert (b"# TYPE" in response.content) is exported
    assert "no-store" in response["Cache-Control"]
    if exported:
        assert client_of("wrong token").get("/dbpool/metrics", headers={"Accept": accept}).status_code == 401
    else:
        assert body(response)["items"][0]["leases"] == 40


def test_a_store_that_cant_be_read_is_a_remark(get: Callable[..., Any], contract: Contract) -> None:
    with site(FLEET=None):
        for path in LISTS[:-1]:
            response = get(path)
            contract.check(path, response)
            assert response.status_code == 200
        found = body(get("pools"))
    assert (found["source"], found["processes"]) == ("process", 1)
    assert "Nothing is published" in found["remarks"][0]


def test_answers_are_json_that_every_reader_takes(get: Callable[..., Any]) -> None:
    publish(pools=[{**POOL, "in_use": 10**400}], at=1e308)
    for path in LISTS[:-1]:
        text = get(path).content.decode()
        json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
