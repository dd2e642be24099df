"""The pages of the dashboard as files: what they may do in a browser, how long they are kept, and who gets them."""

import gzip
import shutil
import subprocess
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from chappe import Settings
from chappe.web.gateway import gateway
from chappe.web.pages import BUILT, pages

from .shop import TOKEN, make, of_this_user

Asked = Callable[..., httpx2.AsyncClient]
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    """A gateway over pages that were built; the engine is not there, and is not needed."""
    built = tmp_path / "dashboard"
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text("<!doctype html><title>Chappe</title>")
    (built / "assets/index-abc.js").write_text("export {}")
    (tmp_path / "secret").write_text("not a page")
    monkeypatch.setattr("chappe.web.gateway.pages", lambda: pages(built))
    apps = []

    def client(token: str | None = None, within: str = "", asgi: Callable[[ASGIApp], ASGIApp] = of_this_user) -> httpx2.AsyncClient:
        app = make()
        apps.append(app)
        app.configure(Settings(broker=f"sqlite:///{tmp_path}/chappe.db", deadline=0.2, token=token), role="gateway", may_own_file=False)
        whole = gateway(app)
        whole = Starlette(routes=[Mount(within, whole)]) if within else whole
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=asgi(whole)), base_url=f"http://localhost{within}")

    yield client
    for app in apps:
        await app.aclose()


async def test_a_page_runs_no_code_but_its_own_files_and_is_asked_for_again_each_time(served: Asked) -> None:
    async with served() as client:
        page = await client.get("/dashboard/")
        assert page.status_code == 200
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert page.headers.get_list("cache-control") == ["no-cache"]
        assert page.headers["x-content-type-options"] == "nosniff"


async def test_files_whose_names_change_with_their_content_are_kept_for_ever(served: Asked) -> None:
    async with served() as client:
        script = await client.get("/dashboard/assets/index-abc.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert "immutable" in script.headers["cache-control"]
        missing = await client.get("/dashboard/assets/index-old.js")
        assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store")


@pytest.mark.parametrize(
    "path", ["/dashboard/../secret", "/dashboard/%2e%2e/secret", "/dashboard/assets/..%2f..%2fsecret", "/dashboard//etc/passwd"]
)
async def test_no_address_leads_out_of_the_folder(served: Asked, path: str) -> None:
    async with served() as client:
        answer = await client.get(path)
        assert answer.status_code == 404


@pytest.mark.parametrize("within", ["", "/ops", "/ops/chappe"])
async def test_the_pages_work_below_any_path(served: Asked, within: str) -> None:
    async with served(within=within) as client:
        folder = await client.get("/dashboard")
        assert folder.status_code == 307
        moved = folder.url.join(folder.headers["location"])
        assert moved.path == f"{within}/dashboard/"
        assert (await client.get("/dashboard/")).status_code == 200
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200


@pytest.mark.parametrize("within", ["", "/ops"])
async def test_with_a_token_the_pages_are_served_without_it_and_what_they_show_is_not(served: Asked, within: str) -> None:
    async with served(token=TOKEN, within=within, asgi=lambda asgi: asgi) as client:
        assert (await client.get("/dashboard")).status_code == 307
        assert (await client.get("/dashboard/")).status_code == 200
        for method, path in [("POST", "/dashboard/"), ("GET", "/dashboards"), ("GET", "/api/overview"), ("GET", "/api/changes")]:
            assert (await client.request(method, path)).status_code == 401, path


async def test_without_a_token_another_user_does_not_get_the_pages(served: Asked) -> None:
    async with served(asgi=lambda asgi: asgi) as client:
        assert (await client.get("/dashboard/")).status_code == 403


async def test_a_link_on_another_site_opens_a_page_and_nothing_else(served: Asked) -> None:
    async with served() as client:
        assert (await client.get("/dashboard/", headers=LINK)).status_code == 200
        assert (await client.get("/api/overview", headers=LINK)).status_code == 403
        assert (await client.get("/dashboard/", headers=LINK | {"sec-fetch-dest": "iframe"})).status_code == 403
        assert (
            await client.get("/dashboard/", headers=LINK | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"})
        ).status_code == 403


async def test_a_checkout_without_the_pages_says_how_to_build_them(tmp_path: Path) -> None:
    app = Starlette(routes=pages(tmp_path / "nothing"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client:
        for path in ("/dashboard/", "/dashboard/anything"):
            page = await client.get(path)
            assert page.status_code == 200
            assert "make dashboard" in page.text
            assert "content-security-policy" in page.headers


@pytest.mark.skipif(not (BUILT / "index.html").is_file(), reason="the pages are not built: make dashboard")
def test_the_built_pages_have_no_code_in_them_and_little_beside_them() -> None:
    page = (BUILT / "index.html").read_text()
    assert page.count("<script") == page.count('<script type="module" crossorigin src="./assets/') == 1
    assert "<style" not in page
    assert " style=" not in page
    scripts = list(BUILT.glob("assets/*.js"))
    assert sum(len(gzip.compress(script.read_bytes())) for script in scripts) <= 150_000
    assert not any("eval(" in script.read_text() for script in scripts)


@pytest.mark.proof
def test_the_wheel_and_what_it_is_built_from_carry_the_pages(tmp_path: Path) -> None:
    if not (BUILT / "index.html").is_file() and shutil.which("npm") is None:
        pytest.skip("Node is not here")
    root = Path(__file__).parents[2]
    subprocess.run([root / ".venv/bin/uv", "build", "--quiet", "--out-dir", tmp_path], cwd=root, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "chappe/web/dashboard/index.html" in names
    assert any(name.startswith("chappe/web/dashboard/assets/") and name.endswith(".js") for name in names)
    assert not any("node_modules" in name for name in names)
