"""DBP301: loops that it leaves alone, and those where it is close."""

from __future__ import annotations

CASES = {
    "loops that don't ask for each item": """
from django.core.paginator import Paginator
from django.db import connection, connections, models
from itertools import batched
from shop.models import Item, Order
from shop.batches import run_batches
import boto3
import requests

def iterable_only():
    for order in Order.objects.filter(done=False):
        print(order.name)
    for order in list(Order.objects.all()):
        order.done = True
    return [order.pk for order in Order.objects.all()]

def bulk(groups):
    for group in groups:
        Item.objects.bulk_create(group)
        Item.objects.in_bulk(group)
        Item.objects.bulk_update(group, ["name"])

def built(names):
    parts = []
    for name in names:
        parts.append(Order.objects.filter(name=name))
    qs = Order.objects.all()
    for name in names:
        qs = qs.exclude(name=name)
    return qs

def cached_result(names):
    qs = Order.objects.all()
    for name in names:
        for order in qs:
            print(order, name)
        if qs:
            print(len(qs))

def prefetched():
    for order in Order.objects.prefetch_related("items"):
        for item in order.items.all():
            print(item)
        print(order.items.count(), len(order.items.all()))

class Basket(models.Model):
    data = models.JSONField()
    def total(self):
        return sum(line.price for line in self.lines.all())

def prefetched_methods():
    for basket in Basket.objects.prefetch_related("lines"):
        basket.total()
        basket.data.get("x")
        basket.tags_text.count(",")
        basket.options.get("x")

def batches():
    while batch := list(Order.objects.filter(done=False)[:500]):
        Order.objects.filter(pk__in=[order.pk for order in batch]).update(done=True)
    while True:
        pks = list(Order.objects.values_list("pk", flat=True)[:500])
        if not pks:
            break
        Order.objects.filter(pk__in=pks).delete()
    for start in range(0, 10_000, 500):
        list(Order.objects.all()[start : start + 500])
    for chunk in batched(range(10_000), 500):
        Order.objects.filter(pk__in=chunk).update(done=True)
    for pks in groups():
        Order.objects.filter(pk__in=pks).update(done=True)
    for batch in run_batches(Order.objects.all()):
        batch.update(done=True)

def few():
    for name in ("a", "b", "c"):
        Order.objects.create(name=name)
    for attempt in range(3):
        Order.objects.count()
    [Order.objects.get(name=name) for name in ["a", "b"]]
    for key, value in {"a": 1, "b": 2}.items():
        Order.objects.create(name=key, value=value)
    for name in NAMES:
        Order.objects.create(name=name)

NAMES = ("a", "b")

def ends(names):
    for name in names:
        if name.startswith("x"):
            return Order.objects.get(name=name)
    for name in names:
        if name.startswith("x"):
            order = Order.objects.get(name=name)
            break
    while True:
        try:
            return Order.objects.create(name="x")
        except ValueError:
            continue

def unique(slug):
    while Order.objects.filter(slug=slug).exists():
        slug += "x"

def service():
    while True:
        Order.objects.filter(done=False).count()
        time.sleep(5)

def defined_only(names):
    for name in names:
        def later():
            return Order.objects.get(name=name)
        register(lambda: Order.objects.count())

def others(rows, forms, files, mapping):
    for row in rows:
        row.save()
        row.delete()
        mapping.get(row)
        requests.get(row)
        rows.count(row)
    for form in forms:
        form.save()
    bucket = boto3.resource("s3").Bucket("x")
    for name in files:
        bucket.objects.filter(Prefix=name).delete()

class Registry:
    objects = {}

def registry(names):
    for name in names:
        Registry.objects.get(name)

def per_database():
    for alias in connections:
        Order.objects.using(alias).count()
    for each in connections.all():
        with each.cursor() as cursor:
            cursor.execute("SELECT 1")
    for model in apps.get_models():
        model.objects.count()
    for model in (Order, Item, Order, Item, Order, Item):
        model.objects.count()
""",
    "loops without queries, further": """
from django.db import connection, transaction, models
from .models import Order, Customer as Cust, Item
from django_dbpool.batch import run_batches
from django.core.paginator import Paginator
def a(ids, forms, cache, d, f, s):
    for i in ids:
        d.get(i); cache.get(i); s.filter(i); f.save(); s.count(i); s.create(x=1); d.delete(); i.items.all; i.items()
        i.objects.get("x")
        session.get(i); self.client.get("/"); request.GET.get(i); os.environ.get("x")
    by_id = {o.pk: o for o in Order.objects.filter(pk__in=ids)}
    for i in ids:
        o = by_id.get(i)
        o.total = 1
    objs = [Order(pk=i) for i in ids]
    Order.objects.bulk_create(objs)
    Order.objects.bulk_update([o for o in objs], ["x"], batch_size=5)
    for o in Order.objects.filter(pk__in=ids).select_related("customer"):
        print(o.customer.name)
    for k, v in Order.objects.values_list("a", "b"):
        d[k] = v
    for o in Order.objects.all()[:10]:
        print(o)
    for i in range(0, 100, 10):
        Order.objects.bulk_create(objs[i:i+10])
    for chunk in chunked(ids, 10):
        Order.objects.filter(pk__in=chunk).delete()
    last = 0
    while True:
        rows = list(Order.objects.filter(pk__gt=last).order_by("pk")[:500])
        if not rows:
            break
        Order.objects.filter(pk__in=[r.pk for r in rows]).update(x=1)
        last = rows[-1].pk
    paginator = Paginator(Order.objects.all(), 100)
    for n in paginator.page_range:
        for o in paginator.page(n).object_list:
            print(o)
    for state in ["a", "b", "c"]:
        print(Order.objects.filter(state=state).count())
    counts = {s: Order.objects.filter(state=s).count() for s in ("a", "b")}
    filters = [Order.objects.filter(x=i) for i in ids]
    q = models.Q()
    for i in ids:
        q |= models.Q(pk=i)
    qs = Order.objects.none()
    for i in ids:
        qs = qs | Order.objects.filter(x=i)
    for name, kw in d.items():
        qs = qs.annotate(**{name: kw})
    with connection.cursor() as c:
        c.execute("x")
        for row in c.fetchall():
            print(row)
        for row in c:
            print(row)
        c.executemany("x", ids)
    subs = [lambda: Order.objects.get(pk=i) for i in ids]
    for o in Order.objects.prefetch_related("items", "items__x"):
        t = sum(i.x for i in o.items.all())
        for i in o.items.all(): print(i)
        if o.items.all(): pass
    run_batches(Order.objects.all(), lambda batch: batch.update(x=1))
    def handler(batch):
        for o in batch:
            print(o)
    return next((o for o in Order.objects.all() if o.x), None)
def gen():
    for o in Order.objects.all():
        yield o
for c in gen(): print(c)
class F(forms.Form):
    def save(self):
        for f in self.forms:
            f.save()
def files(fs):
    for f in fs:
        with open(f) as fh:
            fh.save()
        storage.delete(f)
        image = Image.open(f)
        image.save("x")
""",
    "loops at the edge of what counts": """
from contextlib import suppress
from functools import lru_cache
from django.apps import apps
from django.db import connection
from shop.models import Order

@lru_cache
def remembered(pk):
    return Order.objects.get(pk=pk)

def edge(flag, xs, ys, statements):
    for x in xs:
        remembered(x)
    if flag:
        row = Order.objects.get(pk=1)
    else:
        for x in xs:
            row.save()
    order = None
    while order is None:
        order = Order.objects.filter(free=True).first()
    while flag():
        Order.objects.update(seen=True)
        wait.sleep(1)
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)  #> DBP301
    for x in xs:
        for y in ys:
            Order.objects.get(pk=x)  #> DBP301
            break
    for x in xs:
        try:
            order = Order.objects.create(name=x)
        except ValueError:
            continue
        else:
            break
    for x in xs:
        try:
            return Order.objects.get(name=x)  #> DBP301
        except (Order.DoesNotExist, KeyError):
            continue
    for x in xs:
        name = x.strip()
        with suppress(Order.DoesNotExist):
            row = Order.objects.get(name=name)  #> DBP301
            break
    for x in xs:
        try:
            return Order.objects.get(pk=1)
        except Order.DoesNotExist:
            x.wake()
    for x in xs:
        try:
            return Order.objects.get(name=x)
        except Order.DoesNotExist:
            raise
    for model in apps.get_models():
        Order.objects.filter(model=model._meta.label).delete()  #> DBP301
        model.objects.count()
    steps = range(0, len(xs), 500)
    for n, step in enumerate(steps):
        Order.objects.filter(pk__in=xs[step : step + 500]).delete()
    names = []
    for x in xs:
        names.append(x)
    for name in names:
        Order.objects.create(name=name)  #> DBP301
    for name in (1, 2, 3, 4, 5):
        Order.objects.create(name=name)
    for name in (1, 2, 3, 4, 5, 6):
        Order.objects.create(name=name)  #> DBP301
    few = [1, 2]
    few += xs
    for each in few:
        Order.objects.create(name=each)  #> DBP301

class Short:
    def __init__(self):
        self.rows = []
        self.kept = [Order(), Order()]
        self.grown = []
        self.joined = []

    def fill(self, order):
        self.rows = [Order(), Order()]
        def later():
            self.grown.append(Order())
        self.joined += [order]

    def clear(self):
        for row in self.rows:
            row.delete()
        for row in reversed(self.kept):
            row.delete()
        for row in self.grown:
            row.delete()  #> DBP301
        for row in self.joined:
            Order.objects.get(pk=row)  #> DBP301

class Other:
    def fill(self, source):
        self.rows = list(source)
        self.rows.append("x")

    def clear(self):
        for row in self.rows:
            row.delete()
            Order.objects.get(pk=row)  #> DBP301
""",
}
