"""What stays with a connection between leases: prepared statements and session variables."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from benchmarks import engines
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.cases_single import Operation, measure, orm_get, statement
from benchmarks.engines import BINDING_ENGINES, OURS, OURS_BINDING, Engine

SIZE = 20


def fill() -> None:
    """A few rows: planning should be most of the work."""
    from benchmarks.models import Category, Customer, Line, Product, Region, Sale

    regions = Region.objects.bulk_create(Region(name=f"region {n}") for n in range(3))
    customers = Customer.objects.bulk_create(Customer(name=f"c{n}", region=regions[n % 3]) for n in range(SIZE))
    categories = Category.objects.bulk_create(Category(name=f"category {n}") for n in range(3))
    products = Product.objects.bulk_create(Product(name=f"p{n}", category=categories[n % 3]) for n in range(SIZE))
    sales = Sale.objects.bulk_create(Sale(customer=customers[n]) for n in range(SIZE))
    Line.objects.bulk_create(Line(sale=sales[n], product=products[n], quantity=n) for n in range(SIZE))


def joined(alias: str) -> Operation:
    from benchmarks.models import Line

    lines = Line.objects.using(alias).select_related("product__category", "sale__customer__region")

    def run() -> None:
        list(
            lines.filter(sale__customer__name="c7", product__category__name="category 1", quantity__gt=3)
            .exclude(sale__customer__region__name="nowhere")
            .order_by("-pk")[:5]
        )

    return run


def compared(
    name: str, description: str, makers: Mapping[Engine, Callable[[str], Operation]], baseline: Engine
) -> Case:
    def run(plan: Plan) -> Result:
        values = measure(plan, makers, baseline)
        return Result(name, description, "µs", values, (Comparison(baseline),), tuple(makers))

    return Case(name, run, one_core=True)


# -- session variables ---------------------------------------------------------------------------------------------

SAME = replace(OURS, label="the same value each time")
CHANGING = replace(OURS, label="another value each time")


def with_variable(values: Callable[[], int]) -> Callable[[str], Operation]:
    """One statement under ``app.tenant``: a round trip more only where the connection's value is another."""

    def make(alias: str) -> Operation:
        from django_dbpool import transaction

        session: Any = transaction.session
        one_statement = statement(alias)

        def run() -> None:
            with session(using=alias, **{"app.tenant": values()}):
                one_statement()

        return run

    return make


def variables_can_be_declared() -> bool:
    if importlib.util.find_spec("django_dbpool") is None:
        return False
    from django_dbpool import transaction

    return hasattr(transaction, "session")


CASES: tuple[Case, ...] = (
    compared(
        "prepared-joins",
        "Six tables joined, at most five rows: `select_related()` over four of the joins. `server_side_binding` "
        "everywhere; prepared after 2 executions, at most 10.",
        dict.fromkeys(BINDING_ENGINES, joined),
        OURS_BINDING,
    ),
    compared(
        "prepared-get",
        "`get(pk=...)` of a model with 11 columns, which is planned quickly.",
        dict.fromkeys(BINDING_ENGINES, orm_get),
        OURS_BINDING,
    ),
)
if variables_can_be_declared():
    CASES += (
        compared(
            "session-variable",
            'One statement in `with transaction.session(**{"app.tenant": value})`.',
            {
                engines.OURS: statement,
                SAME: with_variable(lambda: 7),
                CHANGING: with_variable(count().__next__),
            },
            engines.OURS,
        ),
    )
