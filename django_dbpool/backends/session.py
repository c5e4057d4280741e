"""
Session variables that were declared (``POOL["session"]``, ``transaction.session``, an engine's own) are set on the
connection at hand before a statement runs there, if they differ from what is set on it: the price is a round trip
where the tenant changes, none where it doesn't, and no pin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import Error
from psycopg import Connection, sql

from ..core.readers import variables
from ..core.session import SessionState
from ..pool.entry import IDLE, INTRANS

if TYPE_CHECKING:
    from ..pool.managed import ManagedPool
    from .typing import DjangosWrapper as Base
else:
    Base = object

_NOTHING: Mapping[str, str] = {}


class SessionMixin(Base):
    """Declared variables of one database wrapper."""

    _pool: ManagedPool | None
    _undone: int
    _initializing: bool

    def _init_session(self) -> None:
        self._engine_declares = type(self).session_variables is not SessionMixin.session_variables
        self._engine_declared: tuple[Mapping[str, Any], Mapping[str, str]] = (_NOTHING, _NOTHING)
        self._alias_variables: Mapping[str, str] = _NOTHING
        """``POOL["session"]``: what each physical connection begins with."""
        self._declared_names: dict[str, None] = {}
        """Every variable that was ever set by a block in this pool; the pool's own dictionary."""
        self._stock_session: tuple[object, SessionState] | None = None

    def session_variables(self) -> Mapping[str, Any]:
        """
        For engines that derive from this one: variables that every statement of this wrapper needs, such as the
        ``search_path`` of its tenant. Asked before each statement, so answer from memory.
        """
        return _NOTHING

    def _wanted_variables(self, context: Mapping[str, Mapping[str, str]] | None) -> Mapping[str, str]:
        wanted = self._alias_variables
        if self._engine_declares:
            given = self.session_variables()
            if self._engine_declared[0] != given:
                self._engine_declared = (dict(given), variables(given))
            wanted = {**wanted, **self._engine_declared[1]}
        unit = context.get(self.alias) if context is not None else None
        return {**wanted, **unit} if unit else wanted

    def _sync_session(
        self, state: SessionState, raw: Connection[Any], query: object, context: Mapping[str, Mapping[str, str]] | None
    ) -> None:
        """Have the variables of ``context`` set on ``raw``. The caller has seen that they may differ."""
        status = raw.pgconn.transaction_status
        # In a failed transaction the statement fails by itself, or ends it.
        if self._initializing or status not in (IDLE, INTRANS):
            return
        in_transaction = status == INTRANS
        wanted = self._wanted_variables(context)
        changes = state.changes(wanted, self._undone, in_transaction)
        if changes:
            self._refuse_shared_sessions()
            self._set_variables(raw, state, changes, in_transaction)
            state.changed(wanted, frozenset(changes), self._undone, in_transaction)
        elif self._declared_names.keys() - state.original and not in_transaction:
            self._set_variables(raw, state, {}, in_transaction)
        state.context = context
        if state.doubtful:
            state.context = state
            if any(word in str(query).lower() for word in ("rollback", "abort")):
                state.undone = -1  # by the text of a statement, which only the next look can see

    def _set_variables(
        self, raw: Connection[Any], state: SessionState, changes: Mapping[str, str | None], in_transaction: bool
    ) -> None:
        """
        One round trip. It also reads what the session had before, to go back to that and not to the server's default:
        for the names that are set now, and for those that were ever set in this pool, before some transaction needs to.
        """
        names = self._declared_names
        names.update(dict.fromkeys(name for name in changes if name not in self._alias_variables))
        unknown = [name for name in tuple(names) if name not in state.original]  # others may add to it meanwhile
        if in_transaction:
            state.spoiled = state.spoiled or not changes.keys().isdisjoint(unknown)
            unknown = []
        calls = [sql.SQL("current_setting({}, true)").format(sql.Literal(name)) for name in unknown]
        calls += [
            sql.SQL("set_config({}, {}, false)").format(
                sql.Literal(name), sql.Literal(state.original.get(name) if value is None else value)
            )
            for name, value in changes.items()
        ]
        statement = sql.SQL("SELECT ") + sql.SQL(", ").join(calls)
        # Before a transaction, not as its first statement: its rollback would take them back.
        outside = not (in_transaction or raw.autocommit)
        try:
            with self.wrap_database_errors:
                if outside:
                    raw.autocommit = True
                row = raw.execute(statement, prepare=False).fetchone()
        except Error:
            raise  # by the server: nothing was set
        except BaseException:
            self._pin("session variables in doubt")
            raise
        finally:
            if outside and raw.pgconn.transaction_status == IDLE:
                raw.autocommit = False
        state.original.update(zip(unknown, row or (), strict=False))

    def _refuse_shared_sessions(self) -> None:
        pool = self._pool
        if pool is not None and pool.config.pooler == "transaction":
            raise ImproperlyConfigured(
                f'DATABASES["{self.alias}"]: session variables were declared, but POOL["pooler"] is "transaction": '
                "whoever gets the same server connection next would find them. Use a pooler in session mode, or none."
            )

    def _sync_stock_session(self, query: object, context: Mapping[str, Mapping[str, str]] | None) -> None:
        """The same where the pool is switched off: a kill switch must not mix tenants."""
        raw = self.connection
        if raw is None:
            return
        if self._stock_session is None or self._stock_session[0] is not raw:
            pool = self.settings_dict.get("POOL")
            self._alias_variables = variables(pool.get("session", _NOTHING)) if isinstance(pool, Mapping) else _NOTHING
            self._stock_session = raw, SessionState(_NOTHING)
        state = self._stock_session[1]
        if context is not state.context or self._engine_declares:
            self._sync_session(state, raw, query, context)

    def _pin(self, reason: str) -> None:
        raise NotImplementedError  # by LeaseMixin
