"""TLS settings reach libpq, and a server that can't prove who it is gets no connection."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from django_dbpool.checks.tls import check_tls
from django_dbpool.errors import DatabaseUnavailable
from testproject.postgres import EmbeddedServer, Server
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import execute

SYSTEM_BINARIES = sorted(Path("/usr/lib/postgresql").glob("[1-9]*/bin"), key=lambda path: float(path.parent.name))
ALL = {
    "sslmode": "disable",
    "sslrootcert": "/nowhere/root.crt",
    "sslcert": "/nowhere/client.crt",
    "sslkey": "/nowhere/client.key",
    "sslcrl": "/nowhere/root.crl",
    "sslnegotiation": "postgres",
    "ssl_min_protocol_version": "TLSv1.3",
    "channel_binding": "prefer",
}


def test_every_setting_arrives(make_alias: MakeAlias) -> None:
    """libpq reports what it was given: no server with certificates is needed for that."""
    alias = make_alias(OPTIONS=ALL, POOL={"min_size": 0})
    execute(alias, "SELECT 1")
    (entry,) = connections[alias].pool.entries
    given = {option.keyword.decode(): option.val for option in entry.pgconn.info}
    assert {name: given[name] for name in ALL} == {name: text.encode() for name, text in ALL.items()}
    assert not entry.pgconn.ssl_in_use


def test_the_server_without_tls_is_refused_by_a_mode_that_wants_it(make_alias: MakeAlias) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        execute(make_alias(OPTIONS={"sslmode": "require"}), "SELECT 1")
    assert "server does not support SSL, but SSL was required" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "options",
    [
        {"sslmode": "require"},
        {"sslmode": "verify-full", "sslrootcert": "/nowhere/root.crt"},
        {"sslcert": "/nowhere/client.crt", "sslkey": "/nowhere/client.key", "sslmode": "require"},
    ],
)
def test_what_no_attempt_changes_is_not_tried_again(make_alias: MakeAlias, options: dict[str, str]) -> None:
    """Else each caller would wait for the whole of POOL["retry"]["total"]."""
    alias = make_alias(OPTIONS=options, POOL={"min_size": 0, "retry": {"attempts": 5, "base_delay": 0.01}})
    with pytest.raises(DatabaseUnavailable):
        execute(alias, "SELECT 1")
    assert connections[alias].pool.get_stats()["connections_num"] == 1


# -- a server with certificates ------------------------------------------------------------------------------------


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certify(directory: Path, name: str, subject: str, *extra: str) -> Path:
    """A self-signed certificate with its key beside it; it is its own CA."""
    path = directory / f"{name}.crt"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={subject}"),
        *("-keyout", str(directory / f"{name}.key"), "-out", str(path), *extra),
    )
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    certify(directory, "server", "localhost", "-addext", "subjectAltName=DNS:localhost")
    certify(directory, "other", "localhost", "-addext", "subjectAltName=DNS:localhost")
    return directory


@pytest.fixture(scope="module")
def tls_server(certificates: Path) -> Iterator[EmbeddedServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBPOOL_PG_BIN", str(SYSTEM_BINARIES[-1]))
        with Server.embedded() as server:
            directory = server.data_dir
            assert directory is not None
            owner = directory.stat()
            for name in ("server.crt", "server.key"):
                shutil.copy(certificates / name, directory / name)
                (directory / name).chmod(0o600)
                os.chown(directory / name, owner.st_uid, owner.st_gid)
            with (directory / "postgresql.conf").open("a") as file:
                file.write("ssl = on\n")
            server.stop()
            server.start()
            yield server


needs_tls = pytest.mark.skipif(
    not SYSTEM_BINARIES or shutil.which("openssl") is None, reason="needs openssl and a PostgreSQL built with TLS"
)
Connect = Callable[..., Any]


@pytest.fixture
def connect(make_alias: MakeAlias, tls_server: EmbeddedServer) -> Connect:
    def connect(host: str = "localhost", **options: Any) -> Any:
        alias = make_alias(tls_server, HOST=host, OPTIONS=options, POOL={"min_size": 0, "max_size": 1})
        return execute(alias, "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")[0]

    return connect


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
@pytest.mark.ci
@needs_tls
def test_the_right_authority(connect: Connect, certificates: Path, mode: str) -> None:
    assert connect(sslmode=mode, sslrootcert=str(certificates / "server.crt")) == (True, "TLSv1.3")


@pytest.mark.parametrize(
    ("host", "options", "text"),
    [
        ("localhost", {"sslrootcert": "other.crt"}, "certificate verify failed"),
        ("127.0.0.1", {"sslrootcert": "server.crt"}, 'does not match host name "127.0.0.1"'),
        ("localhost", {"sslrootcert": "absent.crt"}, 'root certificate file ".*absent.crt" does not exist'),
    ],
    ids=["another authority", "another name", "no file"],
)
@pytest.mark.ci
@needs_tls
def test_a_server_that_cannot_prove_who_it_is(
    connect: Connect, certificates: Path, host: str, options: dict[str, str], text: str
) -> None:
    options = {"sslrootcert": str(certificates / options["sslrootcert"]), "sslmode": "verify-full"}
    with pytest.raises(DatabaseUnavailable) as caught:
        connect(host, **options)
    assert caught.match("is unavailable: connecting failed")
    assert re.search(text, str(caught.value.__cause__))


@pytest.mark.ci
@needs_tls
def test_what_the_check_says_of_a_key_libpq_says_too(connect: Connect, certificates: Path, tmp_path: Path) -> None:
    key = tmp_path / "client.key"
    shutil.copy(certificates / "other.key", key)
    key.chmod(0o644)
    options = {"sslmode": "require", "sslcert": str(certificates / "other.crt"), "sslkey": str(key)}
    with pytest.raises(DatabaseUnavailable) as caught:
        connect(**options)
    assert "has group or world access" in str(caught.value.__cause__)
    assert [message.id for message in check_tls()] == ["dbpool.E042"]
