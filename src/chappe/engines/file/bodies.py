"""Large bodies, each in a file beside the database: the message that is stored says which, and the file goes with the message.

A file is durable before its message is, and is removed after the last message that names it: so none is missing, whatever dies when.
What nobody names is removed too, after the time that a publication may take.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec
from msgspec.structs import replace

from chappe.clocks import wall
from chappe.engines.file.database import Database
from chappe.engines.file.private_files import sync
from chappe.engines.file.seal import DAMAGED, unseal
from chappe.errors import CorruptStorage, StorageFull
from chappe.messages.envelope import Envelope, Publication, Receipt

LARGE: Final = 1024 * 1024
HEADER: Final = "chappe-body"
_NAMED: Final = re.compile(r"([0-9a-f]{32}) (\d{1,12}) (\d{1,10})", re.ASCII)
_UNDER_WAY: Final = 3600.0  # seconds
_REFERRING: Final = (
    "select envelope from ready indexed by ready_bodies where flags & 256",
    "select envelope from delayed indexed by delayed_bodies where flags & 256",
    "select envelope from dead indexed by dead_bodies where flags & 256",
    "select envelope from archive indexed by archive_bodies where has_file",
)
_read: Final = msgspec.msgpack.Decoder(Envelope).decode


def folder_of(path: Path) -> Path:
    """Return the folder of the bodies of a database."""
    return Path(f"{path.resolve()}.bodies")


def file_of(envelope: Envelope) -> str | None:
    """Return the name of the file that has the body of a message, or nothing if it has its body itself."""
    named = None if envelope.body or not envelope.headers else _NAMED.fullmatch(envelope.headers.get(HEADER, ""))
    return None if named is None else named[1]


class Bodies:
    """The bodies beside one database, for those that publish and receive."""

    def __init__(self, path: Path, largest: int) -> None:
        """Have bodies of more than `largest` bytes be in files."""
        self._folder = folder_of(path)
        self._largest = largest

    def put(self, publications: Sequence[Publication]) -> Sequence[Publication]:
        """Return publications whose large bodies are in files, durably; raises `StorageFull`."""
        if not self._has_large(publications):
            return publications
        return [p if len(p.envelope.body) <= self._largest else replace(p, envelope=self._put(p.envelope)) for p in publications]

    async def aput(self, publications: Sequence[Publication]) -> Sequence[Publication]:
        """See `put`; the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.put, publications) if self._has_large(publications) else publications

    def _has_large(self, publications: Sequence[Publication]) -> bool:
        largest = self._largest
        return any([len(p.envelope.body) > largest for p in publications])  # noqa: C419 - a generator costs more than there is to see

    def _put(self, envelope: Envelope) -> Envelope:
        name = os.urandom(16).hex()
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(envelope.body)
                file.flush()
                os.fsync(file.fileno())
            for folder in (self._folder, self._folder.parent):
                sync(folder)
        except OSError as error:
            (self._folder / name).unlink(missing_ok=True)
            raise StorageFull(f"{self._folder}: a large body cannot be stored ({error.strerror}); nothing was stored") from None
        told = f"{name} {len(envelope.body)} {crc32(envelope.body)}"
        return replace(envelope, body=b"", headers={**envelope.headers, HEADER: told})

    def whole(self, envelope: Envelope) -> Envelope:
        """Return a message with its body; one whose file is not what was written is of the type `chappe.damaged`."""
        name = file_of(envelope)
        if name is None:
            return envelope
        told = envelope.headers[HEADER].split()
        try:
            body = (self._folder / name).read_bytes()
            problem = "" if [str(len(body)), str(crc32(body))] == told[1:] else "is not what was written"
        except OSError as error:
            body, problem = b"", f"cannot be read: {error.strerror}"
        if problem:
            said = f"its body, {self._folder / name}, {problem}".encode()
            return replace(envelope, type=DAMAGED, body=said, content_type="application/octet-stream")
        return replace(envelope, body=body, headers={key: value for key, value in envelope.headers.items() if key != HEADER})

    async def awhole(self, holders: list[Any]) -> list[Any]:
        """Return deliveries or records with the bodies of their envelopes; the event loop goes on meanwhile."""
        if not any([HEADER in one.envelope.headers for one in holders]):  # noqa: C419 - a generator costs more than there is to see
            return holders
        return await asyncio.to_thread(lambda: [replace(one, envelope=self.whole(one.envelope)) for one in holders])

    def shown(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        """Return receipts that show what is pending with its body."""
        return [r if r.pending is None else replace(r, pending=self.whole(r.pending)) for r in receipts]


class Leftovers:
    """Removes the files of messages that are gone."""

    def __init__(self, path: Path, db: Database) -> None:
        self._folder = folder_of(path)
        self._db = db
        self._known = set[str]()  # that a message named

    def remove(self, stored: set[str]) -> None:
        """Remove the files that no stored message names any more, after a commit in which these were stored."""
        self._known |= stored
        try:
            files = {entry.name: entry.stat().st_mtime for entry in os.scandir(self._folder)}
        except OSError:
            return  # there is none
        named = {name for sql in _REFERRING for (stored,) in self._db.execute(sql) if (name := _named(stored)) is not None}
        for name, written in files.items():
            if name not in named and (name in self._known or wall() - written > _UNDER_WAY):
                (self._folder / name).unlink(missing_ok=True)
        self._known = named


def _named(stored: bytes) -> str | None:
    try:
        return file_of(_read(unseal(stored)))
    except CorruptStorage:
        return None
