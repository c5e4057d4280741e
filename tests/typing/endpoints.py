"""User code: the endpoints."""

import hashlib
import secrets

from django.urls import URLPattern, URLResolver, include, path, reverse

urlpatterns: list[URLPattern | URLResolver] = [path("dbpool/", include("django_dbpool.urls"))]


def new_token() -> tuple[str, str]:
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()


def address_of_readiness() -> str:
    return reverse("django_dbpool:health-ready")
