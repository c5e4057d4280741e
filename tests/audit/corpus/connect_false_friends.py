"""Everything else that connects or pools; nothing here is PostgreSQL."""

import sqlite3
from contextlib import contextmanager
from unittest import mock

import paho.mqtt.client as mqtt
import redis
import urllib3
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from kombu import Connection
from redis import ConnectionPool
from sqlalchemy.pool import NullPool

from shop.models import Order
from shop.search import connect as connect_to_search

cache_pool = ConnectionPool.from_url("redis://cache")
sessions = ConnectionPool(host="cache")
http = urllib3.HTTPConnectionPool("api.example.com", maxsize=4)


def index(order):
    with connect_to_search() as client:
        client.index(order.pk)


def connect(host):
    return mqtt.Client(host)


def publish(topic, message):
    client = connect("mqtt.example.com")
    client.connect("mqtt.example.com", 1883)
    client.publish(topic, message)


def redis_and_sqlite():
    cache = redis.connect("cache")
    with sqlite3.connect(":memory:") as conn:
        return cache, conn.execute("SELECT 1")


def broker():
    with Connection("amqp://") as conn:
        return conn.connect()


def register_signals():
    post_save.connect(index, sender=Order)
    post_delete.connect(index, sender=Order, dispatch_uid="index")


@receiver(post_save, sender=Order)
def on_order_saved(sender, instance, **kwargs):
    index(instance)


def driver_given_by_the_caller(psycopg, dsn):
    return psycopg.connect(dsn)


def without_network():
    with mock.patch("psycopg.connect") as fake, mock.patch("psycopg_pool.ConnectionPool"):
        fake.return_value.execute.return_value = None
        return fake


class Gateway:
    def connect(self):
        return self

    def send(self, message):
        self.connect().send(message)


@contextmanager
def engine_options():
    yield {"poolclass": NullPool}
