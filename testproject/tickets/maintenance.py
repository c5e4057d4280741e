"""What keeps the tables in shape. VACUUM can't run in a transaction."""

from __future__ import annotations

from django.db import connection

from testproject.tickets.models import Event, Order
from testproject.tickets.resilience import resilient


@resilient(atomic=False)
def vacuum_analyze() -> None:
    tables = [connection.ops.quote_name(model._meta.db_table) for model in (Event, Order)]
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {', '.join(tables)}")
