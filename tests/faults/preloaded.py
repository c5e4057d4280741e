"""A WSGI application that has used its pool before the server forks: for gunicorn --preload."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import django
from django.core.signals import request_finished, request_started
from django.db import connection

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.faults.preloaded_settings"
django.setup()


def ask(marker: str) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), %s::text", [marker])
        backend, answer = cursor.fetchone()
    return {"process": os.getpid(), "backend": backend, "answer": answer}


MASTER = ask("preloaded")
assert connection.pool is not None
POOL_BEFORE_FORK = connection.pool.snapshot()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    request_started.send(sender=None, environ=environ)
    body = {**ask(environ["QUERY_STRING"]), "master": MASTER, "idle_at_fork": POOL_BEFORE_FORK.idle}
    request_finished.send(sender=None)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
