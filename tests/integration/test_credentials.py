"""PASSWORD as a function: when it is asked, what is made of its errors, and that nothing shows what it said."""

from __future__ import annotations

import copy
import functools
import logging
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError, connections
from psycopg import sql

from django_dbpool.errors import DatabaseUnavailable
from testproject.postgres import EmbeddedServer
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.passwords import ROLE, Vault, authentications, refusals
from tests.fixtures.pools import backend, size, value
from tests.fixtures.workers import Worker

MakeStrict = Callable[..., str]


@pytest.fixture
def make(make_alias: MakeAlias, strict_server: EmbeddedServer) -> MakeStrict:
    def make(PASSWORD: Any, **entry: Any) -> str:
        pool = {"min_size": 0, "max_size": 3, "timeout": 5}
        return make_alias(strict_server, **{"USER": ROLE, "PASSWORD": PASSWORD, "POOL": pool, **entry})

    return make


def failing(text: str = "no route to the vault") -> Callable[[], str]:
    def provider() -> str:
        raise LookupError(text)

    return provider


# -- when it is asked ----------------------------------------------------------------------------------------------


def test_once_per_physical_connection_and_never_per_lease(make: MakeStrict, vault: Vault) -> None:
    alias = make(vault.password)
    assert vault.asked == 0, "nothing is asked before somebody connects"
    first = backend(alias)
    for _ in range(5):
        assert backend(alias) == first
    assert vault.asked == 1
    connections[alias].pool.drain()
    assert backend(alias) != first
    assert vault.asked == 2


def test_new_connections_use_the_password_of_the_moment(make: MakeStrict, vault: Vault) -> None:
    alias = make(vault.password)
    for _ in range(3):
        backend(alias)
        vault.rotate()
        connections[alias].pool.drain()
    assert value(alias, "SELECT current_user") == ROLE


def test_threads_share_one_pool(make: MakeStrict, vault: Vault, make_worker: Callable[[], Worker]) -> None:
    """The settings of each thread's wrapper are its own copy, the function in them is the same."""
    alias = make(vault.password)
    assert make_worker()(backend, alias) == make_worker()(backend, alias) == backend(alias)
    assert (vault.asked, size(alias)) == (1, 1)


def test_an_alias_without_a_pool(make: MakeStrict, vault: Vault) -> None:
    alias = make(vault.password, POOL={"enabled": False})
    for expected in (1, 2):
        assert value(alias, "SELECT current_user") == ROLE
        connections[alias].close()
        assert vault.asked == expected


def test_the_connection_that_creates_test_databases(make: MakeStrict, vault: Vault) -> None:
    alias = make(vault.password)
    with connections[alias]._nodb_cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == (ROLE,)


