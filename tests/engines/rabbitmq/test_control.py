"""What sessions ask each other fits into what the store carries."""

from __future__ import annotations

import msgspec

from chappe.engines.rabbitmq.control import Held, Part, Question, pieces

LARGEST = 8000  # bytes: PostgreSQL refuses a notification that has as many


def test_many_queues_are_asked_for_in_pieces_which_fit_with_their_answers() -> None:
    queues = ["é\n" * (number % 60) + f".{number}" for number in range(2000)]
    found = list(pieces(queues))
    assert [queue for piece in found for queue in piece] == queues
    for piece in found:
        assert len(msgspec.json.encode(Question("0" * 32, 10**9, tuple(piece)))) < LARGEST
        assert len(msgspec.json.encode(Held("0" * 32, 10**9, dict.fromkeys(piece, Part(10_000, 10_000)), 10**6))) < LARGEST


def test_nothing_is_one_question_too() -> None:
    assert list(pieces([])) == [[]]
