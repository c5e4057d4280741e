"""django-tenants on an engine of our own."""

from tests.company.settings import *  # noqa: F403
from tests.company.settings import database

DATABASES = {"default": database("tests.company.engines.tenants", size=2)}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
MIDDLEWARE = ["django_tenants.middleware.main.TenantMainMiddleware"]
SHARED_APPS = ["django_tenants", "tests.company.tenants", "django.contrib.contenttypes", "django_dbpool"]
TENANT_APPS = ["tests.company.notes"]
INSTALLED_APPS = [*SHARED_APPS, *TENANT_APPS]
TENANT_MODEL = "tenants.Client"
TENANT_DOMAIN_MODEL = "tenants.Domain"
