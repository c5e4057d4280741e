"""What the small projects of this folder have in common; each has a module of settings of its own beside this one."""

from __future__ import annotations

import os
from typing import Any

from testproject.postgres import Server

NAME_VARIABLE = "DBPOOL_COMPANY_DATABASE"

SECRET_KEY = "only-for-tests"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "tests.company.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_dbpool", "tests.company.notes"]
# Nothing is published, nobody listens and nobody asks the server unless a test wants it.
DBPOOL = {
    "FLEET": None,
    "SOCKET": False,
    "ALERTS": dict.fromkeys(("server_connections", "strangers", "batch_stuck", "batch_failures")),
}
MIDDLEWARE: list[str] = []


def database(engine: str = "django_dbpool.backends.postgresql", size: int = 2) -> dict[str, Any]:
    server = Server.from_dsn(os.environ["DBPOOL_SESSION_DSN"])
    pool = {"max_size": size, "min_size": 0, "timeout": 20}
    return {"ENGINE": engine, **server.django(os.environ[NAME_VARIABLE]), "POOL": pool}
