"""The dashboard in Chromium, over a real gateway and engine: each page shows, acts, and can be used without a mouse."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from chappe.web.pages import BUILT

from ..servers.postgres import PostgresNode
from ..waiting import PATIENCE, until
from .shop import TOKEN

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[2] / "dashboard/node_modules/axe-core/axe.min.js"
WAIT = PATIENCE * 1000

if CHROMIUM is None:
    pytest.skip("Chromium is not installed: make tools", allow_module_level=True)
if not (BUILT / "index.html").is_file() or not AXE.is_file():
    pytest.skip("the pages are not built: make dashboard", allow_module_level=True)

APPLICATION = """
import asyncio
from chappe import App, Command, Context, Event, Exchange, Retry, cron

from chappe.batches import Batches

app = App("hotel")
batches = Batches(app)

class Bill(Command, queue="bills", retry=Retry(1)):
    email: str
    order: int

class Stay(Command, queue="stays"):
    house: int

class Remind(Command, queue="reminders"):
    guest: str

class Booked(Event, exchange=Exchange("bookings", archive=3600.0), routing_key="booked.{house}"):
    house: int

@app.handles(Bill)
async def bill(command: Bill) -> None:
    if "@" not in command.email:
        raise ValueError("no such address")

@app.handles(Stay)
async def stay(command: Stay) -> None:
    await asyncio.Event().wait()

@app.handles(Remind)
async def remind(command: Remind, context: Context):
    context.send(Booked(house=1))

@app.on(Booked)
async def booked(event: Booked) -> None: ...

app.schedule(cron("0 4 * * 1-5", "Europe/Paris"), Remind(guest="ada"), name="reminders at four")
"""

CONFIG = """
app = "hotel:app"
deadline = 1.0
grace = 0.5

[pools.default]
processes = 1
concurrency = 4
log = "default.log"
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Hotel:
    """`chappe run` over a small application, and a client of its gateway."""

    def __init__(self, folder: Path, node: PostgresNode | None) -> None:
        self.folder, self.port, self.node = folder, free_port(), node
        self.broker = f"sqlite:///{folder}/chappe.db" if node is None else node.url
        (folder / "hotel.py").write_text(APPLICATION)
        (folder / "chappe.toml").write_text(CONFIG)
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(timeout=PATIENCE, trust_env=False, base_url=self.url)
        self.process = self.start("run", CHAPPE_PORT=str(self.port), CHAPPE_BROKER=self.broker, CHAPPE_STATE_DIR=str(folder))
        until(self.is_ready, "the hotel is open")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a `chappe` command in the folder."""
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHAPPE_")}
            command = [sys.executable, "-m", "chappe", *arguments]
            return subprocess.Popen(command, cwd=self.folder, env=inherited | environment, stdout=log, stderr=log)

    @contextmanager
    def engine_ended(self) -> Iterator[None]:
        """Have the engine stand still, and be killed and started again at the end of the block."""
        if self.node is not None:
            with self.node.frozen():
                yield
            self.node.kill()
            self.node.start()
            return
        every = psutil.Process(self.process.pid).children(recursive=True)
        (engine,) = [one for one in every if "chappe engine" in " ".join(one.cmdline())]
        engine.suspend()
        yield
        with suppress(psutil.NoSuchProcess):  # where the block took long its supervisor was first
            engine.kill()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "run.log").read_text()[-2000:]
        try:
            overview = self.overview()
            return any(client["role"] == "worker" for client in overview["clients"])
        except httpx2.HTTPError:
            return False

    def overview(self) -> dict[str, Any]:
        answer = self.http.get("/api/overview")
        answer.raise_for_status()
        return answer.json()

    def send(self, command: str, **fields: Any) -> str:
        answer = self.http.post(f"/commands/{command}", json=fields)
        answer.raise_for_status()
        return answer.json()["id"]

    def queue(self, name: str) -> dict[str, Any]:
        return next(queue for queue in self.overview()["queues"] if queue["name"] == name)

    def dead(self, count: int) -> None:
        """Have so many bills die of the same cause."""
        before = self.queue("bills")["dead"]
        for order in range(count):
            self.send("bill", email="nobody", order=order)
        until(lambda: self.queue("bills")["dead"] == before + count, "the bills are dead")

    def batch(self, *emails: str) -> str:
        """Send bills as one batch."""
        told = f"from hotel import Bill, app, batches; print(batches.send([Bill(email=e, order=1) for e in {list(emails)}])); app.close()"
        environment = os.environ | {"CHAPPE_BROKER": self.broker, "CHAPPE_STATE_DIR": str(self.folder)}
        command = [sys.executable, "-c", told]
        return subprocess.run(command, cwd=self.folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def close(self) -> None:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


@pytest.fixture(scope="module", params=["file", pytest.param("postgres", marks=pytest.mark.proof)])
def hotel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hotel]:
    node = None if request.param == "file" else request.getfixturevalue("postgres_node")
    hotel = Hotel(tmp_path_factory.mktemp("hotel"), node)
    yield hotel
    hotel.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as chromium:
        browser = chromium.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Opened = Any


@pytest.fixture
def opened(hotel: Hotel, browser: Any) -> Iterator[Opened]:
    """Open pages of the dashboard; whatever the browser complains of fails the test."""
    faults: list[str] = []
    contexts: list[Any] = []
    expected: list[str] = []

    def open_page(path: str, *, scheme: str = "dark", width: int = 1280, url: str = hotel.url, awaited: str = ".link.live") -> Any:
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(f"{said.text} {said.location}") if said.type in ("error", "warning") else None)
        page.goto(f"{url}/dashboard/#/{path}")
        page.wait_for_selector(awaited)
        return page

    open_page.expected = expected  # type: ignore[attr-defined]
    yield open_page
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not any(re.search(one, fault) for one in expected)] == []


def violations(page: Any) -> list[str]:
    """Return what axe finds, each with the elements that it is about."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]


