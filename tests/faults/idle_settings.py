"""Settings of `runserver` in a process of its own; without the app of the tests, whose models have no migrations."""

from tests.faults.preloaded_settings import ALLOWED_HOSTS, DATABASES, DBPOOL, SECRET_KEY, USE_TZ

__all__ = ["ALLOWED_HOSTS", "DATABASES", "DBPOOL", "SECRET_KEY", "USE_TZ"]

DEBUG = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_dbpool"]
ROOT_URLCONF = "tests.faults.idle_urls"
