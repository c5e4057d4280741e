"""Loops over things that only sound like the ORM."""

import os
import queue
from itertools import batched
from pathlib import Path

import boto3
from django.core.cache import cache
from django.core.files.storage import default_storage
from django.db import IntegrityError, models
from elasticsearch_dsl import Search
from sqlalchemy.orm import Session

from django_dbpool.batch import run_batches
from shop.models import Order, Product

jobs = queue.Queue()


def dictionaries(rows, defaults):
    for row in rows:
        row.setdefault("sku", defaults.get("sku"))
        print(row.get("price"), os.environ.get("CURRENCY"), row["tags"].count("new"))


def caches(keys):
    return {key: cache.get(key) for key in keys} | {key: cache.get_or_set(key, 1) for key in keys}


def files(names):
    for name in names:
        if default_storage.exists(name):
            default_storage.delete(name)
        if Path(name).exists():
            Path(name).unlink()


def uploads(formset):
    for form in formset:
        if form.is_valid():
            form.save()


def bucket():
    store = boto3.resource("s3").Bucket("exports")
    for item in store.objects.filter(Prefix="old/"):
        item.delete()
    return [item.get()["Body"] for item in store.objects.all()]


def worker():
    while True:
        job = jobs.get()
        if job is None:
            return
        job.delete()


def sqlalchemy(engine, statements):
    with Session(engine) as session:
        for statement in statements:
            session.execute(statement)
        return session.query(Order).count()


def search(terms):
    return [Search().filter("term", name=term).execute() for term in terms]


def redis_pipeline(client, keys):
    for key in keys:
        pipeline = client.pipeline()
        pipeline.get(key)
        pipeline.execute()


def images(pictures):
    for picture in pictures:
        picture.thumbnail((64, 64))
        picture.save(f"{picture.name}.png")


class Registry:
    def __init__(self):
        self.items = []

    def get(self, name):
        return next(item for item in self.items if item.name == name)

    def lookup(self, names):
        return [self.get(name) for name in names]

    def delete(self, names):
        for name in names:
            self.items.remove(self.get(name))


class SlugField(models.SlugField):
    def validate_all(self, values):
        for value in values:
            self.clean(value, None)


def batches_by_slice():
    orders = Order.objects.filter(archived=False)
    while batch := list(orders[:500]):
        Order.objects.filter(pk__in=[order.pk for order in batch]).update(archived=True)


def batches_by_range(pks):
    for start in range(0, len(pks), 500):
        Order.objects.filter(pk__in=pks[start : start + 500]).update(archived=True)


def batches_of_itertools(pks):
    for batch in batched(pks, 500):
        Order.objects.filter(pk__in=batch).delete()


def batches_of_bulk_create(rows):
    for batch in batched(rows, 500):
        Product.objects.bulk_create([Product(**row) for row in batch])


def batches_of_the_library():
    run_batches(Order.objects.filter(archived=False), lambda batch: batch.update(archived=True), size=500)


def tries_again(make_code):
    for _ in range(3):
        try:
            return Order.objects.create(code=make_code())  # either: DBP301
        except IntegrityError:
            continue
    raise RuntimeError("no free code")


def takes_jobs():
    while (order := Order.objects.filter(status="new").first()) is not None:  # either: DBP301
        print(order)
