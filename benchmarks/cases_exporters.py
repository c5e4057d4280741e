"""The cases of one thread again, with every exporter on."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import exporters
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.cases_single import Operation, atomic, measure, request, statement
from benchmarks.engines import CONTROL, OURS, STOCK

ENGINES = (STOCK, CONTROL, OURS)


def case(name: str, what: str, make_operation: Callable[[str], Operation], at_most: float) -> Case:
    def run(plan: Plan) -> Result:
        with exporters.all_on() as switched_on:
            values = measure(plan, dict.fromkeys(ENGINES, make_operation))
        told = ", ".join(switched_on) or "none installed"
        description = f"{what} with every exporter on ({told}), asked every {exporters.SCRAPE:g} s."
        return Result(name, description, "µs", values, (Comparison(STOCK, at_most=at_most),), ENGINES)

    return Case(name, run, one_core=True)


CASES = (
    case("statement-exported", "The case `statement`", statement, at_most=1.10),
    case("request-exported", "The case `request`", request, at_most=1.10),
    case("atomic-exported", "The case `atomic`", atomic, at_most=1.05),
)
