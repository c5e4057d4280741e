"""Services and tasks that wait for somebody else while a transaction is open."""

import os
import smtplib
import socket
import subprocess
import time
import urllib.request
from time import sleep
from urllib.parse import urljoin
from urllib.request import urlopen

import boto3
import httpx
import requests
import requests as rq
import urllib3
from celery import shared_task
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives, mail_admins, send_mail
from django.db import transaction
from django.db.transaction import atomic
from django.db.transaction import atomic as in_transaction
from requests import Session, post
from rest_framework.views import APIView

from shop.gateways import Gateway
from shop.models import Order, Payment

API = "https://pay.example.com"


def _notify(order):
    requests.post(urljoin(API, "/notify"), json={"order": order.pk}, timeout=5)


def _nap():
    sleep(0.1)


def _mark_paid(order):
    order.paid = True
    order.save()


def pay(pk):
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=pk)
        answer = requests.post(API, json={"amount": str(order.total)}, timeout=10)  # expect: DBP302
        Payment.objects.create(order=order, reference=answer.json()["id"])


@transaction.atomic
def decorated(pk):
    order = Order.objects.get(pk=pk)
    rq.put(f"{API}/{pk}", data={"total": order.total})  # expect: DBP302


@transaction.atomic()
def decorated_with_a_call(pk):
    Order.objects.filter(pk=pk).update(sent=True)
    time.sleep(1)  # expect: DBP302


@transaction.atomic(using="orders", durable=True)
def decorated_with_arguments(pk):
    send_mail("Sent", "Your order is on its way", None, ["a@example.com"])  # expect: DBP302


@atomic
def decorated_by_an_import(pk):
    _mark_paid(Order.objects.get(pk=pk))
    post(API, json={"pk": pk})  # expect: DBP302


@shared_task(bind=True, max_retries=3)
@in_transaction(using="orders")
def task_with_two_decorators(self, pk):
    subprocess.run(["invoice", str(pk)], check=True)  # expect: DBP302


def one_call_away(pk):
    with atomic():
        order = Order.objects.get(pk=pk)
        _mark_paid(order)
        _notify(order)  # expect: DBP302


def sleeps_one_call_away():
    with in_transaction():
        _nap()  # expect: DBP302


def two_managers(path):
    with open(path) as rows, transaction.atomic():
        for row in rows:
            urlopen(row)  # expect: DBP302


def two_managers_the_other_way(path):
    with transaction.atomic(), open(path) as rows:
        urllib.request.urlopen(rows.readline())  # expect: DBP302


def opened_inside(url):
    with transaction.atomic(), urlopen(url) as answer:  # expect: DBP302
        Order.objects.create(note=answer.read())


def opened_before(url):
    with urlopen(url) as answer, transaction.atomic():
        Order.objects.create(note=answer.read())


def in_parentheses(lock):
    with (
        lock,
        transaction.atomic(using="orders"),
    ):
        os.system("invoice --all")  # expect: DBP302


def deep_inside(pks):
    with transaction.atomic():
        for pk in pks:
            try:
                if pk:
                    httpx.get(f"{API}/{pk}")  # expect: DBP302
            except httpx.HTTPError:
                raise Payment.Failed(pk) from None
            finally:
                print(pk)


def walrus(url):
    with transaction.atomic():
        if (answer := requests.get(url, timeout=1)).ok:  # expect: DBP302
            Order.objects.create(note=answer.text)


def comprehension(urls):
    with transaction.atomic():
        Order.objects.create(note=[requests.head(url).status_code for url in urls])  # expect: DBP302


def client_objects(url):
    session = requests.Session()
    with transaction.atomic():
        session.get(url)  # expect: DBP302


def client_of_a_with(url):
    with transaction.atomic():
        with httpx.Client(base_url=API) as client:
            client.get(url)  # expect: DBP302


def pool_manager(url):
    http = urllib3.PoolManager()
    with atomic():
        return http.request("GET", url)  # expect: DBP302


def object_storage(path):
    store = boto3.client("s3")
    with transaction.atomic():
        Order.objects.create(note=path)
        store.upload_file(path, "invoices", path)  # expect: DBP302


def mail_by_hand(order):
    with transaction.atomic():
        with smtplib.SMTP("localhost") as server:  # expect: DBP302
            server.noop()  # either: DBP302


def mail_object(order):
    message = EmailMultiAlternatives("Paid", "Thank you", to=[order.email])
    with transaction.atomic():
        _mark_paid(order)
        message.send()  # expect: DBP302


def mail_object_at_once(order):
    with transaction.atomic():
        EmailMessage("Paid", "Thank you", to=[order.email]).send(fail_silently=True)  # expect: DBP302


def mail_module():
    with transaction.atomic():
        mail.send_mail("Paid", "", None, [])  # expect: DBP302
        mail_admins("Paid", "")  # expect: DBP302


def sockets(host):
    with transaction.atomic():
        socket.create_connection((host, 9100)).close()  # expect: DBP302


def label_printer(host, pk):
    printer = socket.socket()
    with transaction.atomic():
        printer.connect((host, 9100))  # expect: DBP302


def pipes(pk):
    with transaction.atomic():
        subprocess.Popen(["lp", str(pk)])  # expect: DBP302
        subprocess.check_output(["lpq"])  # expect: DBP302


class CheckoutView(APIView):
    @transaction.atomic
    def post(self, request):
        order = Order.objects.create(user=request.user)
        self._charge(order)  # expect: DBP302

    def _charge(self, order):
        with Session() as session:
            return session.post(API, json={"order": order.pk})

    def silent_put(self, request):
        with transaction.atomic():
            order = Order.objects.create(user=request.user)
            transaction.on_commit(lambda: self._charge(order))

    def silent_gateway_of_another_module(self, request):
        with transaction.atomic():
            Gateway().charge(request.user)
