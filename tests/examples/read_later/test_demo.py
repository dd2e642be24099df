"""The demo itself, as `make demo-import` starts it: its last check compares every article with its export and its page."""

from pathlib import Path

import pytest

from read_later.local_web import fate_of
from read_later.stage import Stage
from tests.waiting import PATIENCE

from ...servers.postgres import PostgresNode
from ...servers.rabbitmq import RabbitNode
from ..running import run_demo


@pytest.mark.proof
@pytest.mark.parametrize(
    ("shared", "links", "broker"),
    [("real links", 450, "file"), ("our own sample", 40, "file"), ("our own sample", 40, "postgres"), ("our own sample", 40, "rabbitmq")],
)
def test_w11_w21_the_demo_ends_with_every_article_there_once_and_no_page_refused_on_each_engine(
    tmp_path: Path, shared: str, links: int, broker: str
) -> None:
    if missing := (broker != "file" and PostgresNode.missing()) or (broker == "rabbitmq" and RabbitNode.missing()):
        pytest.skip(missing)
    nowhere = tmp_path / "nowhere" if shared == "our own sample" else None
    printed = run_demo("read_later", "--links", str(links), "--broker", broker, "--folder", str(tmp_path / "demo"), shared=nowhere)
    assert "every article is there exactly once" in printed


def test_w1_w17_an_upload_is_answered_at_once_and_each_article_ends_in_real_processes(tmp_path: Path) -> None:
    found = {fate_of(url): url for url in (f"https://paper.example/{n}" for n in range(2000))}
    urls = [found[fate] for fate in ("well", "slow", "redirects", "wrong charset", "404", "leads inside", "huge", "pdf")]
    export = tmp_path / "ril_export.html"
    export.write_text("<title>Pocket Export</title><h1>Unread</h1>" + "".join(f'<a href="{url}">{url} said so</a>' for url in urls))
    with Stage(tmp_path / "stage", fetch_seconds=30.0) as stage:
        stage.start_web()
        stage.start_pages()
        answer = stage.upload(export)  # before any worker runs
        assert (answer.status_code, answer.json()["links"]) == (202, len(urls))
        assert stage.progress(1)["done"] == 0
        stage.start_chappe()
        stage.wait_for(lambda: stage.progress(1)["over"], "the import to end", PATIENCE)
        assert (stage.progress(1)["done"], stage.progress(1)["failed"]) == (4, 4)
        assert stage.upload(export).status_code == 202
        assert stage.progress(2)["total"] == 0
        assert sum(queue["dead"] for queue in stage.queues().values()) == 0
