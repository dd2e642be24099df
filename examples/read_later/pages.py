"""The pages: upload, progress, articles, and those that failed; `uvicorn read_later.pages:pages` serves them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from chappe.integrations.fastapi import IntakeIsOpen, install
from read_later.app import app
from read_later.application import database, outbox
from read_later.exports import LARGEST, Refused, read_export
from read_later.library import Library, open_engine

_HERE: Final = Path(__file__).parent
_PAGE: Final = 50
_FORM: Final = 64 * 1024  # what a form has around its file
CLOSED: Final = "Imports are closed for a while, so that those which are here can end. Come back later."
_STATES: Final = ("waiting", "done", "failed")


def host_of(url: str) -> str:
    """Return the host of an address as people say it."""
    return (urlsplit(url).hostname or "").removeprefix("www.")


templates: Final = Jinja2Templates(_HERE / "templates")
_ENVIRONMENT: Final[dict[str, Any]] = templates.env.globals
_ENVIRONMENT["host"] = host_of
_ENVIRONMENT["sources"] = ("Pocket", "Instapaper", "Readability", "Pinboard", "Firefox", "Chrome", "Shaarli", "wallabag")


@asynccontextmanager
async def lifespan(pages: FastAPI) -> AsyncGenerator[None]:
    """Open the database while the pages are served."""
    engine = open_engine(database())
    pages.state.library = Library(engine)
    yield
    engine.dispose()


pages: Final = FastAPI(title="read later", lifespan=lifespan, openapi_url=None)
install(pages, app)
pages.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")


def the_library(request: Request) -> Library:
    """Return the database."""
    return request.app.state.library


def the_user(x_user: Annotated[str, Header(max_length=100)] = "reader") -> str:
    """Return who asks: a proxy that knows its users says so."""
    return x_user


def from_our_pages(sec_fetch_site: Annotated[str, Header()] = "none") -> None:
    """Refuse what another site has a browser do here; programs say nothing about sites."""
    if sec_fetch_site not in ("same-origin", "none"):
        raise HTTPException(403, "This was asked for by another site.")


Books = Annotated[Library, Depends(the_library)]
User = Annotated[str, Depends(the_user)]
OURS: Final = [Depends(from_our_pages)]


@pages.middleware("http")
async def guarded(request: Request, call_next: Any) -> Response:
    """Refuse what is too large before it is read, and let pages load and send nothing but our own: strangers wrote what they show."""
    length = request.headers.get("content-length", "")
    if request.method == "POST" and not (length.isascii() and length.isdigit() and int(length) <= LARGEST + _FORM):
        return PlainTextResponse("Send a file of a known length, and of at most 50 MB.", 413 if length else 411)
    answer: Response = await call_next(request)
    answer.headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'"
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer


def page(request: Request, name: str, status: int = 200, **context: Any) -> Response:
    return templates.TemplateResponse(request, name, context, status)


@pages.get("/")
def home(request: Request, library: Books, user: User, is_open: IntakeIsOpen) -> Response:
    """Show the form, and the imports so far."""
    return _home(request, library, user, "" if is_open else CLOSED, is_open=is_open)


def _home(request: Request, library: Library, user: str, refused: str, status: int = 200, *, is_open: bool = True) -> Response:
    imports = [(one, library.progress(one.id)) for one in library.imports(user)]
    running = any(not p.is_over for _, p in imports)
    return page(request, "home.html", status, imports=imports, refused=refused, running=running, is_open=is_open)


@pages.post("/imports", dependencies=OURS)
def upload(request: Request, library: Books, user: User, is_open: IntakeIsOpen, file: UploadFile) -> Response:
    """Take an export; its articles are fetched after the answer."""
    wants_page = "text/html" in request.headers.get("accept", "")
    try:
        if not is_open:
            raise Refused(CLOSED)
        export = read_export(file.file.read(LARGEST + 1))
    except Refused as refused:
        status = 422 if is_open else 503
        if wants_page:
            return _home(request, library, user, str(refused), status, is_open=is_open)
        body = {"title": "The file cannot be imported", "status": status, "detail": str(refused)}
        return JSONResponse(body, status, None if is_open else {"Retry-After": "60"}, media_type=_PROBLEM)
    number = library.begin(user, file.filename or "export", export, outbox.send)
    if wants_page:
        return RedirectResponse(f"/imports/{number}", 303)
    return JSONResponse({"id": number, "source": export.source, "links": len(export.links)}, 202, {"Location": f"/imports/{number}"})


_PROBLEM: Final = "application/problem+json"


@pages.get("/imports/{number}")
def one_import(request: Request, library: Books, user: User, number: int, state: str = "", at: int = 1) -> Response:
    """Show how far an import is, and its articles."""
    found = library.one_import(user, number)
    if found is None:
        raise HTTPException(404, "There is no such import.")
    articles, count = library.articles(user, import_id=number, state=state if state in _STATES else None, page=max(1, at), size=_PAGE)
    progress = library.progress(number)
    return page(
        request, "import.html", one=found, progress=progress, articles=articles, count=count, state=state, at=max(1, at),
        last=-(-count // _PAGE), running=not progress.is_over,
    )  # fmt: skip


@pages.get("/imports/{number}/progress")
def progress(library: Books, user: User, number: int) -> dict[str, Any]:
    """Say how far an import is, for programs."""
    if library.one_import(user, number) is None:
        raise HTTPException(404, "There is no such import.")
    found = library.progress(number)
    return {
        "total": found.total, "done": found.done, "failed": found.failed,
        "rate": found.rate, "seconds_left": found.left, "over": found.is_over,
    }  # fmt: skip


@pages.post("/imports/{number}/retry", dependencies=OURS)
def retry_import(library: Books, user: User, number: int) -> Response:
    """Have all failed articles of an import fetched again."""
    library.retry(user, outbox.send, import_id=number)
    return RedirectResponse(f"/imports/{number}", 303)


@pages.post("/articles/{number}/retry", dependencies=OURS)
def retry_article(library: Books, user: User, number: int) -> Response:
    """Have one failed article fetched again."""
    library.retry(user, outbox.send, article=number)
    return RedirectResponse(f"/articles/{number}", 303)


@pages.get("/articles")
def articles(request: Request, library: Books, user: User, kind: str = "", tag: str = "", at: int = 1) -> Response:
    """Show what a user has."""
    found, count = library.articles(user, kind=kind, tag=tag, page=max(1, at), size=_PAGE)
    return page(request, "articles.html", articles=found, count=count, kind=kind, tag=tag, at=max(1, at), last=-(-count // _PAGE))


@pages.get("/articles/{number}")
def article(request: Request, library: Books, user: User, number: int) -> Response:
    """Show what a page said."""
    found = library.article(user, number)
    if found is None:
        raise HTTPException(404, "There is no such article.")
    return page(request, "article.html", article=found, running=found.state in ("waiting", "fetched"))
