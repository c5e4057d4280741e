"""
``DBPOOL["TOKENS"]``: the digests of the bearer tokens that the endpoints take. Whoever reads the settings, a backup of
them or a page of errors has no token by that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .readers import Fault, Rejected

NO_DIGEST = "dbpool.E034"
GUESSED = "dbpool.E035"
TWICE = "dbpool.W044"

LONGEST = 1024
"""Bytes of a token; a longer one is refused unread."""

DIGITS = 64
_HEX = re.compile(r"[0-9a-f]+")

_GUESSED = ("", "admin", "changeme", "dbpool", "django_dbpool", "password", "secret", "test", "token")

_HOW = "Write the SHA-256 digest of each token, [hashlib.sha256(token.encode()).hexdigest()]; see docs/api.md."


def digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def matches(token: bytes, digests: Iterable[str]) -> bool:
    """
    Whether it is one of those tokens. Takes as long for one that almost is, and for the first as for the last.

    Args:
        token: as it was sent. Bytes, because a comparison of strings refuses what isn't ASCII.
        digests: in hexadecimal digits.
    """
    if not token or len(token) > LONGEST:
        return False
    given = digest(token)
    found = False
    for each in digests:
        found |= hmac.compare_digest(given, bytes.fromhex(each))
    return found


def read_tokens(raw: Any) -> tuple[Any, ...]:
    """
    The value of ``TOKENS``; of each entry ``faults_of_tokens`` says what is wrong with it.

    Raises:
        Rejected: it is no list. Without the value, which may be a token.
    """
    if not isinstance(raw, (list, tuple)):
        raise Rejected("is no list.", _HOW, secret=True)
    return tuple(each.strip().lower() if isinstance(each, str) else each for each in raw)


def faults_of_tokens(tokens: Iterable[Any]) -> list[Fault]:
    """Entries that are no digests, or those of no secret. They are named by their place, never shown."""
    faults = []
    seen: dict[Any, int] = {}
    guessed = {digest(each.encode()).hex() for each in _GUESSED}
    for place, entry in enumerate(tokens):
        name = f"TOKENS[{place}]"
        faults += [Fault("TOKENS", f"{name} {problem}", hint, NO_DIGEST) for problem, hint in _no_digest(entry)]
        if not isinstance(entry, str):
            continue
        if entry in guessed:
            hint = "Make one: secrets.token_urlsafe(32); see docs/api.md."
            faults.append(Fault("TOKENS", f"{name} is the digest of a token that everybody can guess.", hint, GUESSED))
        if entry in seen:
            text = f"{name} is the same as TOKENS[{seen[entry]}]."
            hint = "Remove one. Where a token was to be replaced, this is still the old one."
            faults.append(Fault("TOKENS", text, hint, TWICE))
        seen.setdefault(entry, place)
    return faults


def _no_digest(entry: Any) -> Iterator[tuple[str, str]]:
    if isinstance(entry, (bytes, bytearray)):
        yield "is bytes, not a string.", "Write hashlib.sha256(...).hexdigest(), not digest()."
    elif not isinstance(entry, str):
        yield f"is no string but {type(entry).__name__}.", _HOW
    elif not entry:
        yield "is empty.", "Leave it out. An empty environment variable gives [''] when it is split."
    elif entry.partition(":")[0] in ("sha256", "sha-256") or entry.startswith(("sha256$", "sha256=")):
        yield "has a prefix.", f"Write only the {DIGITS} hexadecimal digits."
    elif len(entry) != DIGITS or not _HEX.fullmatch(entry):
        yield (
            f"is not the SHA-256 digest of a token: {DIGITS} hexadecimal digits.",
            f"If it is the token itself, it was written where others can read it: make another one. {_HOW}",
        )
