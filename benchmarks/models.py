"""A table of usual width for the ORM cases, and six that a query joins."""

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


class Region(models.Model):
    name = models.CharField(max_length=50)

    objects: ClassVar[models.Manager[Region]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_region"


class Customer(models.Model):
    name = models.CharField(max_length=50)
    region = models.ForeignKey(Region, models.CASCADE)

    objects: ClassVar[models.Manager[Customer]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_customer"


class Category(models.Model):
    name = models.CharField(max_length=50)

    objects: ClassVar[models.Manager[Category]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_category"


class Product(models.Model):
    name = models.CharField(max_length=50)
    category = models.ForeignKey(Category, models.CASCADE)

    objects: ClassVar[models.Manager[Product]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_product"


class Sale(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE)

    objects: ClassVar[models.Manager[Sale]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_sale"


class Line(models.Model):
    sale = models.ForeignKey(Sale, models.CASCADE)
    product = models.ForeignKey(Product, models.CASCADE)
    quantity = models.PositiveIntegerField()

    objects: ClassVar[models.Manager[Line]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_line"


class Counted(models.Model):
    """Narrow, so that what is around the statements shows."""

    n = models.IntegerField()

    objects: ClassVar[models.Manager[Counted]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_counted"


class Mark(models.Model):
    """Where a loop is that was written by hand."""

    last = models.BigIntegerField()

    objects: ClassVar[models.Manager[Mark]] = models.Manager()

    class Meta:
        app_label = "benchmarks"
        db_table = "dbpool_benchmark_mark"


ALL: tuple[type[models.Model], ...] = (Order, Region, Customer, Category, Product, Sale, Line)
