"""Which entries of DATABASES are for this package."""

from __future__ import annotations

import sys

from django.db.utils import load_backend


def is_ours(engine: object) -> bool:
    """Whether an engine is one of ours or derives from one. Imports it, unless its name tells."""
    if not isinstance(engine, str) or not engine or engine.startswith("django."):
        return False
    if engine.startswith("django_dbpool."):
        return True
    try:
        wrapper: object = load_backend(engine).DatabaseWrapper
    except Exception:  # noqa: BLE001  # an engine that can't be imported is reported by Django, where it is used
        return False
    # An engine that derives has imported it; for any other there is no reason to.
    mixin = sys.modules.get("django_dbpool.backends.mixin")
    return mixin is not None and isinstance(wrapper, type) and issubclass(wrapper, mixin.PooledDatabaseMixin)
