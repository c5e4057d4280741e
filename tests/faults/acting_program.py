"""
A process that holds connections until it is told otherwise. For each line that it reads, ``hold`` (idle in a
transaction) or ``run`` (in a statement), it prints the lease as JSON, and how it ended when it ends. After ``go``, or
at the end of its input, what is idle goes on and ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings

import django

warnings.simplefilter("ignore", DeprecationWarning)  # of packages that are imported in other processes' order
django.setup()

from django.db import connection, transaction  # noqa: E402

from django_dbpool.core.process import this_process  # noqa: E402
from django_dbpool.operations import aim  # noqa: E402
from django_dbpool.pool.registry import pools  # noqa: E402

over = threading.Event()


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def work(kind: str) -> None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            if kind == "run":
                cursor.execute("SELECT pg_sleep(600)")
            over.wait()
            cursor.execute("SELECT 1")
    except Exception as error:  # whatever it is, it is what the test asks for
        say(ended=type(error).__name__, sqlstate=getattr(error.__cause__, "sqlstate", None))
    else:
        say(ended="well", sqlstate=None)


def main() -> None:
    say(**this_process().to_json())
    for line in sys.stdin:
        kind = line.strip()
        if kind == "go":
            over.set()
            continue
        thread = threading.Thread(target=work, args=(kind,), name=f"holder-{kind}", daemon=True)
        thread.start()
        state = "running" if kind == "run" else "idle in transaction"
        while True:
            held = [each for pool in pools() for each in pool.holders() if each.thread_ident == thread.ident]
            if held and held[0].state == state:
                break
            time.sleep(0.01)
        say(**aim(held[0]).to_json())
    over.set()


main()
