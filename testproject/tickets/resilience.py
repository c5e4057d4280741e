"""TEMPORARY until transaction.retrying is merged."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar, overload

from django.db import InterfaceError, OperationalError, connection, transaction

from django_dbpool.core.retry import Retrier, RetryPolicy
from django_dbpool.errors import CircuitOpen

F = TypeVar("F", bound=Callable[..., Any])


@overload
def resilient(function: F) -> F: ...
@overload
def resilient(*, atomic: bool = True) -> Callable[[F], F]: ...
def resilient(function: Any = None, *, atomic: bool = True) -> Any:
    if function is None:
        return lambda function: resilient_(function, atomic)
    return resilient_(function, atomic)


def resilient_(function: Any, atomic: bool) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        ours = connection.settings_dict["ENGINE"].startswith("django_dbpool.")
        policy = connection.pool.config.retry if ours else RetryPolicy(enabled=False)  # type: ignore[attr-defined]
        retrier = Retrier(policy)
        while True:
            try:
                with transaction.atomic() if atomic else nullcontext():
                    return function(*args, **kwargs)
            except (OperationalError, InterfaceError) as error:
                if isinstance(error, CircuitOpen) or not ours or not retrier.wait():
                    raise

    return wrapper
