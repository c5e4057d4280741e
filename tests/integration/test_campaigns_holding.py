"""How long a job of 200 batches with pauses keeps a connection, beside the same job in its naive form."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testproject.campaigns.incident import database, for_process
from testproject.campaigns.watching import Seen, Watch
from testproject.harness.environment import manage
from testproject.harness.queue import Queue, Worker
from testproject.postgres import Server
from tests.fixtures.holding_settings import SIZE, SUPERUSER
from tests.fixtures.transactions_log import SETTINGS, sessions, transactions

pytestmark = [pytest.mark.ci, pytest.mark.alone]

BATCHES = 200
PAUSE = 0.25
CHECKPOINT = "UPDATE django_dbpool_batchcheckpoint SET last_key"
"""The statement that a batch has and no other transaction."""


@dataclass
class Job:
    told: dict[str, Any]
    """What the task returned."""
    worker: Seen
    log: str
    """Of the server."""


def run(engine: str, task: str) -> Job:
    """With a server, a worker and a broker of its own."""
    with Server.embedded(SETTINGS) as server, tempfile.TemporaryDirectory() as name:
        where = Path(name)
        own, env = database(server, engine, where)
        manage(env, "seed_campaigns", "--campaigns=1", f"--recipients={BATCHES * SIZE}")
        env |= {
            "DJANGO_SETTINGS_MODULE": "tests.fixtures.holding_settings",
            "DBPOOL_CAMPAIGNS_PAUSE": str(PAUSE),
            SUPERUSER: own.dsn,
        }
        queue = Queue(where)
        with Watch(own, still=PAUSE) as watch, Worker(for_process(env, "worker", {"max_size": 1}), 1):
            told = queue.send(task).get(timeout=600)
            if engine == "dbpool":
                told |= queue.send("holding.told").get(timeout=60)
        return Job(told, watch.of("worker"), server.log())


@pytest.fixture(scope="module")
def jobs() -> Iterator[tuple[Job, Job]]:
    """In batches on our engine, naively on Django's own; both at the same time, since they mostly pause."""
    with ThreadPoolExecutor(2) as executor:
        ours = executor.submit(run, "dbpool", "holding.in_batches")
        naive = executor.submit(run, "stock", "holding.naively")
        yield ours.result(), naive.result()


def test_holds_a_connection_for_its_transactions(jobs: tuple[Job, Job]) -> None:
    """At most 1.1 times as long as the batches' transactions take, as the server's log has them."""
    ours, naive = jobs
    batches = [each for each in transactions(ours.log, "worker") if any(CHECKPOINT in one for one in each.statements)]
    assert len(batches) == ours.told["batches"] == BATCHES
    work = sum(each.seconds for each in batches)
    held = ours.told["held"]
    held_naively = max(sessions(naive.log, "worker"))  # the others are looks for runs of dead runners
    print(
        f"held {held:.2f} s for {work:.2f} s of batches ({held / work:.3f}) in {ours.told['seconds']:.1f} s; "
        f"naively {held_naively:.2f} s ({held_naively / work:.1f})"
    )
    assert held <= 1.1 * work
    assert held_naively >= BATCHES * PAUSE


def test_no_session_is_idle_in_a_transaction(jobs: tuple[Job, Job]) -> None:
    """In each of 200 pauses the server is asked, and besides every few milliseconds."""
    ours, naive = jobs
    assert ours.told["looks"] == [0] * BATCHES
    assert naive.told["looks"] == [1] * BATCHES
    print(f"longest idle in a transaction: {ours.worker.longest:.3f} s; naively {naive.worker.longest:.3f} s")
    assert (ours.worker.standing, len(naive.worker.standing)) == (set(), 1)
