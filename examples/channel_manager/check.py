"""Are the channels right? Compares what they show with what the property database says they must.

`python -m channel_manager.check property.db http://127.0.0.1:PORT` prints the differences; exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx2
from msgspec import Struct

from channel_manager.property import Night, PropertyDatabase
from channel_manager.shapes import price

Calendar = Mapping[str, Any]
State = Mapping[str, Mapping[str, Calendar]]


class Difference(Struct, frozen=True):
    """One date (or "*": the whole listing) on which a channel shows something else than it must; None is nothing."""

    channel: str
    listing: str
    date: str
    expected: Any
    shown: Any


def alpine_terms(nights: Sequence[Night]) -> Calendar:
    """The units left, by date."""
    return {night.date.isoformat(): night.free for night in nights}


def nimbus_terms(nights: Sequence[Night]) -> Calendar:
    """The units left and the price, by date."""
    return {night.date.isoformat(): {"free": night.free, "price": price(night.cents)} for night in nights}


def ical_terms(nights: Sequence[Night]) -> Calendar:
    """The dates with nothing left, and no others."""
    return {night.date.isoformat(): "closed" for night in nights if night.free == 0}


TERMS: Final[Mapping[str, Callable[[Sequence[Night]], Calendar]]] = {"alpine": alpine_terms, "nimbus": nimbus_terms, "ical": ical_terms}


def differences(
    database: PropertyDatabase, state: State, terms: Mapping[str, Callable[[Sequence[Night]], Calendar]] = TERMS
) -> list[Difference]:
    """List what the channels show wrongly, in their own terms; an empty list means that all is right.

    Closed listings may show anything; listings that no property has must not be there.
    """
    found, known = list[Difference](), set[tuple[str, str]]()
    for listing in database.every_listing():
        known.add((listing.channel, listing.listing))
        if listing.status == "closed":
            continue
        must = terms[listing.channel](database.expected(listing))
        shows = state.get(listing.channel, {}).get(listing.listing)
        if shows is None:
            found.append(Difference(listing.channel, listing.listing, "*", f"{len(must)} dates", None))
            continue
        found.extend(
            Difference(listing.channel, listing.listing, date, must.get(date), shows.get(date))
            for date in sorted(must.keys() | shows.keys())
            if must.get(date) != shows.get(date)
        )
    found.extend(
        Difference(channel, listing, "*", None, f"{len(shows)} dates")
        for channel, listings in state.items()
        for listing, shows in listings.items()
        if (channel, listing) not in known
    )
    return found


def fetch_state(server: str) -> State:
    """Ask a channel server, such as "http://127.0.0.1:8000", for every calendar."""
    with httpx2.Client(trust_env=False, timeout=30.0) as http:
        return http.get(f"{server}/state").raise_for_status().json()


def main() -> None:
    """Print the differences, one JSON object a line."""
    options = argparse.ArgumentParser(description="Compare a channel server with the property database.")
    options.add_argument("database")
    options.add_argument("server")
    chosen = options.parse_args()
    with PropertyDatabase(chosen.database) as database:
        found = differences(database, fetch_state(chosen.server))
    for one in found:
        print(json.dumps({"channel": one.channel, "listing": one.listing, "date": one.date, "expected": one.expected, "shown": one.shown}))
    print(f"{len(found)} differences", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
