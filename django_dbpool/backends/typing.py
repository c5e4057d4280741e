"""
Django's wrapper and cursor as a type checker should see them: django-stubs leaves out what begins with an underscore.
Never imported at run time.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.backends.utils import CursorWrapper
from psycopg import Connection


class DjangosWrapper(DatabaseWrapper):
    isolation_level: Any
    _thread_ident: int
    _thread_sharing_count: int

    def _cursor(self, name: str | None = None) -> Any: ...
    def _prepare_cursor(self, cursor: Any) -> Any: ...
    def _commit(self) -> None: ...
    def _rollback(self) -> None: ...
    def _savepoint_rollback(self, sid: str) -> None: ...
    def _close(self) -> None: ...
    def _configure_timezone(self, connection: Connection[Any]) -> bool:
        raise NotImplementedError


class DjangosCursor(CursorWrapper):
    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any: ...
    def _executemany(self, sql: Any, param_list: Any, *ignored: Any) -> Any: ...
    def _execute_with_wrappers(self, sql: Any, params: Any, many: bool, executor: Any) -> Any: ...
