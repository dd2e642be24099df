"""Declarations, messages and sends in Python that cannot be meant."""

from __future__ import annotations

import tempfile
import textwrap
from pathlib import Path

from chappe.errors import ChappeError

from .row import Answer, Row

_PROLOGUE = """
from typing import *
import enum
from chappe import *
from chappe.messages.capabilities import Exchange
"""


class Source:
    """A program that somebody writes; it is run, and its application looked at as `chappe run` does."""

    def __init__(self, text: str) -> None:
        self.text = textwrap.dedent(text).strip()

    def __call__(self, _: object) -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            names: dict[str, object] = {"__name__": "shop"}
            exec(f"{_PROLOGUE}\napp = App('shop', settings=Settings(broker='sqlite:///{folder}/chappe.db'))", names)
            app = names["app"]
            try:
                exec(compile(self.text, "shop.py", "exec", dont_inherit=True), names)
                app.registry.check(lambda handler: handler.unmet(app.providers))  # type: ignore[attr-defined]
                app.registry.topology()  # type: ignore[attr-defined]
            except (ChappeError, TypeError) as error:
                return Answer(type(error).__name__, str(error))
            finally:
                app.close()  # type: ignore[attr-defined]
                assert list(Path(folder).iterdir()) == [], "something was stored"
        return Answer("accepted", "")


def source(identity: str, wrong: str, text: str, answer: str, says: str) -> Row:
    """Write a row whose program is shown as it is."""
    program = Source(text)
    return Row(f"python-{identity}", wrong, program.text, answer, says, program)


CAPABILITY, DEFINITION, MESSAGE = "InvalidCapability", "DefinitionError", "InvalidMessage"
A = "class A(Command, queue='q'):\n    n: int = 0\n\n"

