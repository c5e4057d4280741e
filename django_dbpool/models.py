"""The tables by which processes know of each other; see docs/fleet.md and docs/commands.md."""

from __future__ import annotations

from django.db import models

from .core.fleet import TABLE
from .fleet.command_model import Command

__all__ = ["Command", "PublishedProcess"]


class PublishedProcess(models.Model):
    """
    One process's last snapshot, read and written by SQL of its own. Unlogged on PostgreSQL: after a crash of the
    server it is empty, and soon full.
    """

    instance = models.CharField(max_length=16, primary_key=True)
    taken = models.DateTimeField()
    expires = models.DateTimeField()
    document = models.TextField()

    class Meta:
        db_table = TABLE
        default_permissions = ()

    def __str__(self) -> str:
        return self.instance
