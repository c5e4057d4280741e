"""A table of usual width for the ORM case."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Order(models.Model):
    customer = models.IntegerField(db_index=True)
    reference = models.CharField(max_length=32)
    status = models.CharField(max_length=16)
    title = models.CharField(max_length=200)
    notes = models.TextField()
    quantity = models.PositiveIntegerField()
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    paid = models.BooleanField()
    due_on = models.DateField()
    created_at = models.DateTimeField()

    objects: ClassVar[models.Manager[Order]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_order"
