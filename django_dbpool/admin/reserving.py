"""Views that have a connection when no ordinary one is left."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse

from ..transaction import reserved

View = Callable[..., HttpResponseBase]


def reserved_view(view: View) -> View:
    """
    The same view, with the reserve (``POOL["reserve_size"]``) for all that it asks of databases: also for its template,
    which Django renders behind the view, and for the session, which the middleware saves there.

    Args:
        view: a function, not a coroutine.

    Example:
        urlpatterns = [
            path("operators/login/", reserved_view(operators.login)),
            path("operators/", operators.urls),
        ]
    """

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with reserved():
            session = getattr(request, "session", None)
            if session is not None:
                session.save = reserved(session.save)
            response = view(request, *args, **kwargs)
            if isinstance(response, SimpleTemplateResponse):
                response.render()
            return response

    return wrapper
