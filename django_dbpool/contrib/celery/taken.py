"""A run that another runner has: whether that one lives, and who sees to it that somebody goes on."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import connections, models, transaction

from ...batch import BatchRunTaken
from ...batch.source import alias_of
from ...models import BatchCheckpoint, BatchRun
from ...transaction import session
from ...transaction.attempt import is_pooled
from .sending import message_id

NOTICE = 0.5
"""Seconds between two looks of the server whether the client of a statement is still there."""


def is_gone(runner: str) -> bool:
    """
    Whether that runner was a process of this host that has ended. To be wrong about it (two hosts of one name) costs
    that runner the batch at hand, never a row.

    Args:
        runner: host, process id and instance.
    """
    host, _, rest = runner.partition(" ")
    pid = rest.partition(" ")[0]
    if host != socket.gethostname()[:100] or not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:  # killed, and its parent has not looked yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return False


def release(taken: BatchRunTaken, using: str, part: int | None) -> bool:
    """
    Take the run from a runner that is gone.

    Returns:
        Whether anybody may have it now. If not, the server is still at its last batch.
    """
    rows = BatchCheckpoint.objects.using(using).filter(run__name=taken.name, part=part or 0, runner=taken.runner)
    with transaction.atomic(using=using):
        free = list(rows.select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True))
        return bool(BatchCheckpoint.objects.using(using).filter(pk__in=free).update(token="", reason=""))


def is_known(run: str, using: str) -> bool:
    """Whether there is a run of this name."""
    return BatchRun.objects.using(using).filter(name=run).exists()


def sender_of(run: str, using: str, part: int | None) -> str | None:
    """
    The id of the message whose task has begun it, and which is sent again if its runner should die; None: it was begun
    by other code, and is sent by nobody.
    """
    found = BatchRun.objects.using(using).filter(name=run).exclude(task="").first()
    if found is None:
        return None
    return message_id(found.arguments, run, part or 0, found.parts)


@contextmanager
def server_notices_loss(rows: models.QuerySet[Any], using: str | None) -> Iterator[None]:
    """
    The server ends a statement whose client is gone. By itself it would notice that only when it has something to say:
    the last batch of a worker that was killed would run on, for as long as it takes, and keep its row.
    """
    alias = alias_of(rows, using, checkpoint=True)
    connection: Any = connections[alias]
    pool = connection.pool if is_pooled(connection) else None
    if pool is None or pool.config.pooler is not None:
        yield  # behind a pooler the client is the pooler
        return
    with session(alias, client_connection_check_interval=f"{round(1000 * NOTICE)}ms"):
        yield
