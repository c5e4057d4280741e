from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from testproject.tenants.models import Invoice, Note
from testproject.tenants.tenancy import for_tenant


@for_tenant
def report(tenant: int) -> str:
    return f"tenant {tenant}: {Invoice.objects.count()} invoices, {Note.objects.count()} notes"


class Command(BaseCommand):
    help = "Say what a tenant has."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", type=int)

    def handle(self, *args: Any, tenant: int, **options: Any) -> None:
        self.stdout.write(report(tenant))