def test_dbshell(make: MakeStrict, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(args: list[str], *, env: dict[str, str], check: bool) -> None:
        seen.update(args=args, password=env["PGPASSWORD"])

    monkeypatch.setattr(subprocess, "run", run)
    call_command("dbshell", database=make(vault.password))
    assert seen["password"] == vault.given[-1]
    call_command("dbshell", database=make(lambda: ("another", "theirs"), USER=""))
    assert seen["password"] == "theirs"
    assert seen["args"][1:3] == ["-U", "another"]


def test_user_and_password_together(make: MakeStrict, strict_server: EmbeddedServer) -> None:
    with strict_server.connect() as admin:
        admin.execute("CREATE ROLE leased LOGIN PASSWORD 'of-the-moment'")
    alias = make(lambda: ("leased", "of-the-moment"), USER="")
    try:
        assert value(alias, "SELECT current_user") == "leased"
    finally:
        connections[alias].close_pool()
        with strict_server.connect() as admin:
            admin.execute("DROP ROLE leased")


def test_a_function_as_user_is_refused(make: MakeStrict, vault: Vault) -> None:
    alias = make(vault.password, USER=lambda: ROLE)
    with pytest.raises(ImproperlyConfigured, match=r"USER is a function\. .* the pair \(user, password\)"):
        backend(alias)


# -- rotation between asking and connecting ------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [{"max_size": 2, "min_size": 0}, {"enabled": False}], ids=["pooled", "unpooled"])
def test_a_password_changed_on_the_way_is_asked_for_again(
    make: MakeStrict, vault: Vault, strict_server: EmbeddedServer, pool: dict[str, Any]
) -> None:
    answers = [vault.given[-1]]
    vault.rotate()
    answers.append(vault.given[-1])
    before = refusals(strict_server)
    alias = make(lambda: answers.pop(0), POOL=pool)
    assert value(alias, "SELECT current_user") == ROLE
    assert answers == []
    assert refusals(strict_server) == before + 1


@pytest.mark.parametrize("pool", [{"max_size": 2, "min_size": 0}, {"enabled": False}], ids=["pooled", "unpooled"])
@pytest.mark.parametrize(
    ("answers", "asked", "refused"),
    [(["wrong"] * 9, 2, 1), ([f"wrong {number}" for number in range(9)], 2, 2)],
    ids=["the same answer", "always another answer"],
)
def test_never_more_than_one_more_attempt(
    make: MakeStrict,
    strict_server: EmbeddedServer,
    pool: dict[str, Any],
    answers: list[str],
    asked: int,
    refused: int,
) -> None:
    left = list(answers)
    before = refusals(strict_server)
    alias = make(lambda: left.pop(0), POOL=pool)
    with pytest.raises(OperationalError):
        backend(alias)
    assert len(answers) - len(left) == asked
    assert refusals(strict_server) == before + refused
    with pytest.raises(OperationalError):
        backend(alias)
    assert len(answers) - len(left) == 2 * asked, "the next attempt begins anew"


def test_a_password_in_the_settings_is_never_tried_twice(make: MakeStrict, strict_server: EmbeddedServer) -> None:
    before = refusals(strict_server)
    with pytest.raises(DatabaseUnavailable):
        backend(make("wrong"))
    assert refusals(strict_server) == before + 1


def test_other_failures_ask_once(make: MakeStrict, vault: Vault) -> None:
    with pytest.raises(DatabaseUnavailable):
        backend(make(vault.password, PORT="1"))
    assert vault.asked == 1


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [{"max_size": 2, "min_size": 0}, {"enabled": False}], ids=["pooled", "unpooled"])
def test_an_error_of_the_function_is_the_cause(make: MakeStrict, pool: dict[str, Any]) -> None:
    alias = make(failing(), POOL=pool)
    with pytest.raises(DatabaseUnavailable) as caught:
        backend(alias)
    assert isinstance(caught.value.__cause__, LookupError)
    where = f'DATABASES["{alias}"]["PASSWORD"]: failing.<locals>.provider() raised LookupError.'
    assert where in str(caught.value)
    assert "no route" not in str(caught.value), "its text may quote anything"
    with pytest.raises(DatabaseUnavailable):
        backend(alias)


async def coroutine_function() -> str:
    return "secret"


@pytest.mark.parametrize("pool", [{"max_size": 2, "min_size": 0}, {"enabled": False}], ids=["pooled", "unpooled"])
@pytest.mark.parametrize(
    ("provider", "text"),
    [
        (lambda: b"Secret1", "returned an object of type bytes"),
        (lambda: None, "returned an object of type NoneType"),
        (lambda: "", "returned an empty string"),
        (lambda: ("Secret1",), "returned an object of type tuple"),
        (lambda: ("", "Secret1"), "returned an object of type tuple"),
        (lambda: ("user", b"Secret1"), "returned an object of type tuple"),
        (coroutine_function, "coroutine_function() returned a coroutine; it must be an ordinary function"),
        (functools.partial(dict, key="Secret1"), "the partial object returned an object of type dict"),
    ],
    ids=["bytes", "nothing", "empty", "short", "no user", "bytes in a pair", "coroutine", "partial"],
)
def test_answers_that_are_no_password(
    make: MakeStrict, provider: Callable[[], Any], text: str, pool: dict[str, Any]
) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        backend(make(provider, POOL=pool))
    assert text in str(caught.value)
    assert "Return the password as a string, or the pair (user, password)." in str(caught.value)
    assert "Secret" not in "".join(traceback.format_exception(caught.value))


