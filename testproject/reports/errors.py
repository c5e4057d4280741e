"""Database failures as a visitor should meet them: a name, a sentence, and when to come back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render

# libpq hands on the SQLSTATE of a failed statement; of a refused connection there is only the text.
REFUSED_FOR_LACK_OF_SLOTS = ("too many clients already", "remaining connection slots are reserved")
TOO_MANY_CONNECTIONS = "53300"

ERROR_HEADER = "X-Database-Error"


@dataclass(frozen=True)
class DatabaseFailure:
    name: str
    sqlstate: str | None
    message: str
    retry_after: int

    @property
    def label(self) -> str:
        return f"{self.name} ({self.sqlstate})" if self.sqlstate else self.name


def describe(error: Exception) -> DatabaseFailure:
    """Name `error`; its text stays in the log, since it tells hosts, ports and roles."""
    # Our engine's errors have names of their own; Django's wrapper repeats the driver's, which is its cause.
    named = error if type(error) is not OperationalError else error.__cause__ or error
    sqlstate = _sqlstate(named)
    name = psycopg.errors.lookup(sqlstate).__name__ if sqlstate else type(named).__name__
    if sqlstate == TOO_MANY_CONNECTIONS or name in {"PoolExhausted", "PoolTimeout"}:
        message = "The report is in great demand just now. Please try again in a few seconds."
    else:
        message = "The report can't be read just now. Please try again in a minute."
    return DatabaseFailure(name, sqlstate, message, _retry_after(error))


def name_of(error: Exception) -> str:
    """The error's own name; where it has only a general one, also the beginning of what the driver said."""
    label = describe(error).label if isinstance(error, OperationalError | psycopg.Error) else type(error).__name__
    if label in (psycopg.OperationalError.__name__, InterfaceError.__name__):
        return f"{label}: {str(error).partition(': ')[0].strip()}"
    return label


def friendly_errors(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Let `view` answer 503 with a readable page, or JSON for a program, where the database fails."""

    @functools.wraps(view)
    def wrapper(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except OperationalError as error:
            return failure_response(request, describe(error))

    return wrapper


def failure_response(request: HttpRequest, failure: DatabaseFailure) -> HttpResponse:
    headers = {"Retry-After": str(failure.retry_after), ERROR_HEADER: failure.label}
    if wants_json(request):
        body = {"error": failure.name, "sqlstate": failure.sqlstate, "message": failure.message}
        return JsonResponse(body, status=503, headers=headers)
    response = render(request, "reports/busy.html", {"failure": failure}, status=503)
    for name, value in headers.items():
        response[name] = value
    return response


def wants_json(request: HttpRequest) -> bool:
    return request.GET.get("format") == "json" or not request.accepts("text/html")


def _sqlstate(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of `error` or of the first of its causes that has one."""
    while error is not None:
        if sqlstate := getattr(error, "sqlstate", None):
            return str(sqlstate)
        if any(text in str(error) for text in REFUSED_FOR_LACK_OF_SLOTS):
            return TOO_MANY_CONNECTIONS
        error = error.__cause__
    return None


def _retry_after(error: Exception) -> int:
    return max(1, round(getattr(error, "retry_after", None) or 2))
