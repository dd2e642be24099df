"""The pages, as a browser and as a program see them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from chappe.testing import Trial, testing
from read_later.app import app
from read_later.application import outbox
from read_later.fetching import Fetcher
from read_later.library import Library, open_engine
from read_later.local_web import fate_of, rehearsed
from read_later.pages import pages

BROWSER = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def trial(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    url = f"sqlite:///{tmp_path / 'pages.db'}"
    monkeypatch.setenv("READ_LATER_DATABASE", url)
    engine = open_engine(url)
    with testing(app) as t:
        t.provide(Library, Library(engine))
        t.provide(Fetcher, Fetcher(seconds=30.0, ask=rehearsed, web=web))
        yield t
    outbox.close()
    engine.dispose()


@pytest.fixture
def client(trial: Trial) -> Iterator[TestClient]:
    with TestClient(pages, follow_redirects=False) as made:
        yield made


def relay() -> None:
    while app.wait_for(outbox.relay()):
        pass


def a_file(*urls: str) -> dict[str, tuple[str, str]]:
    rows = "".join(f"Title of {url},{url},{1_500_000_000 + n},a|b,unread\n" for n, url in enumerate(urls))
    return {"file": ("part_000000.csv", f"title,url,time_added,tags,status\n{rows}")}


def addresses(*fates: str) -> list[str]:
    found = {fate_of(url): url for url in (f"https://paper.example/{n}" for n in range(2000))}
    return [found[fate] for fate in fates]


def test_w1_a_file_of_15000_links_is_answered_before_any_page_is_fetched(client: TestClient, trial: Trial) -> None:
    answer = client.post("/imports", files=a_file(*(f"https://paper.example/{n}" for n in range(15_000))))
    assert (answer.status_code, answer.headers["location"]) == (202, "/imports/1")
    assert answer.json() == {"id": 1, "source": "pocket", "links": 15_000}
    relay()
    assert trial.depth("import.pocket") == (15_000, 0)
    assert client.get("/imports/1/progress").json() == {
        "total": 15_000, "done": 0, "failed": 0, "rate": 0.0, "seconds_left": None, "over": False,
    }  # fmt: skip


def test_w17_a_browser_is_led_to_the_import_where_articles_appear(client: TestClient, trial: Trial) -> None:
    well, gone = addresses("well", "404")
    answer = client.post("/imports", files=a_file(well, gone), headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, "/imports/1")
    waiting = client.get("/imports/1").text
    assert "<b>0</b> of 2 articles" in waiting
    assert "data-running" in waiting
    relay()
    trial.drain(to_the_end=True)
    over = client.get("/imports/1").text
    assert "<b>2</b> of 2 articles" in over
    assert "data-running" not in over
    failed = client.get("/imports/1", params={"state": "failed"}).text
    assert f"Title of {gone}" in failed
    assert "404 Not Found" in failed
    assert f"Title of {well}" not in failed
    assert "2 of 2, 1 without text" in client.get("/").text
    read = client.get("/articles/1").text
    assert f"<h1>Title of {well}</h1>" in read
    assert read.count("<p>") > 1


def test_w19_failed_articles_are_retried_one_or_all(client: TestClient, trial: Trial) -> None:
    client.post("/imports", files=a_file(*addresses("404", "pdf", "leads inside")))
    relay()
    trial.drain(to_the_end=True)
    assert client.post("/articles/1/retry", headers=BROWSER).headers["location"] == "/articles/1"
    assert "being fetched" in client.get("/articles/1").text
    relay()
    assert trial.depth("import.pocket") == (1, 0)
    assert client.post("/imports/1/retry").status_code == 303
    relay()
    assert trial.depth("import.pocket") == (3, 0)
    relay()
    trial.drain(to_the_end=True)
    assert client.get("/imports/1/progress").json()["failed"] == 3


@pytest.mark.parametrize(("content", "sentence"), [(b"", "is empty"), (b"hello", "is no export that is known")])
def test_a_file_that_is_refused_says_why_to_people_and_programs(client: TestClient, content: bytes, sentence: str) -> None:
    answer = client.post("/imports", files={"file": ("x.csv", content)}, headers=BROWSER)
    assert answer.status_code == 422
    assert f'role="alert">This file {sentence}' in answer.text
    problem = client.post("/imports", files={"file": ("x.csv", content)})
    assert problem.headers["content-type"] == "application/problem+json"
    assert sentence in problem.json()["detail"]
    assert client.get("/imports/1").status_code == 404


def test_what_strangers_wrote_is_shown_as_text(client: TestClient) -> None:
    rows = 'title,url,time_added,tags,status\n<script>alert(1)</script>,"https://paper.example/""><b id=x>",1,<i>,unread\n'
    client.post("/imports", files={"file": ("<u>.csv", rows)})
    for path in ("/", "/imports/1", "/articles", "/articles/1", "/articles?tag=<i>"):
        answer = client.get(path)
        assert "<script>alert" not in answer.text
        assert not any(tag in answer.text for tag in ("<i>", "<u>", "<b id=x>"))
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_another_site_cannot_have_a_browser_import_or_retry(client: TestClient) -> None:
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site}
        assert client.post("/imports", files=a_file("https://paper.example/1"), headers=headers).status_code == 403
        assert client.post("/articles/1/retry", headers=headers).status_code == 403
        assert client.post("/imports/1/retry", headers=headers).status_code == 403
    assert client.get("/imports/1").status_code == 404


def test_a_user_sees_nothing_of_another(client: TestClient) -> None:
    client.post("/imports", files=a_file("https://paper.example/1"), headers={"X-User": "ada"})
    for path in ("/imports/1", "/imports/1/progress", "/articles/1"):
        assert client.get(path, headers={"X-User": "ada"}).status_code == 200
        assert client.get(path, headers={"X-User": "bo"}).status_code == 404
    assert "paper.example" not in client.get("/articles", headers={"X-User": "bo"}).text


def test_w15_imports_are_closed_to_users_while_the_backlog_drains_and_opened_again(
    client: TestClient, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chappe.web.intake.LOOK", -1.0)

    async def desire(value: str | None) -> None:
        await (await app.connection()).store.desire("intake", value, "ada@here")

    client.post("/imports", files=a_file(*addresses("well", "404")))
    app.wait_for(desire("paused"))
    answer = client.post("/imports", files=a_file("https://paper.example/new"), headers=BROWSER)
    assert answer.status_code == 503
    assert "Imports are closed for a while" in answer.text
    assert "required disabled" in client.get("/").text
    refused = client.post("/imports", files=a_file("https://paper.example/new"))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
    assert client.get("/imports/2").status_code == 404
    relay()
    trial.drain(to_the_end=True)
    assert client.get("/imports/1/progress").json()["over"] is True
    app.wait_for(desire(None))
    assert client.post("/imports", files=a_file("https://paper.example/new")).status_code == 202


def test_what_is_too_large_or_of_unknown_length_is_refused_before_it_is_read(client: TestClient) -> None:
    def without_end() -> Iterator[bytes]:
        yield b"x"
        raise AssertionError("it was read")

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/imports", content=b"", headers={**headers, "Content-Length": "99999999"}).status_code == 413
    assert client.post("/imports", content=b"", headers={**headers, "Content-Length": "many"}).status_code == 413
    assert client.post("/imports", content=without_end(), headers=headers).status_code == 411
