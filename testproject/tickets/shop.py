"""One engine's shop as the incident sees it: a database of its own, a process of its own, and their facts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from psycopg.types.json import Json

from testproject.databases import APPLICATION_NAME
from testproject.harness.environment import end, start
from testproject.harness.interrupts import Interrupts
from testproject.postgres import Server
from testproject.processes import wait_until
from testproject.tickets.operations import Operation

_OF_THE_SHOP = "FROM pg_stat_activity WHERE application_name = %s AND datname = %s"
_AUDIT = """
    WITH
        asked AS (SELECT value::uuid AS key FROM json_array_elements_text(%(asked)s)),
        confirmed AS (SELECT value::uuid AS key FROM json_array_elements_text(%(confirmed)s))
    SELECT
        (SELECT count(*) FROM asked),
        (SELECT count(*) FROM confirmed),
        (SELECT count(*) FROM tickets_order),
        (SELECT count(*) FROM confirmed WHERE key NOT IN (SELECT key FROM tickets_order)),
        (SELECT count(*) FROM tickets_order WHERE key NOT IN (SELECT key FROM asked)),
        (SELECT sum(sold) FROM tickets_event) - (SELECT coalesce(sum(seats), 0) FROM tickets_order)
"""


@dataclass(frozen=True)
class Audit:
    """Orders as the buyers know them and as the server has them."""

    asked: int
    confirmed: int
    saved: int
    lost: int
    """Confirmed to a buyer, and not there."""
    unknown: int
    """There, and nobody has asked for them."""
    seats_off: int
    """Seats taken without an order; below zero: orders without seats."""

    @property
    def exact(self) -> bool:
        """Each order that was asked for is there exactly once."""
        return self.asked == self.confirmed == self.saved > 0 == self.lost == self.unknown == self.seats_off


def count_orders(server: Server, journal: Mapping[str, Sequence[str]]) -> Audit:
    """
    Args:
        journal: the buyers' keys, those `asked` for and those `confirmed`.
    """
    with server.connect() as connection:
        row = connection.execute(_AUDIT, {name: Json(keys) for name, keys in journal.items()}).fetchone()
    assert row is not None
    return Audit(*map(int, row))


class ShopError(RuntimeError):
    """The shop's process ended; the text ends with what it wrote."""


class Shop:
    """
    A context manager: the process runs inside of it.

    Args:
        server: where the shop's database is, named as `server.dbname`.
    """

    def __init__(self, engine: str, server: Server, env: Mapping[str, str], interrupts: Interrupts) -> None:
        self.engine = engine
        self._server = server
        self._env = env
        self._interrupts = interrupts
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._log = stack.enter_context(tempfile.TemporaryFile("w+"))
            with self._interrupts.held():
                self._process = start(
                    [sys.executable, "-m", "testproject.tickets.worker"],
                    self._env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._log,
                    text=True,
                )
                stack.callback(end, self._process)
            self._answer()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    # -- its customers ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Let the customers in."""
        self._ask("come")

    def wait_served(self, timeout: float) -> bool:
        """Wait until each customer has had an answer from now on."""
        return bool(self._ask("wait_served", timeout=timeout))

    def close(self) -> list[Operation]:
        """Let them out, each after the call that runs; what they have done."""
        return [Operation(*values) for values in self._ask("leave")]

    def read(self, times: int) -> list[Operation]:
        """One call after the other, while there are no customers."""
        return [Operation(*values) for values in self._ask("read", times=times)]

    # -- its connections ----------------------------------------------------------------------------------------

    def have_idle(self, count: int) -> None:
        self._ask("have_idle", count=count)

    def kill_connections(self) -> int:
        """Terminate them on the server; how many there were."""
        who = (APPLICATION_NAME, self._server.dbname)
        with self._server.connect() as connection:
            killed = connection.execute(f"SELECT pg_terminate_backend(pid) {_OF_THE_SHOP}", who).fetchall()
            wait_until(lambda: not connection.execute(f"SELECT 1 {_OF_THE_SHOP}", who).fetchall(), timeout=10)
        return len(killed)

    # -- its orders ---------------------------------------------------------------------------------------------

    def audit(self) -> Audit:
        return count_orders(self._server, self._ask("journal"))

    def _ask(self, command: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> ShopError:
        code = self._process.wait()
        self._log.seek(0)
        return ShopError(f"the shop on {self.engine} ended with {code}:\n{self._log.read()[-4000:]}")
