"""
What goes over a socket: one line of JSON to a process, one line back, both of limited size and within a time.

Asked: ``{"verb": "drain", "alias": "default"}``. Answered: ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": "<code>", "message": "<words>"}``.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from time import monotonic
from typing import Any

LONGEST_REQUEST = 4096
"""Bytes, the end of the line included."""

LONGEST_ANSWER = 4 * 1024 * 1024

NOT_ME = "another process"
"""Answered by a process that was asked for another one; it has done nothing."""
TOO_LATE = "too late"
"""Answered to what came after the time that it was good for; nothing was done."""

CHUNK = 65536
"""Bytes that are read at one time."""


class BadLine(Exception):
    """What came is no line of the protocol."""


class TooSlow(Exception):
    """The other side hasn't said, or taken, all in time."""


def encode(document: dict[str, Any]) -> bytes:
    """One line, in ASCII: whatever is in its strings, nothing but its end ends it."""
    return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """
    Raises:
        BadLine: it isn't a JSON object.
    """
    try:
        document = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadLine from None
    if not isinstance(document, dict):
        raise BadLine
    return document


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def receive(connection: socket.socket, longest: int, deadline: float) -> bytes:
    """
    The first line. The deadline is for the whole of it: one byte at a time gains nobody more.

    Raises:
        BadLine: it ends before its end, or is longer.
        TooSlow: it isn't complete at the deadline.
        OSError: the connection is gone.
    """
    line = bytearray()
    while True:
        _until(connection, deadline)
        try:
            chunk = connection.recv(min(CHUNK, longest + 1 - len(line)))
        except TimeoutError:
            raise TooSlow from None
        line += chunk
        end = line.find(b"\n")
        if end >= 0:
            return bytes(line[:end])
        if not chunk or len(line) > longest:
            raise BadLine


def send(connection: socket.socket, line: bytes, deadline: float) -> None:
    """
    Raises:
        TooSlow: the other side doesn't read.
        OSError: the connection is gone.
    """
    _until(connection, deadline)
    try:
        connection.sendall(line)  # its timeout is for all of it
    except TimeoutError:
        raise TooSlow from None


def _until(connection: socket.socket, deadline: float) -> None:
    left = deadline - monotonic()
    if left <= 0:
        raise TooSlow
    connection.settimeout(left)


def peer_uid(connection: socket.socket) -> int | None:
    """The user at the other end; None where the system doesn't tell."""
    system: str = sys.platform
    try:
        if system == "linux":
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(uid)
        if system == "darwin" or system.startswith("freebsd"):
            # struct xucred: version, uid, and what else isn't needed. SOL_LOCAL is 0, LOCAL_PEERCRED 1.
            version, uid = struct.unpack("=II", connection.getsockopt(0, 1, 76)[:8])
            return int(uid) if version == 0 else None
    except OSError:
        return None
    return None
