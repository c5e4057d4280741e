"""The driver's connection, fetched out of Django's wrapper."""

import smtplib

import django.db
import pika
from django import db
from django.core import mail
from django.core.mail import get_connection as get_mail_connection
from django.db import connection, connections, transaction
from django.db import connection as default
from django.db.transaction import get_connection
from psycopg.types.hstore import register_hstore
from psycopg.types.json import JsonbDumper


def notifications():
    connection.ensure_connection()
    raw = connection.connection  # expect: DBP102
    yield from raw.notifies(timeout=5)


def copy_out(alias, path):
    with open(path, "wb") as target:
        cursor = connections[alias].connection.cursor()  # expect: DBP102
        with cursor.copy("COPY orders TO STDOUT") as copy:
            target.writelines(copy)


def copy_of_replica():
    return connections["replica"].connection.pgconn  # expect: DBP102


def in_this_transaction(using=None):
    return transaction.get_connection(using).connection.info, 1  # reads only


def cancel_from_outside(using=None):
    transaction.get_connection(using).connection.cancel_safe()  # expect: DBP102


def imported_getter():
    get_connection(using="default").connection.rollback()  # expect: DBP102


def bound_to_a_name(alias):
    wrapper = connections[alias]
    wrapper.ensure_connection()
    wrapper.connection.set_autocommit(True)  # expect: DBP102


def bound_by_walrus():
    if (wrapper := connections["default"]).vendor == "postgresql":
        register_hstore(None, wrapper.connection)  # expect: DBP102


def alias_of_the_import():
    return default.connection.pipeline()  # expect: DBP102


def through_the_package():
    django.db.connection.connection.add_notice_handler(print)  # expect: DBP102
    return db.connection.connection.fileno()  # expect: DBP102


def all_wrappers():
    for wrapper in connections.all():
        wrapper.connection.cancel()  # expect: DBP102


def in_a_comprehension():
    return [connections[alias].connection.pgconn.socket for alias in connections]  # expect: DBP102


class Locks:
    def take(self, key):
        raw = get_connection().connection  # expect: DBP102
        raw.execute("SELECT pg_advisory_lock(%s)", [key])

    def in_the_argument(self):
        return self._send(connection.connection)  # expect: DBP102

    def _send(self, raw):
        return raw.fileno()


class Copier:
    def __init__(self, alias):
        self.database = connections[alias]

    def kept_in_an_attribute(self):
        return self.database.connection.cursor()  # either: DBP102


def is_open():
    # Looks whether there is a connection, takes none.
    return connection.connection is not None  # either: DBP102


def server_version():
    connection.ensure_connection()
    return connection.connection.info.server_version


def is_closed(alias):
    return connections[alias].connection.closed


def teach_json():
    connection.connection.adapters.register_dumper(dict, JsonbDumper)
    wrapper = connections["replica"]
    wrapper.connection.adapters.register_dumper(list, JsonbDumper)


def backend_pid_for_the_log():
    return {"pid": connection.connection.info.backend_pid, "closed": connection.connection.closed}


def forget_after_fork():
    for alias in connections:
        wrapper = connections[alias]
        wrapper.close()
        wrapper.connection = None


def smtp_of_the_mail_backend():
    backend = mail.get_connection()
    backend.open()
    return backend.connection.noop()


def also_smtp():
    return get_mail_connection().connection.sock


def amqp(parameters):
    connection = pika.BlockingConnection(parameters)
    return connection.connection.heartbeat


def on_open(connection):
    return connection.connection.socket


class Mailer:
    def __init__(self):
        self.connection = smtplib.SMTP("localhost")

    def quit(self):
        self.connection.quit()


def a_model_with_such_a_field(port):
    port.connection.refresh_from_db()
    return port.connection.connection.name


def ordinary_use():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return connection.ops.quote_name("orders"), connection.settings_dict["NAME"]
