"""Session variables that a block or a function declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.connection import ConnectionDoesNotExist

from ..core.readers import variables
from ..core.session import declared
from .declared import decorated, leave

F = TypeVar("F", bound=Callable[..., Any])


class Declared(dict[str, Mapping[str, str]]):
    """What a block declares, by alias, and what was declared around it."""

    outer: Mapping[str, Mapping[str, str]] | None


class session:  # noqa: N801  # a context manager, as atomic
    """
    Declare session variables for a block or a function, sync or async.

    Every statement of the block finds them set, on whichever connection it runs; no connection is pinned, and the
    server is told only where a connection's variables differ. Blocks nest, the inner one wins. What runs in a thread
    that the block starts by hand doesn't see them; ``sync_to_async`` and ``copy_context().run`` carry them along.

    Args:
        using: database alias.
        values: names and values of settings of the server, your own with a dot. A list becomes quoted names, which is
            the safe form for a ``search_path``; None goes back to the alias's own value.

    Raises:
        TypeError: as a decorator of a generator function or a class.
        ValueError: a name or value that no setting can have. What only the server can tell is raised by the next
            statement.

    Example:
        with transaction.session(search_path=["tenant_7", "public"], **{"app.tenant": 7}):
            Invoice.objects.count()
    """

    # Not ``using: str | None = None`` by name: type checkers would hold the values of **{"app.tenant": 7} against it.
    @overload
    def __init__(self, using: str | None, /, **values: Any) -> None: ...

    @overload
    def __init__(self, **values: Any) -> None: ...

    # The ignored error: it doesn't accept the alias twice, by position and by name. It shouldn't.
    def __init__(self, using: Any = None, **values: Any) -> None:  # type: ignore[misc]
        self.alias: str = DEFAULT_DB_ALIAS if using is None else using
        self._removed = {name.lower() for name, value in values.items() if value is None}
        try:
            self._values = variables({name: value for name, value in values.items() if value is not None})
        except ValueError as error:
            raise ValueError(f"transaction.session() {error.args[0]} {error.args[1]}") from None
        self._entered: list[Declared] = []

    def __enter__(self) -> None:
        # Else a misspelt alias would leave its statements without the tenant's variables, and nobody would say so.
        if self.alias not in connections.settings:
            raise ConnectionDoesNotExist(f"transaction.session(): the connection {self.alias!r} doesn't exist.")
        outer = declared.get()
        mine = {**(outer or {}).get(self.alias, {}), **self._values}
        new = Declared({**(outer or {}), self.alias: {name: mine[name] for name in mine if name not in self._removed}})
        new.outer = outer
        self._entered.append(new)
        declared.set(new)

    def __exit__(self, *exc_info: object) -> None:
        leave(declared, self._entered.pop())

    def __call__(self, function: F) -> F:
        def again() -> session:
            copy = object.__new__(session)
            copy.__dict__ |= {**self.__dict__, "_entered": []}
            return copy

        return decorated("session", function, again)
