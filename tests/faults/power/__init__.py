"""Power cuts: a disk that drops, tears and reorders what was not synced, under the real engine."""
