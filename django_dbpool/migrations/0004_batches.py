from __future__ import annotations

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    """What runs of batches remember: how far they are, what failed, what is to be done after a commit."""

    dependencies = [
        ("django_dbpool", "0003_connectionpool"),
    ]

    operations = [
        migrations.CreateModel(
            name="BatchRun",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=200, unique=True)),
                ("model", models.CharField(max_length=200)),
                ("key", models.CharField(max_length=500)),
                (
                    "wanted",
                    models.CharField(
                        choices=[("run", "run"), ("pause", "pause"), ("cancel", "cancel")], default="run", max_length=10
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[("open", "open"), ("done", "done"), ("cancelled", "cancelled")],
                        default="open",
                        max_length=10,
                    ),
                ),
                ("total", models.BigIntegerField(null=True)),
                ("task", models.CharField(blank=True, default="", max_length=300)),
                ("arguments", models.JSONField(blank=True, default=dict)),
                ("parts", models.IntegerField(default=1)),
                ("takeover_after", models.FloatField(default=60)),
                ("created", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("ended", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "batch run",
                "verbose_name_plural": "batch runs",
                "db_table": "django_dbpool_batchrun",
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="BatchMessage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("topic", models.CharField(max_length=100)),
                ("key", models.CharField(max_length=200)),
                ("payload", models.JSONField()),
                ("created", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("due", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("attempts", models.IntegerField(default=0)),
                ("error", models.TextField(blank=True, default="")),
            ],
            options={
                "verbose_name": "message",
                "verbose_name_plural": "messages",
                "db_table": "django_dbpool_batchmessage",
                "default_permissions": (),
                "indexes": [models.Index(fields=["topic", "due"], name="dbpool_batch_message_due")],
                "constraints": [models.UniqueConstraint(fields=("topic", "key"), name="dbpool_batch_message")],
            },
        ),
        migrations.CreateModel(
            name="BatchFailure",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.JSONField()),
                ("skipped", models.BooleanField()),
                ("error_type", models.CharField(max_length=200)),
                ("error", models.TextField()),
                ("place", models.CharField(max_length=300)),
                ("times", models.IntegerField(default=1)),
                ("created", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="failures",
                        to="django_dbpool.batchrun",
                    ),
                ),
            ],
            options={
                "verbose_name": "failed item",
                "verbose_name_plural": "failed items",
                "db_table": "django_dbpool_batchfailure",
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("run", "key"), name="dbpool_batch_item")],
            },
        ),
        migrations.CreateModel(
            name="BatchCheckpoint",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("part", models.IntegerField(default=0)),
                ("lower", models.JSONField(null=True)),
                ("upper", models.JSONField(null=True)),
                ("last_key", models.JSONField(null=True)),
                ("token", models.CharField(blank=True, default="", max_length=32)),
                ("runner", models.CharField(blank=True, default="", max_length=200)),
                ("heartbeat", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("reason", models.CharField(blank=True, default="", max_length=200)),
                ("done", models.BigIntegerField(default=0)),
                ("failed", models.BigIntegerField(default=0)),
                ("batches", models.BigIntegerField(default=0)),
                ("finished", models.BooleanField(default=False)),
                ("begun", models.DateTimeField(null=True)),
                ("begun_with", models.BigIntegerField(default=0)),
                ("restarts", models.IntegerField(default=0)),
                ("restarted", models.DateTimeField(null=True)),
                ("restarted_with", models.BigIntegerField(default=0)),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="checkpoints",
                        to="django_dbpool.batchrun",
                    ),
                ),
            ],
            options={
                "verbose_name": "checkpoint",
                "verbose_name_plural": "checkpoints",
                "db_table": "django_dbpool_batchcheckpoint",
                "default_permissions": (),
                "constraints": [models.UniqueConstraint(fields=("run", "part"), name="dbpool_batch_part")],
            },
        ),
    ]
