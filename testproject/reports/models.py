"""Regions file a report each quarter; a report has entries."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Region(models.Model):
    name = models.CharField(max_length=60, unique=True)

    objects: ClassVar[models.Manager[Region]] = models.Manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Report(models.Model):
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="reports")
    quarter = models.DateField(help_text="First day of the quarter.")
    currency = models.CharField(max_length=3)

    objects: ClassVar[models.Manager[Report]] = models.Manager()

    class Meta:
        ordering = ["region", "quarter"]
        constraints = [models.UniqueConstraint(fields=["region", "quarter"], name="one_report_per_quarter")]

    def __str__(self) -> str:
        return f"{self.region}, quarter from {self.quarter:%Y-%m}"


class Entry(models.Model):
    report = models.ForeignKey(Report, on_delete=models.CASCADE, related_name="entries")
    booked_on = models.DateField()
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    objects: ClassVar[models.Manager[Entry]] = models.Manager()

    class Meta:
        ordering = ["booked_on", "id"]
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.booked_on}: {self.amount}"
