"""``strict_sessions()``: what statements don't show, the server is asked for."""

from __future__ import annotations

import json
import math
import re
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from psycopg.pq import ExecStatus

from ..backends.leases import LeaseMixin
from ..pool.entry import IDLE, INTRANS, PoolEntry
from . import hooks

KEPT_STATEMENTS = 10
KEPT_NAMES = 2000

State = dict[tuple[str, str], str]
"""What a session has beyond a new one's: kind and name of each thing, and its value."""

# pg_settings doesn't show settings that no extension has defined ("app.tenant"): they are asked for by name. The names
# come from the sources of the functions and policies, and from what the statements contained.
SNAPSHOT = r"""
WITH source (text) AS (
    SELECT coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND l.lanname NOT IN ('internal', 'c')
    UNION ALL SELECT concat_ws(' ', qual, with_check) FROM pg_policies
), named (name) AS (
    SELECT lower(found[1]) FROM source, regexp_matches(text, '([A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)+)', 'g') found
    UNION SELECT json_array_elements_text($1::json)
    EXCEPT SELECT lower(name) FROM pg_settings
)
SELECT 'setting', name, setting FROM pg_settings
    WHERE source = 'session'
    AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')
UNION ALL SELECT 'setting', name, current_setting(name, true) FROM named
    WHERE coalesce(current_setting(name, true), '') <> ''
UNION ALL SELECT 'setting', 'role', current_user
UNION ALL SELECT 'setting', 'session_authorization', session_user
UNION ALL SELECT 'advisory lock', concat_ws(':', classid, objid, objsubid), mode FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted
UNION ALL SELECT 'temporary relation', relname, relkind::text FROM pg_class
    WHERE relnamespace = pg_my_temp_schema() AND relkind NOT IN ('t', 'i', 'I', 'c')
UNION ALL SELECT 'LISTEN', channel, '' FROM pg_listening_channels() channel
UNION ALL SELECT 'prepared statement', name, '' FROM pg_prepared_statements WHERE left(name, 5) <> '_pg3_'
UNION ALL SELECT 'held cursor', name, '' FROM pg_cursors WHERE is_holdable
"""

_DOTTED = re.compile(r"[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)+")
_WORDS = re.compile(r"[\w.$]+")


class SessionStateLeaked(AssertionError):
    """
    A lease that wasn't pinned has changed its session.

    Attributes:
        alias: of the database.
        state: what was left, in words.
        statements: the last ones of the lease, without parameters.
    """

    def __init__(self, alias: str, state: tuple[str, ...], statements: tuple[str, ...]) -> None:
        self.alias = alias
        self.state = state
        self.statements = statements
        self.thread_ident = get_ident()
        lines = [
            f"A lease of database {alias!r} has left session state for the next borrower, unseen in its statements:",
            *(f"  {item}" for item in state),
            "Its last statements:",
            *(f"  {text}" for text in statements),
            "Undo it in the same transaction, or keep the connection with `with transaction.pin():` (django_dbpool).",
        ]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.alias, self.state, self.statements)  # parallel test runners pickle failures


@contextmanager
def strict_sessions(*, ignore: Iterable[str] = ()) -> Iterator[None]:
    """
    Ask the server after every lease whether session state was left that the pool could not see in the statements:
    settings, role, advisory locks, temporary tables, channels, prepared statements, held cursors. Context manager and
    decorator; all threads and all pooled aliases are watched. Each lease costs two round trips more.

    A connection found so is closed. The error is raised where the statement ends that ended the lease, and otherwise
    (end of a transaction, another thread, code that swallows exceptions) at the end of the block.

    Inside a TestCase, whose transaction doesn't end before the test does, the session is looked at at the end of the
    block. The server doesn't tell there what is local to the transaction: what the statements show to be (SET LOCAL,
    ``set_config(.., true)``, ``pg_advisory_xact_lock``) is left out, what a function sets so is reported. Use a
    TransactionTestCase for such code, or ``ignore``.

    Args:
        ignore: names of settings that may change.

    Raises:
        SessionStateLeaked

    Example:
        @pytest.fixture(autouse=True)
        def strict(db):
            with strict_sessions():
                yield

        class Tests(TestCase):
            def setUp(self):
                self.enterContext(strict_sessions())
    """
    watcher = _enter(frozenset(name.lower() for name in ignore))
    start = len(watcher.leaks)
    try:
        watcher.look_at_held(begin=True)
        yield
        watcher.look_at_held(begin=False)
        found = watcher.leaks[start:]
    finally:
        del watcher.leaks[start:]
        _leave()
    if found:
        raise found[0]


class _Record:
    """One lease: the session at its beginning, and what was executed since."""

    def __init__(self, before: State) -> None:
        self.before = before
        self.statements: deque[str] = deque(maxlen=KEPT_STATEMENTS)
        self.local_names: set[str] = set()
        self.local_locks = False

    def note_local(self, text: str) -> None:
        if "local" in text or "set_config" in text:
            self.local_names.update(_WORDS.findall(text))
        self.local_locks = self.local_locks or "xact_lock" in text


