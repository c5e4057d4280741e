"""Whether the packages that the engine needs are there, asked before they are imported."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata

from django.core.exceptions import ImproperlyConfigured

from ..core.readers import Fault

MISSING_PACKAGE = "dbpool.E007"

NEEDED = {"psycopg": (3, 2), "psycopg_pool": (3, 3, 3)}
"""Oldest versions. psycopg_pool before 3.3.3 keeps callers in its queue that have given up."""

_INSTALL = 'Install them with: pip install "psycopg[binary,pool]>=3.2" "psycopg-pool>=3.3.3"'


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def faults_of_packages(version: Callable[[str], str | None] = installed) -> list[Fault]:
    """One fault for each package that is missing or too old."""
    faults = []
    for package, least in NEEDED.items():
        found = version(package)
        wanted = ".".join(map(str, least))
        if found is None:
            problem = f"{package} {wanted} or later is needed and isn't installed."
            if package == "psycopg" and (version("psycopg2") or version("psycopg2-binary")):
                problem += " psycopg2 is: it has no pool that could be used."
        elif _numbers(found) < least:
            problem = f"{package} {wanted} or later is needed, {found} is installed."
        else:
            continue
        faults.append(Fault(package, problem, f"{_INSTALL}.", MISSING_PACKAGE, "django_dbpool"))
    return faults


def require_packages() -> None:
    """
    Raises:
        ImproperlyConfigured: with the text of the check, rather than an ImportError from the depth of an engine.
    """
    if faults := faults_of_packages():
        raise ImproperlyConfigured("; ".join(f"{fault.text('')} {fault.hint}" for fault in faults))


def _numbers(version: str) -> tuple[int, ...]:
    """Of ``3.3.3.post1`` the part that is compared."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
