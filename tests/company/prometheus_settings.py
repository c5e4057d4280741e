"""django-prometheus on an engine of our own."""

from typing import Any

from tests.company.settings import *  # noqa: F403
from tests.company.settings import INSTALLED_APPS, database

DATABASES = {"default": database("tests.company.engines.prometheus")}
INSTALLED_APPS = [*INSTALLED_APPS, "django_prometheus"]
MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]


def found() -> dict[str, Any]:
    from django.test import RequestFactory
    from django_prometheus.exports import ExportToDjangoView

    lines = ExportToDjangoView(RequestFactory().get("/metrics")).content.decode().splitlines()
    return {"metrics": dict(line.rsplit(" ", 1) for line in lines if line.startswith("django_db_"))}
