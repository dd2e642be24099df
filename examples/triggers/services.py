"""How an item is handed to a service, so that the same item sent again does nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx2

from chappe.triggers.limits import told
from triggers.models import Account, Item

UNTOLD = 900.0  # seconds for which an account is left alone whose service does not say for how long


class Refused(Exception):
    """A service does not want this item; the text is for the trigger's owner."""


class Closed(Refused):
    """An account was called too often, and may be called again at `until`, in seconds since the epoch."""

    def __init__(self, text: str, until: float) -> None:
        self.until = until
        super().__init__(text)


async def hand_over(http: httpx2.AsyncClient, account: Account, item: Item, now: float) -> None:
    """Call the service of an account; raises `Closed`, `Refused`."""
    try:
        answer = await _SERVICES[Account.Service(account.service)](http, account, item)
    except httpx2.HTTPError as error:
        raise Refused(f"{account.service} cannot be reached: {error or type(error).__name__}") from error
    if answer.status_code == 429 or "limit" in answer.headers.get("x-error", "").lower():
        wait = told(429, answer.headers, now).wait or UNTOLD
        raise Closed(f"{account.service}: {answer.headers.get('x-error', 'called too often')}", now + wait)
    if answer.status_code >= 400:
        raise Refused(f"{account.service} answered {answer.status_code}: {answer.text[:200]}")


async def _pocket(http: httpx2.AsyncClient, account: Account, item: Item) -> httpx2.Response:
    """A link that is there already is not there twice."""
    body = {"url": item.link, "title": item.title, "access_token": account.token, "consumer_key": "triggers"}
    return await http.post(f"{account.address}/v3/add", json=body)


async def _trello(http: httpx2.AsyncClient, account: Account, item: Item) -> httpx2.Response:
    """Trello knows no second call by a key: where one was begun and not finished, it is asked whether the card is there."""
    asked = {"key": "triggers", "token": account.token}
    mark = f"{item.link}\n\ntriggers:{item.pk}"
    if item.begun_at is not None:
        found = await http.get(f"{account.address}/1/lists/inbox/cards", params=asked)
        if found.status_code == 200 and any(card["desc"] == mark for card in found.json()):
            return found
    return await http.post(f"{account.address}/1/cards", params={**asked, "idList": "inbox", "name": item.title, "desc": mark})


async def _mastodon(http: httpx2.AsyncClient, account: Account, item: Item) -> httpx2.Response:
    headers = {"authorization": f"Bearer {account.token}", "idempotency-key": f"triggers-{item.pk}"}
    return await http.post(f"{account.address}/api/v1/statuses", json={"status": f"{item.title} {item.link}"[:500]}, headers=headers)


async def _webhook(http: httpx2.AsyncClient, account: Account, item: Item) -> httpx2.Response:
    headers = {"authorization": f"Bearer {account.token}", "webhook-id": f"triggers-{item.pk}"}  # standardwebhooks.com
    return await http.post(account.address, json={"title": item.title, "link": item.link}, headers=headers)


_SERVICES: dict[Account.Service, Callable[[httpx2.AsyncClient, Account, Item], Awaitable[httpx2.Response]]] = {
    Account.Service.POCKET: _pocket,
    Account.Service.TRELLO: _trello,
    Account.Service.MASTODON: _mastodon,
    Account.Service.WEBHOOK: _webhook,
}
