from __future__ import annotations

from django.db import connection, transaction
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from testproject.webhooks import services, switches
from testproject.webhooks.deliveries import Delivery
from testproject.webhooks.models import Booking, Event


@csrf_exempt
@require_POST
def receive(request: HttpRequest) -> HttpResponse:
    """An event of the payment service or the carrier, who send it again until it is answered 200."""
    delivery = Delivery.from_json(request.body)
    if services.accept(delivery):
        services.start_follow_up(delivery)
    return JsonResponse({"received": delivery.key})


@require_GET
def totals(request: HttpRequest) -> HttpResponse:
    """A report in one transaction; `?seconds=` makes it as slow as one over large tables."""
    with transaction.atomic():
        states = dict(Event.objects.values_list("state").annotate(Count("pk")))
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", [float(request.GET.get("seconds", 0))])
        booked = Booking.objects.aggregate(total=Sum("amount"))["total"]
    return JsonResponse({"states": states, "booked": booked or 0})


@require_GET
def connections(request: HttpRequest) -> HttpResponse:
    """Of this process's pool, without a query; null on an engine that has none."""
    pool = getattr(connection, "pool", None) if switches.CURED else None
    if pool is None:
        return JsonResponse({"size": None, "in_use": None})
    numbers = pool.snapshot()
    return JsonResponse({"size": numbers.size, "in_use": numbers.in_use})
