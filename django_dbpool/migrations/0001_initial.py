from __future__ import annotations

from typing import Any

from django.db import migrations, models


class Unlogged(migrations.RunSQL):
    """Without a line in the write-ahead log for each snapshot. Other databases, which a project may have too, log."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            name="PublishedProcess",
            fields=[
                ("instance", models.CharField(max_length=16, primary_key=True, serialize=False)),
                ("taken", models.DateTimeField()),
                ("expires", models.DateTimeField()),
                ("document", models.TextField()),
            ],
            options={"db_table": "django_dbpool_process", "default_permissions": ()},
        ),
        Unlogged(
            "ALTER TABLE django_dbpool_process SET UNLOGGED",
            reverse_sql=migrations.RunSQL.noop,
            hints={"model_name": "publishedprocess"},
        ),
    ]
