"""Threads started from views, app configs and middleware."""

import logging
import threading
from functools import partial
from threading import Thread, Timer
from threading import Thread as T

import requests
from django.apps import AppConfig
from django.db import close_old_connections, connection, connections
from django.http import HttpResponse
from django.shortcuts import get_object_or_404

from django_dbpool import threads
from shop.models import Cart, Invoice, Order
from shop.services import rebuild_everything

logger = logging.getLogger(__name__)


def _expire_carts():
    Cart.objects.filter(expired=True).delete()


def _send_invoice(pk):
    invoice = Invoice.objects.get(pk=pk)
    requests.post("https://billing.example.com", json={"number": invoice.number}, timeout=5)


def _refresh_view():
    with connection.cursor() as cursor:
        cursor.execute("REFRESH MATERIALIZED VIEW sales")


def _nightly():
    logger.info("nightly")
    _expire_carts()


def _with_cleanup():
    try:
        _expire_carts()
    finally:
        connections.close_all()


def _ping():
    requests.get("https://status.example.com", timeout=2)


def checkout(request, pk):
    threading.Thread(target=_send_invoice, args=(pk,), daemon=True).start()  # expect: DBP201
    return HttpResponse(status=202)


def imported_class(request):
    worker = Thread(name="refresh", target=_refresh_view)  # expect: DBP201
    worker.start()
    worker.join()


def renamed_class():
    T(target=_expire_carts).start()  # expect: DBP201


def positional_target():
    threading.Thread(None, _expire_carts, "expire").start()  # expect: DBP201


def timer_by_position():
    Timer(30, _expire_carts).start()  # expect: DBP201


def timer_by_keyword():
    timer = threading.Timer(interval=30, function=_expire_carts)  # expect: DBP201
    timer.daemon = True
    timer.start()


def target_is_a_lambda(pk):
    Thread(target=lambda: Order.objects.filter(pk=pk).update(seen=True)).start()  # expect: DBP201


def lambda_calls_a_function(pk):
    Thread(target=lambda: _send_invoice(pk)).start()  # expect: DBP201


def target_is_a_partial(pk):
    Thread(target=partial(_send_invoice, pk)).start()  # expect: DBP201


def two_calls_away():
    Thread(target=_nightly).start()  # expect: DBP201


def nested_target(request, pk):
    def work():
        order = get_object_or_404(Order, pk=pk)
        logger.info("order %s", order)

    threading.Thread(target=work).start()  # expect: DBP201
    return HttpResponse()


def closes_but_not_when_it_fails(pk):
    def work():
        Order.objects.filter(pk=pk).update(exported=True)
        connection.close()

    Thread(target=work).start()  # expect: DBP201


def closes_the_wrong_thing(path):
    def work():
        report = open(path, "w")
        try:
            report.writelines(str(order) for order in Order.objects.all())
        finally:
            report.close()

    Thread(target=work).start()  # expect: DBP201


def closes_old_ones_only_before(pk):
    def work():
        close_old_connections()
        Order.objects.filter(pk=pk).delete()

    Thread(target=work).start()  # expect: DBP201


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        threading.Thread(target=self._warm_cache, daemon=True).start()  # expect: DBP201

    def _warm_cache(self):
        self.orders = list(Order.objects.all()[:100])

    def silent_method_as_target(self):
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self):
        requests.get("https://config.example.com", timeout=5)


class Exporter(threading.Thread):
    def __init__(self, path):
        super().__init__(daemon=True)
        self.path = path

    def run(self):  # expect: DBP201
        with open(self.path, "w") as target:
            target.writelines(str(order) for order in Order.objects.all())


class TidyExporter(Thread):
    def run(self):
        try:
            Order.objects.filter(exported=False).update(exported=True)
        finally:
            connection.close()


class Pinger(Thread):
    def run(self):
        while not self.done.wait(30):
            _ping()


class NotAThread:
    def run(self):
        return Order.objects.count()


def closes_in_finally(pk):
    def work():
        try:
            Order.objects.filter(pk=pk).update(exported=True)
        finally:
            connection.close()

    Thread(target=work).start()


def closes_all_in_finally():
    Thread(target=_with_cleanup, daemon=True).start()


def closes_old_in_finally(alias):
    def work():
        try:
            Order.objects.using(alias).filter(stale=True).delete()
        finally:
            close_old_connections()

    threading.Timer(1.0, work).start()


def closes_one_alias_in_finally():
    def work():
        try:
            return Order.objects.using("replica").count()
        except Order.DoesNotExist:
            return 0
        finally:
            connections["replica"].close()

    Thread(target=work).start()


def no_database():
    Thread(target=_ping).start()
    Timer(60, print, args=("a minute",)).start()


def target_of_another_module():
    Thread(target=rebuild_everything).start()


def managed():
    threads.spawn(_expire_carts)


def lock_and_event():
    with threading.Lock():
        _expire_carts()
    return threading.Event(), threading.current_thread()


def a_thread_of_a_forum(thread_class):
    return thread_class.Thread(target=_expire_carts)
