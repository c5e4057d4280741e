"""Settings of the test project; engine and server come from the environment: see `testproject.databases`."""

import hashlib
import os

from testproject.databases import database_from

# A public constant: this project only ever listens on loopback. The demo generates one for each run.
SECRET_KEY = os.environ.get("DBPOOL_DEMO_SECRET_KEY", "testproject-not-a-secret")
DEBUG = os.environ.get("DBPOOL_DEMO_DEBUG") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", "testserver"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_dbpool",
    "testproject.incidents",
    "testproject.reports",
    "testproject.tickets",
    "testproject.webhooks",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

ROOT_URLCONF = "testproject.urls"
WSGI_APPLICATION = "testproject.wsgi.application"
ASGI_APPLICATION = "testproject.asgi.application"

DATABASES = {"default": database_from(os.environ)}
# The incidents count every connection, so they publish nothing; the site of the demo does, for its dashboard.
DBPOOL: dict[str, object] = {
    "FLEET": {"interval": 2} if os.environ.get("DBPOOL_DEMO_FLEET") == "1" else None,
    # They ask the server, on a connection of their own.
    "ALERTS": dict.fromkeys(("server_connections", "strangers", "batch_stuck", "batch_failures")),
    # Demo and incidents leave nothing behind, also where they are killed; a socket's directory would stay.
    "SOCKET": os.environ.get("DBPOOL_DEMO_SOCKET") != "0",
    # A project of your own has only the digests, not the tokens.
    "TOKENS": [
        hashlib.sha256(token.encode()).hexdigest()
        for token in [os.environ.get("DBPOOL_DEMO_TOKEN")]
        if token is not None
    ],
}
SILENCED_SYSTEM_CHECKS = ["dbpool.W045"]  # without a token the demo works, too
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "static/"
