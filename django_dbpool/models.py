"""
The tables by which processes know of each other; see docs/fleet.md and docs/commands.md. They are read and written by
SQL of our own. ``ConnectionPool``, which has no table: what the dashboard's permissions hang on. And what
``django_dbpool.batch`` remembers of its runs; see docs/batches.md.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from .core import commands, fleet
from .core.commands import LONGEST_ARGUMENTS, LONGEST_RESULT


class PublishedProcess(models.Model):
    """One process's last snapshot. Unlogged on PostgreSQL: after a crash of the server it is empty, and soon full."""

    instance = models.CharField(max_length=16, primary_key=True)
    taken = models.DateTimeField()
    expires = models.DateTimeField()
    document = models.TextField()

    class Meta:
        db_table = fleet.TABLE
        default_permissions = ()

    def __str__(self) -> str:
        return self.instance


class Command(models.Model):
    """
    One command to one process, and its answer. Only the columns that ``signature`` covers mean anything to the
    process; whatever stands in the others, it does the same.
    """

    target = models.CharField(max_length=16)
    """The instance of the process."""
    verb = models.CharField(max_length=16)
    arguments = models.CharField(max_length=LONGEST_ARGUMENTS)
    """Canonical JSON."""
    nonce = models.CharField(max_length=32)
    issued = models.BigIntegerField()
    expires = models.BigIntegerField()
    """Milliseconds of unix time, on the clock of the database server."""
    signature = models.CharField(max_length=64)
    outcome = models.CharField(max_length=16, default="")
    """``done``, ``failed`` or ``refused``; empty until the process has seen it."""
    result = models.CharField(max_length=LONGEST_RESULT, default="")
    """Canonical JSON."""
    result_signature = models.CharField(max_length=64, default="")

    class Meta:
        db_table = commands.TABLE
        default_permissions = ()
        indexes = [
            models.Index(fields=["target", "outcome"], name="dbpool_command_target"),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.target}"


class Nothing(models.Manager[Any]):
    """Of what has no table there are no rows: ``dumpdata`` reads the managers of unmanaged models too."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()


class ConnectionPool(models.Model):
    """
    Stands for the pools of all processes in the admin and in its permissions; there is no table, and no rows.

    ``view_connectionpool`` is to see the dashboard and the API's details, ``operate_connectionpool`` to cancel,
    terminate and drain, ``view_strangers`` to see sessions that belong to no process of the project.
    """

    objects = Nothing()

    class Meta:
        managed = False
        default_permissions = ()
        base_manager_name = "objects"
        verbose_name = _("connection pool")
        verbose_name_plural = _("connection pools")
        permissions = [
            ("view_connectionpool", "Can view connection pools"),
            ("operate_connectionpool", "Can cancel, terminate and drain connections"),
            ("view_strangers", "Can view sessions of other programs on the server"),
        ]

    def __str__(self) -> str:
        return str(self._meta.verbose_name)


class BatchRun(models.Model):
    """
    One run of ``run_batches(checkpoint=name)``, from its first batch to its end, through however many processes. The
    name is used once: whoever starts a run that has ended is told so, and nothing is done again.

    To have it paused or cancelled, write ``wanted``: its runners read that with each batch.
    """

    class Wanted(models.TextChoices):
        RUN = "run", _("run")
        PAUSE = "pause", _("pause")
        CANCEL = "cancel", _("cancel")

    class State(models.TextChoices):
        OPEN = "open", _("open")
        DONE = "done", _("done")
        CANCELLED = "cancelled", _("cancelled")

    name = models.CharField(max_length=200, unique=True)
    model = models.CharField(max_length=200)
    """Label of the model whose rows are worked on."""
    key = models.CharField(max_length=500)
    """Names of the key's fields, with commas between."""
    wanted = models.CharField(max_length=10, choices=Wanted, default=Wanted.RUN)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    total = models.BigIntegerField(null=True)
    """How many rows there were at its start; None if to count them took too long and nothing was known."""
    task = models.CharField(max_length=300, default="", blank=True)
    """Name of the task that does it, for whoever sends it again; empty: it was started by other code."""
    arguments = models.JSONField(default=dict, blank=True)
    """To send the task again: ``{"args": [...], "kwargs": {...}, "options": {...}}``."""
    parts = models.IntegerField(default=1)
    """Ranges that it is divided into, each with a checkpoint of its own."""
    takeover_after = models.FloatField(default=60)
    """Seconds without a sign of life after which a runner counts as dead."""
    created = models.DateTimeField(db_default=Now())
    ended = models.DateTimeField(null=True)

    class Meta:
        db_table = "django_dbpool_batchrun"
        default_permissions = ()
        verbose_name = _("batch run")
        verbose_name_plural = _("batch runs")

    def __str__(self) -> str:
        return self.name


