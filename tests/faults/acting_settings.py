"""Settings of processes that are told what to do: by a socket, by signed rows, or both, as the environment says."""

import os
from typing import Any

from tests.faults.preloaded_settings import ALLOWED_HOSTS, DATABASES, SECRET_KEY, USE_TZ

__all__ = ["ALLOWED_HOSTS", "DATABASES", "SECRET_KEY", "USE_TZ"]

INSTALLED_APPS = ["django.contrib.contenttypes", "django_dbpool"]
ROOT_URLCONF = "tests.faults.acting_site"
WSGI_APPLICATION = "tests.faults.acting_site.application"
DATABASES["default"]["NAME"] = os.environ["DBPOOL_TEST_NAME"]
DATABASES["default"]["POOL"] = {"max_size": 2, "timeout": 10, "breaker": False}
DBPOOL: dict[str, Any] = {
    "SOCKET": os.environ.get("DBPOOL_TEST_SOCKETS") or False,
    "FLEET": {"interval": float(os.environ.get("DBPOOL_TEST_INTERVAL", "0.5"))},
    "ROLE": "worker",
    "SECRET": os.environ.get("DBPOOL_TEST_SECRET"),
    "ALERTS": dict.fromkeys(("server_connections", "strangers", "batch_stuck", "batch_failures")),
}
