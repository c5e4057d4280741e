from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """No table: the model carries the permissions of the dashboard and of the API."""

    dependencies = [("django_dbpool", "0002_command")]
    operations = [
        migrations.CreateModel(
            name="ConnectionPool",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ],
            options={
                "verbose_name": "connection pool",
                "verbose_name_plural": "connection pools",
                "permissions": [
                    ("view_connectionpool", "Can view connection pools"),
                    ("operate_connectionpool", "Can cancel, terminate and drain connections"),
                    ("view_strangers", "Can view sessions of other programs on the server"),
                ],
                "managed": False,
                "base_manager_name": "objects",
                "default_permissions": (),
            },
        ),
    ]
