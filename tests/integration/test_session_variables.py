"""Declared session variables: every statement finds them, nobody else does, nothing is pinned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, connections
from django.db.backends.signals import connection_created
from django.db.transaction import Atomic, atomic
from django.db.utils import Error, ProgrammingError

from django_dbpool.backends.session import SessionMixin
from django_dbpool.transaction import session
from tests.fixtures.pools import backend, execute, holders, in_use, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
TENANT = "SELECT current_setting('app.tenant', true)"
PATH = "SHOW search_path"


def tenant(alias: str) -> str | None:
    """None and an empty text are one: that is what a reset leaves of a variable of one's own."""
    return value(alias, TENANT) or None


@pytest.fixture(params=[{}, {"mode": "session"}, {"enabled": False}], ids=["transaction", "session", "off"])
def alias(request: pytest.FixtureRequest, make_pool: MakePool) -> str:
    """One connection, in each mode: a kill switch must not mix tenants either."""
    return make_pool(POOL=request.param)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str | None]]:
    """What the server was told, one entry for each round trip."""
    seen: list[dict[str, str | None]] = []
    original = SessionMixin._set_variables

    def note(self: Any, raw: Any, state: Any, changes: Any, in_transaction: bool) -> None:
        if changes:
            seen.append(dict(changes))
        original(self, raw, state, changes, in_transaction)

    monkeypatch.setattr(SessionMixin, "_set_variables", note)
    return seen


def test_a_block_has_its_variables_and_nobody_else(alias: str) -> None:
    """Also on the very same connection, before and after."""
    assert tenant(alias) is None
    first = backend(alias)
    with session(alias, **{"app.tenant": 7}):
        assert (tenant(alias), backend(alias)) == ("7", first)
    assert (tenant(alias), backend(alias)) == (None, first)


def test_another_thread_has_its_own(make_pool: MakePool, worker: Worker) -> None:
    alias = make_pool()
    with session(alias, **{"app.tenant": 7}):
        assert tenant(alias) == "7"
        assert worker(tenant, alias) is None
        assert worker(copy_context().run, tenant, alias) == "7"
        assert tenant(alias) == "7"


def test_the_server_is_told_only_of_differences(alias: str, told: list[dict[str, str | None]]) -> None:
    for number in (1, 1, 1, 2, 2):
        with session(alias, **{"app.tenant": number, "app.region": "north"}):
            tenant(alias)
            tenant(alias)
    assert told == [{"app.tenant": "1", "app.region": "north"}, {"app.tenant": "2"}]


def test_without_variables_the_server_is_told_nothing(alias: str, told: list[dict[str, str | None]]) -> None:
    with session(alias):
        tenant(alias)
    with atomic(alias):
        tenant(alias)
    assert told == []


def test_nothing_is_pinned(make_pool: MakePool) -> None:
    alias = make_pool()
    with session(alias, search_path="pg_catalog"):
        assert value(alias, PATH) == "pg_catalog"
        assert holders(alias) == ()
        with atomic(alias):
            assert value(alias, PATH) == "pg_catalog"
            (holder,) = holders(alias)
            assert holder.pinned is None
    assert in_use(alias) == 0


def test_blocks_nest_and_the_inner_one_wins(alias: str) -> None:
    with session(alias, **{"app.tenant": 1, "app.region": "north"}):
        with session(alias, **{"app.tenant": 2}):
            assert execute(alias, "SELECT current_setting('app.tenant'), current_setting('app.region')") == [
                ("2", "north")
            ]
        assert tenant(alias) == "1"
        with session(alias, **{"app.tenant": None}):
            assert tenant(alias) is None
        assert tenant(alias) == "1"


def test_alias_variables_are_the_default(make_pool: MakePool) -> None:
    for pool in ({}, {"enabled": False}):
        alias = make_pool(POOL={"session": {"app.tenant": "nobody", "search_path": ["pg_catalog", "a b"]}, **pool})
        assert (tenant(alias), value(alias, PATH)) == ("nobody", '"pg_catalog", "a b"')
        with session(alias, **{"app.tenant": "x"}):
            assert tenant(alias) == "x"
        assert tenant(alias) == "nobody"
        with session(alias, **{"app.tenant": None}):
            assert tenant(alias) == "nobody"