ROWS = [
    # --- capabilities
    source("misspelled", "a misspelled capability", "class A(Command, quee='q'): ...", CAPABILITY, 'A: unknown capability "quee", did you mean "queue"?'),
    source("unknown", "a capability that is none", "class A(Command, colour='red'): ...", CAPABILITY, 'unknown capability "colour", known are: aliases, budget, delay'),
    source("type", "a value of another type", "class A(Command, queue=5): ...", CAPABILITY, "A: queue: Expected `str | null`, got `int`"),
    source("queue-name", "a queue without a name", "class A(Command, queue=''): ...", CAPABILITY, "A: queue '': a name has 1 to 255 bytes, no comma"),
    source("queue-comma", "a queue that -Q could not name", "class A(Command, queue='a,b'): ...", CAPABILITY, "no comma, asterisk or control character"),
    source("name", "a name that is no name on the wire", "class A(Command, queue='q', name='A B'): ...", CAPABILITY, 'A: name="A B" must be lower-case words joined by dots'),
    source("alias", "an alias that is no name on the wire", "class A(Command, queue='q', aliases=('A B',)): ...", CAPABILITY, 'name="A B" must be lower-case words'),
    source("retry", "no attempt at all", "class A(Command, queue='q', retry=Retry(0)): ...", CAPABILITY, "Retry(attempts=0): Expected `int` >= 1"),
    source("retry-text", "attempts that are no number", "Retry('3')", CAPABILITY, "Retry(attempts='3'): Expected `int`, got `str`"),
    source("retry-nan", "a pause that is no number", "Retry(3, delay=float('nan'))", CAPABILITY, "Retry(delay=nan): Expected `float` >= 0.0"),
    source("retry-factor", "pauses that shrink", "Retry(3, factor=0.5)", CAPABILITY, "Retry(factor=0.5): Expected `float` >= 1.0"),
    source("rate", "a rate that is none", "class A(Command, queue='q', rate='fast'): ...", CAPABILITY, 'Rate("fast"): write it like "10/s", "100/min" or "5/10s"'),
    source("rate-period", "a rate in no time", "Rate('5/0s')", CAPABILITY, 'Rate("5/0s"): write it like "10/s"'),
    source("rate-digits", "a rate of 5,000 digits", "Rate('9' * 5000 + '/s')", CAPABILITY, 'write it like "10/s"'),
    source("rate-burst", "a burst of none", "Rate('1/s', burst=0)", CAPABILITY, "Rate(burst=0): Expected `int` >= 1"),
    source("timeout", "no time to run", "class A(Command, queue='q', timeout=0): ...", CAPABILITY, "A: timeout: Expected `float` > 0.0"),
    source("ttl", "a life without an end", "class A(Command, queue='q', ttl=float('inf')): ...", CAPABILITY, "A: ttl: Expected `float` <= 3162240000.0"),
    source("delay", "a delay in the past", "class A(Command, queue='q', delay=-1): ...", CAPABILITY, "A: delay: Expected `float` >= 0.0"),
    source("priority", "a priority of more than 32 bits", "class A(Command, queue='q', priority=2**40): ...", CAPABILITY, "A: priority: Expected `int` <= 2147483647"),
    source("unique-window", "a window in the past", "Unique('{n}', window=-1)", CAPABILITY, "Unique(window=-1): Expected `float` > 0.0"),
    source("exchange-kind", "a kind of exchange that is none", "Exchange('x', kind='round')", CAPABILITY, """Exchange(kind='round'): known are "direct", "topic", "fanout\""""),
    source("routing-key", "a routing key without an exchange", "class A(Command, routing_key='a'): ...", CAPABILITY, "A: routing_key needs an exchange to be published to"),
    source("exchange-alone", "an exchange without a routing key", "class A(Command, exchange='x'): ...", CAPABILITY, "A: exchange needs a routing_key (or a queue"),
    source("exchange-twice", "one exchange in two ways", "class A(Command, exchange='events', routing_key='a'): ...\napp.knows(A)", "TopologyConflict",
        'exchange "events" is topic (archive 2.592e+06 s) and was declared again as topic (archive 0 s); use one declaration for both'),
    # --- templates
    source("template-field", "a template with a field that is none", "class A(Command, queue='q', key='{b}'):\n    a: int", CAPABILITY, 'key="{b}" names "b", but the fields are: a'),
    source("template-brace", "a template that does not end", "class A(Command, queue='q.{'): ...", CAPABILITY, '"q.{" is no template: …write fields in braces'),
    source("template-format", "a template that formats", "class A(Command, queue='q', key='{a:>1000000000}'):\n    a: int", CAPABILITY, 'write "{a}" alone'),
    source("template-attribute", "a template that looks inside", "class A(Command, queue='q', key='{a.__class__}'):\n    a: int", CAPABILITY, 'names "a.__class__", but the fields are: a'),
    source("template-open", "a queue for each number there is", "class A(Command, queue='q.{n}'):\n    n: int\n\n@app.handles(A)\nasync def a(command: A): ...", CAPABILITY,
        'queue="q.{n}": "n" must be a Literal or an Enum, so that every queue is known in advance; for an open set use key="{n}"'),
    # --- merge
    source("merge-key", "merge without a key", "class A(Command, queue='q'):\n    def merge(self, newer): return newer", CAPABILITY, "A: has a merge method but no key; say which pending messages are one"),
    source("merge-signature", "merge of one", "class A(Command, queue='q', key='a'):\n    def merge(self): return self", CAPABILITY, "A: merge must be a method: def merge(self, newer: Self) -> Self (too many"),
    source("merge-async", "merge that waits", "class A(Command, queue='q', key='a'):\n    async def merge(self, newer): return self", CAPABILITY, "A: merge must be a method: def merge"),
    source("merge-field", "merge as a field", "class A(Command, queue='q', key='a'):\n    merge: int", DEFINITION, 'A: a field cannot be called "merge", which means something else of a message; call it otherwise, with msgspec.field(name="merge") to keep the name in JSON'),
    source("merge-unique", "merged and refused", "class A(Command, queue='q', key='a', unique='a'):\n    def merge(self, newer): return self", CAPABILITY, "A: has both merge and unique; a second pending message is either merged or refused"),
    # --- names and handlers
    source("name-twice", "one name for two", "class A(Command, queue='q', name='x'): ...\nclass B(Command, queue='q', name='x'): ...\napp.knows(A, B)", "DuplicateName",
        '"x" is the name of both shop.A and shop.B; give one of them name="..."'),
    source("handler-twice", "a handler twice", f"{A}@app.handles(A)\n@app.handles(A)\nasync def a(command: A): ...", "DuplicateName", "shop.a (shop.py:4) handles A twice; write a function of its own name for the second"),
    source("subscriber-twice", "two subscribers of one name", "class E(Event): ...\n@app.on(E)\ndef a(event: E): ...\n@app.on(E)\ndef a(event: E): ...", "DuplicateName",
        'queue "shop.on.a" belongs to both shop.a (shop.py:2) and shop.a (shop.py:4); give one of them name="..."'),
    source("schedule-twice", "a schedule twice", f"{A}app.schedule(every(1), A())\napp.schedule(every(1), A())", "DuplicateName", 'two schedules are called "shop:a:every(1)"; give one of them name="..."'),
    source("handles-nothing", "a handler of nothing", "@app.handles()\ndef a(): ...", DEFINITION, "@app.handles needs the command: @app.handles(SyncProperty)"),
    source("handles-text", "a handler of a text", "@app.handles('a')\ndef a(command): ...", DEFINITION, "shop.a (shop.py:1): @app.handles needs a command class, not 'a'"),
    source("handles-event", "a handler of an event", "class E(Event): ...\n@app.handles(E)\ndef a(event: E): ...", DEFINITION, "E is none; subscribe to events with @app.on"),
    source("subscribes-command", "a subscriber of a command", f"{A}@app.on(A)\ndef a(command: A): ...", DEFINITION, "A is none; handle commands with @app.handles"),
    source("pattern", "a pattern that is none", "@app.on('a..b')\ndef a(event: Event): ...", DEFINITION, '"a..b" is no pattern; write words joined by dots'),
    source("handler-empty", "a handler that takes nothing", f"{A}@app.handles(A)\ndef a(): ...", DEFINITION, "shop.a (shop.py:4) takes no message; write it like: def a(message: A)"),
    source("handler-number", "a handler that is no function", f"{A}app.handles(A)(5)", DEFINITION, "5 is no function, nor anything else that can be called"),
    source("handler-class", "a class in place of a handler", f"{A}class H:\n    def __call__(self, command: A): ...\n\napp.handles(A)(H)", DEFINITION, "shop.H is a class: to call it makes an instance and runs nothing; register a function, or an instance"),
    source("handler-method", "a method without an instance", f"{A}class H:\n    @app.handles(A)\n    def a(self, command: A): ...", DEFINITION, "shop.H.a (shop.py:5) is a method without an instance; register it below the class, of an instance: H(…).a"),
    source("handler-keyword", "a handler that takes its message by name", f"{A}@app.handles(A)\ndef a(*, command: A): ...", DEFINITION, """shop.a (shop.py:4): the message comes first and by its position; put "command" in front of the "*\""""),
    source("handler-positional", "a parameter that has no name to be given by", f"{A}@app.handles(A)\ndef a(command: A, db: dict, /): ...", DEFINITION, """parameter "db" is given by its name, but stands in front of the "/\""""),
    source("handler-typing", "an annotation for type checkers only", f"{A}if TYPE_CHECKING:\n    from shop.db import Db\n\n@app.handles(A)\ndef a(command: A, db: 'Db'): ...", DEFINITION, "shop.a (shop.py:7): an annotation cannot be resolved (name 'Db' is not defined); define or import it at the top of the module, and not only under TYPE_CHECKING"),
    source("subscriber-other", "a subscriber that takes another event", "class E(Event): ...\nclass F(Event): ...\n@app.on(E)\ndef a(event: F): ...", DEFINITION, "shop.a (shop.py:3) subscribes to E, but its first parameter is a F"),
    source("subscriber-lambda", "a subscriber without a name", "class E(Event): ...\napp.on(E)(lambda event: None)", DEFINITION, 'shop.<lambda> (shop.py:2): a subscriber without a name has no queue; give it name="..."'),
    source("task-variadic", "a task of any number of values", "@app.task(queue='q')\ndef a(*numbers: int): ...", DEFINITION, 'shop.a (shop.py:1): parameter "numbers" stands for any number of values, and a command has fields; take one list: numbers: list[…]'),
    source("task-keywords", "a task of any names", "@app.task(queue='q')\ndef a(**more: int): ...", DEFINITION, 'parameter "more" stands for any names, and a command has known fields; take one dict'),
    source("task-bare", "a task whose parameter has no type", "@app.task(queue='q')\ndef a(n=1): ...", DEFINITION, 'shop.a (shop.py:1): parameter "n" needs an annotation: the type of a field, or a type that is provided'),
    source("task-lambda", "a task without a name", "app.task(queue='q')(lambda: None)", DEFINITION, "needs a name, because its command is called by it; write it with def"),
    source("task-constraint", "a task with a value out of bounds", "import msgspec\n@app.task(queue='q')\ndef pay(n: Annotated[int, msgspec.Meta(ge=0)]): ...\npay.send(-5)", MESSAGE, "pay is not valid: $.n: Expected `int` >= 0"),
    source("handler-other", "a handler that takes another command", f"{A}class B(Command, queue='q'): ...\n@app.handles(A)\ndef a(command: B): ...", DEFINITION, "shop.a (shop.py:5) handles A, but its first parameter is a B"),
    source("handler-bare", "a parameter without an annotation", f"{A}@app.handles(A)\ndef a(command: A, db): ...", DEFINITION, 'shop.a (shop.py:4): parameter "db" needs an annotation, by which it is provided'),
    source("handler-unmet", "a parameter that nothing provides", f"{A}@app.handles(A)\ndef a(command: A, db: dict): ...", DEFINITION, "asks for db: dict, which nothing provides; add a function with @app.provides"),
    source("handler-queue", "a queue for what does not travel", "class A(Command, inline=True): ...\n@app.handles(A, queue=bind('q'))\ndef a(command: A): ...", DEFINITION, "A is inline and comes through no queue; leave out inline=True"),
    source("queue-twice", "one queue with two bindings", "class A(Command, exchange='x', routing_key='a'): ...\n@app.handles(A, queue=bind('q', 'x:a'))\ndef a(command: A): ...\n@app.handles(A, queue=bind('q', 'x:b'))\ndef b(command: A): ...",
        "TopologyConflict", 'queue "q" is declared twice with different keys: "x:a" by shop.a (shop.py:2), "x:b" by shop.b (shop.py:4); give one of them another name'),
    source("provider", "a provider of nothing", "@app.provides\ndef db(): ...", DEFINITION, "shop.db (shop.py:1) needs a return annotation: it is provided by that type"),
    source("provider-twice", "two providers of one type", "@app.provides\ndef a() -> dict: ...\n@app.provides\ndef b() -> dict: ...", "DuplicateName", "dict is provided by shop.a (shop.py:1) already; shop.b (shop.py:3) would be the second"),
    source("middleware", "a middleware that is none", "app.use(5)", DEFINITION, "app.use needs a Middleware or an async function, not 5"),
    # --- schedules
    source("cron", "a minute that no hour has", "cron('61 * * * *')", DEFINITION, 'cron("61 * * * *") is wrong: Bad minute; write minute hour day month weekday'),
    source("cron-zone", "a time zone that is none", "cron('* * * * *', 'Europe/Atlantis')", DEFINITION, 'no time zone is called "Europe/Atlantis"; write one like "Europe/Paris"'),
    source("cron-never", "a day that never comes", "cron('0 0 30 2 *')", DEFINITION, 'cron("0 0 30 2 *") is wrong: Bad day-of-month'),
    source("cron-long", "an expression of 200,000 characters", "cron('1,' * 100_000 + '1 * * * *')", DEFINITION, "is longer than 1000 characters"),
    source("every", "a busy loop", "every(0.01)", DEFINITION, "every(0.01): at least 0.1 seconds are needed"),
    source("every-nan", "an interval that is no number", "every(float('nan'))", DEFINITION, "every(nan): at least 0.1 seconds are needed"),
    source("schedule-text", "a text in place of a trigger", f"{A}app.schedule('* * * * *', A())", DEFINITION, """app.schedule needs cron("…") or every(…), not '* * * * *'"""),
    source("schedule-class", "a class in place of a command", f"{A}app.schedule(every(1), A)", DEFINITION, "app.schedule sends a command, not …; write it with its fields"),
    source("schedule-misfire", "a misfire that is none", f"{A}app.schedule(every(1), A(), misfire='twice')", DEFINITION, 'misfire="twice" must be once, skip or all'),
    source("schedule-inline", "a schedule of what does not travel", "class A(Command, inline=True): ...\napp.schedule(every(1), A())", DEFINITION, "A is inline, so no worker could handle it when it is due; leave out inline=True"),
    source("schedule-value", "a schedule of what would arrive as another", "class A(Command, queue='q'):\n    x: Any\napp.schedule(every(1), A(x=(1, 2)))", MESSAGE, "a is not valid: $.x: (1, 2) would arrive as [1, 2]"),
    # --- fields and messages
    source("field-foreign", "a field that JSON cannot carry", "class X: ...\nclass A(Command, queue='q'):\n    x: X\napp.knows(A)", DEFINITION,
        'A: field "x" is of type X, which JSON cannot carry; use a msgspec.Struct, a dataclass, or plain types'),
    source("field-unresolved", "a field of a type that is not there", "class A(Command, queue='q'):\n    x: 'Nowhere'\napp.knows(A)", DEFINITION,
        "A: the type of a field cannot be resolved (name 'Nowhere' is not defined); define or import it at the top of the module, and not only under TYPE_CHECKING"),
    source("field-enum", "an enumeration of what JSON cannot tell", "class X(enum.Enum):\n    A = 1.5\n\nclass A(Command, queue='q'):\n    x: X", DEFINITION,
        'A: field "x": Enums must contain either all str or all int values; give its members texts or whole numbers, and keep other values beside it'),
    source("field-union", "types that are one in JSON", "import datetime\nclass A(Command, queue='q'):\n    x: str | datetime.date", DEFINITION, "JSON could not tell them apart; write one of them, or Structs with a tag= each"),
    source("field-keys", "keys that JSON cannot carry", "class A(Command, queue='q'):\n    x: dict[tuple[int, int], str]", DEFINITION, 'A: field "x" has keys that JSON cannot carry; use texts, numbers or enumerations as keys, or a list of pairs'),
    source("field-object", "a field for anything", "class A(Command, queue='q'):\n    x: object", DEFINITION, 'A: field "x" is of type object; write Any for all that JSON can carry'),
    source("field-default", "a default of another type", "class A(Command, queue='q'):\n    x: str = None", DEFINITION, 'A: the default None of field "x" does not fit its type (Expected `str`, got `null`); change one of them'),
    source("field-dunder", "a field in place of what every message has", "class A(Command, queue='q'):\n    __spec__: int", DEFINITION, 'A: a field cannot be called "__spec__", which means something else of a message'),
    source("option-frozen", "a message that changes", "class A(Command, queue='q', frozen=False): ...", CAPABILITY, "A: frozen=False is not possible: messages are values that never change; make a changed copy with replace"),
    source("option-array", "a message that is an array", "class A(Command, queue='q', array_like=True): ...", CAPABILITY, "A: array_like=True is not possible: a message is an object in JSON, so that fields can be added"),
    source("option-position", "fields by their position", "class A(Command, queue='q', kw_only=False): ...", CAPABILITY, "A: kw_only=False is not possible: messages take their fields by name"),
    source("task-default", "a task with a default of another type", "@app.task(queue='q')\ndef a(n: int = None): ...", DEFINITION, 'shop.a (shop.py:1): the default None of field "n" does not fit its type'),
    source("build", "a message with wrong fields", f"{A}A(n='x', colour='red')", MESSAGE, "a is not valid: $.n: Expected `int`, got `str`; $.colour: Unknown field"),
    source("build-position", "fields without their names", f"{A}A(5)", "TypeError", "A takes its fields by name: A(n=…)"),
    source("replace", "a change of a field that is none", f"{A}replace(A(n=1), colour='red')", MESSAGE, "$.colour: Unknown field"),
    source("build-nan", "a number that JSON does not have", "class A(Command, queue='q'):\n    x: list[float | None]\nA(x=[1, float('nan')])", MESSAGE, "a is not valid: $.x[1]: NaN and infinity are no numbers in JSON; send None, or a text"),
    source("build-renamed", "a field by its name in JSON", "import msgspec\nclass A(Command, queue='q'):\n    sender: str = msgspec.field(name='from')\nA(**{'from': 'ada'})", MESSAGE, "a is not valid: $.sender: Field required; $.from: Unknown field"),
    source("send-surrogate", "half of a surrogate pair", "class A(Command, queue='q'):\n    x: str\napp.send(A(x='\\ud800'))", MESSAGE, "a is not valid: $.x: it cannot be written as JSON: 'utf-8' codec can't encode"),
    source("send-surrogate-key", "half of a surrogate pair, with a key", "class A(Command, queue='q'):\n    x: str\napp.send(A(x='\\ud800'), idempotency_key='k')", MESSAGE, "a is not valid: $.x: it cannot be written as JSON"),
    source("send-object", "an object that JSON cannot carry", "class A(Command, queue='q'):\n    x: Any\napp.send(A(x=[object()]))", MESSAGE, "$.x[0]: it cannot be written as JSON: Encoding objects of type object is unsupported"),
    source("send-tuple", "a value that would arrive as another", "class A(Command, queue='q'):\n    x: Any\napp.send(A(x=(1, 2)))", MESSAGE, "$.x: (1, 2) would arrive as [1, 2]; declare the field with the type of its values"),
    source("send-zone", "a time whose offset has seconds", "import datetime as d\nclass A(Command, queue='q'):\n    x: d.datetime\napp.send(A(x=d.datetime(2026, 1, 1, tzinfo=d.timezone(d.timedelta(seconds=61)))))", MESSAGE, "$.x: datetime.datetime(2026, 1, 1, 0, 0, tzinfo=… would arrive as datetime.datetime"),
    source("send-inner", "a Struct with a field of another type", "import msgspec\nclass P(msgspec.Struct):\n    n: int\n\nclass A(Command, queue='q'):\n    x: P\napp.send(A(x=P('one')))", MESSAGE, "$.x.n: it could not be read again: Expected `int`, got `str`"),
    source("send-class", "a class in place of a message", f"{A}app.send(A)", MESSAGE, "is no message; send one of it: A(…)"),
    source("send-text", "a text in place of a message", "app.send('order')", MESSAGE, "'order' is no message; send commands and events, one or a sequence"),
    source("send-delay", "a delay that is a text", f"{A}app.send(A(), delay='5')", MESSAGE, "delay: must be within 0 and 3.16224e+09 seconds, not 5"),
    source("send-priority", "a priority of more than 32 bits", f"{A}app.send(A(), priority=2**40)", MESSAGE, "priority: must be a whole number of 32 bits"),
    source("send-key", "a key that is too long", f"{A}app.send(A(), idempotency_key='k' * 256)", MESSAGE, "idempotency_key: must be 1 to 255 characters"),
    source("send-unhandled", "an inline command that nobody handles", "class A(Command, inline=True): ...\napp.send(A())", "NoHandler", "nothing handles A; write a function and decorate it with @app.handles(A)"),
    source("declare-late", "a handler behind the first message", "class A(Command, inline=True): ...\n@app.handles(A)\ndef a(command: A): ...\napp.send(A())\n@app.handles(A)\ndef b(command: A): ...", "TooLate", "handlers must be declared before the first message is sent or handled"),
]  # fmt: skip
