"""
The test project as a site in production would have it: processes publish, and can be told things on their sockets.

DBPOOL_CULPRITS_DIR is a private directory for the sockets.
"""

import os

from testproject.settings import *  # noqa: F403
from testproject.settings import MIDDLEWARE

MIDDLEWARE = ["django_dbpool.middleware.DatabasePoolMiddleware", *MIDDLEWARE]
ROOT_URLCONF = "testproject.culprits.urls"
DBPOOL = {"PROCESSES": 2, "THREADS": 8, "SOCKET": os.environ["DBPOOL_CULPRITS_DIR"]}
