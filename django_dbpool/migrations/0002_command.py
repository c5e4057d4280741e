from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_dbpool", "0001_initial")]
    operations = [
        migrations.CreateModel(
            name="Command",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("target", models.CharField(max_length=16)),
                ("verb", models.CharField(max_length=16)),
                ("arguments", models.CharField(max_length=2000)),
                ("nonce", models.CharField(max_length=32)),
                ("issued", models.BigIntegerField()),
                ("expires", models.BigIntegerField()),
                ("signature", models.CharField(max_length=64)),
                ("outcome", models.CharField(default="", max_length=16)),
                ("result", models.CharField(default="", max_length=4000)),
                ("result_signature", models.CharField(default="", max_length=64)),
            ],
            options={
                "db_table": "django_dbpool_command",
                "default_permissions": (),
                "indexes": [models.Index(fields=["target", "outcome"], name="dbpool_command_target")],
            },
        ),
    ]
