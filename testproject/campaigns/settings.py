"""
The test project as incident `campaigns` runs it: with a worker, a post office and our middleware where our engine is.

DBPOOL_CAMPAIGNS_FOLDER    what is outside of the database: see `testproject.campaigns.folder`
DBPOOL_CAMPAIGNS_PROCESS   "site" or "worker": what the server calls a session of this process
"""

import os

import django

from testproject.campaigns.folder import folder
from testproject.databases import APPLICATION_NAME, POOLED_BACKEND
from testproject.harness import queue
from testproject.settings import *  # noqa: F403
from testproject.settings import DATABASES, INSTALLED_APPS, MIDDLEWARE

INSTALLED_APPS = [*INSTALLED_APPS, "testproject.campaigns", "testproject.audio"]
DATABASES["default"]["OPTIONS"]["application_name"] = os.environ.get("DBPOOL_CAMPAIGNS_PROCESS", APPLICATION_NAME)
MIDDLEWARE = ["testproject.campaigns.views.NameErrors", *MIDDLEWARE]
if DATABASES["default"]["ENGINE"] == POOLED_BACKEND:
    MIDDLEWARE = ["django_dbpool.middleware.DatabasePoolMiddleware", *MIDDLEWARE]
ROOT_URLCONF = "testproject.campaigns.urls"

POST_OFFICE = os.environ.get("DBPOOL_CAMPAIGNS_POST", "testproject.campaigns.post.PostOffice")
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": POST_OFFICE}}
else:
    EMAIL_BACKEND = POST_OFFICE

for _name, _value in queue.settings(folder()).items():
    globals()[f"CELERY_{_name.upper()}"] = _value
CELERY_IMPORTS = [
    "testproject.campaigns.naive",
    "testproject.campaigns.tasks",
    "testproject.audio.naive",
    "testproject.audio.tasks",
]
