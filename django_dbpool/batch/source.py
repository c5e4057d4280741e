"""Which rows: what a queryset must be to be gone through by key, and where its batches run."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models, router
from django.db.models.query import ModelIterable
from django.utils.connection import ConnectionDoesNotExist

from ..core.readers import shown
from ..models import BatchRun
from .keys import Key


def checked(source: object) -> models.QuerySet[Any]:
    """
    Raises:
        TypeError: it is no queryset.
        ValueError: its rows can't be gone through by a key.
    """
    if not isinstance(source, models.QuerySet):
        hint = " Write .all() after it." if isinstance(source, (models.Manager, type)) else ""
        raise TypeError(f"run_batches() takes a QuerySet of model instances, not {shown(source)}.{hint}")
    query = source.query
    reason = None
    if query.is_sliced:
        reason = "is sliced: which rows these are is decided by an order that is not the key's. Filter instead"
    elif query.combinator:
        reason = f"is a {query.combinator}() of several. Use one filter with Q objects, or a run for each"
    elif getattr(source, "_iterable_class", None) is not ModelIterable:
        reason = "gives values instead of model instances. Use only() to load less"
    elif query.distinct_fields:
        reason = "is distinct() on fields: which row of several is taken is decided by an order that is not the key's"
    elif query.order_by or query.extra_order_by or not query.standard_ordering:
        reason = "has an order of its own. The key is the order: leave order_by() away, or pass its fields as key"
    if reason is not None:
        raise ValueError(f"run_batches(): the queryset {reason}.")
    return source


def alias_of(source: models.QuerySet[Any], using: object, *, checkpoint: bool) -> str:
    """
    The database of everything: rows, handler's transaction, checkpoint.

    Raises:
        TypeError, ValueError: of ``using``.
        ConnectionDoesNotExist: there is no such alias.
        ImproperlyConfigured: nothing of this works there.
    """
    if not (using is None or isinstance(using, str)):
        raise TypeError(f"run_batches(using={shown(using)}): using must be a database alias.")
    own = source._db  # type: ignore[attr-defined]  # django-stubs leave it out
    alias = using or own or router.db_for_write(source.model)
    if own is not None and own != alias:
        raise ValueError(
            f"run_batches(using={alias!r}): the queryset reads from database {own!r}. Rows, the handler's transaction "
            "and the checkpoint have to be on one database, or nothing could be done exactly once."
        )
    if alias not in connections.settings:
        raise ConnectionDoesNotExist(f"run_batches(): the connection {alias!r} doesn't exist.")
    if connections[alias].vendor != "postgresql":
        raise ImproperlyConfigured(
            f"run_batches() works on PostgreSQL; database {alias!r} is {connections[alias].vendor}."
        )
    if checkpoint and not router.allow_migrate_model(alias, BatchRun):
        raise ImproperlyConfigured(
            f"run_batches(checkpoint=...): DATABASE_ROUTERS keep the tables of django_dbpool off database {alias!r}, "
            "and only a checkpoint in the same database can be committed together with the work. Allow the app "
            "there and migrate, or leave checkpoint away."
        )
    return alias


def ordered(source: models.QuerySet[Any], key: Key, alias: str) -> models.QuerySet[Any]:
    """
    By the key, on the database.

    Raises:
        ValueError: only() or defer() leave a field of the key out, which would then be read row by row.
    """
    names, deferred = source.query.deferred_loading
    primary = {field.attname for field in key.model._meta.pk_fields}
    for field in key.fields:
        missing = (field.attname in names or field.name in names) == deferred
        if (names or not deferred) and missing and field.attname not in primary:
            raise ValueError(
                f"run_batches(key=...): only() or defer() leave out {field.name!r}, which belongs to the key. Load it."
            )
    return source.using(alias).order_by(*key.names)
