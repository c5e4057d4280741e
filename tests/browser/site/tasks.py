"""The shop's Celery application: a real worker over the file system."""

import time

from django.db import connection, transaction

from django_dbpool.operations import track_operation
from tests.fixtures.celery_app import application

from .settings import FOLDER
from .views import wait_for

app = application(FOLDER)


@app.task(name="shop.tasks.mail")
def mail() -> None:
    """Quick, like most."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM auth_permission, pg_sleep(0.005)")


@app.task(name="shop.tasks.import_prices")
def import_prices(total: int) -> None:
    """Long, a row at a time, and seen to go on."""
    with track_operation("import prices", total=total, tags={"supplier": "Müller & Söhne"}) as operation:
        for _ in range(total):
            mail()
            operation.advance()
            time.sleep(0.1)


@app.task(name="shop.tasks.reindex")
def reindex() -> None:
    """Holds its transaction until it is let go."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT id FROM auth_user LIMIT 1")
        wait_for("indexes")
