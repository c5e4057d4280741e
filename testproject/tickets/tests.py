"""Of the shop: `python testproject/manage.py test testproject.tickets`."""

from __future__ import annotations

from uuid import uuid4

from django.conf import settings
from django.db import OperationalError, connection
from django.test import TestCase, TransactionTestCase

from testproject.databases import POOLED_BACKEND
from testproject.tickets.maintenance import vacuum_analyze
from testproject.tickets.models import Event, Order
from testproject.tickets.orders import PlaceOrder, SoldOut, place_order
from testproject.tickets.repository import EventRepository


class OrderTests(TestCase):
    event: Event

    @classmethod
    def setUpTestData(cls) -> None:
        cls.event = Event.objects.create(name="Opera", seats=5)

    def order(self, seats: int) -> PlaceOrder:
        return PlaceOrder(uuid4(), self.event.pk, seats)

    def test_order_takes_its_seats(self) -> None:
        placed = place_order(self.order(3))
        self.event.refresh_from_db()
        assert (placed.seats, self.event.sold) == (3, 3)

    def test_same_order_again_is_the_same_order(self) -> None:
        order = self.order(2)
        assert place_order(order) == place_order(order)
        self.event.refresh_from_db()
        assert (self.event.sold, Order.objects.count()) == (2, 1)

    def test_nothing_is_saved_when_the_seats_are_gone(self) -> None:
        place_order(self.order(4))
        with self.assertRaises(SoldOut):  # noqa: PT027
            place_order(self.order(2))
        self.event.refresh_from_db()
        assert (self.event.sold, Order.objects.count()) == (4, 1)


class LostCommitTests(TransactionTestCase):
    """The server ends the session in the middle of the first COMMIT of an order."""

    def setUp(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                CREATE SEQUENCE commits;
                CREATE FUNCTION end_the_first() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    IF nextval('commits') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                    RETURN NULL;
                END $$;
                CREATE CONSTRAINT TRIGGER end_the_first AFTER INSERT ON tickets_order
                    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION end_the_first();
                """
            )

    def tearDown(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION end_the_first() CASCADE")
            cursor.execute("DROP SEQUENCE commits")

    def test_order_is_placed_once(self) -> None:
        event = Event.objects.create(name="Opera", seats=5)
        order = PlaceOrder(uuid4(), event.pk, 3)
        if settings.DATABASES["default"]["ENGINE"] != POOLED_BACKEND:
            with self.assertRaises(OperationalError):  # noqa: PT027
                place_order(order)
            connection.close()
        placed = place_order(order)
        event.refresh_from_db()
        assert (placed.key, event.sold, Order.objects.count()) == (order.key, 3, 1)


class EventRepositoryTests(TestCase):
    def test_sold_out_events_are_not_on_sale(self) -> None:
        Event.objects.create(name="Circus", seats=2, sold=2)
        opera = Event.objects.create(name="Opera", seats=2, sold=1)
        assert EventRepository().on_sale() == [opera]
        assert EventRepository().seats_sold() == 3


class MaintenanceTests(TransactionTestCase):
    def test_tables_are_vacuumed(self) -> None:
        Event.objects.create(name="Opera", seats=1)
        vacuum_analyze()
        with connection.cursor() as cursor:
            cursor.execute("SELECT reltuples FROM pg_class WHERE relname = 'tickets_event'")
            assert cursor.fetchall() == [(1.0,)]