class BatchCheckpoint(models.Model):
    """
    How far a range of a run's keys is. Written in the transaction of each batch, so that the work and this row are
    committed together or not at all, and only by the runner whose ``token`` is in it.
    """

    run = models.ForeignKey(BatchRun, models.CASCADE, related_name="checkpoints")
    part = models.IntegerField(default=0)
    """Number of the range, where a run is divided among several runners."""
    lower = models.JSONField(null=True)
    """Keys of the range are greater; None: it begins with the first one."""
    upper = models.JSONField(null=True)
    """The greatest key at the run's start; None: there were no rows."""
    last_key = models.JSONField(null=True)
    """Up to this one everything is done; None: nothing is."""
    token = models.CharField(max_length=32, default="", blank=True)
    """Of the runner at work; empty: nobody is."""
    runner = models.CharField(max_length=200, default="", blank=True)
    """Host, process id and instance of the last one."""
    heartbeat = models.DateTimeField(db_default=Now())
    """When that one was last heard of, on the server's clock."""
    reason = models.CharField(max_length=200, default="", blank=True)
    """Why it stopped."""
    done = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    batches = models.BigIntegerField(default=0)
    finished = models.BooleanField(default=False)
    begun = models.DateTimeField(null=True)
    """When the last runner began with it; None: none has."""
    begun_with = models.BigIntegerField(default=0)
    """Items, done and failed, that others had behind them then: the rest is that runner's, and tells its rate."""
    restarts = models.IntegerField(default=0)
    """How often it was sent again since it last got ahead; more than the limit: given up."""
    restarted = models.DateTimeField(null=True)
    """When it was sent again the last time. Who writes this is who sends it."""
    restarted_with = models.BigIntegerField(default=0)
    """Batches that it had behind it then."""

    class Meta:
        db_table = "django_dbpool_batchcheckpoint"
        default_permissions = ()
        verbose_name = _("checkpoint")
        verbose_name_plural = _("checkpoints")
        constraints = [models.UniqueConstraint(fields=["run", "part"], name="dbpool_batch_part")]

    def __str__(self) -> str:
        return f"{self.run_id}/{self.part}"

    @staticmethod
    def in_batch(row: str) -> str:
        """
        SQL that is true while a transaction is under way that has written this row: its number is what the row's
        visible version ends with. From the snapshot, not from ``pg_stat_activity``, which a role may be kept from.

        Args:
            row: name of the table in the query.
        """
        return (
            f"(age({row}.xmax) <= age(pg_snapshot_xmax(pg_current_snapshot())::xid)"  # begun since the snapshot
            f" OR EXISTS (SELECT FROM pg_snapshot_xip(pg_current_snapshot()) AS x WHERE x::xid = {row}.xmax))"
        )


class BatchFailure(models.Model):
    """An item that a run could not do. Without the values that the server's error may have quoted."""

    run = models.ForeignKey(BatchRun, models.CASCADE, related_name="failures")
    key = models.JSONField()
    skipped = models.BooleanField()
    """The run went on without it. If not, it ended there, and begins there when it is started again."""
    error_type = models.CharField(max_length=200)
    error = models.TextField()
    place = models.CharField(max_length=300)
    """Where in the code it was raised."""
    times = models.IntegerField(default=1)
    created = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "django_dbpool_batchfailure"
        default_permissions = ()
        verbose_name = _("failed item")
        verbose_name_plural = _("failed items")
        constraints = [models.UniqueConstraint(fields=["run", "key"], name="dbpool_batch_item")]

    def __str__(self) -> str:
        return f"{self.key}: {self.error_type}"


class BatchMessage(models.Model):
    """What a transaction wants to be done outside of the database once it is committed; deleted when that is done."""

    topic = models.CharField(max_length=100)
    key = models.CharField(max_length=200)
    """The same for each attempt: what the receiver tells a repetition by."""
    payload = models.JSONField()
    created = models.DateTimeField(db_default=Now())
    due = models.DateTimeField(db_default=Now())
    """Not before; while somebody delivers it, when somebody else may try."""
    attempts = models.IntegerField(default=0)
    error = models.TextField(default="", blank=True)
    """Of the last attempt."""

    class Meta:
        db_table = "django_dbpool_batchmessage"
        default_permissions = ()
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        constraints = [models.UniqueConstraint(fields=["topic", "key"], name="dbpool_batch_message")]
        indexes = [models.Index(fields=["topic", "due"], name="dbpool_batch_message_due")]

    def __str__(self) -> str:
        return f"{self.topic} {self.key}"
