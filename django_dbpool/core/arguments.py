"""What public functions were given: a mistake is refused where it was made, with the name of the argument."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from .readers import LONGEST, shown


def seconds(call: str, name: str, value: object, *, least: float = 0.0, most: float = LONGEST) -> float:
    """
    Args:
        call: the function, as its caller knows it.
        name: the argument.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = " Pass its total_seconds()." if isinstance(value, timedelta) else ""
        raise TypeError(f"{call}({name}={shown(value)}): {name} must be a number of seconds.{hint}")
    if not least <= value <= most:  # NaN is neither
        limits = "a number" if math.isinf(least) else f"{least:g} or more"
        limits += "" if math.isinf(most) else f", at most {most:.0f}" if value > most else ", and finite"
        raise ValueError(f"{call}({name}={shown(value)}): {name} must be {limits}.")
    return float(value)


def count(call: str, name: str, value: object) -> int:
    """
    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{call}({name}={shown(value)}): {name} must be a whole number.")
    if value < 1:
        raise ValueError(f"{call}({name}={shown(value)}): {name} must be 1 or more.")
    return value


def boolean(call: str, name: str, value: object) -> bool:
    """
    Raises:
        TypeError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{call}({name}={shown(value)}): {name} must be True or False.")
    return value


def error_types(call: str, name: str, value: object) -> None:
    """
    Raises:
        TypeError: it is not what ``except`` takes, or includes KeyboardInterrupt and the like.
    """
    for kind in value if isinstance(value, tuple) else (value,):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(
                f"{call}({name}={shown(value)}): {name} must be a class that derives from Exception, or a tuple of "
                "such classes."
            )


def decorated_function(call: str, value: object) -> None:
    """
    Raises:
        TypeError: what is decorated is no function whose call can be wrapped.
    """
    refuse_generator(call, value)
    if isinstance(value, type):
        raise TypeError(
            f"{call} can't decorate the class {value.__qualname__}: only the making of its instances would be wrapped. "
            'Decorate its methods; for a class-based view, write @method_decorator(..., name="dispatch").'
        )
    if isinstance(value, (staticmethod, classmethod, property)):
        raise TypeError(f"{call} must stand below @{type(value).__name__}, next to the function.")
    if not callable(value):
        raise TypeError(f"{call} decorates a function, not {shown(value)}.")


def refuse_generator(call: str, value: object) -> None:
    """
    Raises:
        TypeError: the body of a generator runs piece by piece, after the call of its function has ended.
    """
    function: Callable[..., Any] = value  # type: ignore[assignment]
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{call} can't wrap a generator function, whose body runs after the call: use it inside of the generator."
        )