def test_whoever_waits_is_told_too(make: MakeStrict) -> None:
    """A thread that finds the pool empty after the error sees the same reason."""
    alias = make(failing(), POOL={"max_size": 1, "min_size": 0, "timeout": 0.3})
    pool = connections[alias].pool
    with pytest.raises(DatabaseUnavailable):
        backend(alias)
    assert pool.gate.grow(1), "somebody else is connecting"
    with pytest.raises(DatabaseUnavailable, match="raised LookupError"):
        backend(alias)
    pool.gate.forfeit()


def test_the_upkeep_survives_and_says_so(make: MakeStrict, caplog: pytest.LogCaptureFixture) -> None:
    alias = make(failing("Secret1"), POOL={"min_size": 1, "max_size": 1})
    pool = connections[alias].pool
    with caplog.at_level(logging.INFO, "django_dbpool.pool"):
        pool.housekeeping.tick()
    assert "provider() raised LookupError" in caplog.text
    assert "Secret1" not in caplog.text
    assert pool.snapshot().size == 0


# -- nothing shows it ----------------------------------------------------------------------------------------------


def test_no_text_shows_a_password(make: MakeStrict, vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    alias = make(vault.password)
    connection = connections[alias]
    texts = []
    with connection.cursor() as cursor:
        cursor.execute("SET work_mem = '1MB'")
        pool = connection.pool
        texts += [repr(pool), repr(pool.holders(stacks=True)), repr(pool.snapshot()), repr(pool.config)]
        entry = connection._entry
        texts += [repr(entry), repr(entry.conn), repr(connection), repr(connection._rotation())]
        texts.append(repr(connection._rotation().ask()))
    connection.close()
    secret = vault.given[-1]
    vault.rotate()
    vault.password = lambda: secret  # type: ignore[method-assign]
    stale = make(vault.password)
    with pytest.raises(DatabaseUnavailable) as caught:
        backend(stale)
    texts += [*traceback.format_exception(caught.value), repr(caught.value), repr(caught.value.__reduce__())]
    texts.append(caplog.text)
    assert not [text for text in texts if "Secret" in text]


# -- functions of all kinds ----------------------------------------------------------------------------------------


@dataclass
class Unhashable:
    """Equal to others of its kind, without a hash: as configuration objects often are."""

    tokens: dict[str, str]

    def __call__(self) -> str:
        return self.tokens["database"]


def test_callables_are_told_apart_by_identity(make: MakeStrict, vault: Vault) -> None:
    tokens = {"database": vault.given[-1]}
    one, other = Unhashable(tokens), Unhashable(tokens)
    assert one == other
    alias = make(one)
    first = backend(alias)
    connections[alias].close()
    assert backend(alias) == first
    another = connections[alias].copy()
    another.settings_dict["PASSWORD"] = other
    with another.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() != (first,)
    another.close()


def test_a_bound_method_stays_the_same_however_often_it_is_looked_up(make: MakeStrict, vault: Vault) -> None:
    alias = make(vault.password)
    first = backend(alias)
    connections[alias].close()
    connections[alias].settings_dict["PASSWORD"] = vault.password
    assert backend(alias) == first


def test_copies_share_the_function(make: MakeStrict, vault: Vault) -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(vault)
    alias = make(vault.password)
    duplicate = connections[alias].copy()
    try:
        with duplicate.cursor() as cursor:
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == (ROLE,)
        assert duplicate.settings_dict["OPTIONS"] is not connections[alias].settings_dict["OPTIONS"]
    finally:
        duplicate.close()


def test_authentications_are_counted(make: MakeStrict, vault: Vault, strict_server: EmbeddedServer) -> None:
    """The measure of the test under load."""
    before = authentications(strict_server)
    alias = make(vault.password)
    backend(alias)
    assert authentications(strict_server) == before + 1
    with strict_server.connect() as admin:
        admin.execute(sql.SQL("SELECT pg_terminate_backend({})").format(backend(alias)))
