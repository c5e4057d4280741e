"""DBP303: what is slow while rows are still read."""

from __future__ import annotations

CASES = {
    "slow work while a server-side cursor is open": """
import requests
import time
from django.core.mail import send_mail
from shop.models import Order

def direct():
    for order in Order.objects.filter(done=False).iterator():  #> DBP303
        requests.post("x", order.name)
    for index, order in enumerate(Order.objects.all().iterator(chunk_size=100)):  #> DBP303
        send(order)
    rows = Order.objects.iterator()
    for row in rows:  #> DBP303
        if row.due:
            time.sleep(1)
    return [fetch(order) for order in Order.objects.iterator()]  #> DBP303

def send(order):
    send_mail("a", "b", "c", [])

def fetch(order):
    return requests.get("x")

def given(queryset, rows):
    for row in queryset.iterator():  #> DBP303
        time.sleep(1)
    for row in rows.iterator(chunk_size=10):  #> DBP303
        time.sleep(1)

async def later():
    async for order in Order.objects.aiterator():  #> DBP303
        await fetch(order)
""",
    "quick work, other iterators, rows read before": """
import csv
import requests
import time
from shop.models import Order

def quick(file, things):
    for order in Order.objects.iterator():
        file.write(order.name)
    for row in csv.reader(file):
        requests.post("x")
    for thing in things.iterator():
        requests.post("x")
    for order in Order.objects.all():
        requests.post("x")
    for order in list(Order.objects.iterator()):
        requests.post("x")
    for order in Order.objects.iterator():
        file.write("x")
        later(lambda: requests.post("x"))
    else:
        time.sleep(1)
""",
    "iterators, further": """
import requests, time
from .models import Order
def a():
    for o in Order.objects.all().iterator(chunk_size=2000):  #> DBP303
        process(o)
    for o in Order.objects.values("x").iterator():  #> DBP303
        try:
            requests.get("x")
        finally:
            pass
    qs = Order.objects.filter(x=1)
    for o in qs.iterator():  #> DBP303
        time.sleep(0.1)
    for i, o in enumerate(qs.iterator(), 1):  #> DBP303
        requests.get("x")
    it = qs.iterator()
    for o in it:  #> DBP303
        requests.get("x")
    for o in orders():  #> DBP303
        requests.get("x")
    for o in Order.objects.iterator():
        quick(o)
    list(requests.get(o) for o in qs.iterator())  #> DBP303
def orders():
    return Order.objects.iterator()
def quick(o): o.x = 1
def process(o): requests.post("x")
class V:
    def go(self):
        for o in self.get_queryset().iterator():  #> DBP303
            self.send(o)
        for o in self.queryset.iterator():  #> DBP303
            self.send(o)
    def send(self, o): requests.post("x")
""",
}
