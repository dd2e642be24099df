"""The routes of the API as OpenAPI 3.1 describes them: what each is for, takes and answers with."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from starlette.routing import Route

from chappe.web.access import NEEDED

_DESCRIBED: Final = "__described__"
_REFERENCE: Final = "#/components/schemas/api.{name}"  # no class of an application has such a name
_NUMBERS: Final = frozenset({"limit"})
_ERRORS: Final = ("400", "401", "403", "404", "421", "422", "431", "503")
_PROBLEM: Final = {
    "description": "What was wrong (RFC 9457).",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}

F = TypeVar("F", bound=Callable[..., Any])


class Description(Struct, frozen=True):
    """What a route takes and answers with."""

    answers: Any = None
    takes: Any = None
    query: tuple[str, ...] = ()


def described(*, answers: Any = None, takes: Any = None, query: Sequence[str] = ()) -> Callable[[F], F]:
    """Have the document say what a route takes as its body and in its query, and answers with."""

    def keep(function: F) -> F:
        setattr(function, _DESCRIBED, Description(answers, takes, tuple(query)))
        return function

    return keep


def with_routes(document: dict[str, Any], routes: Sequence[Route]) -> dict[str, Any]:
    """Return a document with these routes in it."""
    kinds = [kind for route in routes for kind in (_of(route).answers, _of(route).takes) if kind is not None]
    schemas, definitions = _plain(*msgspec.json.schema_components(kinds, ref_template=_REFERENCE))
    schema_of = dict(zip(map(str, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
            paths.setdefault(path, {})[method.lower()] = _operation(route, method, path, schema_of)
    components = {**document["components"], "schemas": {**definitions, **document["components"]["schemas"]}}
    return {**document, "paths": {**document["paths"], **paths}, "components": components}


def _plain(schemas: Sequence[Any], definitions: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return schemas under names that say what they are, not in which module."""
    names = {name: f"api.{re.sub(r'^chappe[.]web[.](api[.])?', '', name).replace('_', '')}" for name in definitions}
    text = msgspec.json.encode([schemas, list(definitions.values())]).decode()
    for name, short in names.items():
        text = text.replace(f'/schemas/api.{name}"', f'/schemas/{short}"')
    found, bodies = msgspec.json.decode(text)
    return found, dict(zip(names.values(), bodies, strict=True))


def _of(route: Route) -> Description:
    return getattr(route.endpoint, _DESCRIBED, Description())


def _operation(route: Route, method: str, path: str, schema_of: dict[str, Any]) -> dict[str, Any]:
    what = _of(route)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if f"{{{name}:int}}" in route.path else "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ] + [{"name": name, "in": "query", "schema": {"type": "integer" if name in _NUMBERS else "string"}} for name in what.query]
    answer = schema_of.get(str(what.answers), {"type": "object"})
    body = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema_of.get(str(what.takes), {"type": "object"})}}}
    }
    media = "text/event-stream" if path == "/api/changes" else "application/json"
    return {
        "operationId": f"{method.lower()}{re.sub(r'[^a-z]+', '_', path)}".rstrip("_"),
        "summary": (inspect.getdoc(route.endpoint) or path).splitlines()[0],
        "description": f"It needs the permission {' or '.join(NEEDED[f'{method} {route.path}'].split())}.",
        "parameters": parameters,
        **(body if method == "POST" and path != "/api/reload" and not path.endswith(("/cancel", "/stacks")) else {}),
        "responses": {"200": {"description": "Done.", "content": {media: {"schema": answer}}}, **dict.fromkeys(_ERRORS, _PROBLEM)},
    }
