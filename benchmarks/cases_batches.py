"""Batches against a loop that somebody has written with care: the same statements, in the same transactions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

from django.db import connections, transaction
from django.db.models import F

from benchmarks import engines
from benchmarks.case import Case, Comparison, Plan, Result
from benchmarks.engines import OURS, STOCK, Engine
from benchmarks.footprint import resident
from benchmarks.measure import interleaved, quiet_gc

POOL_SIZE = 4
SIZE = 50
HAND = replace(STOCK, label="keyset loop by hand, stock")
HAND_POOLED = replace(OURS, label="keyset loop by hand, pooled")
BATCHES = replace(OURS, label="run_batches(checkpoint=...)")
LOOPS = (HAND, HAND_POOLED, BATCHES)

_numbers = count(1)


@contextmanager
def table(rows: int) -> Iterator[None]:
    from benchmarks.models import Counted, Mark
    from django_dbpool.models import BatchCheckpoint, BatchFailure, BatchRun

    models = (Counted, Mark, BatchRun, BatchCheckpoint, BatchFailure)
    connection = connections["default"]
    with connection.schema_editor() as editor:
        for model in models:
            editor.create_model(model)
    try:
        with connection.cursor() as cursor:
            name = connection.ops.quote_name(Counted._meta.db_table)
            cursor.execute(f"INSERT INTO {name} (n) SELECT 0 FROM generate_series(1, %s)", [rows])
            cursor.execute(f"VACUUM ANALYZE {name}")
        Mark.objects.create(pk=1, last=0)
        yield
    finally:
        with connection.schema_editor() as editor:
            for model in reversed(models):
                editor.delete_model(model)


def by_hand(alias: str, each: Callable[[int], None]) -> None:
    from benchmarks.models import Counted, Mark

    rows = Counted.objects.using(alias)
    upper = rows.order_by("-pk").values_list("pk", flat=True)[0]
    last = done = 0
    while True:
        with transaction.atomic(using=alias):
            items = list(rows.filter(pk__gt=last, pk__lte=upper).order_by("pk")[:SIZE])
            if not items:
                return
            rows.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)
            Mark.objects.using(alias).filter(pk=1).update(last=items[-1].pk)
        last = items[-1].pk
        done += len(items)
        each(done)


def by_batches(alias: str, each: Callable[[int], None]) -> None:
    from benchmarks.models import Counted
    from django_dbpool.batch import run_batches

    rows = Counted.objects.using(alias)

    def handler(items: list[Counted]) -> None:
        rows.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)

    run_batches(
        rows,
        handler,
        size=SIZE,
        checkpoint=f"benchmark {next(_numbers)}",
        on_progress=lambda progress: each(progress.done),
    )


def run_once(engine: Engine, each: Callable[[int], None]) -> float:
    """Seconds."""
    loop = by_batches if engine is BATCHES else by_hand
    with engines.alone(engine, POOL_SIZE), quiet_gc():
        start = time.perf_counter()
        loop(engine.alias(POOL_SIZE), each)
        return time.perf_counter() - start


def throughput(plan: Plan) -> Result:
    with table(plan.batch_rows):
        run_once(BATCHES, lambda done: None)  # connections and caches
        values = interleaved(
            LOOPS, lambda engine: plan.batch_rows / run_once(engine, lambda done: None), plan.throughput_rounds
        )
    description = (
        f"Rows a second, {plan.batch_rows} of them in batches of {SIZE}: each reads its rows, counts them up in one "
        "statement, and writes where it is in the same transaction."
    )
    comparisons = (Comparison(HAND, at_least=0.95, subject=BATCHES), Comparison(HAND_POOLED, subject=BATCHES))
    return Result("batches", description, "rows/s", values, comparisons, LOOPS)


def memory(plan: Plan) -> Result:
    def grown(engine: Engine) -> float:
        before: list[float] = []

        def look(done: int) -> None:
            if not before and done >= plan.batch_rows_for_memory // 20:
                before.append(resident())

        run_once(engine, look)
        return (resident() - before[0]) / 1024

    with table(plan.batch_rows_for_memory):
        values = interleaved(LOOPS[1:], grown, 1)
    description = (
        f"By how much the resident memory of the process grows in a run of {plan.batch_rows_for_memory} rows, after "
        "the first twentieth of them. To reach: less than 20 MiB."
    )
    return Result("batches-memory", description, "MiB", values, (), LOOPS[1:])


CASES = (Case("batches", throughput, one_core=True), Case("batches-memory", memory))
