"""What a settlement asks of the store, and what RabbitMQ can do alone."""

from __future__ import annotations

from collections.abc import Sequence

from chappe.engines.contract.broker import Ack, Dead, Retry, Settlement
from chappe.engines.rabbitmq.lane import Item
from chappe.engines.rabbitmq.outbox import Ending
from chappe.engines.rabbitmq.properties import refuse_unencodable
from chappe.errors import Rejected
from chappe.messages.envelope import Publication


def marks_in(tags: Sequence[int]) -> list[int]:
    """Return the marks of messages by the tags under which they were out."""
    return [tag >> 28 for tag in tags]


def delays(settlement: Settlement) -> bool:
    """Tell whether something is due later by it."""
    if isinstance(settlement, Ack):
        return any(p.delay > 0 for p in settlement.then)
    return isinstance(settlement, Retry) and settlement.after > 0


def is_untouched(retry: Retry) -> bool:
    """Tell whether a message goes back as if it had never been lent."""
    return not retry.counted and retry.after <= 0 and retry.note is None and retry.error is None


def is_simple(ack: Ack, item: Item) -> bool:
    """Tell whether a message of the broker itself ends with nothing but messages that the broker itself can keep."""
    return item.lent is None and not item.kept and not ack.marked and not any(is_kept(p) for p in ack.then)


def is_kept(publication: Publication) -> bool:
    """Tell whether the store keeps a publication: what RabbitMQ has no notion of."""
    return publication.options is not None or publication.delay > 0 or publication.priority != 0


def unsayable(settlement: Settlement) -> str:
    """Tell why AMQP cannot carry what a settlement publishes, if it cannot."""
    try:
        refuse_unencodable(settlement.then if isinstance(settlement, Ack) else ())
    except Rejected as error:
        return str(error)
    return ""


def ending_of(settlement: Settlement, item: Item) -> Ending:
    """Say to the store how a message ends; of temporary queues it knows nothing."""
    envelope, queue = item.envelope, item.lane.queue if item.lane.temporary is None else ""
    match settlement:
        case Ack(_, then, result, marked):
            return Ending(
                queue, item.attempt, envelope, item.lent, "ack",
                kept=item.kept, deaths=item.deaths, then=then, result=result, marked=marked,
            )  # fmt: skip
        case Retry(_, after, counted, error, note):
            return Ending(
                queue, item.attempt, envelope, item.lent, "retry",
                kept=item.kept, deaths=item.deaths, after=after, counted=counted, text=error, note=note,
            )  # fmt: skip
        case Dead(_, reason, error):
            return Ending(queue, item.attempt, envelope, item.lent, "dead", kept=item.kept, deaths=item.deaths, reason=reason, text=error)
