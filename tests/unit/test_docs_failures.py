"""docs/failures.md is held to the code."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory, override_settings

from django_dbpool.core import sqlstate
from django_dbpool.core.errors import Refusal
from django_dbpool.errors import PoolExhausted
from django_dbpool.middleware import DatabasePoolMiddleware
from django_dbpool.middleware.failures import answer, failure

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/failures.md").read_text()
REFUSAL = Refusal("main", waited=2.0, in_use=4, max_size=4, waiting=7)
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]


def respond(accept: str) -> HttpResponse:
    request = RequestFactory().get("/", headers={"Accept": accept})
    response = DatabasePoolMiddleware(lambda r: HttpResponse()).process_exception(request, PoolExhausted(REFUSAL))
    assert response is not None
    return response


def test_kinds_with_their_codes_and_levels() -> None:
    documented = {row[0].strip(" `"): row for row in ROWS if len(row) == 3}
    kinds = {kind.slug: kind for kind in vars(failure).values() if isinstance(kind, failure.Kind)}
    assert set(documented) == set(kinds)
    codes = {code: slug for slug, row in documented.items() for code in re.findall(r"\b[0-9][0-9A-Z]{4}\b", row[1])}
    assert codes.pop("08P01") == "interrupted"  # "class 08 but"
    for code, slug in codes.items():
        found = failure._kind_of_code(code)
        assert found is not None
        assert found.slug == slug
    every = sqlstate._TRANSIENT | sqlstate.SERVER_TIMEOUT.keys() | sqlstate.QUERY_CANCELED
    assert set(codes) == every | sqlstate.LOCK_NOT_AVAILABLE | sqlstate.READ_ONLY
    for slug, row in documented.items():
        if slug != "unavailable":  # of which there are two
            assert row[2].split(";")[0].strip() == logging.getLevelName(kinds[slug].level)


def test_sample_of_the_problem() -> None:
    sample = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])  # type: ignore[index]
    problem = json.loads(respond("application/json").content)
    assert list(problem) == list(sample)
    fixed = ("type", "title", "status", "detail", "maybe_committed")
    assert {key: problem[key] for key in fixed} == {key: sample[key] for key in fixed}


def test_variables_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[dict[str, Any]] = []

    def page(context: dict[str, Any]) -> tuple[str, bool]:
        contexts.append(context)
        return "", False

    monkeypatch.setattr(answer, "_page", page)
    respond("text/html")
    documented = [name for row in ROWS if len(row) == 2 for name in re.findall(r"`(\w+)`", row[0])]
    assert documented == list(contexts[0])


def test_attributes_of_the_record(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(TEMPLATES=[]):
        respond("text/html")
    (record,) = [record for record in caplog.records if record.name == "django_dbpool.request"]
    added = set(vars(record)) - set(vars(logging.makeLogRecord({}))) - {"message", "asctime"}
    paragraph = PAGE[PAGE.index("as attributes of the record") : PAGE.index("`severity` is")]
    assert set(re.findall(r"`(\w+)`", paragraph)) == added
