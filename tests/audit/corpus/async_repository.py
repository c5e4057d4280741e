"""Async views and a repository class."""

from django.http import JsonResponse, StreamingHttpResponse

from shop.models import Customer, Order


async def one_by_one(request):
    names = []
    async for order in Order.objects.filter(open=True):
        customer = await Customer.objects.aget(pk=order.customer_id)  # expect: DBP301
        names.append(customer.name)
    return JsonResponse({"names": names})


async def saved_one_by_one():
    async for order in Order.objects.filter(open=True):
        order.open = False
        await order.asave()  # expect: DBP301


async def comprehension(pks):
    return [await Order.objects.aget(pk=pk) for pk in pks]  # expect: DBP301


async def nested_async_for(customers):
    for customer in customers:
        async for order in Order.objects.filter(customer=customer):  # expect: DBP301
            print(order)


class OrderRepository:
    async def totals(self, pks):
        totals = {}
        for pk in pks:
            totals[pk] = await self._total(pk)  # expect: DBP301
        return totals

    async def _total(self, pk):
        return (await Order.objects.aget(pk=pk)).total

    async def all_at_once(self, pks):
        return {order.pk: order.total async for order in Order.objects.filter(pk__in=pks)}

    @staticmethod
    def _exists(pk):
        return Order.objects.filter(pk=pk).exists()

    def missing(self, pks):
        return [pk for pk in pks if not self._exists(pk)]  # expect: DBP301

    @classmethod
    def _close(cls, pk):
        Order.objects.filter(pk=pk).update(open=False)

    @classmethod
    def close(cls, pks):
        for pk in pks:
            cls._close(pk)  # expect: DBP301

    def describe(self, orders):
        return [self._describe(order) for order in orders]

    def _describe(self, order):
        return f"{order.pk}: {order.total}"


class CachedRepository:
    """The same names as in OrderRepository, without a database."""

    def __init__(self, store):
        self._store = store

    def _exists(self, pk):
        return pk in self._store

    def missing(self, pks):
        return [pk for pk in pks if not self._exists(pk)]


async def streamed(request):
    async def lines():
        async for order in Order.objects.filter(open=True).aiterator():
            yield f"{order.pk}\n"

    return StreamingHttpResponse(lines())