def test_values_are_data(alias: str) -> None:
    """Nothing in a value ends the literal it is sent in."""
    hostile = "x', false); DROP TABLE app_item; --\\ \" $$ %s é"
    with session(alias, **{"app.tenant": hostile}):
        assert tenant(alias) == hostile
    schema = 'a", public; DROP SCHEMA public --'
    with session(alias, search_path=[schema]):
        assert value(alias, PATH) == '"a"", public; DROP SCHEMA public --"'


@pytest.mark.parametrize(
    ("name", "given"),
    [("app tenant", 1), ("app.tenant; DROP", 1), ("1a", 1), ("", 1), ("app.", 1), ("app.x", object()), ("app.x", "\0")],
)
def test_impossible_names_and_values(name: str, given: object) -> None:
    """Refused where they are written, not at the next statement."""
    with pytest.raises(ValueError, match=r"transaction\.session\(\)"):
        session(**{name: given})


def test_a_value_that_the_server_refuses(alias: str) -> None:
    """The statement fails, the connection is good for the next one."""
    with session(alias, statement_timeout="soon"), pytest.raises(DataError, match="statement_timeout"):
        tenant(alias)
    with session(alias, no_such_setting=1), pytest.raises(ProgrammingError, match="no_such_setting"):
        tenant(alias)
    assert tenant(alias) is None


# -- transactions ---------------------------------------------------------------------------------------------------


def test_rollback_does_not_take_them_back(alias: str) -> None:
    """They are set before the transaction begins."""
    with session(alias, **{"app.tenant": 7}):
        with pytest.raises(ZeroDivisionError), atomic(alias):
            assert tenant(alias) == "7"
            raise ZeroDivisionError
        assert tenant(alias) == "7"


@pytest.mark.parametrize("fails", [False, True])
def test_block_inside_a_transaction(alias: str, fails: bool) -> None:
    """However the transaction ends, afterwards the variables are what the code declares."""
    with session(alias, **{"app.tenant": "outer"}):
        try:
            with atomic(alias):
                assert tenant(alias) == "outer"
                with session(alias, **{"app.tenant": "inner"}):
                    assert tenant(alias) == "inner"
                    if fails:
                        raise ZeroDivisionError
                assert tenant(alias) == "outer"
        except ZeroDivisionError:
            pass
        assert tenant(alias) == "outer"
    assert tenant(alias) is None


def savepoint_by_django(alias: str) -> None:
    point = connections[alias].savepoint() or ""
    with session(alias, **{"app.tenant": "lost"}):
        assert tenant(alias) == "lost"
        connections[alias].savepoint_rollback(point)
        # The server has forgotten it; the block has not ended.
        assert tenant(alias) == "lost"


def savepoint_by_text(alias: str) -> None:
    execute(alias, "SAVEPOINT here")
    with session(alias, **{"app.tenant": "lost"}):
        assert tenant(alias) == "lost"
        execute(alias, "ROLLBACK TO SAVEPOINT here")
        assert tenant(alias) == "lost"


def inner_atomic(alias: str) -> None:
    with session(alias, **{"app.tenant": "lost"}):
        with pytest.raises(Error), atomic(alias):
            assert tenant(alias) == "lost"
            execute(alias, "SELECT 1/0")
        assert tenant(alias) == "lost"


@pytest.mark.parametrize("part", [savepoint_by_django, savepoint_by_text, inner_atomic])
def test_savepoints(alias: str, part: Callable[[str], None]) -> None:
    with atomic(alias):
        assert tenant(alias) is None
        part(alias)
        assert tenant(alias) is None
    assert tenant(alias) is None


def test_whole_transaction_by_hand(alias: str) -> None:
    connection = connections[alias]
    with session(alias, **{"app.tenant": "a"}):
        connection.set_autocommit(False)
        assert tenant(alias) == "a"
        with session(alias, **{"app.tenant": "b"}):
            assert tenant(alias) == "b"
            connection.rollback()
            assert tenant(alias) == "b"
            connection.rollback()
        assert tenant(alias) == "a"
        connection.commit()
        connection.set_autocommit(True)
        assert tenant(alias) == "a"


