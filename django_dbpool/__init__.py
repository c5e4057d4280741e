"""
django_dbpool: PostgreSQL connections lent for a transaction, not for a request.

Reading order: ``core`` (standard library only: settings, gate, ledger), ``pool`` (psycopg_pool),
``backends`` (which methods of Django's database wrapper are overridden), then the edges beside this file.
``setup.cfg`` holds the same map as contracts. Importing this package runs nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.stopping import ShutdownResult

__version__ = "0.1.0"
__all__ = ["__version__", "shutdown", "warm"]


def shutdown(timeout: float = 10.0) -> ShutdownResult:
    """
    End this process's use of its databases: finish what has begun, refuse what is new, close every pool.

    Requests and tasks that began before go on leasing until they end; other threads finish the transaction that they
    are in. What begins from now on gets ``errors.ShuttingDown``. When all have ended, or after ``timeout``, everything
    is refused and free connections are closed; what is still leased then is logged, and closed when its lease ends.

    It may be called again, from any thread and from a signal handler; a later call can only bring the end nearer.
    Whoever calls it in the middle of a request or transaction of its own is not kept waiting for that. A forked child
    is not shut down with its parent.

    Args:
        timeout: seconds; 0 or less waits for nobody. The call lasts at most one second longer, also when the server is
            frozen.

    Returns:
        What was not finished in time; ``clean`` if nothing.

    Raises:
        TypeError: the timeout is no number.
        ValueError: it is NaN.

    Example:
        signal.signal(signal.SIGTERM, lambda *_: django_dbpool.shutdown(timeout=20))
    """
    from .core import arguments
    from .pool.stopping import shutdown

    # What is left of some budget may be less than nothing, and a shutdown is no time for being strict about that.
    return shutdown(arguments.seconds("django_dbpool.shutdown", "timeout", timeout, least=-math.inf, most=math.inf))


def warm(timeout: float = 10.0, using: str | None = None) -> bool:
    """
    Open the connections that the pools keep (``POOL["min_size"]``), several at once, before the first request.

    Args:
        timeout: seconds.
        using: an alias; every pooled one when None.

    Returns:
        Whether all of them are open. If not, the pools go on trying by themselves once they are used.

    Raises:
        TypeError: the timeout is no number, or ``using`` no alias.
        ValueError: the timeout is negative or not finite.
        django.utils.connection.ConnectionDoesNotExist: there is no such alias.
    """
    from .backends.warming import warm
    from .core import arguments

    if not (using is None or isinstance(using, str)):
        raise TypeError(f"django_dbpool.warm(using={using!r}): using must be a database alias, or None for all.")
    return warm(arguments.seconds("django_dbpool.warm", "timeout", timeout), using)
