"""The model that carries the dashboard's permissions: no table, no rows, nothing to migrate."""

from __future__ import annotations

from io import StringIO

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection

from django_dbpool.models import ConnectionPool

pytestmark = pytest.mark.django_db(databases="__all__")


def test_permissions_are_there_after_migrate() -> None:
    found = Permission.objects.filter(content_type__app_label="django_dbpool").values_list("codename", flat=True)
    assert sorted(found) == ["operate_connectionpool", "view_connectionpool", "view_strangers"]


def test_permissions_can_be_given_one_by_one() -> None:
    user = User.objects.create_user("viewer")
    user.user_permissions.add(Permission.objects.get(codename="view_connectionpool"))
    assert user.has_perm("django_dbpool.view_connectionpool")
    assert not user.has_perm("django_dbpool.operate_connectionpool")


def test_model_has_no_table_and_needs_no_migration() -> None:
    call_command("makemigrations", "django_dbpool", check=True, dry_run=True, verbosity=0)
    assert ConnectionPool._meta.db_table not in connection.introspection.table_names()


@pytest.mark.parametrize("manager", [False, True], ids=["default", "base"])
def test_whole_project_can_be_dumped(manager: bool) -> None:
    """``dumpdata`` reads unmanaged models too; without a table that would be an error."""
    dumped = StringIO()
    call_command("dumpdata", "django_dbpool", use_base_manager=manager, stdout=dumped)
    assert dumped.getvalue().strip() == "[]"
