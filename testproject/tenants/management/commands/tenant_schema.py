from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from testproject.tenants.tenancy import migrate_schema


class Command(BaseCommand):
    help = "Make a tenant's schema, or bring it up to date."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", type=int)

    def handle(self, *args: Any, tenant: int, **options: Any) -> None:
        migrate_schema(tenant)
