"""Messages stored in the application's own transaction, and relayed from there, for programs that use SQLAlchemy.

::

    outbox = Outbox(app, lambda: create_engine(url), Table.metadata)

    with Session(engine) as session, session.begin():
        session.add(order)
        outbox.send(session, SendInvoice(order=order.id))
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, overload

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chappe.app import App
from chappe.bus.draft import draft_of, listed
from chappe.errors import BrokerError, DefinitionError, Rejected, StorageFull
from chappe.messages.envelope import Publication, changed
from chappe.messages.message import Message

log = logging.getLogger("chappe.outbox")

R = TypeVar("R")

PAUSE: Final = 0.2
_AT_ONCE: Final = 500
_LARGEST: Final = 1024 * 1024  # bytes of bodies that are published together
_AFTER_FAILURE: Final = 1.0
_AFTER_REFUSAL: Final = 60.0
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Publication).decode


class Outbox:
    """A table in which messages wait for the commit of the application's own transaction, and then for the broker.

    `chappe scheduler`, and so `chappe run`, relays what is committed, in the order of the table, each message once: also after an
    answer that was lost, and where several relay.
    """

    def __init__(
        self, app: App, connect: Callable[[], sa.Engine], metadata: sa.MetaData | None = None, *, name: str = "chappe_outbox"
    ) -> None:
        """Declare the table in `metadata`, whose migrations make it; `connect` gives an engine to whoever relays."""
        self.app = app
        self._connect = connect
        self._engine: sa.Engine | None = None
        self.table = sa.Table(
            name,
            sa.MetaData() if metadata is None else metadata,
            sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
            sa.Column("type", sa.String(255), nullable=False),
            sa.Column("publication", sa.LargeBinary, nullable=False),
            sa.Column("refused_at", sa.Float),
            sa.Column("error", sa.Text),
            sqlite_autoincrement=True,  # an id is never given twice: it is the order
        )
        app.sources.append(self.run)

    # --- the application's side

    @overload
    def send(
        self, session: Session | sa.Connection, message: Message, *, delay: float | None = None, priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> str: ...  # fmt: skip
    @overload
    def send(
        self, session: Session | sa.Connection, message: Sequence[Message], *, delay: float | None = None, priority: int | None = None,
        idempotency_key: None = None,
    ) -> list[str]: ...  # fmt: skip
    def send(
        self, session: Session | sa.Connection, message: Any, *, delay: float | None = None, priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:  # fmt: skip
        """Store a message, or several, in a transaction that is open, and return their ids; they leave when it is committed, or never.

        Raises `InvalidMessage`, and `DefinitionError` for an inline command. Nobody asks the broker meanwhile: it may be away.
        """
        messages, many = listed(message)
        rows = list[dict[str, Any]]()
        ids = list[str]()
        for one in messages:
            if one.__spec__.inline:
                raise DefinitionError(f"{type(one).__name__} is inline, so it cannot wait for a commit; handle it with app.send(…)")
            draft = draft_of(one, delay=delay, priority=priority, idempotency_key=idempotency_key)
            publication = _known_again(self.app.bus.prepare(one, draft))
            rows.append({"type": publication.envelope.type, "publication": _encode(publication)})
            ids.append(publication.envelope.id)
        if rows:
            session.execute(sa.insert(self.table), rows)
        return ids if many else ids[0]

    # --- the relay's side

    async def run(self) -> None:
        """Relay until cancelled; a broker or database that is away delays, it does not end this."""
        trouble = ""
        try:
            while True:
                try:
                    pause = 0.0 if await self.relay() else PAUSE
                    trouble = ""
                except (BrokerError, SQLAlchemyError) as error:
                    said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                    if said != trouble:
                        log.warning("cannot relay from %s (%s); trying again", self.table.name, said)
                    trouble, pause = said, _AFTER_FAILURE
                await asyncio.sleep(pause)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connections of the relay."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    async def relay(self) -> int:
        """Publish what is committed, up to a few hundred, and say how many have left the table."""
        if self._engine is None:
            self._engine = await asyncio.to_thread(self._connect)
        connection = await asyncio.to_thread(self._engine.connect)
        try:
            rows = await asyncio.to_thread(self._take, connection)
            left = 0
            for part in _parts(rows):
                gone, refused = await self._publish(part)
                left += len(gone)
                await asyncio.to_thread(self._note, connection, gone, refused)
            return left
        finally:
            await asyncio.to_thread(connection.close)

    def _take(self, connection: sa.Connection) -> list[tuple[int, Publication]]:
        """Read the next rows, on a server those that nobody else relays now."""
        due = sa.or_(self.table.c.refused_at.is_(None), self.table.c.refused_at < time.time() - _AFTER_REFUSAL)
        query = sa.select(self.table.c.id, self.table.c.publication).where(due).order_by(self.table.c.id).limit(_AT_ONCE)
        rows = [(row[0], _decode(row[1])) for row in connection.execute(query.with_for_update(skip_locked=True))]
        if not rows or connection.dialect.name == "sqlite":  # there, a transaction that has read could not write any more
            connection.rollback()
        return rows

    async def _publish(self, rows: Sequence[tuple[int, Publication]]) -> tuple[list[int], dict[int, str]]:
        """Publish rows together, or one by one where one of them is refused; return those that have left and why others have not."""
        try:
            await self.app.publish_all([_still_delayed(publication) for _, publication in rows])
        except StorageFull:
            raise
        except Rejected as error:
            if len(rows) == 1:
                ((number, publication),) = rows
                log.error("%s %s stays in %s: %s", publication.envelope.type, publication.envelope.id, self.table.name, error)
                return [], {number: str(error)}
            parts = [await self._publish([row]) for row in rows]
            return [number for gone, _ in parts for number in gone], {
                number: why for _, refused in parts for number, why in refused.items()
            }
        return [number for number, _ in rows], {}

    def _note(self, connection: sa.Connection, gone: Sequence[int], refused: dict[int, str]) -> None:
        if gone:
            connection.execute(sa.delete(self.table).where(self.table.c.id.in_(gone)))
        for number, why in refused.items():
            connection.execute(sa.update(self.table).where(self.table.c.id == number).values(refused_at=time.time(), error=why))
        connection.commit()


def _known_again(publication: Publication) -> Publication:
    """Return a publication that the broker knows again by its id, if its sender gave it no key of its own."""
    options = publication.options
    if options is not None and options.idempotency_key is not None:
        return publication
    key = f"outbox:{publication.envelope.id}"
    return msgspec.structs.replace(publication, options=changed(options, idempotency_key=key, fingerprint="outbox"))


def _still_delayed(publication: Publication) -> Publication:
    """Return a publication whose delay counts from when it was sent."""
    if not publication.delay:
        return publication
    left = publication.envelope.timestamp + publication.delay - time.time()
    return msgspec.structs.replace(publication, delay=max(0.0, left))


def _parts(rows: Sequence[tuple[int, Publication]]) -> list[list[tuple[int, Publication]]]:
    """Divide rows into what is published at once: what merges goes alone, for merged with its neighbours it would not be known again."""
    parts = list[list[tuple[int, Publication]]]()
    room = 0
    for row in rows:
        options = row[1].options
        merges = options is not None and options.merges
        size = len(row[1].envelope.body)
        if not parts or merges or size > room:
            parts.append([])
            room = _LARGEST
        parts[-1].append(row)
        room = 0 if merges else room - size
    return parts
