"""``manage.py dbshell``: psql gets the password that a function gives, not the function."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.backends.postgresql.client import DatabaseClient

from ..pool.credentials import ask


class PooledClient(DatabaseClient):
    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        password = settings_dict.get("PASSWORD")
        if callable(password):
            credentials = ask(password, "PASSWORD")
            settings_dict = {
                **settings_dict,
                "USER": credentials.user or settings_dict.get("USER"),
                "PASSWORD": credentials.password,
            }
        return super().settings_to_cmd_args_env(settings_dict, parameters)
