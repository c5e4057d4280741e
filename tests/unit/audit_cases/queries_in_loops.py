"""DBP301: queries for each item of a loop."""

from __future__ import annotations

CASES = {
    "queries in loops": """
from django.contrib.auth import get_user_model
from django.db import connection, models
from django.shortcuts import get_object_or_404
from shop.models import Item, Order
from shop import models as shop

User = get_user_model()

def direct(pks, names):
    for pk in pks:
        order = Order.objects.get(pk=pk)  #> DBP301
        order.seen = True
        order.save()  #> DBP301
        order.items.all()
        for item in order.items.all():  #> DBP301
            item.delete()  #> DBP301
        if order.items.filter(done=False).exists():  #> DBP301
            continue
        get_object_or_404(Order, pk=pk)  #> DBP301
        shop.Item.objects.create(order=order)  #> DBP301
        User.objects.filter(pk=pk).update(name="x")  #> DBP301
        list(Item.objects.filter(order=pk))  #> DBP301
    else:
        Order.objects.count()
    while pks:
        Order.objects.get(pk=pks.pop())  #> DBP301
    [Item.objects.filter(order=pk).count() for pk in pks]  #> DBP301
    return {name: Order.objects.filter(name=name).first() for name in names}  #> DBP301

def cursors(rows):
    with connection.cursor() as cursor:
        for row in rows:
            cursor.execute("INSERT", row)  #> DBP301

def rows_of_querysets(queryset):
    for obj in queryset:
        obj.save()  #> DBP301
    for index, obj in enumerate(Order.objects.all()):
        obj.delete()  #> DBP301
    orders = list(Order.objects.filter(done=False))
    for order in orders:
        order.refresh_from_db()  #> DBP301
    total = sum(order.items.count() for order in Order.objects.all())  #> DBP301
    for order in found():
        order.save()  #> DBP301
    for name in names:
        qs = Order.objects.filter(name=name)
        if name:
            qs = qs.exclude(done=True)
        for each in qs:  #> DBP301
            print(each)
        print(qs[0])  #> DBP301

def found():
    return Order.objects.filter(done=False)

def price(pk):
    return lookup(pk)

def lookup(pk):
    return Item.objects.get(pk=pk).price

def calls(pks):
    for pk in pks:
        price(pk)  #> DBP301

class Basket(models.Model):
    name = models.CharField(max_length=10)

    def total(self):
        return sum(line.price for line in self.lines.all())

    @property
    def last(self):
        return self.lines.order_by("pk").first()

    def touch(self):
        self.save()

def baskets():
    for basket in Basket.objects.all():
        basket.total()  #> DBP301
        print(basket.last)  #> DBP301
        basket.touch()  #> DBP301
    for name in names:
        Basket(name=name).save()  #> DBP301

async def later(pks):
    async for order in Order.objects.all():
        await order.asave()  #> DBP301
    for pk in pks:
        await Order.objects.aget(pk=pk)  #> DBP301

def forwards(apps, schema_editor):
    Old = apps.get_model("shop", "Old")
    for old in Old.objects.all():
        old.save()  #> DBP301

class View:
    def get(self, request):
        for row in self.get_queryset():
            row.save()  #> DBP301
            self.log(row)  #> DBP301
    def log(self, row):
        Item.objects.create(row=row)

def typed(orders: "models.QuerySet[Order]", many: list[Order]):
    for order in orders:
        order.save()  #> DBP301
    for order in many:
        order.save()  #> DBP301
""",
    "queries in loops, further": """
from django.db import connection, transaction, models
from .models import Order, Customer as Cust, Item
from itertools import islice
from django.shortcuts import get_object_or_404 as gor
def a(ids, rows):
    for i in ids:
        try:
            o = Order.objects.select_related("x").get(pk=i)  #> DBP301
        except Order.DoesNotExist:
            o = Order()
        o.name = 1
        o.save(update_fields=["name"])  #> DBP301
    for r in rows:
        obj, created = Order.objects.get_or_create(x=r)  #> DBP301
        if not created:
            obj.save()  #> DBP301
        gor(Order, pk=r)  #> DBP301
        Order.objects.filter(pk=r).exists() and print(1)  #> DBP301
        qs = Item.objects.filter(order=r)
        n = len(qs)  #> DBP301
        if qs.exists():  #> DBP301
            pass
        names = [i.name for i in Item.objects.filter(x=r)]  #> DBP301
        names = list(Item.objects.filter(x=r).values_list("name", flat=True))  #> DBP301
        total = Item.objects.filter(x=r).aggregate(s=1)["s"]  #> DBP301
        cnt = sum(1 for i in Item.objects.filter(x=r))  #> DBP301
        Item(x=r).save()  #> DBP301
        Item.objects.filter(x=r)[0]  #> DBP301
        Item.objects.filter(x=r)[:1].get()  #> DBP301
        x = Item.objects.filter(x=r).first()  #> DBP301
        if r in Item.objects.values_list("x", flat=True):  #> DBP301
            pass
        if not Item.objects.filter(x=r):  #> DBP301
            pass
        dict(Item.objects.filter(x=r).values_list("a", "b"))  #> DBP301
def b():
    for c in Cust.objects.all():
        for o in c.orders.all():  #> DBP301
            for i in o.items.filter(x=1):  #> DBP301
                i.delete()  #> DBP301
        c.orders.count()  #> DBP301
        c.orders.create(x=1)  #> DBP301
        last = c.orders.order_by("-x").first()  #> DBP301
        c.orders.latest("x")  #> DBP301
        sum(o.total for o in c.orders.all())  #> DBP301
        c.profile.save()  #> DBP301
        names = [o.name for o in c.orders.all()]  #> DBP301
        c.tags.add(1)  #> DBP301
def c():
    with connection.cursor() as cur:
        for x in range(100):
            cur.execute("SELECT 1", [x])  #> DBP301
    cur = connection.cursor()
    while x:
        cur.execute("a")  #> DBP301
    for x in y:
        with connection.cursor() as k:
            k.execute("z")  #> DBP301
        connection.cursor().execute("z")  #> DBP301
def d(ids):
    return [Order.objects.get(pk=i) for i in ids], {i: load(i) for i in ids}, set(load(i) for i in ids)  #> DBP301
def load(i):
    return Order.objects.get(pk=i)
class S:
    model = Order
    def go(self, ids):
        for i in ids:
            self.one(i)  #> DBP301
            S.two(i)  #> DBP301
            self.three(i)  #> DBP301
    def one(self, i):
        return self.model.objects.get(pk=i)
    @staticmethod
    def two(i): return Order.objects.get(pk=i)
    @classmethod
    def three(cls, i): return cls.model.objects.get(pk=i)
def e(ids):
    qs = Order.objects.all()
    for i in ids:
        qs.filter(pk=i).update(x=1)  #> DBP301
        qs.get(pk=i)  #> DBP301
    it = iter(ids)
    while True:
        i = next(it, None)
        if i is None:
            break
        Order.objects.get(pk=i)  #> DBP301
def f(order: Order, lines):
    for l in lines:
        order.items.create(x=l)  #> DBP301
        order.refresh_from_db()  #> DBP301
    for l in order.items.all():
        l.save()  #> DBP301
    for l in order.items.filter(x=1)[:10]:
        l.save()  #> DBP301
    for o, l in zip(Order.objects.all(), lines):
        o.save()  #> DBP301
    for i, o in enumerate(Order.objects.all(), start=1):
        o.save()  #> DBP301
    for o in sorted(Order.objects.all(), key=lambda o: o.x):
        o.save()  #> DBP301
    for o in Order.objects.iterator():
        o.save()  #> DBP301
    for pk, o in Order.objects.in_bulk(lines).items():
        o.save()  #> DBP301
    for x in lines:
        with transaction.atomic():
            Order.objects.create(x=x)  #> DBP301
async def g(ids):
    for i in ids:
        o = await Order.objects.aget(pk=i)  #> DBP301
        await o.adelete()  #> DBP301
    async for o in Order.objects.filter(x=1):
        n = await o.items.acount()  #> DBP301
    x = [o async for o in Order.objects.all()]
def h():
    node = Cust.objects.get(pk=1)
    while node.parent_id:
        node = Cust.objects.get(pk=node.parent_id)  #> DBP301
    while node is not None:
        node = Cust.objects.filter(pk=node.parent_id).first()  #> DBP301
""",
    "managers and querysets of the project": """
from django.db import models

class OrderQuerySet(models.QuerySet):
    def close(self, pks):
        for pk in pks:
            self.filter(pk=pk).update(closed=True)  #> DBP301

class OrderManager(models.Manager):
    def by_code(self, code):
        return self.get(code=code)
    def due(self):
        return self.filter(due=True)

class Order(models.Model):
    objects = OrderManager()

def use(codes):
    for code in codes:
        Order.objects.by_code(code)  #> DBP301
        Order.objects.due()
    for order in Order.objects.due():
        order.save()  #> DBP301
""",
}
