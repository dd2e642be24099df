"""Errors of handlers, told to Sentry once for each failure, with the command that they are about.

::

    app.use(sentry())

It starts the SDK where `SENTRY_DSN` is set and the application has not done so; without either it does nothing.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
from collections.abc import Generator
from typing import Any, Final, cast

import msgspec
import sentry_sdk
from sentry_sdk.scope import Scope, ScopeType, use_isolation_scope, use_scope
from sentry_sdk.scrubber import EventScrubber
from sentry_sdk.utils import event_from_exception

from chappe import output
from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.bus.loop import failure_of
from chappe.errors import Reject
from chappe.failures import Elsewhere
from chappe.messages.capabilities import MessageSpec
from chappe.messages.codec import encode_json
from chappe.messages.envelope import TENANT
from chappe.messages.template import renderer
from chappe.redaction import without_secrets

_REMEMBERED: Final = 1000
_WORKER: Final = "chappe.worker"


def sentry(*, retries: bool = False, body: bool = False) -> Middleware:
    """Return the middleware that reports what handlers raise, and has all that they report themselves say which command it is about.

    An attempt that is followed by another is reported only with `retries`. With `body`, the fields of the command go along, and the local
    variables, if the SDK collects them. Secrets of the settings, and fields named like secrets, are never sent.
    """
    if not sentry_sdk.is_initialized() and os.environ.get("SENTRY_DSN"):
        sentry_sdk.init()  # here and not in an event loop: it imports what it knows of
    return _Sentry(retries=retries, body=body)


class _Sentry(Middleware):
    def __init__(self, *, retries: bool, body: bool) -> None:
        self._retries = retries
        self._body = body
        self._is_ready = False
        self._reported: collections.deque[tuple[str, int]] = collections.deque(maxlen=_REMEMBERED)

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        if not self._is_active():
            return call_next

        async def watched(message: Any, context: Context) -> Any:
            with _isolated(context) as scope:
                scope.add_event_processor(lambda event, _: self._described(event, spec, message, context))
                try:
                    return await call_next(message, context)
                except BaseException as error:  # it is raised again, whatever it is
                    failure = failure_of(error, context.limit)
                    if failure is not None and (self._retries or _is_last(failure, spec, context)):
                        self._report(failure, spec, context)
                    raise

        return watched

    wrap_apart = wrap_handle

    def _is_active(self) -> bool:
        """Tell whether there is somebody to report to, from this process."""
        if sentry_sdk.is_initialized() and not self._is_ready:
            self._is_ready = True
            sentry_sdk.get_global_scope().add_event_processor(self._unless_reported)
            output.last_reports.append(lambda: sentry_sdk.flush(timeout=output.LAST_WAIT))
        return self._is_ready

    def _report(self, failure: BaseException, spec: MessageSpec, context: Context) -> None:
        self._reported.append((context.id, context.attempt))
        if isinstance(failure, Elsewhere) or isinstance(failure.__cause__, Elsewhere) or not _is_new(failure):
            return  # the process in which it was raised has reported it, or it is that of several commands together
        options = sentry_sdk.get_client().options
        event, hint = event_from_exception(failure, client_options=options, mechanism={"type": "chappe", "handled": False})
        if isinstance(failure, TimeoutError) and context.limit is not None and context.limit.expired():
            event["fingerprint"] = [spec.name, "timeout"]  # where it was cut off is chance
        sentry_sdk.capture_event(event, hint=hint)

    def _described(self, event: Any, spec: MessageSpec, message: Any, context: Context) -> Any:
        """Add the command to an event, and take out what is nobody's business."""
        event.setdefault("transaction", spec.name)
        told = {
            "id": context.id,
            "type": spec.name,
            "queue": context.queue or None,
            "attempt": context.attempt,
            "attempts": spec.retry.attempts if context.queue else None,
            "tenant": context.headers.get(TENANT),
            "key": None if spec.key is None else renderer(spec.key)(message),
            "correlation_id": context.correlation_id,
        }
        command = event.setdefault("contexts", {})["command"] = {name: value for name, value in told.items() if value is not None}
        event.setdefault("tags", {}).update({f"command.{name}": command[name] for name in ("type", "queue", "tenant") if name in command})
        if self._body:
            event.setdefault("extra", {})["command"] = _shown(message)
        for value in _values(event):
            if value.get("value"):
                value["value"] = without_secrets(str(value["value"]))
            trace: dict[str, list[dict[str, Any]]] = value.get("stacktrace") or {}
            for frame in trace.get("frames", []):
                variables = frame.pop("vars", None)
                if variables and self._body:
                    frame["vars"] = _redacted(variables, f"{type(message).__name__}(")
        return event

    def _unless_reported(self, event: Any, hint: dict[str, Any]) -> Any:
        """Leave out the log line of a failure that was reported: the SDK makes an event of each error that is logged."""
        record: logging.LogRecord | None = hint.get("log_record")
        if record is not None and record.name == _WORKER and isinstance(record.args, tuple) and record.args[1:3] in self._reported:
            return None
        return event


def _isolated(context: Context) -> contextlib.AbstractContextManager[Scope]:
    """Return a scope of one message: of its sender's, if it is inline, else a new one, which leaves nothing behind in its slot."""
    return _new_scope() if context.queue else sentry_sdk.isolation_scope()


@contextlib.contextmanager
def _new_scope() -> Generator[Scope]:
    with use_scope(Scope(ty=ScopeType.CURRENT)), use_isolation_scope(Scope(ty=ScopeType.ISOLATION)) as scope:
        yield scope


def _is_last(failure: BaseException, spec: MessageSpec, context: Context) -> bool:
    return isinstance(failure, Reject) or not context.queue or context.attempt >= spec.retry.attempts


def _is_new(failure: BaseException) -> bool:
    """Tell whether an error was raised since it was last reported: a handler of several commands raises one for all of them."""
    raised = failure.__traceback__
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    known = vars(failure)
    if raised is not None and known.get("_chappe_reported") is raised:
        return False
    known["_chappe_reported"] = raised
    return True


def _shown(message: Any) -> Any:
    """Return the fields of a command without what is secret in them."""
    fields = _redacted(msgspec.json.decode(encode_json(message)))
    EventScrubber(recursive=True).scrub_dict(fields)
    return fields


def _redacted(value: Any, command: str = "\0") -> Any:
    """Return a value without secrets of the settings, and without the commands in it, whose fields are told apart from it."""
    if isinstance(value, str):
        return f"{command}…)" if value.startswith(command) else without_secrets(value)
    if isinstance(value, dict):
        return {name: _redacted(one, command) for name, one in cast("dict[Any, Any]", value).items()}
    return [_redacted(one, command) for one in cast("list[Any]", value)] if isinstance(value, list) else value


def _values(event: Any) -> list[dict[str, Any]]:
    return cast("dict[str, Any]", event.get("exception") or {}).get("values") or []
