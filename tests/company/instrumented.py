"""
A pytest plugin: Sentry, debug-toolbar's SQL panel and OpenTelemetry are active around every statement of every test, in
each thread. At the end it writes what they recorded and which pins they caused to the file in DBPOOL_INSTRUMENTED.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

REPORT = "DBPOOL_INSTRUMENTED"
COMMENTER = "DBPOOL_INSTRUMENTED_COMMENTER"
INSTRUMENTATIONS = {"debug_toolbar", "opentelemetry", "sentry_sdk", "wrapt"}
INSIDE = {"contextlib", "django", "django_dbpool", "psycopg", "psycopg_pool"}

TOOLBAR = "debug-toolbar reads connection.info before the statement, which there is none of after close(), on stock too"
NOT_TEXT = "debug-toolbar asks what is neither text nor bytes for as_string(), on stock too"
PARAMETERS = "Sentry calls get_connection_params() once more where nothing is connected yet, on stock too"
OTHERS = "debug-toolbar can't wrap the cursors of another package's engine"
# By the beginning of what follows the last slash in a test's id.
IMPOSSIBLE = {
    "test_api_access.py::test_no_view_opens_a_transaction": "Sentry wraps what Django asks it for",
    "test_batch.py::test_memory_does_not_grow": "what is recorded here is kept",
    "test_cursors.py::test_server_side_cursor_after_close": TOOLBAR,
    "test_leases.py::test_failed_statements_hold_nothing": NOT_TEXT,
    "test_credentials.py::test_a_password_changed_on_the_way_is_asked_for_again[unpooled]": PARAMETERS,
    "test_credentials.py::test_an_alias_without_a_pool": PARAMETERS,
    "test_credentials.py::test_never_more_than_one_more_attempt[always another answer-unpooled]": PARAMETERS,
    "test_credentials.py::test_never_more_than_one_more_attempt[the same answer-unpooled]": PARAMETERS,
    "test_migration_claims.py::test_session_state": OTHERS,
    "test_migration_claims.py::test_table_of_differences": OTHERS,
    "test_server_checks.py::test_plain_check_asks_no_server": "debug-toolbar adds system checks of its own",
    "test_watched_statements.py::": "stands in for what is active here",
}
BYTES = "OpenTelemetry's commenter sends str(b'...'), on stock too"
PROCEDURE = "OpenTelemetry's commenter adds its comment to the name of the procedure, on stock too"
EACH_TIME = "the comment differs each time"
IMPOSSIBLE_WITH_COMMENTS = {
    "test_cursors.py::test_callproc": PROCEDURE,
    "test_no_pin.py::test_connection_is_lent_on[bytes]": BYTES,
    "test_no_pin.py::test_connection_survives_its_unit_in_session_mode[bytes]": BYTES,
    "replay/test_not_again.py::test_after_a_write[callproc]": PROCEDURE,
    "test_slow_statements.py::test_every_way_to_execute": PROCEDURE,
    "test_slow_statements.py::test_hostile_sql[bytes]": BYTES,
    "replay/test_not_again.py::test_after_a_write_with_the_pool_switched_off[callproc]": PROCEDURE,
    "test_reset_always.py::test_statements_that_psycopg_prepared_stay": EACH_TIME,
    "test_prepare.py::test_a_column_of_another_type_costs_one_error": EACH_TIME,
    "test_prepare.py::test_a_query_of_the_orm_is_prepared": EACH_TIME,
    "test_prepare.py::test_inside_a_transaction_the_connection_is_replaced": EACH_TIME,
    "test_prepare.py::test_zero_prepares_at_once": EACH_TIME,
    "test_session_state.py::test_callproc": PROCEDURE,
    "test_session_variables.py::test_other_statements": PROCEDURE,
    "test_session_state.py::test_state_ends_with_the_unit_that_set_it[transaction-b'": BYTES,
    "test_session_state.py::test_state_ends_with_the_unit_that_set_it[session-b'": BYTES,
    "test_stock_parity.py::test_queries_of_failed_statements_are_logged": EACH_TIME,
    "test_stock_parity.py::test_same_calls_of_execute_wrappers[cursors": PROCEDURE,
    "test_stock_parity.py::test_same_outcome_and_same_query_log": EACH_TIME,
}

recorded: Counter[str] = Counter()
pins_of_instrumentations: Counter[str] = Counter()
spans = InMemorySpanExporter()
commenter = os.environ.get(COMMENTER) == "1"


class CountingTransport(Transport):
    """Takes events where they would be sent, and counts their spans."""

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            event = item.get_event() or item.get_transaction_event()
            for span in (event or {}).get("spans", ()):
                recorded[f"sentry: {span['op']}"] += 1


def switch_on() -> None:
    sentry_sdk.init(
        dsn="https://public@localhost/1",
        transport=CountingTransport,
        traces_sample_rate=1.0,
        default_integrations=False,
        integrations=[DjangoIntegration(db_transaction_spans=True)],
        _experiments={"max_spans": 100_000},
    )
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    PsycopgInstrumentor().instrument(tracer_provider=provider, enable_commenter=commenter)
    DjangoInstrumentor().instrument(tracer_provider=provider, is_sql_commentor_enabled=commenter)


class Panel:
    """What debug-toolbar's SQL panel is for its cursors."""

    def record(self, **kwargs: Any) -> None:
        recorded["toolbar"] += 1

    def new_transaction_id(self, alias: str) -> str:
        return "1"

    current_transaction_id = new_transaction_id


def watch_wrappers() -> None:
    """Each database wrapper that any thread makes gets the toolbar's cursors."""
    from debug_toolbar.panels.sql.tracking import wrap_cursor
    from django.db.utils import ConnectionHandler

    create = ConnectionHandler.create_connection
    panel = Panel()

    def create_connection(self: ConnectionHandler, alias: str) -> Any:
        connection = create(self, alias)
        wrap_cursor(connection)
        connection._djdt_logger = panel
        return connection

    ConnectionHandler.create_connection = create_connection  # type: ignore[method-assign]


def watch_pins() -> None:
    from django_dbpool.backends.leases import LeaseMixin

    pin = LeaseMixin._pin

    def watched(self: Any, reason: str) -> None:
        # Who wrote the access: the innermost frame that is nobody's through whom every statement goes.
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
            frame = frame.f_back
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in INSTRUMENTATIONS and "connection" in reason:
            pins_of_instrumentations[f"{package}:{frame.f_code.co_name}: {reason}"] += 1
        recorded["pins"] += 1
        pin(self, reason)

    LeaseMixin._pin = watched  # type: ignore[method-assign]


switch_on()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    watch_wrappers()
    watch_pins()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    impossible = {**IMPOSSIBLE, **(IMPOSSIBLE_WITH_COMMENTS if commenter else {})}
    for item in items:
        name = item.nodeid.rpartition("tests/integration/")[2]
        for beginning, reason in impossible.items():
            if name.startswith(beginning):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with sentry_sdk.start_transaction(name=item.name):
        yield
    recorded["opentelemetry"] += len(spans.get_finished_spans())
    spans.clear()


def pytest_sessionfinish() -> None:
    sentry_sdk.flush()
    found = {"recorded": recorded, "pins": pins_of_instrumentations}
    Path(os.environ[REPORT]).write_text(json.dumps(found), encoding="utf-8")
