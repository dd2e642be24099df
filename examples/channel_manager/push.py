"""Stage three: each channel has one queue and one handler, which knows its manners and nothing of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from channel_manager.application import Channels, app
from channel_manager.messages import CalendarPushed, ConfirmPush, PushCalendar
from channel_manager.property import PropertyDatabase
from channel_manager.shapes import alpine_request, ical_feed, nimbus_deltas
from chappe import Context, Reject, RetryLater, bind


@app.handles(PushCalendar, queue=bind("push.alpine", "channels:push.alpine.*"))
async def push_alpine(push: PushCalendar, http: httpx2.AsyncClient, channels: Channels) -> AsyncIterator[CalendarPushed]:
    """AlpineBits: the complete set of free rooms as OTA XML."""
    body = alpine_request(push.listing, push.nights)
    headers = {"Content-Type": "application/xml", "X-Requested-At": str(push.requested_at)}
    answer = await http.post(f"{channels.url}/alpine/{push.listing}", content=body, headers=headers)
    check(answer)
    yield CalendarPushed(channel=push.channel, listing=push.listing, nights=len(push.nights))


@app.handles(PushCalendar, queue=bind("push.nimbus", "channels:push.nimbus.*"))
async def push_nimbus(
    push: PushCalendar, http: httpx2.AsyncClient, channels: Channels, properties: PropertyDatabase, context: Context
) -> AsyncIterator[CalendarPushed]:
    """Nimbus: nights as JSON, accepted at once and confirmed later by message id; a closed listing is never sent again."""
    properties.sent(context.id, push.channel, push.listing)
    headers = {
        "Content-Type": "application/json",
        "X-Message-Id": context.id,
        "X-Callback": channels.callback,
        "X-Requested-At": str(push.requested_at),
    }
    answer = await http.post(f"{channels.url}/nimbus/{push.listing}/deltas", content=nimbus_deltas(push.nights), headers=headers)
    if answer.status_code == int(httpx2.codes.CONFLICT):
        refusal = answer.json()
        properties.confirm(context.id, "refused", refusal["code"])
        if not refusal["resend"]:
            raise Reject(f"{refusal['code']}: nimbus closed the listing {push.listing}")
    check(answer)
    yield CalendarPushed(channel=push.channel, listing=push.listing, nights=len(push.nights))


@app.handles(PushCalendar, queue=bind("push.ical", "channels:push.ical.*"))
async def push_ical(push: PushCalendar, http: httpx2.AsyncClient, channels: Channels) -> AsyncIterator[CalendarPushed]:
    """iCal: a feed of the closed periods, published where the channel fetches it."""
    headers = {"Content-Type": "text/calendar", "X-Requested-At": str(push.requested_at)}
    answer = await http.put(f"{channels.url}/ical/{push.listing}.ics", content=ical_feed(push.listing, push.nights), headers=headers)
    check(answer)
    yield CalendarPushed(channel=push.channel, listing=push.listing, nights=len(push.nights))


@app.handles(ConfirmPush)
def confirm(confirmation: ConfirmPush, properties: PropertyDatabase) -> None:
    """Note what a channel made of a push."""
    properties.confirm(confirmation.message_id, confirmation.status, confirmation.code)


def check(answer: httpx2.Response) -> None:
    """Raise what the answer means: wait as long as the channel asks for, try again, or never again."""
    if answer.status_code in (int(httpx2.codes.TOO_MANY_REQUESTS), int(httpx2.codes.SERVICE_UNAVAILABLE)):
        after = answer.headers.get("retry-after", "")
        raise RetryLater(f"the channel answered {answer.status_code}", after=float(after) if after.isdigit() else None)
    if answer.status_code == int(httpx2.codes.BAD_REQUEST):
        raise Reject(f"the channel does not understand us: {answer.text[:500]}")
    answer.raise_for_status()
