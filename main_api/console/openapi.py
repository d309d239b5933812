"""The OpenAPI 3.1 document, made from the routes and their schemas."""

import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from main_api.routing.route import Access, Documentation, Route
from main_api.schemas.answers import Error, Problem

# What any path may answer, besides what its route declares; the last three are the server's own refusals.
EVERYWHERE = (400, 405, 414, 431, 500, 501)
REQUEST_ID = {"description": "The id of this request, in every log line of it.", "schema": {"type": "string"}}
ETAG = {"description": "For If-None-Match; weak.", "schema": {"type": "string"}}
RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer"}}
# Either of them is enough.
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
TIMEOUT = {
    "in": "header",
    "name": "X-Request-Timeout-Ms",
    "required": False,
    "description": "Answer within so many milliseconds, or 504; never more than the gateway's own limit.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}


def document(
    version: str,
    routes: Iterable[Route],
    plain: Mapping[str, Documentation],
    *,
    authenticated: bool = False,
    limited: bool = False,
    guarded: Mapping[str, Access] | None = None,
) -> bytes:
    """Describe ``routes``, and the ``plain`` views by their path, as JSON.

    ``authenticated``: what a route asks for is really asked for; ``limited``: so are its limits.
    ``guarded`` is what plain views ask for, by their path.
    """
    spec = APISpec(
        title="AWS gateway",
        version=version,
        openapi_version="3.1.0",
        info={
            "description": "S3 buckets and SSM parameters over HTTP. Errors have one body: decide by `code`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        plugins=[MarshmallowPlugin()],
    )
    for schema in (Error, Problem):
        spec.components.schema(schema.__name__, schema=schema)
    if authenticated:
        for name, scheme in SCHEMES.items():
            spec.components.security_scheme(name, dict(scheme))
    for route in routes:
        access = route.access if authenticated else None
        met = _met(access, limited=limited and route.limited)
        spec.path(
            path=re.sub("<([a-z]+)>", r"{\1}", route.rule),
            operations={
                method.lower(): _operation(route.name, route.documentation, route.query, met)
                | _body(route)
                | _security(access)
                for method in route.methods
            },
        )
    for path, documentation in plain.items():
        access = (guarded or {}).get(path)
        name = path.strip("/").replace("/", "-")
        described = _operation(name, documentation, None, _met(access)) | _security(access)
        spec.path(path=path, operations={"get": described})
    # Python's end of text is ECMAScript's letter Z.
    return json.dumps(spec.to_dict(), separators=(",", ":")).replace(r'\\Z"', '$"').encode()


def _met(access: Access | None, *, limited: bool = False) -> set[int]:
    """Give the statuses of what stands before a route."""
    met = {429} if limited else set()
    if access is not None:
        met |= {401, 429} | ({403} if access.scope else set())
    return met


def _body(route: Route) -> dict[str, Any]:
    if route.body is None:
        return {}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": route.body}}}}


def _security(access: Access | None) -> dict[str, Any]:
    return {"security": [{name: []} for name in SCHEMES]} if access else {}


def _operation(
    name: str, documentation: Documentation, query: type[Schema] | None, met: Iterable[int] = ()
) -> dict[str, Any]:
    statuses = sorted({*documentation.errors, *EVERYWHERE, *met})
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": documentation.summary,
        "tags": [documentation.tag],
        "responses": {"200": _success(documentation)}
        | {str(code): _failure(code, documentation) for code in statuses},
    }
    if documentation.description:
        operation["description"] = documentation.description
    parameters: list[dict[str, Any]] = [
        {"in": "path", "name": name, "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in documentation.variables.items()
    ]
    if query is not None:
        parameters.append({"in": "query", "schema": query})
    if 504 in documentation.errors:
        parameters.append(TIMEOUT)
    if parameters:
        operation["parameters"] = parameters
    return operation


def _success(documentation: Documentation) -> dict[str, Any]:
    headers = {"X-Request-ID": REQUEST_ID} | ({"ETag": ETAG} if 304 in documentation.errors else {})
    if isinstance(documentation.answer, str):
        content: dict[str, Any] = {documentation.answer: {}}
    else:
        content = {"application/json": {"schema": documentation.answer}}
    return {"description": "OK", "headers": headers, "content": content}


def _failure(status: int, documentation: Documentation) -> dict[str, Any]:
    description = HTTPStatus(status).phrase
    if status == 304:
        return {"description": description, "headers": {"X-Request-ID": REQUEST_ID, "ETag": ETAG}}
    if status == 503 and documentation.unwell is not None:
        return {"description": description, "content": {"application/json": {"schema": documentation.unwell}}}
    if status in documentation.errors and documentation.answer == "text/plain":
        return {"description": description, "content": {documentation.answer: {}}}
    headers = {"X-Request-ID": REQUEST_ID} | ({"Retry-After": RETRY_AFTER} if status in (429, 503) else {})
    content = {"application/json": {"schema": Error}, "application/problem+json": {"schema": Problem}}
    return {"description": description, "headers": headers, "content": content}
