"""The same services after somebody has moved the waiting out of the transactions."""

import time
from functools import partial
from urllib.parse import urlencode

import requests
from atomicwrites import atomic_write
from django.core.mail import EmailMessage, send_mail
from django.db import connection, transaction
from filelock import atomic
from requests.auth import HTTPBasicAuth

from shop.models import Order, Request
from shop.tasks import notify_partner

API = "https://pay.example.com"


def _notify(pk):
    requests.post(API, json={"order": pk}, timeout=5)


def _queue(pk):
    notify_partner.delay(pk)


def after_the_block(pk):
    with transaction.atomic():
        Order.objects.filter(pk=pk).update(paid=True)
    _notify(pk)
    time.sleep(0.1)


def before_the_block(pk):
    answer = requests.get(f"{API}/{pk}", timeout=3)
    with transaction.atomic():
        Order.objects.filter(pk=pk).update(note=answer.text)


def on_commit_lambda(pk):
    with transaction.atomic():
        Order.objects.filter(pk=pk).update(paid=True)
        transaction.on_commit(lambda: requests.post(API, json={"order": pk}, timeout=5))
        transaction.on_commit(lambda: send_mail("Paid", "", None, []), robust=True)


def on_commit_partial(pk):
    with transaction.atomic():
        transaction.on_commit(partial(requests.post, API, json={"order": pk}))
        transaction.on_commit(partial(_notify, pk), using="default")


@transaction.atomic
def on_commit_def(pk):
    def tell():
        time.sleep(1)
        _notify(pk)

    Order.objects.filter(pk=pk).update(paid=True)
    transaction.on_commit(tell)


@transaction.atomic
def on_commit_of_the_connection(pk):
    connection.on_commit(lambda: _notify(pk))


@transaction.atomic
def queued(pk):
    Order.objects.filter(pk=pk).update(paid=True)
    _queue(pk)
    notify_partner.apply_async((pk,), countdown=5)


def only_defined_there(pk):
    with transaction.atomic():

        def later():
            requests.post(API, json={"order": pk}, timeout=5)

        Order.objects.filter(pk=pk).update(paid=True)
    return later


def only_built_there(order):
    with transaction.atomic():
        message = EmailMessage("Paid", urlencode({"order": order.pk}), to=[order.email])
        prepared = requests.Request("POST", API, auth=HTTPBasicAuth("shop", "")).prepare()
        Order.objects.filter(pk=order.pk).update(note=message.subject)
    message.send()
    return prepared


def codes_and_errors(answer):
    with transaction.atomic():
        try:
            Order.objects.create(ok=answer.status_code == requests.codes.ok)
        except requests.RequestException:
            raise ValueError(answer) from None


def a_list_called_requests(rows):
    requests = []
    with transaction.atomic():
        for row in rows:
            requests.append(Request(**row))
        Request.objects.bulk_create(requests)


def a_dict_called_requests(pks, requests):
    with transaction.atomic():
        Order.objects.filter(pk__in=pks).update(note=requests.get("note"))
        requests.pop("note")


def a_clock(time):
    with transaction.atomic():
        time.sleep(1)
        return time.time()


@transaction.non_atomic_requests
def outside_of_atomic_requests(request):
    return requests.get(API, timeout=1)


def locks_that_are_called_atomic(path, lock):
    with atomic(lock), atomic_write(path) as target:
        target.write(requests.get(API, timeout=1).text)
        time.sleep(0.1)


def savepoints_and_times(rows):
    started = time.monotonic()
    with transaction.atomic():
        for row in rows:
            sid = transaction.savepoint()
            Request(**row).full_clean()
            transaction.savepoint_commit(sid)
    return time.monotonic() - started


class Repository:
    @transaction.atomic
    def pay(self, pk):
        Order.objects.filter(pk=pk).update(paid=True)
        self.record(pk)

    def record(self, pk):
        Request.objects.create(order_id=pk)

    def notify(self, pk):
        _notify(pk)


class Notifier:
    """The same names as in Repository, and no transaction."""

    def record(self, pk):
        time.sleep(1)

    def pay(self, pk):
        self.record(pk)