def shows(page: Any, selector: str, count: int) -> None:
    """Wait until there are so many elements."""
    playwright.expect(page.locator(selector)).to_have_count(count, timeout=WAIT)


PAGES = [
    "overview",
    "queues",
    "queues/bills",
    "messages",
    "failures",
    "batches",
    "schedules",
    "workers",
    "workers/default",
    "exchanges",
    "audit",
    "settings",
    "nowhere",
]


@pytest.mark.parametrize("scheme", ["dark", pytest.param("light", marks=pytest.mark.proof)])
def test_each_page_is_shown_and_can_be_used_by_everybody(hotel: Hotel, opened: Opened, scheme: str) -> None:
    hotel.dead(1)
    hotel.http.post("/api/queues/reminders", json={"paused": True})
    id = hotel.send("remind", guest="ada")
    number = hotel.http.get("/api/letters").json()["letters"][0]["number"]
    fingerprint = hotel.http.get("/api/failures").json()["groups"][0]["fingerprint"]
    page = opened("overview", scheme=scheme, width=1280 if scheme == "dark" else 390)
    found: list[str] = []
    for path in (*PAGES, f"failures/{fingerprint}", f"letters/{number}", f"message/{id}"):
        page.evaluate("path => { location.hash = `/${path}` }", path)
        page.wait_for_selector("main .panel, main .tiles, main .empty")
        page.wait_for_selector("main .loading", state="detached")
        found += [f"{path}: {one}" for one in violations(page)]
        if page.locator("main .fault").count():
            found.append(f"{path}: {page.locator('main .fault').inner_text()}")
        if page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") > 0:
            found.append(f"{path}: it is wider than the window")
    hotel.http.post("/api/queues/reminders", json={"paused": False})
    assert found == []


def test_a_queue_is_paused_and_goes_on_where_it_stands_and_the_trail_says_who_did_it(hotel: Hotel, opened: Opened) -> None:
    page = opened("queues")
    page.click("button[aria-label='Pause stays']")
    page.wait_for_selector("[role=row]:has(a:text-is('stays')) .badge.paused")
    assert hotel.queue("stays")["paused"] is True
    page.click("button[aria-label='Resume stays']")
    until(lambda: not hotel.queue("stays").get("paused"), "the queue goes on")
    page.evaluate("location.hash = '/audit'")
    page.wait_for_selector("td:text-is('paused queue stays')")
    page.wait_for_selector("td:text-is('resumed queue stays')")


def test_m9_all_failures_of_one_cause_are_retried_with_another_value_of_a_field(hotel: Hotel, opened: Opened) -> None:
    hotel.dead(3)
    opened.expected.append("404")
    page = opened("failures")
    page.click("a:text('no such address')")
    page.fill("[aria-label='Field']", "email")
    page.fill("[aria-label='Value']", "ada@example.org")
    page.click("button:has-text('Edit and retry')")
    page.wait_for_selector(".notices :text('are ready again')")
    until(lambda: hotel.queue("bills")["dead"] == 0, "all are done")
    page.wait_for_selector("main :text('Nothing is dead of this cause any more')")


def test_w19_a_batch_shows_how_far_it_is_and_its_failed_messages_are_retried(hotel: Hotel, opened: Opened) -> None:
    batch = hotel.batch("ada@example.org", "nobody", "nobody", "ada@example.org")
    until(lambda: hotel.http.get(f"/api/batches/{batch}").json()["batch"]["state"] == "over", "it is over")
    page = opened("batches")
    page.click(f"tr:has-text('{batch}') a")
    page.wait_for_selector(".states > div:has-text('failed') .num:text-is('2')")
    shows(page, "[aria-label='Failed, 2'] tbody tr", 2)
    assert violations(page) == []
    page.click("button:text-is('Retry 2')")
    page.wait_for_selector(".notices :text('2 dead letters are ready again')")
    until(lambda: hotel.http.get(f"/api/batches/{batch}").json()["batch"]["dead"] == 2, "they have failed again")
    page.click("button:text-is('Discard all')")
    page.click("dialog button:text-is('Discard 2')")
    page.wait_for_selector(".notices :text('2 dead letters are discarded')")
    shows(page, "[aria-label='Failed, 2'] tbody tr", 0)


