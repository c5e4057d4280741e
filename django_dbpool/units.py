"""Units of work: on behalf of which request does this code run? Only put into words when a report asks."""

from __future__ import annotations

import sys
from typing import Any

from django.core.signals import request_finished, request_started
from django.urls import URLResolver, get_resolver, get_urlconf
from django.urls.resolvers import RoutePattern

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
    path = environ.get("PATH_INFO") or environ.get("path") or "/"
    return _route_below(get_resolver(get_urlconf()), path)


def _route_below(resolver: URLResolver, path: str) -> str | None:
    """As ``URLResolver.resolve()`` finds it, without its objects."""
    rest = _rest(resolver.pattern, path)
    if rest is None:
        return None
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            if (route := _route_below(each, rest)) is not None:
                return str(each.pattern) + route.removeprefix("^") if str(each.pattern) else route
        elif _rest(each.pattern, rest) is not None:
            return str(each.pattern)
    return None


def _rest(pattern: Any, path: str) -> str | None:
    """
    What is left of a path behind a pattern that matches its beginning. Converters are not called: they are the
    project's code, and one that asks the database for its object would wait for a connection in the middle of the
    report on a full pool, or of a lease of this very thread. So of two routes that only their converters tell apart the
    first one counts.
    """
    if isinstance(pattern, RoutePattern) and pattern.converters:
        match = pattern.regex.search(path)
        return None if match is None else path[match.end() :]
    found = pattern.match(path)
    return None if found is None else str(found[0])


def _routes_are_loaded() -> bool:
    """
    Whether asking imports nothing. A thread that looks at others' requests must not be the one to import the project:
    where two threads import the same modules in different order, one of them sees a module that is half done.
    """
    return "url_patterns" in vars(get_resolver())


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
