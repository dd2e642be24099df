"""A process that sends with a peer's own verb: `python -m benchmarks.peers.sender huey_application one_by_one '{"count": 1000}'`.

It runs in the peers' environment and takes its cue as Chappe's sender does. `waiting` and `forget` are for the bench itself.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Callable
from typing import Protocol, cast

from benchmarks import cue


class Application(Protocol):
    """What the bench needs of each peer."""

    def send(self) -> None: ...

    def send_stamped(self, at: float) -> None: ...

    def waiting(self) -> int: ...

    def forget(self) -> None: ...

    def close(self) -> None: ...


def one_by_one(peer: Application, count: int) -> None:
    """Send again as soon as the verb returns."""
    for _ in range(count):
        peer.send()


def threads(peer: Application, count: int, senders: int = 8) -> None:
    """Let eight threads send at once."""
    all_of_them = [threading.Thread(target=one_by_one, args=(peer, count // senders)) for _ in range(senders)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()


def paced(peer: Application, count: int) -> None:
    """Send one every 10 ms."""
    cue.paced(count, peer.send_stamped)


_WAYS: dict[str, Callable[..., None]] = {way.__name__: way for way in (one_by_one, threads, paced)}


def main(application: str, how: str, sizes: dict[str, int]) -> None:
    """Do as told."""
    peer = cast("Application", importlib.import_module(f"benchmarks.peers.{application}"))
    if how == "waiting":
        cue.tell(peer.waiting())
    elif how == "forget":
        peer.forget()
        cue.tell("forgotten")
    else:
        if how == "paced":
            peer.send_stamped(0.0)  # the first one connects
        else:
            peer.send()
        cue.wait()
        watch = cue.Watch()
        _WAYS[how](peer, **sizes)
        watch.tell()
    peer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