def test_a_dead_letter_is_edited_and_retried_and_a_wrong_body_is_refused_before_it_is_sent(hotel: Hotel, opened: Opened) -> None:
    hotel.dead(1)
    dead = hotel.queue("bills")["dead"]
    number = hotel.http.get("/api/letters").json()["letters"][-1]["number"]
    opened.expected.append("api/messages/")  # what is done is nowhere
    page = opened(f"letters/{number}")
    page.fill("textarea", '{"email": "ada@example.org", "order":')
    assert page.locator("button:has-text('Retry')").is_disabled()
    page.fill("textarea", '{"email": "ada@example.org", "order": 7}')
    page.click("button:text-is('Retry with this body')")
    until(lambda: hotel.queue("bills")["dead"] == dead - 1, "it is done")


def test_m12_messages_are_found_by_their_text_and_one_says_why_it_waits_and_is_cancelled(hotel: Hotel, opened: Opened) -> None:
    opened.expected.append("api/messages/")  # what is cancelled is nowhere
    hotel.http.post("/api/queues/reminders", json={"paused": True})
    for guest in range(30):
        hotel.send("remind", guest=f"guest{4000 + guest}")
    page = opened("queues/reminders")
    shows(page, "tbody tr", 25)
    page.click("button:text-is('Next')")
    shows(page, "tbody tr", 5)
    page.fill("[data-search]", "4017")
    shows(page, "tbody tr", 1)
    page.click("tbody a")
    page.wait_for_selector(".why :text('paused')")
    assert '"guest": "guest4017"' in page.locator("pre[aria-label=Body]").inner_text()
    page.click("button:text-is('Cancel message')")
    page.click("dialog button:text-is('Cancel the message')")
    until(lambda: hotel.queue("reminders")["ready"] == 29, "it is cancelled")
    hotel.http.post("/api/queues/reminders", json={"paused": False})
    until(lambda: hotel.queue("reminders")["ready"] + hotel.queue("reminders")["running"] == 0, "the others are done")


def test_m9_of_a_message_that_has_ended_the_page_shows_what_followed_from_it(hotel: Hotel, opened: Opened) -> None:
    opened.expected.append("api/messages/")  # what is done is nowhere
    id = hotel.send("remind", guest="ada")
    until(lambda: "booked" in hotel.http.get(f"/api/lineage/{id}").text, "the event is archived")
    page = opened(f"message/{id}")
    page.wait_for_selector("table.trail :text-is('booked')")


def test_h7_h8_of_an_exchange_the_page_shows_what_is_published_and_delivered(hotel: Hotel, opened: Opened) -> None:
    for _ in range(5):
        hotel.send("remind", guest="ada")
    page = opened("exchanges")
    page.wait_for_selector("section[aria-label='bookings'] header:has-text('/s published')")
    page.wait_for_selector("section[aria-label='bookings'] [role=img][aria-label*='delivered/s']")


def test_r19_a_number_of_processes_is_chosen_and_they_are_seen_to_come_up(hotel: Hotel, opened: Opened) -> None:
    page = opened("workers")
    page.click("button[aria-label='One process more in default']")
    shows(page, ".badge.up", 2)
    page.fill("[aria-label^='Processes of default']", "1")
    page.click("button[aria-label='Set the processes of default']")
    shows(page, ".badge.up", 1)


def test_w7_the_log_of_a_pool_is_followed_and_searched(hotel: Hotel, opened: Opened) -> None:
    page = opened("workers")
    page.click("a[aria-label='Log of default']")
    page.wait_for_selector("[role=log] p:has-text('serves')")
    with (hotel.folder / "default.log").open("a") as log:
        log.write("said \u202ebackwards\n")
    page.wait_for_selector("[role=log] p:has-text('u202ebackwards')")
    page.fill("[data-search]", "backwards")
    shows(page, "[role=log] p", 1)
    assert violations(page) == []


