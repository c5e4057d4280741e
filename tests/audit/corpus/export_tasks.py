"""Celery tasks that go through large tables with iterator()."""

import csv
import subprocess
import time

import boto3
import requests
from celery import shared_task
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import F

from shop.models import Customer, Order
from shop.tasks import export_one

API = "https://crm.example.com"


def _push(customer):
    requests.put(f"{API}/{customer.pk}", json={"name": customer.name}, timeout=5)


def _as_row(customer):
    return [customer.pk, customer.name]


@shared_task
def push_all():
    for customer in Customer.objects.iterator():
        requests.put(f"{API}/{customer.pk}", json={"name": customer.name})  # expect: DBP303


@shared_task(bind=True)
def push_some(self, country):
    for customer in Customer.objects.filter(country=country).order_by("pk").iterator(chunk_size=500):
        _push(customer)  # expect: DBP303


@shared_task
def slowly():
    customers = Customer.objects.only("pk", "email")
    for customer in customers.iterator():
        if customer.email:
            time.sleep(0.2)  # expect: DBP303


@shared_task
def newsletter():
    for email in Customer.objects.values_list("email", flat=True).iterator(2000):
        try:
            send_mail("News", "", None, [email])  # expect: DBP303
        except OSError:
            continue


@shared_task
def counted():
    for number, customer in enumerate(Customer.objects.iterator(), start=1):
        print(number)
        _push(customer)  # expect: DBP303


@shared_task
def to_object_storage():
    store = boto3.client("s3")
    for order in Order.objects.using("replica").iterator():
        store.put_object(Bucket="orders", Key=str(order.pk), Body=order.note)  # expect: DBP303


class Exporter:
    queryset = Order.objects.all()

    def by_a_method(self):
        for order in Order.objects.select_related("customer").iterator():
            self._print(order)  # expect: DBP303

    def _print(self, order):
        subprocess.run(["lp", order.path], check=True)

    def silent_rows(self, target):
        writer = csv.writer(target)
        for customer in Customer.objects.iterator():
            writer.writerow(_as_row(customer))

    def own_queryset(self):
        for order in self.queryset.iterator():
            self._print(order)  # either: DBP303


def both_rules():
    with transaction.atomic():
        for customer in Customer.objects.iterator():
            _push(customer)  # expect: DBP302, DBP303


def comprehension():
    return [requests.get(c.url, timeout=1).status_code for c in Customer.objects.iterator()]  # either: DBP303


def iterator_in_a_name():
    rows = Customer.objects.iterator()
    for customer in rows:
        _push(customer)  # either: DBP303


def queryset_of_the_caller(queryset):
    for customer in queryset.iterator():
        _push(customer)  # either: DBP303


def query_in_the_loop():
    for order in Order.objects.iterator():
        Customer.objects.filter(pk=order.customer_id).update(orders=F("orders") + 1)  # expect: DBP301


def quick_body(target):
    writer = csv.writer(target)
    total = 0
    for order in Order.objects.filter(paid=True).iterator(chunk_size=5000):
        writer.writerow([order.pk, order.total])
        total += order.total
    return total


def slow_after_the_loop():
    lines = []
    for order in Order.objects.iterator():
        lines.append(str(order))
    requests.post(API, json=lines, timeout=30)
    time.sleep(1)


def slow_in_the_else():
    for order in Order.objects.iterator():
        if order.broken:
            break
    else:
        requests.post(API, json={"ok": True}, timeout=30)


def whole_list():
    for customer in Customer.objects.all():
        _push(customer)
    for customer in list(Customer.objects.iterator()):
        _push(customer)


def queued():
    for pk in Customer.objects.values_list("pk", flat=True).iterator():
        export_one.delay(pk)


def called_later():
    later = []
    for customer in Customer.objects.iterator():
        later.append(lambda customer=customer: _push(customer))
    return later


def iterator_of_a_reader(path):
    with open(path) as rows:
        reader = csv.reader(rows)
        for row in reader.iterator():
            requests.post(API, json=row, timeout=5)


def iterator_of_a_tree(tree):
    root = tree.getroot()
    for node in root.iterator():
        time.sleep(0.1)
        print(node)
