"""debug-toolbar under DEBUG."""

from __future__ import annotations

from typing import Any

from tests.company.settings import *  # noqa: F403
from tests.company.settings import INSTALLED_APPS, database

DATABASES = {"default": database()}
DEBUG = True
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles", "debug_toolbar"]
MIDDLEWARE = ["debug_toolbar.middleware.DebugToolbarMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "static/"
DEBUG_TOOLBAR_CONFIG = {"SHOW_TOOLBAR_CALLBACK": lambda request: True, "IS_RUNNING_TESTS": False}
DEBUG_TOOLBAR_PANELS = ["debug_toolbar.panels.sql.SQLPanel"]
ROOT_URLCONF = "tests.company.toolbar_urls"


def found() -> dict[str, Any]:
    from debug_toolbar.store import get_store

    store = get_store()
    queries = []
    for request in reversed(list(store.request_ids())):
        queries += [query["sql"] for query in store.panel(request, "SQLPanel").get("queries", ())]
    return {"queries": queries}