def test_of_a_message_that_runs_the_page_shows_what_it_does_now(hotel: Hotel, opened: Opened) -> None:
    id = hotel.send("stay", house=3)
    until(lambda: hotel.queue("stays")["running"], "it runs")
    page = opened(f"message/{id}")
    page.click("button:text-is('Show its stack')")
    page.wait_for_selector(".frame:has-text('hotel.py'):has-text('stay') code:text-is('await asyncio.Event().wait()')")
    assert violations(page) == []
    (worker,) = [one for one in hotel.overview()["clients"] if one["role"] == "worker"]
    page.evaluate("pid => { location.hash = `/process/${pid}` }", worker["info"]["pid"])
    page.wait_for_selector(f"section:has(a:text-is('{id}')) .frame:has-text('hotel.py')")
    assert violations(page) == []
    hotel.http.post(f"/api/messages/{id}/cancel")
    until(lambda: not hotel.queue("stays")["running"], "it is cancelled")


def test_a_schedule_is_told_in_words_paused_and_fired_now(hotel: Hotel, opened: Opened) -> None:
    hotel.http.post("/api/queues/reminders", json={"paused": True})
    page = opened("schedules")
    page.wait_for_selector("text=At 04:00, Monday through Friday (Europe/Paris)")
    page.click("button[aria-label*='Pause']")
    page.wait_for_selector("td .badge.paused")
    page.click("button[aria-label*='Resume']")
    page.wait_for_selector("td .badge.paused", state="detached")
    page.click("button[aria-label^='Fire']")
    page.click("dialog button:text-is('Fire now')")
    page.wait_for_selector(".notices :text('remind is sent')")
    until(lambda: hotel.queue("reminders")["ready"] == 1, "it was sent")
    hotel.http.post("/api/queues/reminders", json={"paused": False})


def test_the_page_says_that_it_is_cut_off_and_goes_on_when_the_engine_is_there_again(hotel: Hotel, opened: Opened) -> None:
    opened.expected.append("503|ERR_")
    page = opened("queues")
    height = page.evaluate("document.querySelector('main').offsetTop")
    with hotel.engine_ended():
        page.wait_for_selector(".link.lost")
    assert page.evaluate("document.querySelector('main').offsetTop") == height
    until(hotel.is_ready, "the engine is there again")
    page.wait_for_selector(".link.live")
    page.click("button[aria-label='Pause stays']")
    page.wait_for_selector(".badge.paused")
    page.click("button[aria-label='Resume stays']")
    page.wait_for_selector(".badge.paused", state="detached")


def test_keys_lead_everywhere(opened: Opened) -> None:
    page = opened("overview")
    page.keyboard.press("g")
    page.keyboard.press("q")
    page.wait_for_selector("h1:text-is('Queues')")
    page.keyboard.press("/")
    page.keyboard.type("bil")
    shows(page, "[aria-rowindex]", 1)
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Queues /')")
    page.keyboard.press("?")
    page.wait_for_selector("dialog :text('Next and previous row')")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")


def test_of_a_thousand_queues_only_those_in_sight_are_drawn(hotel: Hotel, opened: Opened) -> None:
    opened.expected.append("ERR_FAILED")
    page = opened("settings")
    seen = hotel.overview()
    one = seen["queues"][0]
    seen["queues"] = [{**one, "name": f"push.{number:04}"} for number in range(1000)]
    page.route("**/api/changes", lambda route: route.abort())
    page.route("**/api/overview", lambda route: route.fulfill(json=seen))
    page.goto("about:blank")
    page.goto(f"{hotel.url}/dashboard/#/queues")
    page.wait_for_selector("text=1,000 queues")
    drawn = "document.querySelectorAll('[aria-rowindex]').length"
    assert 10 < page.evaluate(drawn) < 60
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_selector("a:text-is('push.0999')")
    assert 10 < page.evaluate(drawn) < 60


def test_with_a_token_below_another_path_the_page_asks_for_it_once(hotel: Hotel, opened: Opened) -> None:
    (hotel.folder / "mounted.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.routing import Mount\n"
        "from chappe import Settings\n"
        "from chappe.web.gateway import gateway\n"
        "from hotel import app\n"
        f"settings = Settings(broker='{hotel.broker}', token='{TOKEN}')\n"
        "app.configure(settings, role='gateway', may_own_file=False)\n"
        "mounted = Starlette(routes=[Mount('/ops/chappe', gateway(app))])\n"
    )
    port = free_port()
    with (hotel.folder / "mounted.log").open("ab") as log:
        command = [sys.executable, "-m", "uvicorn", "mounted:mounted", "--port", str(port)]
        other = subprocess.Popen(command, cwd=hotel.folder, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/ops/chappe"
        until(lambda: _answers(f"{url}/livez"), "the other gateway listens")
        opened.expected.append("401")
        page = opened("queues", url=url, awaited="#token")
        assert violations(page) == []
        page.fill("#token", "not the token at all")
        page.click("button:text-is('Continue')")
        page.wait_for_selector("[role=alert]:text('This was not the token')")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector(".link.live")
        page.reload()
        page.wait_for_selector("[role=row] a:text-is('bills')")
        page.close()
    finally:
        other.kill()
        other.wait(PATIENCE)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False
