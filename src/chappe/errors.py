"""Every error that Chappe raises, in one tree.

::

    ChappeError
    ├── DefinitionError            the program is wrong; raised while it is imported or started
    │   ├── InvalidCapability      a class keyword is unknown or does not fit its fields
    │   ├── DuplicateName          two things claim one name
    │   ├── NoHandler              a message has nobody to handle it
    │   ├── TooLate                the application is already in use
    │   └── InvalidSettings        the configuration cannot be used
    ├── MessageError               the message is wrong; raised when it is built, sent or decoded
    │   ├── InvalidMessage         a field does not fit, with the path of each
    │   └── UnknownMessage         no class has this name
    ├── BrokerError                the road is wrong
    │   ├── BrokerUnavailable      nobody answers within the deadline; nothing was stored
    │   ├── Unconfirmed            the answer was lost: it may be stored or not
    │   ├── Rejected               certainly not stored
    │   │   ├── Unroutable         no queue takes this exchange and routing key
    │   │   ├── StorageFull        no room on the disk; try again later
    │   │   └── KeyReused          an idempotency key came back with another body
    │   ├── TopologyConflict       two declarations of one exchange or queue disagree
    │   └── NotFound               no such queue, message or letter
    ├── StorageError               the file is wrong; nothing was written
    │   ├── UnsafeStorage          this SQLite or this disk can lose data
    │   ├── CorruptStorage         the file is damaged or made by a newer Chappe
    │   └── AlreadyOwned           another engine owns the file
    ├── CommandFailed              what `ask` waited for ended as a dead letter
    ├── ResultTimeout              what `ask` waited for is not done yet; it goes on
    ├── ChildFailed                a supervised process cannot run
    └── ProcessLost                the process of a handler ended before the handler did

    Verdict                        not errors: what a handler says about its own message
    ├── RetryLater                 again after some seconds, counted as an attempt
    ├── Snooze                     again after some seconds, not counted
    │   └── Throttled              again when its budget has room, not counted
    └── Reject                     never again: a dead letter with this reason
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from chappe.bounds import FURTHEST, RESULTS_KEPT


class ChappeError(Exception):
    """The root of the tree; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class DefinitionError(ChappeError):
    """The program is wrong."""

    exit_code = 78


class InvalidCapability(DefinitionError):
    """A class keyword is unknown or does not fit the fields of its message."""


class DuplicateName(DefinitionError):
    """Two messages, handlers or queues claim the same name."""


class NoHandler(DefinitionError):
    """A message has nobody to handle it."""


class TooLate(DefinitionError):
    """The application is frozen since its first use: declare everything before."""


class InvalidSettings(DefinitionError):
    """The configuration cannot be used; the message names the setting and where it came from."""


class MessageError(ChappeError):
    """The message is wrong."""

    exit_code = 2


class InvalidMessage(MessageError):
    """One or several fields do not fit: `faults` maps a JSONPath to what is wrong there."""

    def __init__(self, name: str, faults: Mapping[str, str]) -> None:
        self.name = name
        self.faults = dict(faults)
        listed = "; ".join(f"{path}: {fault}" for path, fault in self.faults.items())
        super().__init__(f"{name} is not valid: {listed}")


class UnknownMessage(MessageError):
    """No message class has this name."""


class BrokerError(ChappeError):
    """The road is wrong."""

    exit_code = 69


class BrokerUnavailable(BrokerError):
    """Nobody answered within the deadline; certainly nothing was stored."""


class Unconfirmed(BrokerError):
    """The answer was lost, so it may be stored or not; with an idempotency key it can be sent again safely."""

    exit_code = 75


class Rejected(BrokerError):
    """The broker refused it; certainly nothing was stored."""

    exit_code = 1


class Unroutable(Rejected):
    """No queue takes this exchange and routing key."""


class StorageFull(Rejected):
    """There is no room on the disk; what is stored is safe, try again later."""

    exit_code = 75