def test_next_borrower_after_a_block_inside_a_transaction(make_pool: MakePool, worker: Worker) -> None:
    """What was set inside a transaction is in doubt for everybody."""
    alias = make_pool()

    def inside(then: Callable[[], None]) -> None:
        try:
            with atomic(alias):
                tenant(alias)
                with session(alias, **{"app.tenant": "theirs"}):
                    tenant(alias)
                    then()
        except ZeroDivisionError:
            pass

    def fail() -> None:
        raise ZeroDivisionError

    for then in (fail, lambda: None):
        worker(inside, then)
        assert tenant(alias) is None
        with session(alias, **{"app.tenant": "theirs"}):
            assert tenant(alias) == "theirs"


# -- what the session had before -----------------------------------------------------------------------------------


@pytest.fixture
def receiver() -> Iterator[None]:
    """Sets something up on each physical connection, as projects with schemas do."""

    def set_up(connection: Any, **_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path = pg_catalog, public")

    connection_created.connect(set_up)
    yield
    connection_created.disconnect(set_up)


def test_receivers_settings_are_found_again(make_pool: MakePool, receiver: None) -> None:
    """A block goes back to what its connection had, not to the server's default."""
    alias = make_pool()
    for _ in range(2):
        with session(alias, search_path="information_schema"):
            assert value(alias, PATH) == "information_schema"
        assert value(alias, PATH) == "pg_catalog, public"


def test_first_set_inside_a_transaction(make_pool: MakePool, receiver: None) -> None:
    """There a SET LOCAL could be taken for the original: that connection goes, the next ones are asked before."""
    alias = make_pool()
    pids = []
    for _ in range(4):
        with atomic(alias):
            execute(alias, "SET LOCAL search_path = nowhere")
            with session(alias, search_path="information_schema"):
                assert value(alias, PATH) == "information_schema"
            pids.append(backend(alias))
        assert value(alias, PATH) == "pg_catalog, public"
    assert len(set(pids)) == 2


def test_startup_settings_outside_of_the_packet(make_pool: MakePool, observer: Any) -> None:
    """Where a pooler has dropped the packet, role and limits are set after connecting."""
    observer.execute("CREATE ROLE dbpool_assumed")
    try:
        alias = make_pool(OPTIONS={"assume_role": "dbpool_assumed"}, POOL={"statement_timeout": 30})
        template = connections[alias].pool._prepare.__self__
        template._startup_options = False
        assert execute(alias, "SELECT current_user, current_setting('statement_timeout')") == [
            ("dbpool_assumed", "30s")
        ]
        with session(alias, role="none", statement_timeout="7s"):
            assert value(alias, "SHOW statement_timeout") == "7s"
        assert execute(alias, "SELECT current_user, current_setting('statement_timeout')") == [
            ("dbpool_assumed", "30s")
        ]
        connections[alias].close_pool()
    finally:
        observer.execute("DROP ROLE dbpool_assumed")


def test_refused_behind_a_pooler_that_shares_sessions(make_pool: MakePool) -> None:
    alias = make_pool(POOL={"pooler": "transaction"}, DISABLE_SERVER_SIDE_CURSORS=True)
    assert tenant(alias) is None
    with session(alias, **{"app.tenant": 7}), pytest.raises(ImproperlyConfigured, match="pooler"):
        tenant(alias)
    assert tenant(alias) is None


def test_a_generator_left_behind_takes_nothing_back(make_pool: MakePool) -> None:
    """The collector may close it in the middle of another unit of work."""
    alias = make_pool()

    def rows() -> Iterator[int]:
        with session(alias, **{"app.tenant": 7}):
            yield 1

    with session(alias, **{"app.tenant": 5}):
        left = rows()
        next(left)
    with session(alias, **{"app.tenant": 8}):
        del left
        assert tenant(alias) == "8"
    assert tenant(alias) is None


# -- other ways to run a statement ----------------------------------------------------------------------------------


def test_server_side_cursor_keeps_the_variables_of_its_block(alias: str, observer: Any) -> None:
    """Its rows are made when they are fetched."""
    connection = connections[alias]
    with session(alias, **{"app.tenant": "first"}), atomic(alias), connection.chunked_cursor() as cursor:
        cursor.execute("SELECT current_setting('app.tenant') FROM generate_series(1, 5000)")
        assert cursor.fetchone() == ("first",)
        with session(alias, **{"app.tenant": "second"}):
            assert tenant(alias) == "second"
            assert set(cursor.fetchmany(3000)) == {("first",)}
            assert tenant(alias) == "second"
        assert set(cursor.fetchall()) == {("first",)}


def test_other_statements(alias: str) -> None:
    connection = connections[alias]
    with session(alias, **{"app.tenant": 7}):
        with connection.cursor() as cursor:
            cursor.callproc("current_setting", ["app.tenant"])
            assert cursor.fetchone() == ("7",)
        if connection.pool is not None:
            with (
                connection.cursor() as cursor,
                cursor.copy("COPY (SELECT current_setting('app.tenant')) TO STDOUT") as c,
            ):
                assert b"".join(c) == b"7\n"
            with connection.cursor() as cursor:
                assert list(cursor.stream(TENANT)) == [("7",)]
    with session(alias, **{"app.tenant": 8}), connection.cursor() as cursor:
        cursor.executemany("SELECT set_config('app.seen', current_setting('app.tenant') || %s, true)", [["x"], ["y"]])
        cursor.execute("SELECT 1")
        assert tenant(alias) == "8"


def test_decorator(alias: str) -> None:
    @session(alias, **{"app.tenant": 7})
    def read(depth: int) -> list[str | None]:
        return [tenant(alias), *(read(depth - 1) if depth else [])]

    assert read(1) == ["7", "7"]
    assert tenant(alias) is None
    assert read.__name__ == "read"


def test_decorator_of_a_coroutine_function(make_pool: MakePool) -> None:
    alias = make_pool()

    @session(alias, **{"app.tenant": 8})
    async def read() -> str | None:
        await asyncio.sleep(0)
        return await sync_to_async(tenant)(alias)

    assert asyncio.run(read()) == "8"
    assert tenant(alias) is None


def test_generator_functions_are_refused() -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def rows_async() -> AsyncIterator[int]:
        yield 1

    for function in (rows, rows_async):
        with pytest.raises(TypeError, match="inside of the generator"):
            session(**{"app.tenant": 7})(function)


def test_tasks_have_their_own(make_pool: MakePool) -> None:
    """Concurrent tasks on one thread and one connection."""
    alias = make_pool()

    async def read(number: int) -> None:
        with session(alias, **{"app.tenant": number}):
            for _ in range(5):
                assert await sync_to_async(tenant)(alias) == str(number)

    async def all_of_them() -> None:
        await asyncio.gather(*(read(number) for number in range(20)))

    asyncio.run(all_of_them())


@pytest.fixture
def engine_with_variables(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """An alias whose engine declares variables of its own."""
    declared: dict[str, Any] = {}
    alias = make_pool()
    connection = connections[alias]
    kind = type(connection)
    engine = type("DatabaseWrapper", (kind,), {"session_variables": lambda self: declared})
    connections[alias] = engine(connection.settings_dict, alias)
    yield alias, declared
    connections[alias].close()
    connections[alias].close_pool()
    connections[alias] = connection


def test_engine_declares(engine_with_variables: tuple[str, dict[str, Any]], told: list[dict[str, str | None]]) -> None:
    """As an engine for tenants does; a block wins over it."""
    alias, declared = engine_with_variables
    assert tenant(alias) is None
    declared["app.tenant"] = 7
    assert tenant(alias) == "7"
    assert tenant(alias) == "7"
    assert len(told) == 1
    with session(alias, **{"app.tenant": "block"}):
        assert tenant(alias) == "block"
    declared.clear()
    assert tenant(alias) is None


def test_connections_own_state_is_left_alone(make_pool: MakePool) -> None:
    """A statement that sets state pins as ever; declared variables go on working on that connection."""
    alias = make_pool()
    with session(alias, **{"app.tenant": 1}):
        execute(alias, "SET app.other = 'raw'")
        with session(alias, **{"app.tenant": 2}):
            assert execute(alias, "SELECT current_setting('app.tenant'), current_setting('app.other')") == [
                ("2", "raw")
            ]
    connections[alias].close()
    assert execute(alias, "SELECT current_setting('app.other', true)") == [(None,)]


def test_atomic_type_is_untouched() -> None:
    assert isinstance(atomic(), Atomic)
