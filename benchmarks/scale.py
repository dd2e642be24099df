"""How much of everything is measured: in full, quickly, or just enough to see that the bench works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Scale:
    """The sizes of all works; a peer that is slow drains less, so that its share of the time stays like the others'."""

    drained: int = 100_000
    drained_slowly: int = 20_000
    held: int = 200_000
    held_slowly: int = 50_000
    sent: int = 5_000
    sent_by_hundreds: int = 60_000
    senders: int = 8
    syncs: int = 1_000
    stamped: int = 500
    shallow: int = 1_000
    deep: int = 3_000_000
    deep_far: int = 1_000_000
    rounds: int = 3
    blocks: int = 10
    block: int = 200
    posting: float = 5.0
    settling: float = 2.0
    idling: float = 10.0
    idlers: int = 10
    handlers: int = 61
    handlers_short: int = 3_000
    listeners: int = 2_000
    pushed: int = 100
    pause: float = 0.8
    keys: int = 1_000
    masks: int = 20_000
    maskers: int = 4
    masks_by_hundreds: int = 20_000
    kills: int = 15
    supervised: int = 70
    jobs: int = 10_000
    many: int = 400
    crashing: int = 60


SCALES: Final = {
    "full": Scale(),
    "quick": Scale(
        drained=40_000, drained_slowly=8_000, sent=2_000, sent_by_hundreds=20_000, stamped=150, deep=200_000, deep_far=200_000,
        rounds=1, blocks=5, posting=2.0, settling=1.0, idling=3.0, handlers_short=1_000,
        listeners=500, pushed=30, held_slowly=10_000, masks=2_000, masks_by_hundreds=10_000,
    ),
    "tiny": Scale(
        drained=2_000, drained_slowly=500, sent=80, sent_by_hundreds=400, senders=2, syncs=20, stamped=20, shallow=200, deep=4_000,
        deep_far=4_000, rounds=1, blocks=1, block=20, posting=0.2, settling=0.1, idling=0.2, idlers=2, handlers=4, pause=0.05, keys=20,
        masks=40, masks_by_hundreds=200, handlers_short=20, listeners=20, pushed=3,
        held=2_000, held_slowly=500, kills=1, supervised=2, jobs=100, many=3, crashing=2,
    ),
}  # fmt: skip
