"""django-postgres-extra on an engine of our own."""

from tests.company.settings import *  # noqa: F403
from tests.company.settings import database

DATABASES = {"default": database("tests.company.engines.psqlextra")}
INSTALLED_APPS = ["django.contrib.contenttypes", "psqlextra", "django_dbpool", "tests.company.partitions"]
