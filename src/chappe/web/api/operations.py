"""A route is declared at the method that serves it: what it needs beside the path, what it takes and answers with in the signature."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, Final, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chappe.app import App
from chappe.engines.contract.fleet import ACT
from chappe.engines.contract.store import Store
from chappe.errors import InvalidMessage
from chappe.messages.codec import decode_body, encode_json
from chappe.roles import Caller
from chappe.web.access import CALLER

_DECLARED: Final = "__route__"
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
F = TypeVar("F", bound=Callable[..., Awaitable[object]])


def get(path: str, need: str) -> Callable[[F], F]:
    """Have a method of a part answer who has one of the permissions in `need`."""
    return _route("GET", path, need)


def post(path: str, need: str) -> Callable[[F], F]:
    """Have a method of a part do something for who has one of the permissions in `need`."""
    return _route("POST", path, need)


def _route(*declared: str) -> Callable[[F], F]:
    def keep(function: F) -> F:
        setattr(function, _DECLARED, declared)
        return function

    return keep


class Operation:
    """A method as it serves a route.

    Its parameters are `asked`, which is the body, `caller`, who asks, and `request`, else parts of the path; those by keyword are of the
    query. What it returns is JSON, unless it is a response.
    """

    def __init__(self, method: str, path: str, need: str, function: Callable[..., Awaitable[object]]) -> None:
        hints = get_type_hints(function, include_extras=True)
        answers = hints.pop("return")
        self.method, self.path, self.need, self._function = method, path, need, function
        self.summary = (inspect.getdoc(function) or path).splitlines()[0]
        self.answers = next((one for one in (get_args(answers) or (answers,)) if one is not Response), None)
        self.takes = hints.get("asked")
        parameters = inspect.signature(function).parameters.values()
        self.query = {one.name: hints[one.name] for one in parameters if one.kind is one.KEYWORD_ONLY}
        self._names = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
        self._query = msgspec.defstruct("Query", [(one.name, hints[one.name], one.default) for one in parameters if one.name in self.query])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        values: dict[str, Any] = {**request.path_params, "request": request, "caller": scope.get(CALLER)}
        if self.takes is not None:
            values["asked"] = decode_body(self.takes, "the body", await request.body())
        try:
            query = msgspec.structs.asdict(msgspec.convert(dict(request.query_params), self._query, strict=False))
        except msgspec.ValidationError as error:
            fault, _, name = str(error).partition(" - at `$.")
            raise InvalidMessage("the query", {name.rstrip("`"): f"{fault}; what it takes stands in /openapi.json"}) from None
        answer = await self._function(*(values[name] for name in self._names), **query)
        response = answer if isinstance(answer, Response) else Response(encode_json(answer), media_type="application/json")
        await response(scope, receive, send)


class Part:
    """Some operations on one application: the methods that are declared with `get` and `post`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def _store(self) -> Store:
        return (await self._app.connection()).store

    def operations(self) -> Iterator[Operation]:
        """Return them in their order."""
        for name, function in vars(type(self)).items():
            if (declared := getattr(function, _DECLARED, None)) is not None:
                method, path, need = declared
                yield Operation(method, path, need, getattr(self, name))


def said_by(caller: Caller) -> str:
    """Return who asks, as the audit trail shows it."""
    return f"{caller.name}@http"


async def noted(store: Store, caller: Caller, verb: str, text: str) -> None:
    """Have what was done be in the audit trail, with who asked for it."""
    await store.desire(f"{ACT}{verb}", text, said_by(caller))
