"""What a physical connection is made with: parameters, time zone, role, isolation level."""

from __future__ import annotations

import math
import os
from typing import Any

import psycopg
from psycopg import Connection, sql

from ..conf import pool_config
from .leases import LeaseMixin


class StartupMixin(LeaseMixin):
    """Used on the pool's own wrapper, the template of its physical connections."""

    _is_template = False
    _startup_options = True

    def _physical_connection_params(self) -> dict[str, Any]:
        """Keyword arguments for psycopg's ``connect``; asked for each connection, so credentials may rotate."""
        params: dict[str, Any] = self.get_connection_params()
        config = pool_config(self.settings_dict, self.alias)
        params["autocommit"] = True
        params.setdefault("connect_timeout", math.ceil(config.connect_timeout))
        if config.keepalives_idle:
            params.setdefault("keepalives_idle", config.keepalives_idle)
        if config.tcp_user_timeout:
            params.setdefault("tcp_user_timeout", int(config.tcp_user_timeout * 1000))
        if self._startup_options and "service" not in self.settings_dict["OPTIONS"]:
            given = params.get("options") or os.environ.get("PGOPTIONS", "")
            params["options"] = " ".join(filter(None, (given, *self._session_options())))
        return params

    def _session_options(self) -> list[str]:
        """
        Time zone and role for the start-up packet. Set there they cost no round trip and survive RESET and DISCARD,
        because they are the session's defaults: https://www.postgresql.org/docs/current/libpq-connect.html
        """
        options = []
        if self.timezone_name:
            options.append(f"-c TimeZone={_escape(self.timezone_name)}")
        if role := self.settings_dict["OPTIONS"].get("assume_role"):
            options.append(f"-c role={_escape(role)}")
        return options

    def _retry_without_startup_options(self, error: BaseException) -> bool:
        """PgBouncer refuses ``options`` unless told to ignore them; then they are set after connecting."""
        if self._startup_options and "unsupported startup parameter" in str(error):
            self._startup_options = False
            return True
        return False

    def _new_physical_connection(self, params: dict[str, Any]) -> Connection[Any]:
        """
        Through Django's ``get_new_connection``, once per physical connection: engines that this one is combined with
        override it to count connections or to register types.
        """
        connection: Connection[Any] = self.get_new_connection(params)
        return connection

    def _prepare_physical_connection(self, connection: Connection[Any]) -> None:
        """Verify what the start-up packet asked for: a pooler may have ignored it."""
        zone = self.timezone_name
        if zone and connection.info.parameter_status("TimeZone") != zone:
            connection.execute(self.ops.set_time_zone_sql(), [zone])
        if role := self.settings_dict["OPTIONS"].get("assume_role"):
            row = connection.execute("SHOW role").fetchone()
            if row is None or row[0] != role:
                connection.execute(sql.SQL("SET ROLE {}").format(sql.Literal(role)))
        if self.settings_dict["OPTIONS"].get("isolation_level") is not None:
            connection.isolation_level = psycopg.IsolationLevel(self.settings_dict["OPTIONS"]["isolation_level"])


def _escape(value: str) -> str:
    """For ``-c name=value``: a backslash before what would end the word."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
