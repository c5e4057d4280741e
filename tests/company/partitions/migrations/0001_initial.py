import psqlextra.manager.manager
import psqlextra.models
import psqlextra.types
from django.db import migrations, models
from psqlextra.backend.migrations.operations import PostgresCreatePartitionedModel


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Counter",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=20, unique=True)),
                ("hits", models.IntegerField(default=0)),
            ],
            bases=(psqlextra.models.PostgresModel,),
            managers=[("objects", psqlextra.manager.manager.PostgresManager())],
        ),
        PostgresCreatePartitionedModel(
            name="Measurement",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("at", models.DateField()),
                ("value", models.IntegerField()),
            ],
            partitioning_options={"method": psqlextra.types.PostgresPartitioningMethod.RANGE, "key": ["at"]},
            bases=(psqlextra.models.PostgresPartitionedModel,),
            managers=[("objects", psqlextra.manager.manager.PostgresManager())],
        ),
    ]
