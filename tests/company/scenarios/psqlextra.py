"""Upserts from several threads, a partitioned table, through psqlextra's own manager and schema editor."""

from __future__ import annotations

import datetime as dt
from importlib.metadata import version

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.db.models import F  # noqa: E402
from psqlextra.query import ConflictAction  # noqa: E402

from tests.company.partitions.models import Counter, Measurement  # noqa: E402
from tests.company.watch import PinLog, in_threads, report  # noqa: E402

THREADS, TURNS = 6, 20


def upsert(thread: int) -> None:
    for turn in range(TURNS):
        Counter.objects.upsert(
            conflict_target=["name"], fields={"name": f"c{turn % 3}", "hits": 1}, update_condition=None
        )
        with transaction.atomic():
            Counter.objects.on_conflict(["name"], ConflictAction.NOTHING).insert(name="once", hits=thread)
            Counter.objects.filter(name=f"c{turn % 3}").update(hits=F("hits") + 1)


def partitions() -> dict[str, int]:
    with connection.schema_editor() as editor:
        for month in (1, 2):
            begin = dt.date(2026, month, 1)
            end = dt.date(2026, month + 1, 1)
            editor.add_range_partition(Measurement, f"m{month}", from_values=begin, to_values=end)
    Measurement.objects.bulk_insert([{"at": dt.date(2026, 1, day), "value": day} for day in range(1, 11)])
    Measurement.objects.create(at=dt.date(2026, 2, 3), value=1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text, count(*) FROM partitions_measurement GROUP BY 1")
        return dict(cursor.fetchall())


call_command("migrate", verbosity=0)
connection.close()
pins = PinLog()
in_threads(THREADS, upsert)
found = partitions()
table = connection.introspection
with connection.cursor() as cursor:
    partitioned = table.get_partitioned_table(cursor, "partitions_measurement")
connection.close()
report(
    versions=", ".join(f"{name} {version(name)}" for name in ("Django", "psycopg", "django-postgres-extra")),
    counters=sorted(Counter.objects.values_list("name", flat=True)),
    found=found,
    key=list(partitioned.key) if partitioned else None,
    names=sorted(part.name for part in partitioned.partitions) if partitioned else [],
    pins=pins.reasons,
    size=connection.pool.snapshot().size,
)
