"""Orders, what a payment service and a carrier report of them, and what came of each report."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from testproject.webhooks.deliveries import Delivery


class Order(models.Model):
    number = models.CharField(max_length=20, unique=True)
    paid = models.PositiveIntegerField(default=0)

    objects: ClassVar[models.Manager[Order]] = models.Manager()

    def __str__(self) -> str:
        return self.number


class Event(models.Model):
    """One event as it was delivered; delivered again it is the same."""

    class State(models.TextChoices):
        RECEIVED = "received"
        DONE = "done"
        FAILED = "failed"

    key = models.CharField(max_length=40, unique=True, help_text="Given by the sender.")
    kind = models.CharField(max_length=40)
    order = models.CharField(max_length=20, help_text="Its number: the sender may know orders that we don't.")
    receiver = models.CharField(max_length=60)
    amount = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.RECEIVED)
    error = models.TextField(blank=True, default="", help_text="Why it failed.")
    received_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager[Event]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.state}"

    @property
    def delivery(self) -> Delivery:
        return Delivery(self.key, self.kind, self.order, self.amount, self.receiver)


# What comes of an event. Nothing here is unique: work that is done twice must be seen in the numbers.


class Booking(models.Model):
    event = models.CharField(max_length=40)
    amount = models.PositiveIntegerField()

    objects: ClassVar[models.Manager[Booking]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.amount} for {self.event}"


class Notice(models.Model):
    """The customer was told."""

    event = models.CharField(max_length=40)

    objects: ClassVar[models.Manager[Notice]] = models.Manager()

    def __str__(self) -> str:
        return self.event
