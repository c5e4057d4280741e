"""``DBPOOL["TOKENS"]``, and whether anybody could read the endpoints while the database is away."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, register
from django.urls import NoReverseMatch, reverse

from ..core.readers import ConfigError, Fault
from ..core.tokens import faults_of_tokens
from .pools import message
from .project import read_project


@register("dbpool")
def check_tokens(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """dbpool.W044, dbpool.W045. What is refused at run time too is found by ``project``."""
    try:
        project = read_project()
    except ConfigError:
        return []
    faults = faults_of_tokens(project.tokens)
    if not (project.tokens or settings.DEBUG) and project.role in (None, "web") and _urls_are_included():
        faults.append(
            Fault(
                "TOKENS",
                "TOKENS is empty, and django_dbpool.urls is included: while the database is away nobody can log in, "
                "and so nobody can read the status page.",
                "Make a token, and write its digest; see docs/api.md.",
                "dbpool.W045",
            )
        )
    return [message(fault, "DBPOOL") for fault in faults]


def _urls_are_included() -> bool:
    if not getattr(settings, "ROOT_URLCONF", None):
        return False
    try:
        reverse("django_dbpool:status")
    except NoReverseMatch:
        return False
    except Exception:  # noqa: BLE001  # whatever importing the project's views raises: Django's own checks say it
        return False
    return True
