"""Greenlets instead of threads; ``monkey.patch_all()`` comes before this, in the scenario or in gunicorn's worker."""

from tests.company.settings import *  # noqa: F403
from tests.company.settings import database

DATABASES = {"default": database(size=4)}
DATABASES["default"]["POOL"]["queue_target"] = None  # all of a scenario's greenlets at once are more than it can do
