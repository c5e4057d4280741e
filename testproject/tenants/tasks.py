from celery import shared_task

from .models import Invoice
from .tenancy import for_tenant


@shared_task  # type: ignore[untyped-decorator]
@for_tenant
def count_invoices(tenant: int) -> int:
    return Invoice.objects.count()
