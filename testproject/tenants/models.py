"""One table that each tenant has in a schema of its own, and one that all tenants share, with a policy."""

from django.db import models
from django.db.models.expressions import RawSQL


class Note(models.Model):
    """A table of the same name in each tenant's schema."""

    text = models.TextField()

    def __str__(self) -> str:
        return self.text


class Invoice(models.Model):
    """One table; a row belongs to the tenant that was set when it was inserted."""

    tenant = models.IntegerField(db_default=RawSQL("NULLIF(current_setting('app.tenant', true), '')::integer", ()))
    number = models.IntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "number"], name="one_number_per_tenant")]

    def __str__(self) -> str:
        return f"{self.number}"
