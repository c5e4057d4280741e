"""A campaign is sent to its recipients; which of them open it is seen by a picture that they load."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Campaign(models.Model):
    subject = models.CharField(max_length=100)

    objects: ClassVar[models.Manager[Campaign]] = models.Manager()

    def __str__(self) -> str:
        return self.subject


class Recipient(models.Model):
    campaign = models.ForeignKey(Campaign, on_delete=models.CASCADE, related_name="recipients")
    address = models.EmailField()
    sent = models.PositiveIntegerField(default=0, help_text="How often the letter was sent, as the database knows.")
    opened = models.PositiveIntegerField(default=0)

    objects: ClassVar[models.Manager[Recipient]] = models.Manager()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.address
