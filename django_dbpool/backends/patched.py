"""
Instrumentation that replaces methods of Django's classes: Sentry, Scout and others put their own function in the place
of ``CursorWrapper.execute``. Where ours would pass Django's by, it has to look whether that is Django's still.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django

_DJANGO = str(Path(django.__file__).parent) + "/"


def djangos_own(kind: type, name: str) -> Any:
    """
    The method as Django has defined it; None if somebody had replaced it before this was asked, mostly because a
    settings module initialized its monitoring first. Nothing is identical to it then, and the long way is taken.
    """
    method = kind.__dict__[name]
    code = getattr(method, "__code__", None)
    return method if code is not None and code.co_filename.startswith(_DJANGO) else None
