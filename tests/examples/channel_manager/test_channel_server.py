"""The three channels answer over real HTTP as real channels do, well or badly as they are told."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import psutil
import pytest

from channel_manager.bookings import FIRST_NIGHT
from channel_manager.property import DAY, Night
from channel_manager.shapes import alpine_request, ical_feed, nimbus_deltas
from processes import Processes

from .conftest import start_channels

pytestmark = pytest.mark.proof


def nights(*free: int) -> list[Night]:
    return [Night(FIRST_NIGHT + n * DAY, units, 9_000) for n, units in enumerate(free)]


def push(http: httpx2.Client, listing: str = "h", *free: int, **headers: str) -> httpx2.Response:
    return http.post(f"/alpine/{listing}", content=alpine_request(listing, nights(*free)), headers=headers)


def tell(http: httpx2.Client, channel: str, **manner: object) -> None:
    http.post(f"/control/{channel}", json=manner).raise_for_status()


def outcomes(http: httpx2.Client) -> list[str]:
    return [entry["outcome"] for entry in http.get("/log").json()["entries"]]


class Callbacks:
    """A sender's callback address that keeps what it was told; it can be out of order at first."""

    def __init__(self) -> None:
        self.heard: queue.Queue[dict[str, Any]] = queue.Queue()
        self.failures = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                failing, outer.failures = outer.failures > 0, max(0, outer.failures - 1)
                self.send_response(500 if failing else 204)
                self.send_header("content-length", "0")
                self.end_headers()
                if not failing:
                    outer.heard.put(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/confirmed"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    found = Callbacks()
    yield found
    found.server.shutdown()
    found.server.server_close()


def deltas(http: httpx2.Client, listing: str, free: int, message_id: str, callback: str) -> httpx2.Response:
    return http.post(
        f"/nimbus/{listing}/deltas", content=nimbus_deltas(nights(free)), headers={"x-message-id": message_id, "x-callback": callback}
    )


def test_alpine_shows_the_message_that_it_answered_with_success(http: httpx2.Client) -> None:
    answer = push(http, "h", 2, 0)
    assert (answer.status_code, b"<Success/>" in answer.content) == (200, True)
    assert http.get("/state").json()["alpine"] == {"h": {"2027-03-01": 2, "2027-03-02": 0}}


def test_alpine_answers_400_with_the_reason_to_what_is_invalid_and_shows_it_not(http: httpx2.Client) -> None:
    bad = alpine_request("h", nights(1)).replace(b"AvailStatusMessages", b"Messages")
    answer = http.post("/alpine/h", content=bad)
    assert (answer.status_code, b"<Errors>" in answer.content) == (400, True)
    assert http.get("/state").json()["alpine"] == {}


def test_alpine_refuses_what_only_the_schema_forbids(http: httpx2.Client, schema: object) -> None:
    bad = alpine_request("h", nights(1)).replace(b'InvTypeCode="unit"', b'InvTypeCode="far too long"')
    assert http.post("/alpine/h", content=bad).status_code == 400


def test_alpine_refuses_another_hotels_message(http: httpx2.Client) -> None:
    assert http.post("/alpine/h", content=alpine_request("other", nights(1))).status_code == 400


def test_without_a_schema_the_structure_is_checked_all_the_same_and_sigterm_ends_the_server_in_order(
    processes: Processes,
) -> None:
    url = start_channels(processes, "without a schema", "none")
    try:
        with httpx2.Client(base_url=url, trust_env=False) as http:
            assert push(http, "h", 1).status_code == 200
            assert http.post("/alpine/h", content=b"<a/>").status_code == 400
    finally:
        code = processes.stop("without a schema")
    assert code == 0


def test_sigterm_does_not_wait_for_a_slow_answer(processes: Processes) -> None:
    url = start_channels(processes, "slow", "none")
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as http, ThreadPoolExecutor(1) as aside:
        tell(http, "ical", manner="slow", seconds=50)
        slow = aside.submit(http.put, "/ical/i.ics", content=ical_feed("i", []))
        assert processes.stop("slow") == 0
        assert isinstance(slow.exception(10), httpx2.TransportError)


def test_nimbus_accepts_at_once_and_confirms_later(http: httpx2.Client, callbacks: Callbacks) -> None:
    answer = deltas(http, "n", 1, "m1", callbacks.url)
    assert (answer.status_code, answer.json()) == (202, {"message_id": "m1"})
    assert callbacks.heard.get(timeout=10) == {"message_id": "m1", "listing": "n", "status": "ok", "code": None}
    assert http.get("/state").json()["nimbus"] == {"n": {"2027-03-01": {"free": 1, "price": "90.00"}}}


def test_nimbus_confirms_a_repeated_message_again_but_applies_it_once(http: httpx2.Client, callbacks: Callbacks) -> None:
    for free, message in ((1, "m1"), (2, "m2"), (1, "m1")):
        assert deltas(http, "n", free, message, callbacks.url).status_code == 202
    assert sorted(callbacks.heard.get(timeout=10)["message_id"] for _ in range(3)) == ["m1", "m1", "m2"]
    assert http.get("/state").json()["nimbus"]["n"]["2027-03-01"]["free"] == 2
    assert outcomes(http) == ["ok", "ok", "repeated"]


def test_nimbus_changes_only_the_nights_that_are_in_the_message(http: httpx2.Client) -> None:
    http.post("/nimbus/n/deltas", content=nimbus_deltas(nights(5, 5)))
    http.post("/nimbus/n/deltas", content=nimbus_deltas(nights(5, 4)[1:]))
    assert [night["free"] for night in http.get("/state").json()["nimbus"]["n"].values()] == [5, 4]


def test_a_confirmation_that_the_sender_did_not_take_is_repeated(http: httpx2.Client, callbacks: Callbacks) -> None:
    callbacks.failures = 2
    deltas(http, "n", 1, "m1", callbacks.url)
    assert callbacks.heard.get(timeout=10)["message_id"] == "m1"


def test_a_closed_listing_is_answered_409_and_must_not_be_sent_again(http: httpx2.Client) -> None:
    answer = http.post("/nimbus/n-closed/deltas", content=nimbus_deltas(nights(1)))
    assert (answer.status_code, answer.json()) == (409, {"code": "E410", "resend": False})
    assert http.get("/state").json()["nimbus"] == {}


def test_a_leaving_listing_is_refused_in_the_confirmation_and_not_applied(http: httpx2.Client, callbacks: Callbacks) -> None:
    assert deltas(http, "n-leaving", 1, "m1", callbacks.url).status_code == 202
    assert callbacks.heard.get(timeout=10) == {"message_id": "m1", "listing": "n-leaving", "status": "refused", "code": "E410"}
    assert http.get("/state").json()["nimbus"] == {}


@pytest.mark.parametrize("callback", ["http://example.com/", "https://127.0.0.1/", "file:///etc/passwd", "http://[", ""])
def test_nimbus_calls_nobody_but_this_machine(http: httpx2.Client, callback: str) -> None:
    assert deltas(http, "n", 1, "m1", callback).status_code == 400


def test_nimbus_answers_400_to_what_is_no_list_of_nights(http: httpx2.Client) -> None:
    assert http.post("/nimbus/n/deltas", json={"free": 1}).json()["resend"] is False


def test_ical_serves_the_feed_that_was_published_and_304_to_whoever_has_it(http: httpx2.Client) -> None:
    feed = ical_feed("i", nights(0, 0, 1))
    published = http.put("/ical/i.ics", content=feed)
    served = http.get("/ical/i.ics")
    assert (published.status_code, served.content, served.headers["etag"]) == (204, feed, published.headers["etag"])
    assert http.get("/ical/i.ics", headers={"if-none-match": served.headers["etag"]}).status_code == 304
    assert http.get("/state").json()["ical"] == {"i": {"2027-03-01": "closed", "2027-03-02": "closed"}}


def test_ical_knows_no_feed_that_was_not_published_and_takes_no_other_bytes(http: httpx2.Client) -> None:
    assert http.get("/ical/i.ics").status_code == 404
    assert http.put("/ical/i.ics", content=b"nonsense").status_code == 400


def test_a_busy_channel_says_when_to_come_again(http: httpx2.Client) -> None:
    tell(http, "alpine", manner="busy", retry_after=1.5)
    answer = push(http)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert http.get("/state").json()["alpine"] == {}


def test_a_broken_channel_answers_500_and_is_well_again_when_it_is_told(http: httpx2.Client) -> None:
    tell(http, "alpine", manner="broken")
    assert push(http).status_code == 500
    tell(http, "alpine", manner="well")
    assert push(http).status_code == 200


def test_a_slow_channel_answers_well_after_its_time_and_holds_no_other_up(http: httpx2.Client) -> None:
    tell(http, "alpine", manner="slow", seconds=0.3)
    with ThreadPoolExecutor(1) as aside:
        begun = time.monotonic()
        slow = aside.submit(push, http, "h", 1)
        assert http.put("/ical/i.ics", content=ical_feed("i", [])).status_code == 204
        assert slow.result().status_code == 200
    assert time.monotonic() - begun >= 0.3


def test_a_dropped_connection_gives_no_answer_and_every_second_push_was_applied(http: httpx2.Client) -> None:
    tell(http, "alpine", manner="drops")
    for listing in ("a", "b"):
        with pytest.raises(httpx2.TransportError):
            push(http, listing, 1)
    assert set(http.get("/state").json()["alpine"]) == {"b"}
    assert outcomes(http) == ["dropped", "ok, answer dropped"]


def test_a_sender_that_dies_in_the_middle_of_a_push_is_noted_and_nothing_is_applied(http: httpx2.Client) -> None:
    with socket.create_connection((http.base_url.host, http.base_url.port or 80)) as sender:
        sender.sendall(b"PUT /ical/i.ics HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nBEGIN:VCALENDAR")
    deadline = time.monotonic() + 10
    while not (seen := outcomes(http)) and time.monotonic() < deadline:
        pass  # each turn asks the server, which needs no pause
    assert seen == ["cut off"]
    assert http.get("/state").json()["ical"] == {}


def test_a_share_is_kept_exactly(http: httpx2.Client) -> None:
    tell(http, "alpine", manner="broken", share=0.25)
    assert [push(http).status_code for _ in range(8)] == [200, 200, 200, 500] * 2


def test_a_manner_of_one_channel_is_not_that_of_another(http: httpx2.Client) -> None:
    tell(http, "nimbus", manner="broken")
    assert push(http).status_code == 200


def test_an_unknown_channel_or_manner_is_refused(http: httpx2.Client) -> None:
    assert http.post("/control/zephyr", json={"manner": "well"}).status_code == 404
    assert http.post("/control/alpine", json={"manner": "odd"}).status_code == 400
    assert http.post("/control/alpine", json={"share": 2}).status_code == 400
    assert http.get("/log", params={"after": "x"}).status_code == 400


def test_the_log_has_when_each_push_was_requested_and_received(http: httpx2.Client) -> None:
    requested = time.time() - 2
    push(http, "h", 1, **{"x-requested-at": str(requested), "x-message-id": "m1"})
    push(http, "h", 1, **{"x-requested-at": "nonsense"})
    first, second = http.get("/log").json()["entries"]
    assert (first["n"], first["channel"], first["listing"], first["message_id"]) == (1, "alpine", "h", "m1")
    assert first["requested_at"] == requested
    assert first["received_at"] - requested >= 2
    assert second["requested_at"] is None
    assert http.get("/log", params={"after": 1}).json()["entries"] == [second]


def test_figures_count_outcomes_and_latency_by_channel(http: httpx2.Client, callbacks: Callbacks) -> None:
    push(http, "h", 1, **{"x-requested-at": str(time.time() - 1)})
    push(http, "h", 1)
    deltas(http, "n", 1, "m1", callbacks.url)
    callbacks.heard.get(timeout=10)
    stats = http.get("/stats").json()
    assert stats["channels"]["alpine"]["outcomes"] == {"ok": 2}
    assert 1 <= stats["channels"]["alpine"]["latency"]["p99"] < 10


def test_a_body_that_is_too_large_is_refused(http: httpx2.Client) -> None:
    assert http.put("/ical/i.ics", content=b"x" * 1_100_000).status_code == 413


def test_a_reset_forgets_everything(http: httpx2.Client) -> None:
    tell(http, "alpine", manner="broken")
    push(http)
    http.post("/reset")
    assert http.get("/log").json() == {"entries": [], "last": 0}
    assert push(http).status_code == 200


def test_a_thousand_pushes_cost_the_server_less_than_a_second_of_one_core(http: httpx2.Client, server: tuple[psutil.Process, str]) -> None:
    # Its CPU time rather than the clock: other work on this machine must not decide.
    bodies = [
        ("POST", "/alpine/h", alpine_request("h", nights(*[1, 2, 2, 0, 0] * 18))),
        ("POST", "/nimbus/n/deltas", nimbus_deltas(nights(*[1] * 60))),
        ("PUT", "/ical/i.ics", ical_feed("i", nights(*[1, 2, 2, 0, 0] * 18))),
    ]
    before = server[0].cpu_times()
    for n in range(999):
        method, path, body = bodies[n % 3]
        assert http.request(method, path, content=body).is_success
    after = server[0].cpu_times()
    assert after.user + after.system - before.user - before.system < 1.0
