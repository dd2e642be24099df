"""The pages in Chromium: two browsers see the same, one of them is cut off and goes on."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from auctions.stage import Stage

from ...waiting import PATIENCE, until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
CHROMIUM = shutil.which("chromium")
WAIT = PATIENCE * 1000

if CHROMIUM is None:
    pytest.skip("Chromium is not installed: make tools", allow_module_level=True)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as stage:
        stage.start_chappe()
        yield stage


@pytest.fixture
def browsers() -> Iterator[list[Any]]:
    with playwright.sync_playwright() as chromium:
        browser = chromium.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        contexts = [browser.new_context() for _ in range(2)]
        yield contexts
        browser.close()


def test_d12_two_browsers_see_each_price_by_push_and_one_that_was_cut_off_goes_on(stage: Stage, browsers: list[Any]) -> None:
    stage.post("open.auction", {"auction": "7", "item": "Brass telescope", "opening": 500, "seconds": 3600}).raise_for_status()
    stage.post("raise.bid", {"auction": "7", "bidder": "kiwisstuff", "cents": 600}, Prefer="wait=30").raise_for_status()
    faults: list[str] = []
    first, second = (context.new_page() for context in browsers)
    for page in (first, second):
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{stage.gateway_url}/auction.html?id=7")
        page.wait_for_function("document.getElementById('price').textContent === '$6.00'", timeout=WAIT)
    assert first.locator("#item").inner_text() == "Brass telescope"
    asked: list[str] = []
    first.on("request", lambda request: asked.append(request.url))

    second.fill("#bidder", "ada")
    second.fill("#amount", "7.50")
    second.click("#bid")
    second.wait_for_selector(".answer.taken", timeout=WAIT)
    for page in (first, second):
        page.wait_for_function("document.getElementById('price').textContent === '$7.50'", timeout=WAIT)
        assert page.locator("#leader").inner_text() == "ada leads"
        assert page.locator("#history tr").count() == 2

    second.fill("#amount", "7")
    second.click("#bid")
    second.wait_for_selector(".answer.refused", timeout=WAIT)
    assert "the price is $7.50 already" in second.locator("#answer").inner_text()
    assert first.locator("#answer").inner_text() == "", "a refusal is told to its bidder alone"

    browsers[0].set_offline(True)
    first.wait_for_selector(".state.waiting", timeout=WAIT)
    for cents in (800, 900, 1000):
        stage.post("raise.bid", {"auction": "7", "bidder": "bob", "cents": cents}, Prefer="wait=30").raise_for_status()
    second.wait_for_function("document.getElementById('price').textContent === '$10.00'", timeout=WAIT)
    browsers[0].set_offline(False)
    first.wait_for_function("document.getElementById('price').textContent === '$10.00'", timeout=WAIT)
    assert first.locator("#history tr").all_inner_texts() == second.locator("#history tr").all_inner_texts()
    assert first.locator("#history tr").count() == 5, "no bid is missing, and none is there twice"
    assert not [url for url in asked if not re.search(r"/events\?", url)], "nothing is asked for again and again"
    assert faults == []


@pytest.mark.parametrize(
    "role", ["gateway", pytest.param("worker", marks=pytest.mark.proof), pytest.param("engine", marks=pytest.mark.proof)]
)
def test_d17_a_process_that_is_killed_is_not_seen_beyond_a_reconnect(stage: Stage, browsers: list[Any], role: str) -> None:
    auction = {"gateway": "11", "worker": "12", "engine": "13"}[role]
    stage.post("open.auction", {"auction": auction, "item": "Lamp", "opening": 100, "seconds": 3600}).raise_for_status()
    page = browsers[0].new_page()
    page.goto(f"{stage.gateway_url}/auction.html?id={auction}")
    page.wait_for_selector(".state.live", timeout=WAIT)
    for cents in range(200, 1200, 100):
        page.fill("#bidder", "ada")
        page.fill("#amount", str(cents / 100))
        if cents == 500:
            killed = stage.children(role)
            assert killed
            for process in killed:
                process.kill()
        page.click("#bid")
        page.wait_for_function(f"document.getElementById('price').textContent === '${cents / 100:.2f}'", timeout=WAIT)
    assert page.locator("#history tr").count() == 10, "each bid is there once"
    assert stage.http.get(f"{stage.gateway_url}/events?since=0&pattern=auction.{auction}.raised").json()[-1]["body"]["bids"] == 10


_CLIENT = """async ([auction, transport]) => {
    const { follow, send } = await import("/chappe.js");
    window.heard = [];
    window.following = follow(`auction.${auction}.*`, { since: 0, transport, on: (event) => heard.push([event.seq, event.type]) });
    window.send = send;
}"""


def test_m4_the_client_for_browsers_hears_the_same_by_server_sent_events(stage: Stage, browsers: list[Any]) -> None:
    stage.post("open.auction", {"auction": "21", "item": "Desk", "opening": 100, "seconds": 3600}).raise_for_status()
    pages = [browsers[0].new_page() for _ in range(2)]
    for page, transport in zip(pages, ("websocket", "sse"), strict=True):
        page.goto(f"{stage.gateway_url}/style.css")
        page.evaluate(_CLIENT, ["21", transport])
    for cents in (200, 300):
        stage.post("raise.bid", {"auction": "21", "bidder": "ada", "cents": cents}, Prefer="wait=30").raise_for_status()
    heard = []
    for page in pages:
        page.wait_for_function("heard.length === 3", timeout=WAIT)
        heard.append(page.evaluate("heard"))
    assert heard[0] == heard[1]
    assert [kind for _, kind in heard[0]] == ["auction.opened", "bid.raised", "bid.raised"]


def test_m5_a_bid_has_the_same_result_and_the_same_faults_at_every_door(stage: Stage, browsers: list[Any]) -> None:
    stage.post("open.auction", {"auction": "31", "item": "Atlas", "opening": 100, "seconds": 3600}).raise_for_status()
    page = browsers[0].new_page()
    page.goto(f"{stage.gateway_url}/style.css")
    page.evaluate(_CLIENT, ["31", "websocket"])
    bid = {"auction": "31", "bidder": "ada", "cents": 50}  # refused each time: its result is always the same
    by_http = stage.post("raise.bid", bid, Prefer="wait=30").json()
    by_socket = page.evaluate("(bid) => following.send('raise.bid', bid, { wait: 30 })", bid)
    by_script = page.evaluate("(bid) => send('raise.bid', bid, { wait: 30 })", bid)
    identity = stage.chappe("send", "raise.bid", *(f"{name}={value}" for name, value in bid.items())).split()[0]
    by_terminal = until(lambda: _done(stage, identity), "the bid of the terminal to be done")
    by_zeromq = _bid_by_zeromq(stage, bid)["body"]
    results = [one["result"] for one in (by_http, by_socket, by_script, by_terminal, by_zeromq)]
    assert results == [{"outcome": "refused", "reason": "bids begin at $1.00"}] * 5

    wrong = {**bid, "cents": 0}
    faults = [
        stage.post("raise.bid", wrong).json()["errors"],
        page.evaluate("(bid) => following.send('raise.bid', bid)", wrong)["errors"],
        page.evaluate("(bid) => send('raise.bid', bid)", wrong)["errors"],
    ]
    assert faults[0] == faults[1] == faults[2] == _bid_by_zeromq(stage, wrong)["body"]["errors"]
    assert [fault["path"] for fault in faults[0]] == ["$.cents"]


def _bid_by_zeromq(stage: Stage, bid: dict[str, Any]) -> Any:
    command = [sys.executable, "-m", "auctions.bid_by_zeromq", str(stage.folder), *(str(value) for value in bid.values())]
    done = subprocess.run(command, env=stage.environment(), capture_output=True, text=True, check=True, timeout=PATIENCE)
    return json.loads(done.stdout)


def _done(stage: Stage, identity: str) -> dict[str, Any] | None:
    state = stage.http.get(f"{stage.gateway_url}/messages/{identity}").json()
    return state if state["state"] == "done" else None


def test_the_hall_shows_each_auction_with_its_price(stage: Stage, browsers: list[Any]) -> None:
    page = browsers[0].new_page()
    page.goto(stage.gateway_url)
    for auction in ("1", "2"):
        opened = {"auction": auction, "item": f"Lot {auction}", "opening": 100, "seconds": 1.0 if auction == "2" else 3600}
        stage.post("open.auction", opened).raise_for_status()
    stage.post("raise.bid", {"auction": "1", "bidder": "ada", "cents": 5000}, Prefer="wait=30").raise_for_status()
    page.wait_for_selector('.lot.closed[data-auction="2"]', timeout=WAIT)
    until(lambda: page.locator('.lot[data-auction="1"] .price').inner_text() == "$50.00", "the price to be seen")
    until(lambda: "1 closed" in page.locator("#summary").inner_text(), "the summary to say so")
