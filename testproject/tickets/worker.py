"""A process of the shop, on the engine of its environment: obeys lines of JSON and answers each with one."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import astuple
from typing import Any

import django
from django.db import connection, transaction

READERS = 8
BUYERS = 5


class Worker:
    """Each public method is a command."""

    def __init__(self) -> None:
        # Needs the models, and those need Django.
        from testproject.tickets.customers import Crowd

        self._crowd = Crowd(READERS, BUYERS)
        connection.close()

    def come(self) -> None:
        self._crowd.come()

    def wait_served(self, timeout: float) -> bool:
        return self._crowd.wait_served(timeout)

    def leave(self) -> list[tuple[Any, ...]]:
        return [astuple(operation) for operation in self._crowd.leave()]

    def read(self, times: int) -> list[tuple[Any, ...]]:
        from testproject.tickets.customers import timed
        from testproject.tickets.repository import EventRepository

        return [astuple(timed("reads", EventRepository().on_sale)) for _ in range(times)]

    def have_idle(self, count: int) -> None:
        together = threading.Barrier(count)

        def use() -> None:
            try:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    together.wait(30)
            finally:
                connection.close()

        threads = [threading.Thread(target=use, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def journal(self) -> dict[str, list[str]]:
        """Keys of the orders."""
        return {
            "asked": [str(key) for buyer in self._crowd.buyers for key in buyer.asked],
            "confirmed": [str(key) for buyer in self._crowd.buyers for key in buyer.confirmed],
        }


def main() -> None:
    django.setup()
    worker = Worker()
    _say("ready")
    # Ends with its starter, who has the other end.
    for line in sys.stdin:
        request = json.loads(line)
        _say(getattr(worker, request.pop("command"))(**request))


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
