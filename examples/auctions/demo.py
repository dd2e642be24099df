"""`make demo-auction`: real bids arrive in your browser as they were made, faster, and are checked against a plain loop."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console

from auctions.bids import Bid, find_bids, replay, winners
from auctions.house import House
from auctions.stage import Stage
from demos import leave_running


async def play(stage: Stage, bids: list[Bid], seconds: float, after: float = 300.0) -> Counter[int]:
    """Open the auctions, make each bid at its time, those of one auction one after the other, and count the answers by status.

    Each auction stays open for some seconds `after` the time of its last bid, which may come late on a busy machine.
    """
    answers: Counter[int] = Counter()
    by_auction: defaultdict[str, list[Bid]] = defaultdict(list)
    for bid in bids:
        by_auction[bid.auction].append(bid)
    async with httpx2.AsyncClient(base_url=stage.gateway_url, timeout=30.0, trust_env=False) as http:

        async def run(auction: str, own: list[Bid]) -> None:
            opened = {"auction": auction, "item": own[0].item, "opening": own[0].opening, "seconds": seconds + after}
            answers[(await http.post("/commands/open.auction", json=opened)).status_code] += 1
            started = time.monotonic()
            for number, bid in enumerate(own):
                await asyncio.sleep(max(0.0, started + bid.part * seconds - time.monotonic()))
                fields = {"auction": bid.auction, "bidder": bid.bidder, "cents": bid.cents}
                key = {"Idempotency-Key": f"{bid.auction}-{number}"}
                answers[(await http.post("/commands/raise.bid", json=fields, headers=key)).status_code] += 1

        async with asyncio.TaskGroup() as group:
            for auction, own in by_auction.items():
                group.create_task(run(auction, own))
    return answers


def differences(stage: Stage, bids: list[Bid]) -> list[str]:
    """Return where the books do not show what a plain loop computes."""
    wanted = winners(bids)
    dead = sum(queue["dead"] for queue in stage.queues().values())
    told = {lot: (body["bidder"], body["cents"], body["bids"]) for lot, body in raised(stage)}
    with House(stage.books) as house:
        found = {lot.id: (lot.leader or "", lot.price or 0, lot.bids) for lot in house.lots()}
    wrong = [f"{dead} dead letters"] if dead else []
    for where, known in (("the books", found), ("what was told", told)):
        wrong += [f"{where}, auction {lot}: {known.get(lot)} where {of} was expected" for lot, of in wanted.items() if known.get(lot) != of]
    return wrong


def raised(stage: Stage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each new price in the order in which everybody heard of it."""
    position = "0"
    while True:
        page = stage.http.get(f"{stage.gateway_url}/events", params={"pattern": "auction.*.raised", "since": position})
        yield from ((event["body"]["auction"], event["body"]) for event in page.json())
        position = page.headers["stream-next-offset"]
        if "stream-up-to-date" in page.headers:
            return


def main() -> None:
    """Run the demo; the exit code is 0 only if every auction ends as it must."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0, help="how long the auctions last")
    options.add_argument("--auctions", type=int, default=24, help="how many, the busiest first; there are 309")
    options.add_argument("--after", type=float, default=10.0, help="how many seconds longer each auction stays open")
    options.add_argument("--wait", type=float, default=5.0, help="seconds before it begins, to open a browser")
    options.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    chosen = options.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    bids = replay(busiest=chosen.auctions)
    with Stage(Path(tempfile.mkdtemp(prefix="chappe-auctions-")).resolve()) as stage:
        console.print("starting chappe run …")
        stage.start_chappe()
        console.print(
            f"\n[bold]open[/] {stage.gateway_url}/ [bold]in two browsers[/]; bids come in {chosen.wait:g} s, for {chosen.seconds:g} s\n"
        )
        time.sleep(chosen.wait)
        answers = asyncio.run(play(stage, bids, chosen.seconds, chosen.after))
        while not stage.idle():
            time.sleep(0.05)
        wrong = differences(stage, bids)
        console.print(f"bids from          {find_bids()}")
        console.print(f"bids made          {len(bids)} in {chosen.auctions} auctions, answers by status: {dict(answers)}")
        console.print(f"bids taken         {sum(taken for _, _, taken in winners(bids).values())}, the others were told why not")
        if wrong:
            console.print(f"[bold red]winners            {len(wrong)} differences[/], the first: {wrong[0]}")
        else:
            console.print("[bold green]winners            every auction has the winner and the price that a plain loop computes[/]")
        console.print("\nlook at next       examples/auctions/README.md · messages.py · bidding.py · pages/auction.js")
        console.print(f"what was logged    {stage.folder}/chappe.log")
        if chosen.keep:
            console.print(f"\n[bold]left running[/] at {stage.gateway_url}/ (Ctrl-C ends it): bid yourself")
            leave_running(console)
    sys.exit(1 if wrong or answers.keys() - {202} else 0)


if __name__ == "__main__":
    main()
