"""Code as it is in projects: several rules in one file, and names that mean now this and now that."""

from __future__ import annotations

CASES = {
    "views of a project": """
import requests
from django.db import transaction, connection
from django.views import View
from .models import Invoice, Customer
from .gateways import charge

class InvoiceView(View):
    def post(self, request, pk):
        with transaction.atomic():
            invoice = Invoice.objects.select_for_update().get(pk=pk)
            charge(invoice)
            self._notify(invoice)  #> DBP302
        self._notify(invoice)

    def _notify(self, invoice):
        if invoice.paid:
            return
        response = requests.post("x", timeout=3)
        response.raise_for_status()

def export(request):
    rows = []
    for customer in Customer.objects.filter(active=True).order_by("name"):
        latest = Invoice.objects.filter(customer=customer).order_by("-date").first()  #> DBP301
        open_sum = sum(i.amount for i in customer.invoices.filter(paid=False))  #> DBP301
        rows.append({"customer": customer, "latest": latest, "n": customer.invoices.count()})  #> DBP301
    return rows

def tree(category):
    children = []
    for child in category.children.all():
        children.append(tree(child))
    return children

def bulk(rows):
    existing = set(Invoice.objects.values_list("number", flat=True))
    new = [Invoice(number=r) for r in rows if r not in existing]
    Invoice.objects.bulk_create(new)
    with transaction.atomic():
        for invoice in new:
            invoice.total = 1
        Invoice.objects.bulk_update(new, ["total"])

def poll():
    for attempt in range(10):
        try:
            with transaction.atomic():
                return Invoice.objects.create(number=attempt)
        except Exception:
            continue

def find(names):
    for n in names:
        c = Customer.objects.filter(name=n).first()  #> DBP301
        if c is not None:
            return c

def validate(rows):
    for row in rows:
        if not Customer.objects.filter(pk=row).exists():  #> DBP301
            raise ValueError(row)

@transaction.atomic
def moved(rows):
    for row in rows:
        Invoice.objects.update_or_create(pk=row, defaults={})  #> DBP301
    transaction.on_commit(lambda: requests.post("x"))

def dictionary(rows):
    cache = {}
    for row in rows:
        if row not in cache:
            cache[row] = Customer.objects.get(pk=row)  #> DBP301
    return cache

def annotated():
    result = [
        {
            "id": c.pk,
            "total": c.invoices.aggregate(t=1)["t"],  #> DBP301
        }
        for c in Customer.objects.all()
    ]
    return result

def qs_param(qs, queryset, invoices):
    for i in qs.select_related("x"):
        i.delete()  #> DBP301
    for i in invoices:
        print(i.lines.all())
    for i in invoices:
        i.lines.values()

def str_things(rows):
    for r in rows:
        s = "x".format(r).count("a")
        r.name.strip().count("x")
        x = {}.get(r)
        y = [].count(r)
        r.tags.add("x")
        r.update(x=1)
""",
    "tasks of a project": """
from celery import shared_task
from django.core.mail import send_mail
from django.db import transaction
from .models import Mail
import time
@shared_task(bind=True)
def campaign(self, pk):
    for mail in Mail.objects.filter(campaign=pk).iterator():  #> DBP303
        send_mail("a", "b", "c", [mail.to])
        mail.sent = True
        mail.save()  #> DBP301
        time.sleep(1)

@shared_task
def campaign2(pk):
    with transaction.atomic():
        for m in Mail.objects.select_for_update().filter(campaign=pk):
            m.send()
            time.sleep(0.5)  #> DBP302

def later(pk):
    with transaction.atomic():
        Mail.objects.create()
        transaction.on_commit(lambda: campaign.delay(pk))
        campaign2.apply_async((pk,))
        campaign2(pk)

class Sender:
    def __enter__(self): return self
    def __exit__(self, *a): time.sleep(1)
    def send(self): send_mail("a")
def y():
    s = Sender()
    with transaction.atomic():
        s.send()  #> DBP302
        Sender().send()  #> DBP302
        with Sender() as z:
            z.send()  #> DBP302
        def cb():
            s.send()
        transaction.on_commit(cb)
        transaction.on_commit(s.send)
        x = s.send
        x()  #> DBP302
""",
    "commands of a project": """
import threading
from django.db import connection
from .models import Job
class Command(BaseCommand):
    def handle(self, *args, **options):
        threads = []
        for n in range(4):
            t = threading.Thread(target=self.worker, args=(n,))  #> DBP201
            threads.append(t)
            t.start()
        for t in threads:
            t.join()
    def worker(self, n):
        for job in Job.objects.filter(n=n):
            self.do(job)  #> DBP301
    def do(self, job):
        job.done = True
        Job.objects.filter(pk=job.pk).update(done=True)
def heartbeat():
    def beat():
        while not stop.wait(5):
            Job.objects.update(beat=1)
    threading.Thread(target=beat, daemon=True).start()  #> DBP201
def cursor_thread():
    with connection.cursor() as c:
        c.execute("x")
def using():
    from concurrent.futures import ThreadPoolExecutor, as_completed
    with ThreadPoolExecutor(max_workers=4) as pool:
        futures = [pool.submit(cursor_thread) for _ in range(4)]  #> DBP201
        for f in as_completed(futures): f.result()
def closes_inside():
    def work():
        try:
            cursor_thread()
        finally:
            connection.close()
    threading.Thread(target=work).start()
from multiprocessing import Process
Process(target=cursor_thread).start()
from multiprocessing.pool import ThreadPool
ThreadPool(3).map(cursor_thread, [1])  #> DBP201
""",
    "comprehensions, globals and names that shadow": """
import psycopg
from psycopg import connect as dial
from django.db import connection
from shop.models import Order

opened = None

def keep():
    global opened
    opened = psycopg.connect

def use():
    opened("")  #> DBP101

def shadow(psycopg, connection=None):
    [psycopg.connect("") for psycopg in range(3)]
    return connection.connection

class Names:
    dial = print
    def go(self):
        dial("")  #> DBP101
        return self.dial("")

def rebound():
    order = Order.objects.get(pk=1)
    order = {"items": []}
    for each in range(10):
        order.save()

def branches(flag):
    if flag:
        row = Order.objects.get(pk=1)
    else:
        row = object()
        for each in range(10):
            row.save()
    for each in range(10):
        row.save()  #> DBP301

def found_before(pks):
    if (order := Order.objects.first()) and any((last := Order.objects.get(pk=pk)) for pk in pks):  #> DBP301
        for each in range(10):
            last.save()  #> DBP301
""",
}
