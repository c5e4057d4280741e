"""Three tenants on two connections, requests of six threads."""

from __future__ import annotations

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.test import Client as Browser  # noqa: E402
from django_tenants.utils import schema_context  # noqa: E402

from tests.company.notes.models import Note  # noqa: E402
from tests.company.tenants.models import Client, Domain  # noqa: E402
from tests.company.watch import PinLog, in_threads, report  # noqa: E402

TENANTS = ("one", "two", "Three 3")
REQUESTS = 40


def create() -> None:
    call_command("migrate_schemas", shared=True, verbosity=0)
    for number, schema in enumerate(TENANTS):
        tenant = Client.objects.create(schema_name=schema)
        Domain.objects.create(domain=f"tenant{number}.example", tenant=tenant, is_primary=True)
        with schema_context(schema):
            Note.objects.create(text=f"of tenant {number}")
    connection.close()


def requests(thread: int) -> list[str]:
    """The texts of other tenants' notes that this thread has seen."""
    browser = Browser()
    foreign = []
    for turn in range(REQUESTS):
        number = (thread + turn) % len(TENANTS)
        host = f"tenant{number}.example"
        added = f"{number} by thread {thread} in turn {turn}"
        path = "/notes/" if turn % 4 else f"/notes/?add={added}"
        answer = browser.get(path, HTTP_HOST=host).json()
        foreign += [text for text in answer["notes"] if text != f"of tenant {number}" and text[0] != str(number)]
        if answer["schema"] != TENANTS[number]:
            foreign.append(answer["schema"])
    return foreign


def after_rollbacks() -> bool:
    """A rollback takes back what was set inside; the path must be the tenant's again."""
    with schema_context("one"):
        try:
            with transaction.atomic():
                Note.objects.count()
                with schema_context("two"):
                    assert Note.objects.filter(text="of tenant 1").exists()
                raise InterruptedError
        except InterruptedError:
            pass
        seen = set(Note.objects.values_list("text", flat=True))
        streamed = set()
        for note in Note.objects.all().iterator(chunk_size=2):
            streamed.add(note.text)
        with transaction.atomic():
            inner = set(Note.objects.values_list("text", flat=True))
    return seen == streamed == inner and "of tenant 0" in seen and "of tenant 1" not in seen


create()
pins = PinLog()
connection.close()
foreign = [text for found in in_threads(6, requests) for text in found]
counts = []
for name in TENANTS:
    with schema_context(name):
        counts.append(Note.objects.count())
rolled_back = after_rollbacks()
connection.close()
pool = connection.pool
added = [
    sum((thread + turn) % len(TENANTS) == number for thread in range(6) for turn in range(0, REQUESTS, 4))
    for number in range(len(TENANTS))
]
report(
    foreign=foreign, counts=counts, added=added, rolled_back=rolled_back, pins=pins.reasons, size=pool.snapshot().size
)
