"""DBP302: what is slow in a transaction."""

from __future__ import annotations

CASES = {
    "slow calls in transactions": """
import os
import smtplib
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from time import sleep as nap
from urllib.request import urlopen

import aiohttp
import boto3
import httpx
import requests
import urllib3
from django.core.mail import EmailMessage, send_mail, mail_admins
from django.db import transaction
from django.db.transaction import atomic
from django.utils.decorators import method_decorator
from django_dbpool import transaction as pooled

session = requests.Session()
s3 = boto3.client("s3")

def block():
    with transaction.atomic():
        requests.get("x")  #> DBP302
        session.post("x")  #> DBP302
        with requests.Session() as inner:
            inner.put("x")  #> DBP302
        httpx.post("x")  #> DBP302
        httpx.Client().get("x")  #> DBP302
        urllib.request.urlopen("x")  #> DBP302
        urlopen("x")  #> DBP302
        urllib3.PoolManager().request("GET", "x")  #> DBP302
        time.sleep(1)  #> DBP302
        nap(1)  #> DBP302
        subprocess.run(["x"])  #> DBP302
        subprocess.Popen(["x"])  #> DBP302
        os.system("x")  #> DBP302
        smtplib.SMTP("x")  #> DBP302
        send_mail("a", "b", "c", [])  #> DBP302
        mail_admins("a", "b")  #> DBP302
        message = EmailMessage("a")
        message.send()  #> DBP302
        socket.create_connection(("x", 1))  #> DBP302
        connection = socket.socket()
        connection.connect(("x", 1))  #> DBP302
        s3.put_object(Bucket="x")  #> DBP302
        boto3.resource("s3").Bucket("x").upload_file("y")  #> DBP302
        if x:
            for y in z:
                notify(y)  #> DBP302
        transaction.on_commit(requests.get("x"))  #> DBP302

def notify(x):
    deliver(x)

def deliver(x):
    requests.post("x")

@atomic
def decorated():
    time.sleep(1)  #> DBP302

@transaction.atomic(using="other")
def decorated_with_arguments():
    notify(1)  #> DBP302

@pooled.atomic(eager=True)
def of_ours():
    notify(1)  #> DBP302

class View:
    @method_decorator(transaction.atomic)
    def post(self, request):
        self.call()  #> DBP302
    def call(self):
        return requests.get("x")

@method_decorator(transaction.atomic, name="dispatch")
class Whole:
    def get(self, request):
        time.sleep(1)  #> DBP302

def several():
    with open("x") as file, transaction.atomic(), urlopen("x") as answer:  #> DBP302
        pass

def stack():
    with ExitStack() as stack:
        requests.get("x")
        stack.enter_context(transaction.atomic())
        requests.get("x")  #> DBP302

@contextmanager
def unit():
    with transaction.atomic():
        yield

def in_unit():
    with unit():
        time.sleep(1)  #> DBP302

async def later():
    with transaction.atomic():
        async with aiohttp.ClientSession() as client:
            async with client.get("x") as answer:  #> DBP302
                pass

def typed(client: httpx.Client):
    with atomic():
        client.get("x")  #> DBP302

class Gateway:
    def __init__(self):
        self.http = requests.Session()
    def pay(self):
        with transaction.atomic():
            self.http.post("x")  #> DBP302

class Welcome(EmailMessage):
    pass

def welcome():
    with transaction.atomic():
        Welcome("x").send()  #> DBP302
""",
    "slow calls outside of transactions": """
import time
from functools import partial
import boto3
import requests
from django.core.mail import EmailMessage, send_mail
from django.db import transaction
from shop.tasks import notify_task
from shop.models import Order

def around():
    requests.get("x")
    with transaction.atomic():
        order = Order.objects.create()
        transaction.on_commit(lambda: requests.post("x"))
        transaction.on_commit(partial(requests.post, "x"))
        transaction.on_commit(notify)

        def after():
            send_mail("a", "b", "c", [])

        transaction.on_commit(after)

        @transaction.on_commit
        def later():
            time.sleep(1)

        notify_task.delay(order.pk)
        message = EmailMessage("a")
        time.sleep(0)
        order.time.sleep()
        requests_made.get("x")
        boto3.client("s3").generate_presigned_url("get_object")
        self.client.get("/")
        subprocess = Runner()
        subprocess.run("x")
        task.delay()
    message.send()
    time.sleep(1)

@task
def task():
    requests.get("x")

def notify():
    requests.get("x")

@transaction.non_atomic_requests
def view(request):
    requests.get("x")

class atomic:
    pass

def own():
    with atomic():
        requests.get("x")
    with open("x"):
        requests.get("x")

def with_order():
    with requests.get("x") as answer, transaction.atomic():
        pass
""",
    "transactions, further": """
import requests, time, subprocess, smtplib, os, httpx, socket
from django.db import transaction, connection
from django.core import mail
from django.core.mail import EmailMultiAlternatives as EMA, get_connection
import urllib.request as ur
from urllib import request as ur2
import boto3
from os import system
client = boto3.client("s3")
def v(request):
    with transaction.atomic(using="x"):
        o = Order.objects.create()
        mail.send_mail("a")  #> DBP302
        EMA("a").send()  #> DBP302
        m = EMA("a"); m.attach("x"); m.send(fail_silently=True)  #> DBP302
        get_connection().send_messages([m])  #> DBP302
        ur.urlopen("x")  #> DBP302
        ur2.urlopen("x")  #> DBP302
        system("x")  #> DBP302
        client.upload_file("x")  #> DBP302
        boto3.Session().client("sqs").send_message()  #> DBP302
        boto3.resource("sqs").Queue("x").send_message()  #> DBP302
        requests.request("GET", "x", timeout=5)  #> DBP302
        requests.Session().get("x").json()  #> DBP302
        subprocess.check_output(["x"])  #> DBP302
        request.user.email_user("x")  #> DBP302
        try:
            r = requests.get("x")  #> DBP302
        except requests.RequestException:
            time.sleep(2)  #> DBP302
        for i in x:
            y = [requests.get(i) for i in x]  #> DBP302
        helper(o)  #> DBP302
        transaction.on_commit(lambda: helper(o))
        with transaction.atomic():
            time.sleep(1)  #> DBP302
        with smtplib.SMTP("h") as s:  #> DBP302
            s.send_message(m)  #> DBP302
        s = socket.create_connection(("a", 1))  #> DBP302
        sk = socket.socket(); sk.connect(("a", 1))  #> DBP302
        with httpx.Client() as c:
            c.get("x")  #> DBP302
        with httpx.stream("GET", "x") as r:  #> DBP302
            pass
    time.sleep(1)
def helper(o):
    return fetch(o)
def fetch(o):
    return requests.get("x")
class C:
    @transaction.atomic
    def save(self, *a):
        super().save(*a)
        self.sync()  #> DBP302
    def sync(self):
        httpx.post("x")
@transaction.atomic()
def deco():
    subprocess.run("x")  #> DBP302
    def inner():
        time.sleep(1)
    transaction.on_commit(inner)
@transaction.atomic
@other
async def adeco():
    await asyncio_sleep()
blk = transaction.atomic
with blk():
    time.sleep(3)  #> DBP302
a = transaction.atomic()
with a:
    time.sleep(3)  #> DBP302
def wrapped(f): return f
g = transaction.atomic(fetch)
def m():
    with transaction.atomic() as t, open("x") as f:
        time.sleep(1)  #> DBP302
""",
}
