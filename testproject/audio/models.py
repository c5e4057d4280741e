"""Recordings of calls, kept as files for some time; here is what is known of each file."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Recording(models.Model):
    shelf = models.PositiveIntegerField()
    file = models.CharField(max_length=100, help_text="Its name in the store.")
    expired = models.BooleanField(default=False)

    objects: ClassVar[models.Manager[Recording]] = models.Manager()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.file
