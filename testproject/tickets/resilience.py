"""
What the shop does about failures that pass, for a repository, a command handler and raw SQL alike.

On our engine that is `transaction.retrying`; on the stock engine what Django has, which is `atomic`. A project would
decorate with `transaction.retrying` itself: this choice is here to compare the engines on the same code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar, cast, overload

from django.conf import settings
from django.db import connection
from django.db.transaction import atomic as djangos_atomic

from django_dbpool import transaction
from testproject.databases import POOLED_BACKEND

F = TypeVar("F", bound=Callable[..., Any])

SECONDS = 6.0
"""Three retries two seconds apart."""


@overload
def resilient(function: F, /) -> F: ...
@overload
def resilient(*, atomic: bool) -> Callable[[F], F]: ...
def resilient(function: Any = None, /, *, atomic: bool = True) -> Any:
    """
    Run the function again if it failed for a reason that passes.

    Args:
        atomic: in one transaction. False for what can't run in one.
    """
    return _decorate(function, atomic) if function is not None else functools.partial(_decorate, atomic=atomic)


def _decorate(function: F, atomic: bool) -> F:
    on_ours = transaction.retrying(total=SECONDS, atomic=atomic)(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if settings.DATABASES[connection.alias]["ENGINE"] == POOLED_BACKEND:
            return on_ours(*args, **kwargs)
        with djangos_atomic() if atomic else nullcontext():
            return function(*args, **kwargs)

    return cast("F", wrapper)
