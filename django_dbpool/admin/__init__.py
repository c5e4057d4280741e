"""
The dashboard in Django's admin, see docs/dashboard.md.

Django's admin finds this module by itself and gets the pages on its default site. On a site of one's own:

    from django_dbpool.admin import ConnectionPoolAdmin
    from django_dbpool.models import ConnectionPool

    my_site.register(ConnectionPool, ConnectionPoolAdmin)
"""

from __future__ import annotations

from django.apps import apps
from django.contrib import admin

from ..models import ConnectionPool
from .model_admin import ConnectionPoolAdmin
from .reserving import reserved_view

__all__ = ["ConnectionPoolAdmin", "reserved_view"]

if apps.is_installed("django.contrib.admin") and not admin.site.is_registered(ConnectionPool):
    admin.site.register(ConnectionPool, ConnectionPoolAdmin)
