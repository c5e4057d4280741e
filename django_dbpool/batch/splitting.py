"""One run for several runners: its keys are divided once, at its start, and each part goes on by itself."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import models

from ..core import arguments
from ..transaction.retrying import retrying
from .claiming import Claim
from .extent import Extent
from .holding import refuse_held, release_all
from .keys import key_of
from .origin import Origin
from .plan import M, checked_name, checked_origin
from .source import alias_of, checked, ordered


def split(
    source: models.QuerySet[M],
    n: int,
    *,
    key: str | Sequence[str] = "pk",
    checkpoint: str,
    using: str | None = None,
    origin: Origin | None = None,
    takeover_after: float = 60,
) -> int:
    """
    Make a run whose keys are divided in parts with the same number of rows. Each is worked on by
    ``run_batches(source, handler, checkpoint=..., part=0)``, ``part=1`` and so on, in as many processes; the run has
    ended when all of them have. To make it twice does no harm: it stays as it was made first.

    The server counts the rows and goes through the key's index once, which takes seconds for tens of millions of them.

    Args:
        source: as for ``run_batches()``, and the same there.
        n: parts.
        key: as for ``run_batches()``, and the same there.
        checkpoint: name of the run.
        using: database alias; that of the queryset or the one to write to.
        origin: what its row is to say of how to begin it again.
        takeover_after: seconds without a sign of life after which another runner may have a part.

    Returns:
        Parts that the run has: fewer than ``n`` if there are fewer rows, at least one; of a run that was there before,
        as many as it was made with.

    Raises:
        BatchRefused: in a transaction, or while the thread keeps a connection.
        BatchRunMismatch: the name belongs to a run about something else.
        TypeError, ValueError, ImproperlyConfigured: what was given can't work.

    Example:
        for part in range(split(Voucher.objects.all(), 4, checkpoint="expire vouchers 2026-11")):
            expire_part.delay(part)
    """
    queryset = checked(source)
    number = arguments.count("split", "n", n)
    alias = alias_of(queryset, using, checkpoint=True)
    found = key_of(queryset.model, key)
    claim = Claim(
        checked_name(checkpoint),
        alias,
        found,
        arguments.seconds("split", "takeover_after", takeover_after, least=0.1),
        origin=checked_origin(origin),
    )
    refuse_held()
    try:
        return _made(claim, Extent.of(ordered(queryset, found, alias), found, alias), number)
    finally:
        release_all(shared_thread=False)


def _made(claim: Claim, extent: Extent, number: int) -> int:
    repeated = retrying(claim.alias)
    run = repeated.call(claim.run)
    if run is None:
        upper = extent.upper()
        total = extent.count_all(upper)
        places = [] if upper is None else extent.places(upper, total, min(number, total))
        repeated.call(claim.insert, places, upper, total)
        run = repeated.call(claim.run)
    # None: deleted since. Whoever is sent to a part of it says so.
    return number if run is None else run.parts
