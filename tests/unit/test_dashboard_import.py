"""Projects without Django's admin, and those that don't use its default site."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.contrib import admin

from django_dbpool.admin import ConnectionPoolAdmin
from django_dbpool.models import ConnectionPool

PROJECT = """
import sys
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", *sys.argv[1].split(), "django_dbpool"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DBPOOL={"FLEET": None, "SOCKET": False},
)
django.setup()
imported = "django_dbpool.admin" in sys.modules
from django.apps import apps
from django.contrib.admin import site
from django_dbpool.admin import ConnectionPoolAdmin
from django_dbpool.models import ConnectionPool

print(imported, apps.is_installed("django.contrib.admin") and site.is_registered(ConnectionPool))
"""


@pytest.mark.parametrize(
    ("apps", "said"),
    [
        ("", "False False"),
        ("django.contrib.admin", "True True"),
        ("django.contrib.admin.apps.SimpleAdminConfig", "False True"),
    ],
    ids=["without", "default", "without looking for admin modules"],
)
def test_admin_is_no_requirement(apps: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROJECT, apps], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == (said, "")


def test_default_site_has_it() -> None:
    assert isinstance(admin.site.get_model_admin(ConnectionPool), ConnectionPoolAdmin)
    assert ConnectionPoolAdmin(ConnectionPool, admin.site).check() == []
