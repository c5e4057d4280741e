"""Settings of programs and servers whose processes are asked by their sockets."""

import os
from typing import Any

from tests.faults.preloaded_settings import ALLOWED_HOSTS, DATABASES, SECRET_KEY, USE_TZ

__all__ = ["ALLOWED_HOSTS", "DATABASES", "SECRET_KEY", "USE_TZ"]

INSTALLED_APPS = ["django.contrib.contenttypes", "django_dbpool"]
ROOT_URLCONF = "tests.faults.socket_site"
WSGI_APPLICATION = "tests.faults.socket_site.application"
DBPOOL: dict[str, Any] = {"SOCKET": os.environ["DBPOOL_TEST_SOCKETS"], "FLEET": None}
if name := os.environ.get("DBPOOL_TEST_FLEET"):
    DATABASES["default"]["NAME"] = name
    DBPOOL |= {"FLEET": {"interval": 0.2}, "ROLE": "worker"}
