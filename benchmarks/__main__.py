"""Run the cases and report: `python -m benchmarks [--quick] [--only NAME] [--rounds N]`."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from django.db import connection

from benchmarks import (
    cases_batch_pages,
    cases_batch_parts,
    cases_batches,
    cases_exporters,
    cases_footprint,
    cases_session,
    cases_single,
    cases_threads,
    engines,
    placement,
    report,
)
from benchmarks.case import Case, Plan
from testproject.postgres import Server

if TYPE_CHECKING:
    from benchmarks.models import Order

CASES: tuple[Case, ...] = (
    *cases_single.CASES,
    *cases_exporters.CASES,
    *cases_session.CASES,
    *cases_threads.CASES,
    *cases_footprint.CASES,
    *cases_batches.CASES,
    *cases_batch_parts.CASES,
    *cases_batch_pages.CASES,
)
REPORT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
CUSTOMERS = 100
# 64 persistent connections at once, and every engine's pools of 4 and of 8 kept open to the end.
CONNECTIONS_NEEDED = 240


def main() -> int:
    arguments = parse_arguments()
    plan = Plan.quick() if arguments.quick else Plan()
    if arguments.rounds:
        plan = replace(
            plan,
            rounds=arguments.rounds,
            load_rounds=arguments.rounds,
            footprint_rounds=arguments.rounds,
            batch_rounds=arguments.rounds,
            page_rounds=arguments.rounds,
        )
    chosen = [case for case in CASES if case.name in arguments.only] if arguments.only else list(CASES)
    load_before = os.getloadavg()
    with Server.from_env_or_embedded({"max_connections": str(CONNECTIONS_NEEDED)}) as server:
        engines.configure(server)
        cases_footprint.use_server(server)
        results = []
        create_table()
        gc.collect()
        gc.freeze()  # the collection before each section then has little to look at
        try:
            for case in chosen:
                print(case.name, file=sys.stderr)
                pinned = case.one_core and not arguments.free and placement.possible(server)
                with placement.one_core(server) if pinned else nullcontext():
                    results.append(replace(case.run(plan), one_core=pinned))
            text = report.render(results, load_before)
        finally:
            drop_table()
            engines.close_all()
    print(text)
    # A part of the cases, or a smoke run, must not replace the figures of a full run.
    output = arguments.output or (None if arguments.quick or arguments.only else REPORT)
    if output:
        output.write_text(text)
    return int(arguments.strict and report.missed(results))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds")
    names = [case.name for case in CASES]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help="rounds per case (default 51 alone, 31 under load)")
    parser.add_argument("--output", type=Path, help=f"where to write (default {REPORT.name}, full runs only)")
    parser.add_argument("--free", action="store_true", help="let client and server use any core in every case")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is not met")
    return parser.parse_args()


def create_table() -> None:
    from benchmarks.models import ALL, Order

    with connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        allowed = int(cursor.fetchone()[0])
    if allowed < CONNECTIONS_NEEDED:
        raise SystemExit(f"The server allows {allowed} connections, the benchmarks need {CONNECTIONS_NEEDED}.")
    with connection.schema_editor() as editor:
        for model in ALL:
            editor.create_model(model)
    cases_session.fill()
    for customer in range(CUSTOMERS):
        Order.objects.bulk_create(sample_order(customer, number) for number in range(cases_single.ROWS))


def sample_order(customer: int, number: int) -> Order:
    from benchmarks.models import Order

    return Order(
        customer=customer,
        reference=f"R{customer:04}-{number:03}",
        status=("new", "paid", "sent")[number % 3],
        title=f"Order {number} of customer {customer}",
        notes="Deliver to the back door, please. " * 4,
        quantity=number,
        amount=Decimal(number) + Decimal("0.99"),
        paid=number % 3 > 0,
        due_on=date(2026, 1, 1) + timedelta(days=number),
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=customer, minutes=number),
    )


def drop_table() -> None:
    from benchmarks.models import ALL

    with connection.schema_editor() as editor:
        for model in reversed(ALL):
            editor.delete_model(model)


if __name__ == "__main__":
    raise SystemExit(main())
