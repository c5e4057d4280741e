"""
Where the sockets of a project's processes are: ``<base>/<project>/<pid>.sock``.

The directory of the project belongs to the user of the processes and to nobody else, and nobody else can have put it
there: in /tmp anybody may have been first, with a directory of his own or a symbolic link. So it is looked at through
a descriptor that follows no link, after it was made, and refused if it isn't ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from ..core.readers import shown

NAME = "django_dbpool"
SOCKET = re.compile(r"([1-9]\d{0,9})\.sock", re.ASCII)
PRIVATE = 0o700
LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that ``sun_path`` has room for, https://man7.org/linux/man-pages/man7/unix.7.html; the BSDs have four less."""

LONGEST_NAME = len("/4194304.sock")  # Linux's largest pid


class NoPlace(Exception):
    """There is no directory for sockets; the text says why, without an address of a database in it."""


def project_digest() -> str:
    """
    What processes of one project have in common on one host, and those of others don't: the address of their default
    database. Not the settings' module, which differs between roles, nor SECRET_KEY, which changes.
    """
    databases = getattr(settings, "DATABASES", None)
    database = databases.get("default") if isinstance(databases, dict) else None
    entry = database if isinstance(database, dict) else {}
    options = entry.get("OPTIONS")
    service = options.get("service") if isinstance(options, dict) else None
    parts = [shown(part or "", str) for part in (entry.get("HOST"), entry.get("PORT"), entry.get("NAME"), service)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def base_of_server(setting: bool | str) -> Path:
    """
    Args:
        setting: ``DBPOOL["SOCKET"]``: a directory, or True for the default one.
    """
    if isinstance(setting, str):
        return Path(setting)
    return next(_defaults(os.environ.get("XDG_RUNTIME_DIR", "")))


def bases_of_client(setting: bool | str) -> list[Path]:
    """
    Where to look. A service and a shell of the same user differ in XDG_RUNTIME_DIR, so the default is in several
    places.
    """
    if isinstance(setting, str):
        return [Path(setting)]
    own = f"/run/user/{os.geteuid()}"
    return list(dict.fromkeys([*_defaults(os.environ.get("XDG_RUNTIME_DIR", "")), *_defaults(own)]))


def _defaults(runtime: str) -> Iterator[Path]:
    private = bool(runtime) and _is_private(runtime)
    if private:
        yield Path(runtime) / NAME
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError as error:  # a container whose files are all read-only
        if private:
            return
        raise NoPlace(
            'there is no directory for temporary files; name one in DBPOOL["SOCKET"], or write False'
        ) from error
    yield Path(temporary) / f"{NAME}-{os.geteuid()}"


def _is_private(directory: str) -> bool:
    """Whether it is what XDG promises. After ``su`` the variable may name another user's."""
    try:
        found = Path(directory).stat()
    except (OSError, ValueError):
        return False
    return Path(directory).is_absolute() and stat.S_ISDIR(found.st_mode) and _is_ours(found)


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def make_directory(base: Path, *, given: bool) -> Path:
    """
    The project's directory, made if need be.

    Args:
        base: what is above it.
        given: the base is somebody's choice and may be readable by others; else it is ours too, and private.

    Raises:
        NoPlace: it can't be, or it isn't safe.
    """
    directory = base / project_digest()
    check_length(directory)
    check_parent(base if given else base.parent)
    for each in [directory] if given else [base, directory]:
        try:
            each.mkdir(PRIVATE)
        except FileExistsError:
            pass
        except OSError as error:
            raise NoPlace(f"{shown(str(each))} can't be made: {error.strerror}") from error
        check_private(each)
    return directory


def check_length(directory: Path) -> None:
    try:
        length = len(os.fsencode(directory)) + LONGEST_NAME
    except UnicodeEncodeError:
        raise NoPlace(f"{shown(str(directory))} is no path that the system could have") from None
    if length > LONGEST_PATH:
        raise NoPlace(
            f"{shown(str(directory))} is too long a path: with the name of a socket it has {length} bytes, the system "
            f"takes {LONGEST_PATH}"
        )


def check_parent(parent: Path) -> None:
    """Whoever may write in it could put another directory in the place of ours, but for the sticky bit."""
    try:
        found = parent.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NoPlace(f"{shown(str(parent))} can't be used: {reason}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise NoPlace(f"{shown(str(parent))} is no directory")
    if found.st_uid not in (0, os.geteuid()):
        raise NoPlace(f"{shown(str(parent))} belongs to another user (uid {found.st_uid})")
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise NoPlace(f"{shown(str(parent))} can be written to by others (mode {stat.S_IMODE(found.st_mode):04o})")


def check_private(directory: Path) -> None:
    """
    Raises:
        NoPlace: it isn't a directory of this user, closed to all others; or a symbolic link to one.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NoPlace(f"{shown(str(directory))} is no directory of ours: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if found.st_uid != os.geteuid():
        raise NoPlace(f"{shown(str(directory))} belongs to another user (uid {found.st_uid})")
    if found.st_mode & 0o077:
        raise NoPlace(f"{shown(str(directory))} is open to others (mode {stat.S_IMODE(found.st_mode):04o})")


def listed(directory: Path) -> Iterator[tuple[int, Path]]:
    """
    The sockets in it, by pid.

    Raises:
        NoPlace: see ``check_private``.
    """
    if not os.path.lexists(directory):
        return
    check_private(directory)
    for path in directory.iterdir():
        match = SOCKET.fullmatch(path.name)
        with suppress(OSError):
            if match is not None and stat.S_ISSOCK(path.lstat().st_mode):
                yield int(match[1]), path


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def tidy(directory: Path) -> None:
    """
    Remove what killed processes have left. Not by their pids alone: where containers share a directory, they have
    numbers of their own.
    """
    for pid, path in tuple(listed(directory)):
        if process_exists(pid):
            continue
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
