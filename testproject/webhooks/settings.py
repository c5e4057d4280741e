"""
The test project as incident `webhooks` runs it: a log as JSON lines, and our middleware where our engine is.

DBPOOL_WEBHOOKS_LOG names the file.
"""

import os

from testproject.settings import *  # noqa: F403
from testproject.settings import MIDDLEWARE
from testproject.webhooks import switches

if switches.has("middleware"):
    MIDDLEWARE = ["django_dbpool.middleware.DatabasePoolMiddleware", *MIDDLEWARE]

ROOT_URLCONF = "testproject.webhooks.urls"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": "testproject.webhooks.logs.JsonLines"}},
    "handlers": {
        "file": {
            "class": "logging.FileHandler",
            "filename": os.environ.get("DBPOOL_WEBHOOKS_LOG", os.devnull),
            "formatter": "lines",
        }
    },
    "root": {"handlers": ["file"], "level": "INFO"},
}
