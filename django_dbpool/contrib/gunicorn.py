"""
gunicorn's hooks, to be named in its configuration file. Importing this needs neither gunicorn nor Django's settings.

Example:
    from django_dbpool.contrib.gunicorn import child_exit, post_worker_init, worker_exit
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

__all__ = ["child_exit", "post_worker_init", "worker_exit"]


def post_worker_init(worker: Any) -> None:
    """
    In each worker before its first request: wait, at most ten seconds, for connections of aliases with
    ``POOL["warm"]``. Less if gunicorn would take the worker for dead meanwhile.
    """
    from ..backends.warming import warm_at_start

    patience: float = worker.cfg.timeout or 60
    warm_at_start(min(10.0, patience / 3))


def worker_exit(server: Any, worker: Any) -> None:
    """
    In each worker that ends, after SIGTERM when its requests are done: close its pools. Requests that have outlived
    ``graceful_timeout`` get what is left until the arbiter kills the worker.
    """
    from .. import shutdown

    shutdown()


def child_exit(server: Any, worker: Any) -> None:
    """
    In the arbiter, when a worker has ended in whatever way: what it had open or waiting no longer counts in metrics
    that several processes share (``PROMETHEUS_MULTIPROC_DIR``). Where that isn't set it does nothing.
    """
    if not {"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"} & os.environ.keys():
        return
    with contextlib.suppress(ImportError, OSError):  # an arbiter ends with an error of its hooks
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
