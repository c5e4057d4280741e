"""Events have seats; an order takes some of them."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import F, Q


class Event(models.Model):
    name = models.CharField(max_length=60, unique=True)
    seats = models.PositiveIntegerField()
    sold = models.PositiveIntegerField(default=0)

    objects: ClassVar[models.Manager[Event]] = models.Manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.CheckConstraint(condition=Q(sold__lte=F("seats")), name="no_seat_sold_twice")]

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    key = models.UUIDField(unique=True, help_text="Chosen by the buyer: an order sent again is the same order.")
    event = models.ForeignKey(Event, on_delete=models.PROTECT, related_name="orders")
    seats = models.PositiveSmallIntegerField()
    placed_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager[Order]] = models.Manager()

    class Meta:
        ordering = ["placed_at"]

    def __str__(self) -> str:
        return f"{self.seats} for {self.event}"
