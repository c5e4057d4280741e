"""Management commands and scripts that go through rows one by one."""

import csv
from pathlib import Path

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management.base import BaseCommand
from django.db import connection, connections, transaction
from django.shortcuts import get_list_or_404, get_object_or_404

from shop.models import Category, Customer, Order, Product

User = get_user_model()

for group_name in Path("groups.txt").read_text().splitlines():
    Group.objects.get_or_create(name=group_name)  # expect: DBP301


class Command(BaseCommand):
    def handle(self, *args, path, **options):
        with open(path, newline="") as rows:
            for row in csv.DictReader(rows):
                Product.objects.update_or_create(  # expect: DBP301
                    sku=row["sku"],
                    defaults={"price": row["price"]},
                )

    def handle_in_pieces(self, rows):
        for row in rows:
            self._import(row)  # expect: DBP301

    def _import(self, row):
        category = Category.objects.get(name=row["category"])
        Product.objects.create(sku=row["sku"], category=category)

    def only_reports(self, rows):
        for row in rows:
            self._report(row)

    def _report(self, row):
        self.stdout.write(row.get("sku", "?"))


def get_each(pks):
    orders = []
    for pk in pks:
        orders.append(Order.objects.get(pk=pk))  # expect: DBP301
    return orders


def save_each():
    for order in Order.objects.filter(total=None):
        order.total = 0
        order.save(update_fields=["total"])  # expect: DBP301


def delete_each():
    for order in Order.objects.filter(cancelled=True).order_by("pk"):
        order.delete()  # expect: DBP301


def refresh_each():
    orders = list(Order.objects.filter(open=True))
    for order in orders:
        order.refresh_from_db(fields=["status"])  # expect: DBP301


def while_there_are_some(pks):
    while pks:
        Order.objects.filter(pk=pks.pop()).update(seen=True)  # expect: DBP301


def chain_over_lines(customers):
    latest = {}
    for customer in customers:
        latest[customer] = (
            Order.objects.using("replica")  # expect: DBP301
            .filter(customer=customer)
            .select_related("customer")
            .order_by("created")
            .last()
        )
    return latest


def user_model(emails):
    for email in emails:
        if (user := User.objects.filter(email__iexact=email).first()) is None:  # expect: DBP301
            continue
        yield user


def default_manager(pks):
    for pk in pks:
        yield Order._default_manager.get(pk=pk)  # expect: DBP301


def shortcut(pks):
    for pk in pks:
        yield get_object_or_404(Order, pk=pk)  # expect: DBP301


def raw_sql(rows):
    with connection.cursor() as cursor:
        for sku, price in rows:
            cursor.execute("UPDATE product SET price = %s WHERE sku = %s", [price, sku])  # expect: DBP301


def cursor_of_its_own_each_time(names):
    for name in names:
        with connections["default"].cursor() as cursor:
            cursor.execute("DELETE FROM tag WHERE name = %s", [name])  # expect: DBP301


def cursor_kept_in_a_name(skus):
    cursor = connection.cursor()
    try:
        for sku in skus:
            cursor.execute("SELECT price FROM product WHERE sku = %s", [sku])  # expect: DBP301
            yield cursor.fetchone()
    finally:
        cursor.close()


def inside_try_and_if(rows):
    for row in rows:
        try:
            if row["email"]:
                Customer.objects.create(email=row["email"])  # expect: DBP301
        except KeyError:
            continue
        finally:
            row.clear()


def one_transaction_each(pks):
    for pk in pks:
        with transaction.atomic():
            order = Order.objects.select_for_update().get(pk=pk)  # expect: DBP301
            order.total += 1
            order.save()  # expect: DBP301


def get_or_next(codes):
    for code in codes:
        try:
            return Product.objects.get(sku=code)  # expect: DBP301
        except Product.DoesNotExist:
            continue
    return None


def queryset_in_a_name(customers):
    orders = Order.objects.filter(open=True)
    return [c for c in customers if orders.filter(customer=c).exists()]  # expect: DBP301


def manager_in_a_name(rows):
    manager = Product.objects
    for row in rows:
        manager.create(**row)  # expect: DBP301


def evaluated_by_list(categories):
    for category in categories:
        yield list(Product.objects.filter(category=category))  # expect: DBP301


def evaluated_by_len(categories):
    return {c: len(Product.objects.filter(category=c)) for c in categories}  # expect: DBP301


def evaluated_by_if(categories):
    for category in categories:
        if Product.objects.filter(category=category):  # expect: DBP301
            print(category)


def evaluated_by_index(categories):
    return [Product.objects.filter(category=c)[0] for c in categories]  # expect: DBP301


def inner_loop(categories):
    for category in categories:
        for product in Product.objects.filter(category=category):  # expect: DBP301
            print(product)


def several_queries_each(pks):
    for pk in pks:
        order = Order.objects.get(pk=pk)  # expect: DBP301
        order.seen = True
        order.save()  # expect: DBP301


def six_of_a_list():
    for status in ["new", "paid", "packed", "sent", "returned", "closed"]:
        print(status, Order.objects.filter(status=status).count())  # expect: DBP301


def new_instances(rows):
    for row in rows:
        Product(sku=row["sku"]).save()  # either: DBP301


def one_query(pks):
    found = Order.objects.in_bulk(pks)
    for pk in pks:
        print(found.get(pk))


def built_then_written(rows):
    products = []
    for row in rows:
        products.append(Product(sku=row["sku"]))
    Product.objects.bulk_create(products, batch_size=500)


def only_the_iterable():
    for order in Order.objects.filter(open=True).select_related("customer"):
        print(order.customer.name)
    for order in get_list_or_404(Order, open=True):
        print(order)
    for index, order in enumerate(list(Order.objects.all())):
        print(index, order)
    return [order.total for order in Order.objects.only("total")]


def after_and_before(rows):
    known = set(Product.objects.values_list("sku", flat=True))
    missing = [row for row in rows if row["sku"] not in known]
    for row in missing:
        row["new"] = True
    Product.objects.filter(sku__in=[row["sku"] for row in missing]).delete()


def in_the_else(rows):
    for row in rows:
        if row["broken"]:
            break
    else:
        Product.objects.update(checked=True)


def leaves_at_the_first(rows):
    for row in rows:
        if row["sku"].startswith("A"):
            return Product.objects.get(sku=row["sku"])
    return None


def many_at_once(rows):
    with connection.cursor() as cursor:
        cursor.executemany("UPDATE product SET price = %s WHERE sku = %s", rows)
        for row in cursor.fetchall():
            print(row)
