"""One thread, nobody else wants a connection: what a lease adds to a statement, a request, an ORM read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import connections, transaction

from benchmarks import engines
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.engines import Engine
from benchmarks.measure import calls_within, interleaved, seconds_per_call

Operation = Callable[[], object]
POOL_SIZE = 4
ROWS = 20
ENVIRON = {"REQUEST_METHOD": "GET", "PATH_INFO": "/reports/7/"}


def statement(alias: str) -> Operation:
    connection = connections[alias]

    def run() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()

    return run


def request(alias: str) -> Operation:
    one_statement = statement(alias)

    def run() -> None:
        request_started.send(sender=WSGIHandler, environ=ENVIRON)
        one_statement()
        request_finished.send(sender=WSGIHandler)

    return run


def atomic(alias: str) -> Operation:
    one_statement = statement(alias)

    def run() -> None:
        with transaction.atomic(using=alias):
            one_statement()

    return run


def orm_list(alias: str) -> Operation:
    from benchmarks.models import Order

    orders = Order.objects.using(alias)

    def run() -> None:
        list(orders.filter(customer=7).order_by("-created_at")[:ROWS])

    return run


def orm_get(alias: str) -> Operation:
    from benchmarks.models import Order

    orders = Order.objects.using(alias)
    some_id = orders.values_list("pk", flat=True)[0]
    return lambda: orders.get(pk=some_id)


def measure(
    plan: Plan, makers: Mapping[Engine, Callable[[str], Operation]], baseline: Engine = engines.STOCK
) -> dict[Engine, list[float]]:
    """Microseconds per call, by engine and round."""
    operations = {
        engine: make_operation(engine.alias(POOL_SIZE)) for engine, make_operation in makers.items() if engine.installed
    }
    with engines.alone(baseline, POOL_SIZE):
        calls = calls_within(operations[baseline], plan.section_seconds)

    def section(engine: Engine) -> float:
        with engines.alone(engine, POOL_SIZE):
            return 1e6 * seconds_per_call(operations[engine], calls)

    return interleaved(operations, section, plan.rounds)


def case(name: str, description: str, make_operation: Callable[[str], Operation], at_most: float | None = None) -> Case:
    def run(plan: Plan) -> Result:
        values = measure(plan, dict.fromkeys(engines.ENGINES, make_operation))
        comparison = Comparison(engines.STOCK, at_most=at_most)
        return Result(name, description, "µs", values, (comparison,), engines.ENGINES)

    return Case(name, run, one_core=True)


CASES = (
    case(
        "statement",
        "`SELECT 1` and `fetchone()` in `with connection.cursor()`, in a long-lived unit (no requests).",
        statement,
        at_most=1.06,
    ),
    case(
        "request",
        "`request_started`, one statement, `request_finished`. The signals alone and not a WSGI handler "
        "call: its work would be part of every time and hide a part of the difference.",
        request,
        at_most=1.06,
    ),
    case("atomic", "One statement in `with transaction.atomic()`.", atomic, at_most=1.03),
    case(
        "orm",
        f"A list of {ROWS} model instances of 11 columns: `filter().order_by()[:{ROWS}]`.",
        orm_list,
        at_most=1.04,
    ),
    case("orm-get", "One such instance by primary key: `get(pk=...)`.", orm_get),
)
