"""Server-side prepared statements (``POOL["prepare"]``): plans that outlive what they were made for."""

from __future__ import annotations

from psycopg.errors import FeatureNotSupported

_WHERE_PLANS_ARE_CHECKED = "RevalidateCachedQuery"


def is_stale_plan(error: BaseException | None) -> bool:
    """
    Whether a prepared statement failed because its columns have changed since, by a migration for example.

    psycopg goes on using it, so each further execution on this connection would fail too. The SQLSTATE is that of
    any unsupported feature and the text is in the server's language; the function's name in the server is neither.
    """
    cause = error.__cause__ if error is not None else None
    return isinstance(cause, FeatureNotSupported) and cause.diag.source_function == _WHERE_PLANS_ARE_CHECKED
