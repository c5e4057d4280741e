"""The table of commands to processes on other hosts; see docs/commands.md."""

from __future__ import annotations

from django.db import models

TABLE = "django_dbpool_command"
LONGEST_ARGUMENTS = 2000
LONGEST_RESULT = 4000


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
        db_table = TABLE
        default_permissions = ()
        indexes = [
            models.Index(fields=["target", "outcome"], name="dbpool_command_target"),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.target}"
