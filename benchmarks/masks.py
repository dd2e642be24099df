"""Masks: sending to keys that have a pending message already, so that two become one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from benchmarks.scale import Scale
from benchmarks.sending import rate
from benchmarks.stage import Session
from benchmarks.works import AMASK, MASK, MASK_FOUR, MASK_HUNDREDS, Figure


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Each mask adds a night to the pending one of its property, and none is handled meanwhile."""
    for work, how, senders, count in (
        (MASK, "masks", 1, scale.masks),
        (AMASK, "awaited_masks", 1, scale.masks),
        (MASK_FOUR, "masks", scale.maskers, scale.masks),
        (MASK_HUNDREDS, "masks_by_hundreds", 1, scale.masks_by_hundreds),
    ):
        async with session.stage() as stage:
            sent = await stage.send_by(senders, how, count=count // senders, keys=scale.keys)
            waiting = (await stage.depth("mask")).ready
            if waiting != scale.keys:
                raise RuntimeError(f"{waiting} masks are pending, not one for each of {scale.keys} properties")
            yield Figure(work, rate(count, sent))
