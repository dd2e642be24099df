"""The context: what a handler may know about its delivery."""

from chappe import Context
from chappe.bus.context import NO_PORTS, Ports


def test_the_idempotency_key_is_the_same_in_every_attempt() -> None:
    first, second = Context("id", attempt=1), Context("id", attempt=2)
    assert first.idempotency_key() == second.idempotency_key() == "id"
    assert first.idempotency_key("charge") == "id:charge"


async def test_progress_goes_to_the_store_under_the_messages_id() -> None:
    told: list[tuple[str, int, int, str]] = []

    async def progress(message_id: str, done: int, total: int, text: str) -> None:
        told.append((message_id, done, total, text))

    ports = Ports(mark=NO_PORTS.mark, marks=NO_PORTS.marks, progress=progress, take=NO_PORTS.take)
    await Context("id", ports=ports).progress(3, 10, "pages")
    assert told == [("id", 3, 10, "pages")]


async def test_without_a_store_nothing_is_remembered_and_nothing_fails() -> None:
    context = Context("id")
    await context.progress(1, 2)
    assert await context.ports.marks("id") == {}
    assert await context.ports.mark("id", "handler", []) is False
    assert await context.ports.take("budget", 1.0, 1) == 0.0
