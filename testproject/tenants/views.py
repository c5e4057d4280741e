from __future__ import annotations

from collections.abc import Iterator

from django.http import HttpRequest, JsonResponse, StreamingHttpResponse

from .models import Invoice, Note


def notes(request: HttpRequest) -> JsonResponse:
    if request.method == "POST":
        Note.objects.create(text=request.POST["text"])
    return JsonResponse({"notes": list(Note.objects.order_by("pk").values_list("text", flat=True))})


def invoices(request: HttpRequest) -> JsonResponse:
    if request.method == "POST":
        Invoice.objects.create(number=int(request.POST["number"]))
    return JsonResponse({"invoices": list(Invoice.objects.order_by("number").values_list("number", flat=True))})


async def invoices_async(request: HttpRequest) -> JsonResponse:
    numbers = [number async for number in Invoice.objects.order_by("number").values_list("number", flat=True)]
    return JsonResponse({"invoices": numbers})


def export(request: HttpRequest) -> StreamingHttpResponse:
    """The queries of the body run after the view has returned."""

    def lines() -> Iterator[str]:
        for number in Invoice.objects.order_by("number").values_list("number", flat=True).iterator():
            yield f"{number}\n"

    return StreamingHttpResponse(lines(), content_type="text/csv")
