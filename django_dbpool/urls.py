"""
Health, figures and the status page; see docs/api.md.

Example:
    urlpatterns = [path("dbpool/", include("django_dbpool.urls")), ...]
"""

from __future__ import annotations

from django.urls import path

from .views import ENDPOINTS, live, ready, status, view_of

app_name = "django_dbpool"

urlpatterns = [
    path("health/live", live, name="health-live"),
    path("health/ready", ready, name="health-ready"),
    path("status", status, name="status"),
    *(path(endpoint.path, view_of(endpoint), name=endpoint.name) for endpoint in ENDPOINTS),
]
