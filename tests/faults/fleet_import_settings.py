"""Everything that looks from time to time is on."""

from tests.faults.preloaded_settings import DATABASES, INSTALLED_APPS, SECRET_KEY, USE_TZ

__all__ = ["DATABASES", "DBPOOL", "INSTALLED_APPS", "SECRET_KEY", "USE_TZ"]

DBPOOL = {"SOCKET": False, "LOG_INTERVAL": 3600}
