"""
Batches against loops that somebody has written with care. One does what a checkpoint does: it writes where it is in
each batch's transaction. The plain one doesn't, and starts from the beginning if it is killed.
"""

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
LARGE = 500
PLAIN = replace(STOCK, label="keyset loop by hand that forgets where it is, stock")
HAND = replace(STOCK, label="keyset loop by hand, stock")
HAND_POOLED = replace(OURS, label="keyset loop by hand, pooled")
BATCHES = replace(OURS, label="run_batches(checkpoint=...)")
LOOPS = (PLAIN, HAND, HAND_POOLED, BATCHES)

_numbers = count(1)


@contextmanager
def table(rows: int, marks: int = 1) -> Iterator[None]:
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
        Mark.objects.bulk_create(Mark(pk=1 + number, last=0) for number in range(marks))
        yield
    finally:
        with connection.schema_editor() as editor:
            for model in reversed(models):
                editor.delete_model(model)


def by_hand(
    alias: str,
    each: Callable[[int], None],
    size: int = SIZE,
    *,
    mark: int | None = 1,
    bounds: tuple[int, int] | None = None,
) -> None:
    """
    Args:
        mark: of the row that it writes where it is; None: it doesn't.
        bounds: of the keys, the first one not included; None: all there are.
    """
    from benchmarks.models import Counted, Mark

    rows = Counted.objects.using(alias)
    last, upper = bounds or (0, rows.order_by("-pk").values_list("pk", flat=True)[0])
    done = 0
    while True:
        with transaction.atomic(using=alias):
            items = list(rows.filter(pk__gt=last, pk__lte=upper).order_by("pk")[:size])
            if not items:
                return
            rows.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)
            if mark is not None:
                Mark.objects.using(alias).filter(pk=mark).update(last=items[-1].pk)
        last = items[-1].pk
        done += len(items)
        each(done)


def by_batches(
    alias: str, each: Callable[[int], None], size: int = SIZE, *, name: str | None = None, part: int | None = None
) -> None:
    """
    Args:
        name: of the run; None: a new one.
        part: of a run that is divided.
    """
    from benchmarks.models import Counted
    from django_dbpool.batch import run_batches

    rows = Counted.objects.using(alias)

    def handler(items: list[Counted]) -> None:
        rows.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)

    run_batches(
        rows,
        handler,
        size=size,
        checkpoint=name or new_name(),
        part=part,
        on_progress=lambda progress: each(progress.done),
    )


def new_name() -> str:
    return f"benchmark {next(_numbers)}"


def run_once(engine: Engine, each: Callable[[int], None], size: int = SIZE) -> float:
    """Seconds."""
    with engines.alone(engine, POOL_SIZE), quiet_gc():
        start = time.perf_counter()
        if engine is BATCHES:
            by_batches(engine.alias(POOL_SIZE), each, size)
        else:
            by_hand(engine.alias(POOL_SIZE), each, size, mark=None if engine is PLAIN else 1)
        return time.perf_counter() - start


def throughput(plan: Plan, name: str = "batches", size: int = SIZE) -> Result:
    rows = plan.batch_rows if size == SIZE else 4 * plan.batch_rows
    with table(rows):
        for engine in LOOPS:
            run_once(engine, lambda done: None, size)  # connections and caches
        values = interleaved(LOOPS, lambda engine: rows / run_once(engine, lambda done: None, size), plan.batch_rounds)
    description = (
        f"Rows a second, {rows} of them in batches of {size}: each reads its rows, counts them up in one "
        "statement, and writes where it is in the same transaction."
    )
    comparisons = (
        Comparison(HAND, at_least=0.95, subject=BATCHES),
        Comparison(PLAIN, subject=BATCHES),
        Comparison(HAND_POOLED, subject=BATCHES),
    )
    return Result(name, description, "rows/s", values, comparisons, LOOPS)


def throughput_of_large(plan: Plan) -> Result:
    return throughput(plan, "batches-large", LARGE)


def memory(plan: Plan) -> Result:
    def grown(engine: Engine) -> float:
        before: list[float] = []

        def look(done: int) -> None:
            if not before and done >= plan.batch_rows_for_memory // 20:
                before.append(resident())

        run_once(engine, look)
        return (resident() - before[0]) / 1024

    with table(plan.batch_rows_for_memory):
        values = interleaved(LOOPS[2:], grown, 1)
    description = (
        f"By how much the resident memory of the process grows in a run of {plan.batch_rows_for_memory} rows, after "
        "the first twentieth of them. To reach: less than 20 MiB."
    )
    return Result("batches-memory", description, "MiB", values, (), LOOPS[2:])


CASES = (
    Case("batches", throughput, one_core=True),
    Case("batches-large", throughput_of_large, one_core=True),
    Case("batches-memory", memory),
)