class KeyReused(Rejected):
    """An idempotency key came back with a different body."""


class TopologyConflict(BrokerError):
    """Two declarations of one exchange or queue disagree; the message names both."""

    exit_code = 78


class NotFound(BrokerError):
    """There is no such queue, message or dead letter."""

    exit_code = 1

    @classmethod
    def message(cls, message_id: str) -> NotFound:
        """Return the error for a message that is not tracked."""
        return cls(
            f"message {message_id} is not known: only messages sent over HTTP, asked for, or declared with results=True are "
            f"tracked, and those that ended for {RESULTS_KEPT / 3600:g} hours"
        )

    @classmethod
    def letter(cls, number: int) -> NotFound:
        """Return the error for a dead letter that is not there."""
        return cls(f'no dead letter has the number {number}; "chappe dead list" shows them')


class StorageError(ChappeError):
    """The file is wrong; it was left untouched."""

    exit_code = 78


class UnsafeStorage(StorageError):
    """This SQLite library or this file system can lose data, so it is refused."""


class CorruptStorage(StorageError):
    """The file is damaged, is no Chappe file, or it or the tables of PostgreSQL were made by another Chappe."""


class AlreadyOwned(StorageError):
    """Another engine owns the file."""

    exit_code = 75


class CommandFailed(ChappeError):
    """The command that `ask` waited for ended as a dead letter, or is done with a result that cannot be kept; `reason` says why."""

    def __init__(self, message_id: str, reason: str, state: str = "dead") -> None:
        self.message_id = message_id
        self.reason = reason
        self.state = state
        super().__init__(f"command {message_id} failed: {reason}")


class ResultTimeout(ChappeError):
    """The command that `ask` waited for is not done yet; it goes on, ask again by its id."""

    exit_code = 75


class ChildFailed(ChappeError):
    """A supervised process cannot run; it said why."""

    exit_code = 78


class ProcessLost(ChappeError):
    """The process in which a handler ran, and nothing else, ended before the handler did."""


class Verdict(Exception):
    """What a handler says about its own message; a subclass need not call our constructors."""

    reason: str = ""


def _seconds(after: object, owner: str) -> float:
    if not isinstance(after, int | float):
        raise TypeError(f"{owner} waits for a number of seconds, not {after!r}")
    if not after <= FURTHEST:
        raise ValueError(f"{owner} cannot wait for {after!r} seconds; at most {FURTHEST:g}")
    return float(after)


class RetryLater(Verdict):
    """Handle the message again after `after` seconds; this attempt counts.

    `after=None` leaves the time to the message's own back-off.
    """

    after: float | None = None

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        self.after = None if after is None else _seconds(after, "RetryLater")
        self.reason = str(reason)
        super().__init__(self.reason or "asked for another attempt")


class Snooze(Verdict):
    """Handle the message again after `after` seconds; this attempt does not count."""

    after: float = 1.0
    note: str | None = None

    def __init__(self, after: float, reason: str = "", *, note: str | None = None) -> None:
        if not isinstance(note, str | None):  # pyright: ignore[reportUnnecessaryIsInstance] - not everybody checks types
            raise TypeError(f"the note of Snooze is a text, not {note!r}")
        self.after = _seconds(after, "Snooze")
        self.reason = str(reason)
        self.note = note
        super().__init__(self.reason or f"snoozed for {self.after:g} s")


class Throttled(Snooze):
    """Handle the message again when its budget has room, in `after` seconds perhaps; this attempt does not count."""

    def __init__(self, budget: str, after: float, *, note: str | None = None) -> None:
        self.budget = budget
        super().__init__(min(after, FURTHEST), f"its budget {budget} has no room", note=note)


class Reject(Verdict):
    """Never handle the message again: it becomes a dead letter with this reason."""

    def __init__(self, reason: str) -> None:
        self.reason = str(reason)
        super().__init__(self.reason)