class Watcher:
    def __init__(self) -> None:
        self.ignored: list[frozenset[str]] = []
        self.leaks: list[SessionStateLeaked] = []
        self.records: dict[PoolEntry, _Record] = {}
        self.names: set[str] = set()

    # -- what is seen -------------------------------------------------------------------------------------------

    def begin(self, entry: PoolEntry) -> None:
        state = self.snapshot(entry)
        if state is not None:
            self.records[entry] = _Record(state)

    def note(self, db: LeaseMixin, sql: Any) -> None:
        record = self._record(db)
        if record is not None:
            record.statements.append(str(sql))

    def note_local(self, db: LeaseMixin, sql: Any, params: Any) -> None:
        record = self._record(db)
        if record is not None and db.in_atomic_block:
            record.note_local(f"{_text(sql)} {_text(params)}".lower())

    def _record(self, db: LeaseMixin) -> _Record | None:
        entry = db._entry
        return None if entry is None else self.records.get(entry)

    def expect(self, *texts: Any) -> None:
        """Names of settings that a statement may be about to set."""
        if len(self.names) < KEPT_NAMES:
            for text in texts:
                self.names.update(name.lower() for name in _DOTTED.findall(_text(text)))

    def look_at_held(self, *, begin: bool) -> None:
        """The leases that this thread holds beyond the block: those of a TestCase or of session mode."""
        db: Any
        for db in connections.all(initialized_only=True):
            entry = db._entry if isinstance(db, LeaseMixin) else None
            if entry is None or entry.pinned is not None or entry.pgconn.transaction_status not in (IDLE, INTRANS):
                continue
            if not begin:
                if self.inspect(db.alias, entry):
                    entry.expires_at = -math.inf  # closed when it is released; not a pin, the next test may leave more
                self.begin(entry)  # for a block around this one
            elif entry not in self.records:
                self.begin(entry)

    # -- judging ------------------------------------------------------------------------------------------------

    def inspect(self, alias: str, entry: PoolEntry) -> bool:
        """Whether this lease has left something; it is noted."""
        record = self.records.pop(entry, None)
        after = self.snapshot(entry) if record is not None else None
        if record is None or after is None:
            return False
        left = tuple(self._differences(entry, record, after))
        if left:
            self.leaks.append(SessionStateLeaked(alias, left, tuple(record.statements)))
        return bool(left)

    def _differences(self, entry: PoolEntry, record: _Record, after: State) -> Iterator[str]:
        declared = getattr(entry, "session", None)  # what the engine itself keeps set on this connection
        allowed = {name.lower() for name in (declared.values if declared is not None else ())}.union(*self.ignored)
        in_transaction = entry.pgconn.transaction_status == INTRANS
        started_with = entry.pgconn.options.decode().lower()
        for (kind, name), value in after.items():
            if record.before.get((kind, name)) == value or (kind == "setting" and name.lower() in allowed):
                continue
            if kind == "held cursor" and entry.streams:
                continue
            if in_transaction and _is_local(record, kind, name):
                continue
            if (kind, name) not in record.before and "." in name and f"{name.lower()}=" in started_with:
                continue  # nobody had mentioned the name when the lease began
            yield f"{kind} {name}" + (f" = {value!r}" if kind == "setting" else f" ({value})" if value else "")
        for kind, name in record.before:
            if kind == "setting" and (kind, name) not in after and name.lower() not in allowed:
                yield f"setting {name}, which the lease began with, was reset"

    def snapshot(self, entry: PoolEntry) -> State | None:
        """
        Asked below psycopg's cursors: no BEGIN, no prepared statement, nothing for instrumentation. None for a
        connection that is lost.
        """
        result = entry.pgconn.exec_params(SNAPSHOT.encode(), [json.dumps(sorted(self.names)).encode()])
        if result.status != ExecStatus.TUPLES_OK:
            if entry.lost():
                return None
            raise RuntimeError(f"strict_sessions() can't look at the session: {result.get_error_message()}")
        rows = [
            [(result.get_value(row, column) or b"").decode() for column in range(3)] for row in range(result.ntuples)
        ]
        return {(kind, name): value for kind, name, value in rows}


def _is_local(record: _Record, kind: str, name: str) -> bool:
    return (kind == "setting" and name.lower() in record.local_names) or (
        kind == "advisory lock" and record.local_locks
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


_lock = threading.Lock()
_watcher: Watcher | None = None


def _enter(ignored: frozenset[str]) -> Watcher:
    """One watcher for blocks inside each other."""
    global _watcher
    with _lock:
        if _watcher is None:
            _watcher = Watcher()
            hooks.install(_watcher)
        _watcher.ignored.append(ignored)
        return _watcher


def _leave() -> None:
    global _watcher
    with _lock:
        assert _watcher is not None
        _watcher.ignored.pop()
        if not _watcher.ignored:
            _watcher = None
            hooks.uninstall()
