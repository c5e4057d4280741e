"""Every SQLSTATE that psycopg knows is classified on purpose."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest
from psycopg import errors

from django_dbpool.core import sqlstate
from testproject.postgres import Server, free_port

KNOWN = {
    error.sqlstate
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate
}

# Written out, not derived: a code that changes its class must be changed here too.
TABLE: dict[Callable[[str | None], bool], set[str]] = {
    sqlstate.is_transient: {
        *("08000", "08001", "08003", "08004", "08006", "08007"),
        *("40001", "40P01"),
        *("53000", "53100", "53200", "53300", "53400"),
        *("57P01", "57P02", "57P03"),
        *("58000", "58030"),
    },
    sqlstate.is_unreachable: {
        *("08000", "08001", "08003", "08004", "08006", "08007"),
        *("57P01", "57P02", "57P03"),
    },
    sqlstate.is_credentials: {"28000", "28P01", "3D000"},
    sqlstate.is_server_full: {"53300"},
    sqlstate.is_serialization: {"40001", "40P01"},
    sqlstate.is_server_timeout: {"25P03", "25P04", "57P05"},
    sqlstate.is_read_only: {"25006"},
    sqlstate.is_expected_termination: {"25P03", "25P04", "57P01", "57P03", "57P05"},
}
TABLE[sqlstate.is_unavailable_answer] = {
    *TABLE[sqlstate.is_transient],
    *TABLE[sqlstate.is_server_timeout],
    *("57014", "55P03", "25006"),
}


@pytest.mark.parametrize("question", TABLE, ids=lambda question: question.__name__)
def test_every_known_code_is_answered_on_purpose(question: Callable[[str | None], bool]) -> None:
    """Of all codes that psycopg has an exception for, exactly those written down above."""
    codes = KNOWN | {"25P04", "57P05", "08P01"}
    assert len(codes) > 240
    assert {code for code in codes if question(code)} == TABLE[question]


@pytest.mark.parametrize("question", TABLE, ids=lambda question: question.__name__)
@pytest.mark.parametrize("code", [None, "", "0", "99999", "XX000"])
def test_what_is_no_code_is_answered_no(question: Callable[[str | None], bool], code: str | None) -> None:
    assert question(code) is False


def test_codes_that_nobody_knows_yet_follow_their_class() -> None:
    assert sqlstate.is_transient("08ZZZ")
    assert sqlstate.is_credentials("28ZZZ")
    assert not sqlstate.is_transient("40ZZZ"), "40003 is a statement whose completion is unknown: never repeated"
    assert not sqlstate.is_transient("57ZZZ")


def test_needs_the_standard_library_only() -> None:
    """Importing it in a fresh interpreter loads neither Django nor psycopg."""
    program = (
        "import sys; from django_dbpool.core import sqlstate, retry, breaker, codel; "
        "sys.exit(bool({'django', 'psycopg'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- refused connections, which carry no code -------------------------------------------------------------------------


def refusal(server: Server, **parameters: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        server.connect(**parameters)
    assert caught.value.sqlstate is None, "psycopg has the code by now: no need to read the text"
    return str(caught.value)


def test_refusals_of_a_real_server(session_server: Server) -> None:
    unknown = "no_such" + '"thing'
    assert sqlstate.of_refused_connection(refusal(session_server, dbname=unknown)) == "3D000"
    assert sqlstate.of_refused_connection(refusal(session_server, user=unknown)) == "28000"
    with session_server.connect() as connection:
        connection.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 0")
        try:
            assert sqlstate.of_refused_connection(refusal(session_server, user="limited")) == "53300"
        finally:
            connection.execute("DROP ROLE limited")


def test_no_server_no_code(session_server: Server) -> None:
    assert sqlstate.of_refused_connection(refusal(session_server, port=str(free_port()))) is None
    assert sqlstate.of_refused_connection(refusal(session_server, host="nowhere.invalid")) is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("sorry, too many clients already", "53300"),
        ("remaining connection slots are reserved for roles with the SUPERUSER attribute", "53300"),
        ('too many connections for database "shop"', "53300"),
        ("no more connections allowed (max_client_conn)", "53300"),
        ("the database system is starting up", "57P03"),
        ("the database system is shutting down", "57P03"),
        ("the database system is in recovery mode", "57P03"),
        ("the database system is not yet accepting connections", "57P03"),
        ("the database system is not accepting connections", "57P03"),
        ("terminating connection due to administrator command", "57P01"),
        ('password authentication failed for user "shop"', "28P01"),
        ('Ident authentication failed for user "shop"', "28000"),
        ('no pg_hba.conf entry for host "10.0.0.1", user "shop", database "shop", no encryption', "28000"),
        ('role "shop" is not permitted to log in', "28000"),
        ('permission denied for database "shop"', "28000"),
        ("no such database: shop", "3D000"),
        ('database "shop" is not currently accepting connections', "3D000"),
        ("der Server spricht Deutsch", None),
    ],
)
def test_refusals_by_their_words(message: str, code: str | None) -> None:
    text = f'connection failed: connection to server at "10.0.0.2", port 5432 failed: FATAL:  {message}'
    assert sqlstate.of_refused_connection(text) == code
    assert sqlstate.of_refused_connection(f"{text}\nsome hint") == code
