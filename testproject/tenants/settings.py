"""The test project with two tenants; see docs/multi-tenancy.md."""

from testproject.settings import *  # noqa: F403
from testproject.settings import INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = [*INSTALLED_APPS, "testproject.tenants"]
MIDDLEWARE = [*MIDDLEWARE, "django_dbpool.middleware.SessionVariablesMiddleware"]
DBPOOL = {"SESSION_FROM_REQUEST": "testproject.tenants.tenancy.session_of"}
DATABASE_ROUTERS = ["testproject.tenants.tenancy.TenantRouter"]
ALLOWED_HOSTS = [".localhost"]
ROOT_URLCONF = "testproject.tenants.urls"
