"""Settings of the programs that tests start: the session's server, its own database."""

import os

from testproject.postgres import Server
from tests.settings import INSTALLED_APPS, SECRET_KEY, SERVER_VARIABLE, USE_TZ

__all__ = ["DATABASES", "DBPOOL", "INSTALLED_APPS", "SECRET_KEY", "USE_TZ"]

ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.faults.urls"
# Nothing is published, nobody listens and nobody asks the server unless a test wants it.
DBPOOL = {
    "FLEET": None,
    "SOCKET": False,
    "ALERTS": dict.fromkeys(("server_connections", "strangers", "batch_stuck", "batch_failures")),
}
DATABASES = {
    "default": {
        "ENGINE": "django_dbpool.backends.postgresql",
        **Server.from_dsn(os.environ[SERVER_VARIABLE]).django(),
        "OPTIONS": {"application_name": os.environ.get("DBPOOL_TEST_APPLICATION", "program")},
        "POOL": {"min_size": 1, "max_size": 2, "timeout": 10},
    }
}
