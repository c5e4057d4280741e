"""
The tables by which processes know of each other; see docs/fleet.md and docs/commands.md. They are read and written by
SQL of our own.
"""

from __future__ import annotations

from django.db import models

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
