"""What this process was started for, and which settings follow from that."""

from __future__ import annotations

import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.config import TIME_LIMITS

# Of the management commands those that run the site's own code as the site does. ``test`` sets up its database
# without limits, see backends/creation.py.
_SERVING = frozenset({"runserver", "runserver_plus", "testserver", "test"})


def management_command() -> str | None:
    """The command that this process was started for, "" if none was named; None outside of ``manage.py``."""
    return _management_command(*sys.argv[:2])


@lru_cache(
    maxsize=8
)  # asked with each connection that is given back, and a path takes longer than all the rest of that
def _management_command(program: str = "", command: str = "") -> str | None:
    path = Path(program)
    by_module = path.parts[-2:] == ("django", "__main__.py")
    return command if by_module or path.name in {"manage.py", "django-admin", "django-admin.py"} else None


def program() -> str:
    """The name by which this process was started, also as ``python -m name``."""
    path = Path(sys.argv[0]) if sys.argv else Path()
    return path.parent.name if path.name == "__main__.py" else path.stem


def serves_requests() -> bool:
    """Whether Django's entry point for servers was made, of WSGI or of ASGI."""
    return "django.core.wsgi" in sys.modules or "django.core.asgi" in sys.modules


def in_test_environment() -> bool:
    """Between Django's ``setup_test_environment()`` and its end: an outbox is all of it that can be seen."""
    return hasattr(sys.modules.get("django.core.mail"), "outbox")


def time_limits_apply() -> bool:
    """Not to migrations, dumps and other commands, which take their time."""
    command = management_command()
    return command is None or command in _SERVING


def command_of_its_own() -> str | None:
    """The command, if it is work of its own: not one that serves requests or runs tests."""
    command = management_command()
    return None if command in _SERVING else command or None


def without_time_limits(pool: Any) -> Any:
    """``POOL`` as it is written, less its time limits; the very same object if it has none."""
    if not isinstance(pool, dict) or not any(pool.get(key) for key in TIME_LIMITS):
        return pool
    return {"enabled": True, **{key: value for key, value in pool.items() if key not in TIME_LIMITS}}


def runserver_is_starting() -> bool:
    """
    Whether this is the thread in which runserver looks at the migrations before it serves anything. It closes its
    connections then, and means it: a development server that nobody uses should hold none.
    """
    if not (management_command() or "").startswith("runserver"):
        return False
    thread = threading.current_thread()  # the autoreloader runs the command in a thread of this name
    return thread is threading.main_thread() or thread.name == "django-main-thread"
