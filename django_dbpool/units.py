"""Units of work: on behalf of which request does this code run? Only put into words when a report asks."""

from __future__ import annotations

import sys
from typing import Any

from django.core.signals import request_finished, request_started

from .core.admission import UNMARKED, admission
from .core.ledger import begin_unit, current_unit, of_thread, running_unit, thread_units, unit_labels, unit_names


def request_label(environ: dict[str, Any]) -> str:
    """
    For example ``GET /reports/<int:pk>/``. Not the path, which may be as good as a password: that of a link by which a
    password is set anew is.

    Args:
        environ: of WSGI, or the scope of ASGI.
    """
    method = environ.get("REQUEST_METHOD") or environ.get("method") or "?"
    route = request_name(environ)
    return f"{_word(method)} (no route)" if route is None else f"{_word(method)} /{route}"


def request_name(environ: dict[str, Any]) -> str | None:
    """The route, for example ``reports/<int:pk>/``; None where none matches. Found once for each request."""
    name: str | None = environ.get(_ROUTE, "")
    if name == "":
        own = running_unit() is environ
        if not (own or _routes_are_loaded()):
            return None
        name = _route_of(environ)
        if own:
            # Others only look: a key that another thread adds would break whoever iterates over request.META.
            environ[_ROUTE] = name
    return name


def _route_of(environ: dict[str, Any]) -> str | None:
    from django.urls import Resolver404, resolve

    try:
        return resolve(environ.get("PATH_INFO") or environ.get("path") or "/").route
    except Resolver404:
        return None


def _routes_are_loaded() -> bool:
    """
    Whether asking imports nothing. A thread that looks at others' requests must not be the one to import the project:
    where two threads import the same modules in different order, one of them sees a module that is half done.
    """
    get_resolver = getattr(sys.modules.get("django.urls"), "get_resolver", None)
    return get_resolver is not None and "url_patterns" in vars(get_resolver())


_ROUTE = "django_dbpool.route"


def _word(method: Any) -> str:
    """A client may send anything for it."""
    text = str(method)[:20]
    return text if text.isascii() and text.isalpha() else "?"


def task_name(_: None) -> str | None:
    """Of the Celery task that this thread runs. Celery is asked only where somebody else has imported it."""
    celery = sys.modules.get("celery")
    name = getattr(getattr(celery, "current_task", None), "name", None)
    return name if isinstance(name, str) else None


def _begin(
    sender: Any = None,
    signal: Any = None,
    environ: dict[str, Any] | None = None,
    scope: dict[str, Any] | None = None,
    **_: Any,
) -> None:
    # In the path of every request, hence no object of our own: the mapping is at hand and lives as long as we do. And
    # of a request under WSGI its thread says enough. Django's asynchronous signals run their receivers in a task,
    # whose context ends with it, but in the thread in which the request's synchronous code runs. A shutdown waits for
    # the units that it finds by thread.
    if environ is not None:
        thread_units[of_thread.ident] = environ
        if current_unit.get() is not None:  # an operation that makes requests, as a test client does
            current_unit.set(environ)
    else:
        current_unit.set(scope)
        begin_unit(scope)


def _end(sender: Any = None, signal: Any = None, **_: Any) -> None:
    thread_units.pop(of_thread.ident, None)
    if current_unit.get() is not None:
        current_unit.set(None)
    if admission.get() is not UNMARKED:
        # A block that was interrupted at its very end: the thread's next requests must not use the reserve.
        admission.set(UNMARKED)


def track_requests() -> None:
    """Label leases with the request they serve. Idempotent."""
    unit_labels[dict] = request_label
    unit_names[dict] = request_name
    unit_names[type(None)] = task_name
    request_started.connect(_begin, weak=False, dispatch_uid="django_dbpool.units.begin")
    request_finished.connect(_end, weak=False, dispatch_uid="django_dbpool.units.end")
