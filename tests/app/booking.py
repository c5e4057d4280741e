"""The samples of docs/retrying.md, as code that runs."""

from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views import View

from django_dbpool import transaction

from .models import Item, Log


@transaction.retrying
def book(seat: int) -> int:
    item = Item.objects.select_for_update().get(pk=seat)
    item.n += 1
    item.save()
    return item.n


def book_all(seats: list[int]) -> int:
    for attempt in transaction.retrying(attempts=5, total=3):
        with attempt:
            booked = Item.objects.filter(pk__in=seats).update(n=F("n") + 1)
    return booked


def rename(pk: int, name: str) -> None:
    transaction.retrying().call(Item.objects.filter(pk=pk).update, name=name)


@transaction.retrying
def booking(request: HttpRequest, seat: int) -> HttpResponse:
    return HttpResponse(str(book.__wrapped__(seat)))  # type: ignore[attr-defined]


@method_decorator(transaction.retrying, name="dispatch")
class Booking(View):
    def post(self, request: HttpRequest, seat: int) -> HttpResponse:
        return HttpResponse(str(Item.objects.filter(pk=seat).update(n=F("n") + 1)))


@transaction.retrying(atomic=False, total=60)
def vacuum(table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {connection.ops.quote_name(table)}")


async def book_later(seat: int) -> int:
    return await sync_to_async(book)(seat)


@transaction.retrying(atomic=False)
async def count() -> int:
    return await Item.objects.acount()


@transaction.idempotent
def refresh() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE app_item SET n = 0")


@transaction.deadline(2.5)
def front_page() -> list[Item]:
    return list(Item.objects.order_by("-n")[:10])


@transaction.retrying
def book_once(seat: int, key: str) -> bool:
    """
    Whether this call has booked: the key, of the form that was sent, is written with the booking or not at all.
    """
    if Log.objects.filter(key=key).exists():
        return False
    Log.objects.create(key=key)  # with a unique constraint on key
    Item.objects.filter(pk=seat).update(n=F("n") + 1)
    return True


def book_from_form(seat: int, key: str) -> bool:
    try:
        return book_once(seat, key)
    except IntegrityError:  # the same form, sent twice at the same moment
        return False
