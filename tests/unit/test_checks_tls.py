"""What the checks say of TLS settings, each with its id, and where they keep silent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, registry

from django_dbpool.checks import tls as checks_tls
from django_dbpool.checks.tls import check_tls

Configure = Callable[..., list[CheckMessage]]
SAFE = {"sslmode": "verify-full", "sslrootcert": "system"}
REMOTE = "db.example.org"


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """Adds an alias `x` to the settings and returns what the check says of it."""
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    monkeypatch.setattr(checks_tls, "_DEFAULT_ROOT", tmp_path / "none")

    def add(**database: Any) -> list[CheckMessage]:
        entry = {"ENGINE": "django_dbpool.backends.postgresql", "NAME": "x", **database}
        monkeypatch.setitem(settings.DATABASES, "x", entry)
        return check_tls()

    return add


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_text("key")
    path.chmod(0o600)
    return path


def ids(messages: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


def test_it_is_registered_and_the_tests_themselves_are_clean() -> None:
    assert check_tls in registry.registry.get_checks()
    assert check_tls() == []


def test_e040_unknown_mode(configure: Configure) -> None:
    (message,) = configure(OPTIONS={"sslmode": "verify_full"})
    assert message.id == "dbpool.E040"
    assert message.msg == 'DATABASES["x"]["OPTIONS"]["sslmode"] = \'verify_full\' is no mode of libpq.'
    assert message.hint == "Write one of disable, allow, prefer, require, verify-ca, verify-full."
    assert ids(configure(OPTIONS={"sslmode": ["require"]})) == ["dbpool.E040"]


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir"])
def test_e041_missing_file(configure: Configure, tmp_path: Path, name: str) -> None:
    (message,) = configure(OPTIONS={name: str(tmp_path / "absent")})
    assert message.id == "dbpool.E041"
    assert f'["{name}"]: there is no file' in message.msg
    assert configure(OPTIONS={name: ""}) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_e042_a_key_that_others_may_read(configure: Configure, key: Path, mode: int) -> None:
    if os.geteuid() == 0:
        os.chown(key, 65534, -1)  # root's own may be readable by its group
    key.chmod(mode)
    (message,) = configure(OPTIONS={"sslkey": str(key)})
    assert message.id == "dbpool.E042"
    assert f"others may read it (mode {mode:04o}), so libpq refuses the key" in message.msg


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root")
def test_roots_key_may_be_readable_by_its_group(configure: Configure, key: Path) -> None:
    key.chmod(0o640)
    assert configure(OPTIONS={"sslkey": str(key)}) == []
    key.chmod(0o644)
    assert ids(configure(OPTIONS={"sslkey": str(key)})) == ["dbpool.E042"]


def test_keys_that_are_fine(configure: Configure, key: Path, tmp_path: Path) -> None:
    assert configure(OPTIONS={"sslkey": key}) == []
    assert configure(OPTIONS={"sslkey": "pkcs11:token"}) == []
    assert ids(configure(OPTIONS={"sslkey": str(tmp_path)})) == ["dbpool.E042"]


def test_e043_a_function_as_user(configure: Configure) -> None:
    (message,) = configure(USER=lambda: "me")
    assert message.id == "dbpool.E043"
    assert message.hint is not None and "the pair (user, password)" in message.hint


@pytest.mark.parametrize("options", [{}, {"sslmode": "prefer"}, {"sslmode": "require"}], ids=str)
def test_w040_a_remote_server_that_nobody_verifies(configure: Configure, options: dict[str, str]) -> None:
    (message,) = configure(HOST=REMOTE, OPTIONS=options)
    assert message.id == "dbpool.W040"
    assert f"nobody verifies that the server is {REMOTE}" in message.msg


@pytest.mark.parametrize(
    "host", [None, "", "localhost", "127.0.0.1", "127.1.2.3", "::1", "/run/postgresql", "@socket", "localhost,::1"]
)
def test_this_machine_needs_no_tls(configure: Configure, host: Any) -> None:
    assert configure(HOST=host, PASSWORD=lambda: "token") == []


@pytest.mark.parametrize("host", ["10.0.0.5", "2001:db8::1", "localhost,db2", "db"])
def test_other_machines(configure: Configure, host: str) -> None:
    assert ids(configure(HOST=host)) == ["dbpool.W040"]
    assert configure(HOST=host, OPTIONS=SAFE) == []
    assert configure(HOST=host, OPTIONS={"sslrootcert": "system"}) == [], "libpq then insists on verify-full"


def test_silent_in_development_and_with_a_service_file(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configure(HOST=REMOTE, OPTIONS={"service": "main"}) == []
    monkeypatch.setattr(settings, "DEBUG", True)
    assert configure(HOST=REMOTE) == []


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_w041_verifying_against_nothing(
    configure: Configure, mode: str, monkeypatch: pytest.MonkeyPatch, key: Path
) -> None:
    assert ids(configure(OPTIONS={"sslmode": mode})) == ["dbpool.W041"]
    monkeypatch.setattr(checks_tls, "_DEFAULT_ROOT", key)
    assert configure(OPTIONS={"sslmode": mode}) == [], "libpq's default file is there"


def test_libpqs_environment_counts(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", "/ca.pem")
    assert configure(HOST=REMOTE) == []


@pytest.mark.parametrize("mode", [None, "disable", "allow", "prefer"])
def test_w042_a_token_without_tls(configure: Configure, mode: str | None) -> None:
    options = {"sslmode": mode} if mode else {}
    (message,) = configure(HOST=REMOTE, PASSWORD=lambda: "token", OPTIONS=options)
    assert message.id == "dbpool.W042"
    assert "may cross the network without TLS" in message.msg


def test_a_token_over_tls_is_like_any_password(configure: Configure) -> None:
    token = {"HOST": REMOTE, "PASSWORD": lambda: "token"}
    assert ids(configure(**token, OPTIONS={"sslmode": "require"})) == ["dbpool.W040"]
    assert configure(**token, OPTIONS=SAFE) == []


def test_other_engines_are_not_looked_at(configure: Configure) -> None:
    assert configure(ENGINE="django.db.backends.postgresql", HOST=REMOTE) == []
