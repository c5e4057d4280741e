"""
Signatures of commands and of their answers: HMAC-SHA256 with a key that is derived from ``DBPOOL["SECRET"]``, or from
``SECRET_KEY``. Whoever can write to the table but doesn't know the secret can tell nobody anything.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.utils.crypto import salted_hmac

from ..conf import project_config

_SALT = "django_dbpool.fleet.command"


def canonical(value: Any) -> str:
    """The one text for a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def signature(what: str, *parts: str | int) -> str:
    """
    Args:
        what: the kind of message, so that none can be taken for one of another kind.
        parts: of the message. Its length and the borders of its parts are signed with it.

    Returns:
        64 hexadecimal digits.

    Raises:
        ImproperlyConfigured: there is no secret.
    """
    return _digest(next(_secrets()), what, parts)


def is_signed(given: str, what: str, *parts: str | int) -> bool:
    """Whether somebody has signed this who knows the secret, or one of ``SECRET_KEY_FALLBACKS``."""
    # Of bytes: of texts that aren't ASCII compare_digest() wants nothing to do. And with all secrets, whichever fits.
    presented = given.encode("utf-8", "surrogatepass")
    found = [hmac.compare_digest(presented, _digest(secret, what, parts).encode()) for secret in _secrets()]
    return any(found)


def _digest(secret: str | bytes, what: str, parts: tuple[str | int, ...]) -> str:
    return salted_hmac(_SALT, canonical([what, *parts]), secret=secret, algorithm="sha256").hexdigest()


def _secrets() -> Iterator[str | bytes]:
    """What signs, then what is accepted besides."""
    own = project_config().secret
    if own is not None:
        yield own
        return
    yield settings.SECRET_KEY
    yield from settings.SECRET_KEY_FALLBACKS
