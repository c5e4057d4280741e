"""PASSWORD as a function: resolved wherever this wrapper connects, pooled or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from django.core.exceptions import ImproperlyConfigured

from ..conf import faults_of_credentials
from ..core.errors import Refusal
from ..errors import DatabaseUnavailable
from ..pool.credentials import NoPassword, Rotation, origin

if TYPE_CHECKING:
    from .typing import DjangosWrapper as Base
else:
    Base = object


class CredentialsMixin(Base):
    """Around Django's ``get_connection_params`` and ``get_new_connection``."""

    _is_template: bool

    if TYPE_CHECKING:

        @property
        def _pooled(self) -> bool: ...

    def get_connection_params(self) -> dict[str, Any]:
        """
        Django's, with the password that a function gives at this moment.

        Raises:
            DatabaseUnavailable: the function failed, and this wrapper connects by itself.
            psycopg.OperationalError: the function failed; a pool, which asks here, makes the same of it.
        """
        params: dict[str, Any] = super().get_connection_params()
        rotation = self._rotation()
        if rotation is None:
            return params
        try:
            return rotation.ask().merged_into(params)
        except NoPassword as error:
            if self._pooled:
                raise
            raise self._unavailable(error) from origin(error)

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Django's; refused credentials are asked for again. A pool does that by itself, with parameters of its own."""
        if self._is_template:
            return super().get_new_connection(conn_params)
        try:
            return super().get_new_connection(conn_params)
        except psycopg.OperationalError as error:
            if not self._password_changed(error):
                raise
        return super().get_new_connection(self.get_connection_params())

    def _password_changed(self, error: BaseException) -> bool:
        rotation = self._rotation()
        return rotation is not None and rotation.changed(error)

    def _rotation(self) -> Rotation | None:
        if faults := faults_of_credentials(self.settings_dict):
            raise ImproperlyConfigured(f'DATABASES["{self.alias}"]: {faults[0].message} {faults[0].hint}')
        provider = self.settings_dict["PASSWORD"]
        if not callable(provider):
            return None
        rotations: dict[int, Rotation] = self.__dict__.setdefault("_rotations", {})
        # setdefault is atomic: threads that connect at once through the pool's wrapper share one.
        return rotations.setdefault(id(provider), Rotation(provider, f'DATABASES["{self.alias}"]["PASSWORD"]'))

    def _unavailable(self, error: NoPassword) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            Refusal(alias=self.alias, waited=0.0, in_use=0, max_size=0, waiting=0, reason=str(error))
        )
