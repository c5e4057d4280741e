"""What a physical connection is made with: parameters, time zone, role, isolation level."""

from __future__ import annotations

import math
import os
import re
from contextlib import nullcontext
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from psycopg import Connection

from ..conf import pool_config
from ..core.config import SERVER_LIMITS
from ..pool.watchdog import InTime
from .leases import LeaseMixin

MARKER = "django_dbpool.startup"
"""A setting that means nothing to the server; in a session that knows it the start-up packet has arrived."""


class StartupMixin(LeaseMixin):
    """Used on the pool's own wrapper, the template of its physical connections."""

    _is_template = False
    _startup_options = True

    def _refused(self, error: BaseException) -> bool:
        """Whether a failed attempt to connect is worth another one at once."""
        return self._retry_without_startup_options(error) or self._password_changed(error)

    def _password_changed(self, error: BaseException) -> bool:
        raise NotImplementedError

    def _physical_connection_params(self) -> dict[str, Any]:
        """Keyword arguments for psycopg's ``connect``; asked for each connection, so credentials may rotate."""
        params: dict[str, Any] = self.get_connection_params()
        config = pool_config(self.settings_dict, self.alias)
        params["autocommit"] = True
        params.setdefault("connect_timeout", math.ceil(config.connect_timeout))
        if config.prepare is not None:
            params["prepare_threshold"] = config.prepare.after
        if config.keepalives_idle:
            params.setdefault("keepalives_idle", config.keepalives_idle)
        if config.tcp_user_timeout:
            params.setdefault("tcp_user_timeout", int(config.tcp_user_timeout * 1000))
        if self._startup_options and "service" not in self.settings_dict["OPTIONS"]:
            given = params.get("options") or os.environ.get("PGOPTIONS", "")
            params["options"] = " ".join(filter(None, (given, *self._session_options())))
        return params

    def _startup_settings(self) -> dict[str, str]:
        """
        What every connection of this pool begins with, by the server's names: time zone, time limits, session
        variables, role. The role comes last: what it may not set, the login role may.
        """
        config = pool_config(self.settings_dict, self.alias)
        settings = {}
        if self.timezone_name:
            settings["TimeZone"] = self.timezone_name
        for key, name in SERVER_LIMITS.items():
            seconds = getattr(config, key)
            if seconds is not None:
                settings[name] = str(max(1, round(seconds * 1000)))  # 0 would mean no limit
        settings.update(config.session)
        if role := self.settings_dict["OPTIONS"].get("assume_role"):
            settings["role"] = role
        return settings

    def _session_options(self) -> list[str]:
        """
        The same for the start-up packet. Set there they cost no round trip and survive RESET and DISCARD, because
        they are the session's defaults: https://www.postgresql.org/docs/current/libpq-connect.html
        """
        settings = self._startup_settings()
        if settings.keys() - {"TimeZone"}:
            settings[MARKER] = "1"
        return [f"-c {name}={_escape(value)}" for name, value in settings.items()]

    def _retry_without_startup_options(self, error: BaseException) -> bool:
        """
        PgBouncer refuses ``options`` unless told to ignore them; then they are set after connecting.

        Raises:
            ImproperlyConfigured: the server refused one of the settings: no later attempt will succeed.
        """
        if self._startup_options and "unsupported startup parameter" in str(error):
            self._startup_options = False
            return True
        self._blame_setting(error)
        return False

    def _new_physical_connection(self, params: dict[str, Any]) -> Connection[Any]:
        """
        Through Django's ``get_new_connection``, once per physical connection: engines that this one is combined with
        override it to count connections or to register types.
        """
        connection: Connection[Any] = self.get_new_connection(params)
        return connection

    def _prepare_physical_connection(self, connection: Connection[Any], in_time: InTime = nullcontext) -> None:
        """
        Set what the start-up packet asked for and did not bring: a pooler may have ignored it. The server reports few
        settings of itself; the others need a round trip, in which the marker says whether the packet arrived.
        """
        prepare = pool_config(self.settings_dict, self.alias).prepare
        if prepare is not None:
            connection.prepared_max = prepare.max
        reported = connection.info.parameter_status
        missing = {name: value for name, value in self._startup_settings().items() if reported(name) != value}
        if missing:
            rows = ", ".join(["(%s, %s)"] * len(missing))
            query = (
                f"SELECT set_config(name, value, false) FROM (VALUES {rows}) AS missing (name, value) "  # noqa: S608
                f"WHERE current_setting('{MARKER}', true) IS DISTINCT FROM '1'"
            )
            try:
                with in_time():
                    connection.execute(query, [part for item in missing.items() for part in item])
            except psycopg.Error as error:
                self._blame_setting(error)
                raise
        if self.settings_dict["OPTIONS"].get("isolation_level") is not None:
            connection.isolation_level = psycopg.IsolationLevel(self.settings_dict["OPTIONS"]["isolation_level"])

    def _blame_setting(self, error: BaseException) -> None:
        """
        Raise ImproperlyConfigured if the server's message is about a setting from POOL. libpq tells no SQLSTATE when
        connecting fails, and the message is in the server's language; but it quotes the name.
        """
        config = pool_config(self.settings_dict, self.alias)
        keys = {name: f'POOL["{key}"]' for key, name in SERVER_LIMITS.items()}
        keys |= {name: f'POOL["session"]["{name}"]' for name in config.session}
        for name in self._startup_settings().keys() & keys:
            if re.search(rf"""["'«»„“”‹›「『]\s?{re.escape(name)}\s?["'«»“”‹›」』]""", str(error)) is None:
                continue
            remedy = (
                "It needs PostgreSQL 17; remove it, or use statement_timeout and idle_in_transaction_timeout instead."
                if name == "transaction_timeout"
                else "Correct or remove it."
            )
            raise ImproperlyConfigured(
                f'DATABASES["{self.alias}"]: the server refuses {keys[name]}: {str(error).strip()}. {remedy}'
            ) from error


def _escape(value: str) -> str:
    """For ``-c name=value``: a backslash before what would end the word."""
    return re.sub(r"([\\\s])", r"\\\1", value)
