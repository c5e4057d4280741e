"""The function that ``POOL["groups"]["by"]`` names."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.utils.module_loading import import_string

from ..core.config import PoolConfig
from ..core.groups import UNIT
from ..core.readers import Fault, shown
from .alias import Alias

BAD_FUNCTION = "dbpool.E015"
NEVER_FIRES = "dbpool.W011"


def the_function_of_groups_exists(alias: Alias) -> Iterator[Fault]:
    function = _imported(alias.config)
    if isinstance(function, str):
        yield Fault(
            "groups",
            function,
            "Write the dotted path of a function that takes a unit of work (the WSGI environ or ASGI scope of a "
            "request) and returns the name of its group, or None.",
            BAD_FUNCTION,
        )


def limits_of_groups_can_be_reached(alias: Alias) -> Iterator[Fault]:
    config = alias.config
    if config.groups is None:
        return
    for name, limit in (*config.groups.limits.items(), ("default", config.groups.default or 0)):
        if limit >= config.max_size:
            yield Fault(
                "groups",
                f"groups: the limit of {name!r} ({limit}) never takes effect: max_size ({config.max_size}) is reached "
                "before it.",
                "Lower it below max_size, or remove it.",
                NEVER_FIRES,
            )


def with_function(config: PoolConfig) -> PoolConfig:
    """The same, with the function in place of its path."""
    function = _imported(config)
    if config.groups is None or not callable(function):
        return config
    return dataclasses.replace(config, groups=dataclasses.replace(config.groups, by=function))


def _imported(config: PoolConfig) -> Callable[[Any], object] | str | None:
    """The function, or what is wrong with it; None if there is none."""
    by = config.groups.by if config.groups is not None else UNIT
    if by == UNIT:
        return None
    function: Any = by
    if isinstance(by, str):
        try:
            function = import_string(by)
        except Exception as error:  # noqa: BLE001  # whatever the module raises when it is imported
            return f'groups: "by" = {by!r} can\'t be imported: {error}'
    wrong = _what_is_wrong(function)
    return f'groups: "by" = {shown(by)} {wrong}' if wrong else function


def _what_is_wrong(function: Any) -> str:
    if not callable(function) or isinstance(function, type):
        return "is not a function."
    if iscoroutinefunction(function):
        return "is a coroutine function, and nobody could await it where a connection is asked for."
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return "doesn't take exactly one argument, the unit of work."
    except ValueError:  # written in C, without a signature
        pass
    return ""
