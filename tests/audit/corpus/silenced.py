"""What people write to say: I know."""

import threading
import time

import psycopg
import requests
from django.conf import settings
from django.db import connection, transaction

from shop.models import Order


def bare():
    return psycopg.connect(settings.DSN)  # noqa


def with_its_code():
    return psycopg.connect(settings.DSN)  # noqa: DBP101


def with_a_reason():
    return psycopg.connect(settings.DSN)  # noqa: DBP101 - LISTEN wants one of its own


def upper_case():
    return psycopg.connect(settings.DSN)  # NOQA: DBP101


def without_a_space():
    return psycopg.connect(settings.DSN)  # noqa:DBP101


def among_others(pks):
    for pk in pks:
        Order.objects.get(pk=pk)  # noqa: E501,DBP301


def among_others_with_spaces(pks):
    for pk in pks:
        Order.objects.get(pk=pk)  # noqa: PERF401, DBP301, E501


def after_another_comment():
    raw = connection.connection  # for COPY  # noqa: DBP102
    return raw.fileno()


def on_the_first_line_of_the_statement(pks):
    for pk in pks:
        order = (  # noqa: DBP301
            Order.objects.select_related("customer").filter(pk=pk).first()
        )
        print(order)


def on_the_reported_line():
    threading.Thread(target=Order.objects.count).start()  # noqa: DBP201
    with transaction.atomic():
        time.sleep(0.001)  # noqa: DBP302
    for order in Order.objects.iterator():  # noqa: DBP303
        requests.post(settings.API, json={"pk": order.pk})  # noqa: DBP303


def another_code():
    # expect-next: DBP101
    return psycopg.connect(settings.DSN)  # noqa: S105


def another_of_ours(pks):
    for pk in pks:
        # expect-next: DBP301
        Order.objects.get(pk=pk)  # noqa: DBP302


def one_of_two():
    with transaction.atomic():
        for order in Order.objects.iterator():
            # expect-next: DBP303
            requests.post(settings.API, json={"pk": order.pk})  # noqa: DBP302


def on_the_line_before():
    # noqa: DBP101
    return psycopg.connect(settings.DSN)  # expect: DBP101


def only_in_a_string():
    return psycopg.connect(settings.DSN, application_name="# noqa: DBP101")  # expect: DBP101


def part_of_a_word():
    # expect-next: DBP101
    return psycopg.connect(settings.DSN)  # see noqa.md


def only_the_first_of_two():
    first = psycopg.connect(settings.DSN)  # noqa: DBP101
    second = psycopg.connect(settings.DSN)  # expect: DBP101
    return first, second
