"""
The tables by which processes know of each other; see docs/fleet.md and docs/commands.md. They are read and written by
SQL of our own. And ``ConnectionPool``, which has no table: what the dashboard's permissions hang on.
"""

from __future__ import annotations

from typing import Any

from django.db import models
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
