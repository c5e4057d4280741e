"""The function that ``POOL["groups"]["by"]`` names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from django.utils.module_loading import import_string

from ..core.config import PoolConfig
from ..core.groups import UNIT
from ..core.readers import Fault
from .alias import Alias

BAD_FUNCTION = "dbpool.E015"


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


def with_function(config: PoolConfig) -> PoolConfig:
    """The same, with the function in place of its path."""
    function = _imported(config)
    if config.groups is None or not callable(function):
        return config
    return dataclasses.replace(config, groups=dataclasses.replace(config.groups, by=function))


def _imported(config: PoolConfig) -> Callable[[Any], object] | str | None:
    """The function, or what is wrong with it; None if there is none to import."""
    by = config.groups.by if config.groups is not None else UNIT
    if not isinstance(by, str) or by == UNIT:
        return None
    try:
        function: Any = import_string(by)
    except Exception as error:  # noqa: BLE001  # whatever the module raises when it is imported
        return f'groups: "by" = {by!r} can\'t be imported: {error}'
    return function if callable(function) else f'groups: "by" = {by!r} is not a function.'
