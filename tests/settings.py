"""
Settings of the tests. Importing them starts nothing, so a type checker may; `tests/conftest.py` starts the
server and enters its address below. Child processes of a test find it in DBPOOL_SESSION_DSN.
"""

import os
from typing import Any

from testproject.postgres import Server

SERVER_VARIABLE = "DBPOOL_SESSION_DSN"

SECRET_KEY = "only-for-tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ROOT_URLCONF = "tests.app.urls"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.admin",  # with what it needs: tables and templates, not the middleware
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_dbpool",
    "tests.app",
    "testproject.tenants",
]
# Tests of the admin have a whole site.
SILENCED_SYSTEM_CHECKS = ["admin.E403", "admin.E408", "admin.E409", "admin.E410"]
DATABASE_ROUTERS = ["testproject.tenants.tenancy.TenantRouter"]

# Nothing is published, nobody listens unless a test asks.
DBPOOL: dict[str, Any] = {"ROLE": "command", "FLEET": None, "SOCKET": False}


# Small pools, so that few threads can exhaust them.
def database(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django_dbpool.backends.postgresql",
        "NAME": name,
        "POOL": {"max_size": 4, "timeout": 2},
    }


def use_server(server: Server) -> None:
    for entry in DATABASES.values():
        entry.update(server.django(entry["NAME"]))


DATABASES = {"default": database("dbpool"), "other": database("dbpool_other")}
if dsn := os.environ.get(SERVER_VARIABLE):
    use_server(Server.from_dsn(dsn))
