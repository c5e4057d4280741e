"""System checks of what protects the connection: TLS settings, and USER beside a password function."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as Caution

from ..conf import faults_of_credentials
from ..core.readers import shown
from .pools import entries

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""From https://www.postgresql.org/docs/current/libpq-ssl.html, the weakest first."""

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir")


@register("dbpool")
def check_tls(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """dbpool.E040 to E043, W040 to W042: see docs/credentials.md."""
    messages: list[CheckMessage] = []
    for alias, database in entries():
        messages += _check(f'DATABASES["{alias}"]', database)
    return messages


def _check(where: str, database: Mapping[str, Any]) -> Iterator[CheckMessage]:
    options = database.get("OPTIONS") or {}
    if not isinstance(options, Mapping):
        return  # reported where OPTIONS is read
    for fault in faults_of_credentials(database):
        yield Error(f"{where}: {fault.message}", hint=fault.hint, id="dbpool.E043")
    mode = options.get("sslmode")
    if mode is not None and mode not in MODES:
        yield Error(
            f'{where}["OPTIONS"]["sslmode"] = {shown(mode)} is no mode of libpq.',
            hint=f"Write one of {', '.join(MODES)}.",
            id="dbpool.E040",
        )
        return
    yield from _check_files(where, options)
    yield from _check_strength(where, database, options)


def _check_files(where: str, options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    for name in _FILES:
        path = options.get(name)
        if not isinstance(path, (str, os.PathLike)) or not path:
            continue
        if (name == "sslrootcert" and path == "system") or (name == "sslkey" and ":" in str(path)):
            continue  # the system's certificates; a key in an OpenSSL engine
        setting = f'{where}["OPTIONS"]["{name}"]'
        if not Path(path).exists():
            yield Error(
                f"{setting}: there is no file {str(path)!r}.",
                hint="Correct the path, or mount the file into this container.",
                id="dbpool.E041",
            )
        elif name == "sslkey" and (problem := _problem_of_key(Path(path))):
            yield Error(
                f"{setting}: {problem}, so libpq refuses the key.",
                hint="chmod 0600 for a file of this process's user, 0640 for one of root.",
                id="dbpool.E042",
            )


def _problem_of_key(path: Path) -> str | None:
    """As libpq's fe-secure-openssl.c decides it."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    readable = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP if found.st_uid == 0 else stat.S_IRWXG | stat.S_IRWXO
    if os.name == "posix" and found.st_mode & readable:
        return f"others may read it (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def _check_strength(where: str, database: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    mode = options.get("sslmode") or os.environ.get("PGSSLMODE")
    root = options.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if mode in ("verify-ca", "verify-full") and not root and not _DEFAULT_ROOT.expanduser().exists():
        yield Caution(
            f'{where}["OPTIONS"]: sslmode = {shown(mode)} without sslrootcert.',
            hint='Set sslrootcert to the file of the CA, or to "system" (libpq 16) for the CAs of this machine.',
            id="dbpool.W041",
        )
    if settings.DEBUG or "service" in options or not _is_remote(database.get("HOST")):
        return
    if callable(database.get("PASSWORD")) and mode in (None, "disable", "allow", "prefer"):
        yield Caution(
            f"{where}: the function in PASSWORD gives a token that may cross the network without TLS "
            f"(sslmode {mode or 'is not set'}).",
            hint='Set OPTIONS["sslmode"] = "verify-full" and sslrootcert. Servers that take tokens read them in clear.',
            id="dbpool.W042",
        )
    elif mode != "verify-full" and root != "system":
        yield Caution(
            f"{where}: sslmode {mode or 'is not set'}: nobody verifies that the server is {database['HOST']}.",
            hint='Set OPTIONS["sslmode"] = "verify-full" and sslrootcert; silence this check in a private network.',
            id="dbpool.W040",
        )


_DEFAULT_ROOT = Path("~/.postgresql/root.crt")


def _is_remote(host: Any) -> bool:
    """Whether any of libpq's comma-separated hosts is neither a socket's directory nor this machine."""
    return isinstance(host, str) and any(map(_is_another_machine, host.split(",")))


def _is_another_machine(host: str) -> bool:
    if host in ("", "localhost") or host.startswith(("/", "@")):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
