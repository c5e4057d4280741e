"""The OpenAPI 3.1 document, from the declarations that the views are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from django.conf import settings

from .. import __version__
from .endpoint import Endpoint
from .schema import Schemas

_ERRORS = {
    400: "A query parameter can't be used; `errors` has what is wrong with which.",
    401: "Nobody is known who may see this. The same for no token and for a wrong one.",
    403: "The session's user may not see this.",
    405: "Only GET and HEAD.",
    503: "The database can't say whose session it is. A bearer token needs no database.",
}

_PROBLEM = {
    "type": "object",
    "description": "RFC 9457.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "By query parameter what is wrong with it.",
        },
    },
    "required": ["type", "title", "status"],
}

ACCESS: list[dict[str, list[str]]] = [{"token": []}, {"session": []}]


def document(
    endpoints: Iterable[Endpoint],
    probes: Iterable[tuple[str, str, type]],
    *,
    computed: Mapping[type, Sequence[str]],
) -> dict[str, Any]:
    """
    Args:
        probes: path, summary and the class of the details of each probe.
        computed: see ``Schemas``.
    """
    schemas = Schemas(computed)
    paths = {f"/{path}": {"get": _of_probe(path, summary, kind, schemas)} for path, summary, kind in probes}
    paths |= {f"/{endpoint.path}": {"get": _of_endpoint(endpoint, schemas)} for endpoint in endpoints}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "django_dbpool",
            "version": __version__,
            "description": "What the database connection pools of all processes of a project do. Times are seconds, "
            "moments are Unix time, unless a name says otherwise. Statements have placeholders for their values.",
        },
        "security": ACCESS,
        "tags": [
            {"name": "health", "description": "For balancers and orchestrators."},
            {"name": "pools", "description": "For people and monitoring."},
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {
                "ProblemDetails": _PROBLEM,
                "Word": schemas.of({"status": str}),
                **dict(sorted(schemas.components.items())),
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "One of DBPOOL['TOKENS']."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": settings.SESSION_COOKIE_NAME,
                    "description": "Of a member of staff with the permission django_dbpool.view_connectionpool.",
                },
            },
        },
    }


def _of_endpoint(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    errors = {str(status): _problem(status) for status in _ERRORS}
    operation: dict[str, Any] = {
        "operationId": endpoint.name.replace("-", "_"),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": [each.to_openapi() for each in endpoint.parameters],
        "responses": {"200": _json("As of now.", schemas.of(endpoint.answer)), **errors},
    }
    if endpoint.description:
        operation["description"] = endpoint.description
    return operation


def _of_probe(path: str, summary: str, kind: type, schemas: Schemas) -> dict[str, Any]:
    told = {"anyOf": [{"$ref": "#/components/schemas/Word"}, schemas.of(kind)]}
    return {
        "operationId": path.replace("/", "_"),
        "summary": summary,
        "description": "Everybody is told the status; details need a token or a session.",
        "tags": ["health"],
        "security": [{}, *ACCESS],
        "responses": {"200": _json("Yes.", told), "503": _json("No.", told), "405": _problem(405)},
    }


def _json(description: str, schema: Mapping[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": dict(schema)}}}


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    found = _json(f"{HTTPStatus(status).phrase}. {_ERRORS[status]}", schema, "application/problem+json")
    if status == 401:
        found["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return found
