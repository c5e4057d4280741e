"""Runs that have ended are remembered for a while, then forgotten."""

from __future__ import annotations

from datetime import timedelta

from django.db import DEFAULT_DB_ALIAS, models, transaction
from django.db.models.functions import Now

from ..core import arguments
from ..models import BatchCheckpoint, BatchFailure, BatchRun
from .status import tables_of

AT_ONCE = 100
"""Runs of one transaction: each may have many failed items."""


def old_runs(days: float, using: str | None = None) -> models.QuerySet[BatchRun]:
    """What ``delete_old`` would delete: runs that ended longer ago, on the server's clock."""
    arguments.seconds("delete_old", "days", days)
    rows = BatchRun.objects.using(using or DEFAULT_DB_ALIAS).exclude(state=BatchRun.State.OPEN)
    return rows.filter(ended__lt=Now() - timedelta(days=days)).order_by("pk")


def delete_old(days: float, using: str | None = None) -> int:
    """
    Forget runs that ended long ago, with their checkpoints and failed items. Whoever uses one of these names again
    begins a new run: a queue that delivers a message later than this would do everything again.

    Args:
        days: since its end.
        using: database alias; default: "default".

    Returns:
        How many runs.

    Raises:
        TypeError, ValueError: days is no number of days.
        ImproperlyConfigured: the tables are missing there.

    Example:
        delete_old(90)
    """
    alias, deleted = using or DEFAULT_DB_ALIAS, 0
    with tables_of(alias):
        while ids := list(old_runs(days, alias).values_list("pk", flat=True)[:AT_ONCE]):
            with transaction.atomic(using=alias):
                # By hand: Django would first read all of them, to call signals that nobody listens to.
                for model in (BatchFailure, BatchCheckpoint):
                    model._base_manager.using(alias).filter(run__in=ids)._raw_delete(alias)
                deleted += BatchRun.objects.using(alias).filter(pk__in=ids).delete()[1].get(BatchRun._meta.label, 0)
    return deleted
