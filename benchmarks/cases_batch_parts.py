"""Two processes on the two halves of a run, against two processes with a loop each that was written by hand."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import replace
from functools import partial
from multiprocessing.synchronize import Barrier

from django.db import connections

from benchmarks import engines
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.cases_batches import BATCHES, HAND, POOL_SIZE, by_batches, by_hand, new_name, table
from benchmarks.engines import Engine
from benchmarks.measure import interleaved, quiet_gc

PARTS = 2
TWO_HANDS = replace(HAND, label="two keyset loops by hand, stock")
TWO_BATCHES = replace(BATCHES, label="run_batches(part=...), twice")
LOOPS = (TWO_HANDS, TWO_BATCHES)
LONGEST = 600.0
"""Seconds that one round may take."""


def split_once(rows: int) -> str:
    from benchmarks.models import Counted
    from django_dbpool.batch import split

    name = new_name()
    alias = TWO_BATCHES.alias(POOL_SIZE)
    made = split(Counted.objects.using(alias), PARTS, checkpoint=name, using=alias)
    assert made == PARTS, rows
    return name


def child(engine: Engine, part: int, rows: int, name: str, together: Barrier) -> None:
    """Leaves without cleaning up: the parent's connections are not its own."""
    failed = 1
    try:
        alias = engine.alias(POOL_SIZE)
        with engines.alone(engine, POOL_SIZE), quiet_gc():
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")  # to connect is not what is measured
            connections[alias].close() if engine is TWO_BATCHES else None
            together.wait(LONGEST)
            if engine is TWO_BATCHES:
                by_batches(alias, lambda done: None, name=name, part=part)
            else:
                bounds = (rows * part // PARTS, rows * (part + 1) // PARTS)
                by_hand(alias, lambda done: None, mark=part + 1, bounds=bounds)
            together.wait(LONGEST)
        failed = 0
    finally:
        os._exit(failed)


def run_once(rows: int, engine: Engine) -> float:
    """Rows a second."""
    name = split_once(rows) if engine is TWO_BATCHES else ""
    connections.close_all()
    context = multiprocessing.get_context("fork")
    together = context.Barrier(PARTS + 1)
    children = [context.Process(target=child, args=(engine, part, rows, name, together)) for part in range(PARTS)]
    for each in children:
        each.start()
    together.wait(LONGEST)
    start = time.perf_counter()
    together.wait(LONGEST)
    seconds = time.perf_counter() - start
    for each in children:
        each.join(LONGEST)
    return rows / seconds


def throughput(plan: Plan) -> Result:
    rows = 4 * plan.batch_rows
    with table(rows, marks=PARTS):
        for engine in LOOPS:
            run_once(rows, engine)
        values = interleaved(LOOPS, partial(run_once, rows), plan.batch_rounds)
    description = (
        f"Rows a second of {PARTS} processes, {rows} in batches of 50, each process with half of the keys; until the "
        "slower one has ended."
    )
    return Result(
        "batches-parts",
        description,
        "rows/s",
        values,
        (Comparison(TWO_HANDS, at_least=0.95, subject=TWO_BATCHES),),
        LOOPS,
    )


CASES = (Case("batches-parts", throughput),)
