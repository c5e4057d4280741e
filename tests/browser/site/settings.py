"""Of web processes, worker and commands. Where they are comes from the environment, see `tests.browser.shop`."""

import os
from pathlib import Path
from typing import Any

from testproject.postgres import Server
from testproject.settings import INSTALLED_APPS as _INSTALLED_APPS
from testproject.settings import MIDDLEWARE as _MIDDLEWARE
from testproject.settings import TEMPLATES
from tests.settings import PASSWORD_HASHERS, SERVER_VARIABLE, USE_TZ

__all__ = ["PASSWORD_HASHERS", "TEMPLATES", "USE_TZ"]

FOLDER = Path(os.environ["DBPOOL_BROWSER_FOLDER"])
TOKEN_DIGEST = os.environ["DBPOOL_BROWSER_TOKEN_DIGEST"]

SECRET_KEY = "only-for-tests"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = [name for name in _INSTALLED_APPS if not name.startswith("testproject.")]
MIDDLEWARE = [
    "django_dbpool.middleware.DatabasePoolMiddleware",
    "tests.browser.site.policy.StrictPolicy",
    *_MIDDLEWARE,
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "tests.browser.site.urls"
STATIC_URL = "/static/"
LANGUAGE_CODE = os.environ.get("DBPOOL_BROWSER_LANGUAGE", "en-us")
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": {
        "ENGINE": "django_dbpool.backends.postgresql",
        **Server.from_dsn(os.environ[SERVER_VARIABLE]).django(),
        "OPTIONS": {"application_name": "shop", "connect_timeout": 2},
        "POOL": {
            "min_size": 1,
            "max_size": int(os.environ.get("DBPOOL_BROWSER_MAX_SIZE", "4")),
            "timeout": 2,
            "leak_after": 20,
        },
    }
}
DBPOOL: dict[str, Any] = {
    "FLEET": {"interval": 1},
    "SOCKET": str(FOLDER / "sockets"),
    "SLOW_STATEMENT": 0.3,
    "REPEATED_STATEMENTS": 20,
    "TOKENS": [TOKEN_DIGEST],
    # At once, and over as soon: nobody waits in a test for a minute.
    "ALERTS": {
        "utilisation": {"after": 1, "hold": 5},
        "waiters": {"after": 1, "hold": 5},
        "timeouts": {"hold": 5},
        "leak": {"hold": 5},
    },
}
