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
from typing import Any, Final, overload

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from chappe.app import App
from chappe.errors import BrokerError
from chappe.integrations.outbox import AFTER_REFUSAL, AT_ONCE, Row, decode, encode, parts, prepared, relay
from chappe.messages.message import Message

log = logging.getLogger("chappe.outbox")

PAUSE: Final = 0.2
_AFTER_FAILURE: Final = 1.0


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
        publications, many = prepared(self.app, message, delay=delay, priority=priority, idempotency_key=idempotency_key)
        if publications:
            rows = [{"type": one.envelope.type, "publication": encode(one)} for one in publications]
            session.execute(sa.insert(self.table), rows)
        ids = [one.envelope.id for one in publications]
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
            for part in parts(rows):
                relayed = await relay(self.app, part, self.table.name)
                left += await asyncio.to_thread(self._note, connection, relayed)
            return left
        finally:
            await asyncio.to_thread(connection.close)

    def _take(self, connection: sa.Connection) -> list[Row]:
        """Read the next rows, on a server those that nobody else relays now."""
        due = sa.or_(self.table.c.refused_at.is_(None), self.table.c.refused_at < time.time() - AFTER_REFUSAL)
        query = sa.select(self.table.c.id, self.table.c.publication).where(due).order_by(self.table.c.id).limit(AT_ONCE)
        rows = [(row[0], decode(row[1])) for row in connection.execute(query.with_for_update(skip_locked=True))]
        if not rows or connection.dialect.name == "sqlite":  # there, a transaction that has read could not write any more
            connection.rollback()
        return rows

    def _note(self, connection: sa.Connection, relayed: dict[int, str | None]) -> int:
        gone = [number for number, why in relayed.items() if why is None]
        connection.execute(sa.delete(self.table).where(self.table.c.id.in_(gone)))
        for number in relayed.keys() - gone:
            refused = {"refused_at": time.time(), "error": relayed[number]}
            connection.execute(sa.update(self.table).where(self.table.c.id == number).values(refused))
        connection.commit()
        return len(gone)
