from django.db import models
from psqlextra.models import PostgresModel, PostgresPartitionedModel
from psqlextra.types import PostgresPartitioningMethod


class Counter(PostgresModel):
    name = models.CharField(max_length=20, unique=True)
    hits = models.IntegerField(default=0)

    class Meta:
        app_label = "partitions"


class Measurement(PostgresPartitionedModel):
    at = models.DateField()
    value = models.IntegerField()

    class Meta:
        app_label = "partitions"

    class PartitioningMeta:
        method = PostgresPartitioningMethod.RANGE
        key = ["at"]
