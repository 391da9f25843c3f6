"""Cached endpoints beside all else that an application has: what clients get is what they get without a cache."""

import asyncio
import functools
import gzip
import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2 as httpx
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Match
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fast_cache import Cache, HTTPOptions, InMemoryBackend, NotKeyed
from fast_cache.testing import PATIENCE
from tests.support.asgi_client import Answer, ask, scope_of
from tests.support.pages import KINDS, Site, until
from tests.support.uvicorn_server import serve

BOTH = pytest.mark.parametrize("kind", KINDS)

_OURS = {"etag", "cache-control", "cache-status", "age"}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once in a process; each of these tests is to hear its own."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


def suspending(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 4 * PATIENCE))

    return run


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def without_ours(answer: Answer) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """An answer as it would be without a cache."""
    left = [header for header in answer.raw_headers if header[0].decode() not in _OURS]
    return answer.status, answer.body, sorted(left)


async def told(site: Site, url: str, times: int = 3, **more: Any) -> list[str]:
    return [(await site.get(url, **more)).cached for _ in range(times)]


MISS_AND_HITS = ["fwd=uri-miss; stored", "hit", "hit"]


# Middleware outside.


@BOTH
@suspending
async def test_compressed_and_plain_answers_of_one_page_are_both_right(kind: str) -> None:
    site = Site(kind)
    site.app.add_middleware(GZipMiddleware, minimum_size=10)
    text = "a text that is long enough " * 20

    @site.page("/", expire=60)
    def read() -> str:
        return text

    for _ in range(3):
        for encoding in ("gzip", "identity"):
            answer = await site.get("/", headers={"Accept-Encoding": encoding})
            assert answer.header("content-encoding") == ("gzip" if encoding == "gzip" else "")
            body = gzip.decompress(answer.body) if encoding == "gzip" else answer.body
            assert json.loads(body) == text
            assert int(answer.header("content-length")) == len(answer.body)
            assert answer.header("etag").startswith('W/"')
            assert "accept-encoding" in answer.header("vary").lower()
    again = await site.get("/", headers={"Accept-Encoding": "gzip", "If-None-Match": answer.header("etag")})
    assert (again.status, again.body, again.header("etag")) == (304, b"", answer.header("etag"))
    assert site.runs == 1


@BOTH
@pytest.mark.parametrize("public", [False, True])
@suspending
async def test_whatever_stands_outside_may_change_the_headers_of_one_answer(kind: str, public: bool) -> None:
    class Stamping:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def stamped(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = message["headers"]
                    headers.append((b"x-stamp", scope["query_string"]))
                    headers[:] = [header for header in headers if header[0] != b"content-type"]
                await send(message)

            await self.app(scope, receive, stamped)

    site = Site(kind)
    site.app.add_middleware(Stamping)

    @site.page("/", expire=60, public=public)
    def read(response: Response) -> str:
        response.headers["X-Own"] = "own"
        return "there"

    for _ in range(4):
        answer = await site.get("/")
        assert (answer.all("x-stamp"), answer.all("x-own"), answer.all("content-type")) == ([""], ["own"], [])
    assert site.runs == 1
    backend = site.backend
    assert isinstance(backend, InMemoryBackend)


@BOTH
@suspending
async def test_each_origin_gets_the_headers_of_its_own(kind: str) -> None:
    site = Site(kind)
    site.app.add_middleware(
        CORSMiddleware, allow_origins=["http://a", "http://b"], allow_credentials=True, allow_methods=["*"]
    )

    @site.page("/", expire=60)
    def read() -> str:
        return "there"

    for origin in ("http://a", "http://b", "http://a", "http://c"):
        answer = await site.get("/", headers={"Origin": origin})
        assert answer.header("access-control-allow-origin") == ("" if origin == "http://c" else origin)
    assert site.runs == 1
    preflight = await site.get(
        "/", method="OPTIONS", headers={"Origin": "http://a", "Access-Control-Request-Method": "GET"}
    )
    assert (preflight.status, preflight.header("access-control-allow-origin")) == (200, "http://a")


class Sessions:
    """What SessionMiddleware does, without its signatures."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cookies = dict(Request(scope).cookies)
        scope["session"] = json.loads(cookies.get("session", "{}"))

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["session"]:
                cookie = json.dumps(scope["session"], separators=(",", ":"))
                message["headers"].append((b"set-cookie", f"session={cookie}".encode()))
            await send(message)

        await self.app(scope, receive, with_cookie)


@BOTH
@suspending
async def test_a_session_is_its_visitors_on_hits_too(kind: str) -> None:
    site = Site(kind)
    site.app.add_middleware(Sessions)

    async def counting(request: Request) -> None:
        request.session["visits"] = request.session.get("visits", 0) + 1

    @site.page("/", expire=60, shared=True, route={"dependencies": [Depends(counting)]})
    def read() -> str:
        return "there"

    for visits in (0, 4, 0, 8):
        answer = await site.get("/", headers={"Cookie": f'session={{"visits":{visits}}}'})
        assert answer.all("set-cookie") == [f'session={{"visits":{visits + 1}}}']
    assert site.runs == 1


@BOTH
@suspending
async def test_behind_a_base_http_middleware(kind: str) -> None:
    site = Site(kind)
    seen: list[int] = []

    async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        seen.append(response.status_code)
        response.headers["X-Seen"] = str(len(seen))
        return response

    site.app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)

    @site.page("/{item}", expire=60)
    def read(item: int) -> int:
        if item == 0:
            raise HTTPException(404)
        return item

    site.door.close()
    tasks = [site.start("/1") for _ in range(20)]
    await site.followed(19)
    site.door.open()
    assert {answer.json() for answer in await site.all(tasks)} == {1}
    assert site.runs == 1
    assert (await site.get("/1")).header("x-seen") == "21"
    assert (await site.get("/0")).status == 404
    etag = (await site.get("/1")).header("etag")
    assert (await site.get("/1", headers={"If-None-Match": etag})).status == 304


@BOTH
@suspending
async def test_a_middleware_inside_takes_the_answers_before_routing_and_is_told_of(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Guard:
        """Would not be asked, if pages were answered before it."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and b"x-let-me-in" not in dict(scope["headers"]):
                await PlainTextResponse("no", 403)(scope, receive, send)
                return
            await self.app(scope, receive, send)

    site = Site(kind)
    site.app.user_middleware.append(Middleware(Guard))

    @site.page("/", expire=60, public=True)
    def read() -> str:
        return "there"

    let_in = {"X-Let-Me-In": "please"}
    assert await told(site, "/", headers=let_in) == MISS_AND_HITS
    assert (await site.get("/")).status == 403
    assert said(caplog).count("Guard was added") == 1


@BOTH
@suspending
async def test_a_request_that_is_made_while_an_exception_is_handled_makes_a_page_too(kind: str) -> None:
    site = Site(kind)

    class Retrying:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                raise ConnectionError("the first attempt")
            except ConnectionError:
                await self.app(scope, receive, send)

    site.app.add_middleware(Retrying)

    @site.page("/", expire=60)
    def read() -> str:
        return "there"

    assert await told(site, "/") == MISS_AND_HITS


# Exceptions and background tasks.


@BOTH
@suspending
async def test_handlers_of_exceptions_see_those_of_cached_endpoints(kind: str) -> None:
    site = Site(kind)
    handled: list[str] = []

    @site.app.exception_handler(LookupError)
    async def lookup(request: Request, error: LookupError) -> Response:
        handled.append(str(error))
        return JSONResponse({"error": str(error)}, 404)

    @site.app.exception_handler(418)
    async def teapot(request: Request, error: Exception) -> Response:
        return PlainTextResponse("teapot", 418)

    @site.page("/{item}", expire=60)
    def read(item: int) -> int:
        if item == 0:
            raise LookupError("zero")
        if item == 1:
            raise HTTPException(418)
        return item

    for _ in range(2):
        assert (await site.get("/0")).status == 404
        assert (await site.get("/1")).body == b"teapot"
        assert (await site.get("/x")).status == 422
    assert handled == ["zero", "zero"]
    assert await told(site, "/2") == MISS_AND_HITS


@BOTH
@suspending
async def test_tasks_of_dependencies_run_on_hits_too_and_those_of_the_endpoint_on_misses(kind: str) -> None:
    site = Site(kind)
    ran: list[str] = []

    async def audited(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "dependency")

    @site.page("/", expire=60, route={"dependencies": [Depends(audited)]})
    def read(tasks: BackgroundTasks) -> str:
        tasks.add_task(ran.append, "endpoint")
        return "there"

    for _ in range(3):
        await site.get("/")
    assert ran == ["dependency", "endpoint", "dependency", "dependency"]
    etag = (await site.get("/")).header("etag")
    await site.get("/", headers={"If-None-Match": etag})
    assert ran.count("dependency") == 5
    ran.clear()
    site.cache.clear()
    site.door.close()
    tasks = [site.start("/") for _ in range(5)]
    await site.followed(4)
    site.door.open()
    await site.all(tasks)
    assert (ran.count("dependency"), ran.count("endpoint")) == (5, 1)


# What dependencies and endpoints do to the response.


@BOTH
@suspending
async def test_what_dependencies_set_on_the_response_belongs_to_the_request(kind: str) -> None:
    site = Site(kind)
    numbers = itertools.count(1)

    async def numbered(response: Response) -> None:
        number = next(numbers)
        response.headers["X-Number"] = str(number)
        response.set_cookie("number", str(number))

    @site.page("/", expire=60, route={"dependencies": [Depends(numbered)]})
    def read(response: Response) -> str:
        response.headers["X-Own"] = "own"
        return "there"

    for number in (1, 2, 3):
        answer = await site.get("/")
        assert answer.all("x-number") == [str(number)]
        assert [cookie.partition(";")[0] for cookie in answer.all("set-cookie")] == [f"number={number}"]
        assert answer.all("x-own") == ["own"]
    assert site.runs == 1
    site.cache.clear()
    site.door.close()
    tasks = [site.start("/") for _ in range(5)]
    await site.followed(4)
    site.door.open()
    answers = await site.all(tasks)
    assert sorted(answer.header("x-number") for answer in answers) == ["4", "5", "6", "7", "8"]
    assert all(answer.all("x-own") == ["own"] for answer in answers)


@BOTH
@suspending
async def test_a_status_that_a_dependency_sets_is_its_requests(kind: str) -> None:
    site = Site(kind)

    async def status(response: Response, code: int = 200) -> None:
        if code != 200:
            response.status_code = code

    @site.page("/", expire=60, shared=True, route={"dependencies": [Depends(status)]})
    def read(code: int = 200) -> str:
        return "there"

    assert await told(site, "/") == MISS_AND_HITS
    assert [(await site.get("/?code=202")).status for _ in range(2)] == [202, 202]
    assert [(await site.get("/")).status for _ in range(2)] == [200, 200]


@BOTH
@suspending
async def test_a_status_that_the_endpoint_sets_is_the_pages(kind: str) -> None:
    site = Site(kind)

    @site.page("/injected", expire=60, statuses=(200, 203))
    def injected(response: Response) -> str:
        response.status_code = 203
        return "there"

    @site.page("/declared", expire=60, statuses=(201,), route={"status_code": 201})
    def declared() -> str:
        return "there"

    @site.page("/refused", expire=60, route={"status_code": 201})
    def refused() -> str:
        return "there"

    for path, status in (("/injected", 203), ("/declared", 201)):
        answers = [await site.get(path) for _ in range(3)]
        assert [answer.status for answer in answers] == [status] * 3
        assert [answer.cached for answer in answers] == MISS_AND_HITS
    assert [answer.status for answer in [await site.get("/refused") for _ in range(2)]] == [201, 201]
    assert "hit" not in await told(site, "/refused")


class Item(BaseModel):
    name: str
    price: float = 1.0
    secret: str | None = None


def _file(path: Path) -> Callable[[], Any]:
    return lambda: FileResponse(path)


class Upper(JSONResponse):
    media_type = "application/upper"

    def render(self, content: Any) -> bytes:
        return super().render(content).upper()


class Templated(HTMLResponse):
    """Tells a test client what it was made from, as templates do."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "http.response.debug" in scope.get("extensions", {}):
            await send({"type": "http.response.debug", "info": {"template": "page.html"}})
        await super().__call__(scope, receive, send)


SHAPES: dict[str, tuple[Callable[[], Any], dict[str, Any], bool]] = {
    "text": (lambda: "there", {}, True),
    "none": (lambda: None, {}, True),
    "model": (lambda: Item(name="a"), {}, True),
    "unset": (lambda: Item(name="a"), {"response_model_exclude_unset": True}, True),
    "include": (lambda: Item(name="a"), {"response_model_include": {"name"}}, True),
    "exclude": (
        lambda: {"name": "a", "secret": "b"},
        {"response_model": Item, "response_model_exclude": {"secret"}},
        True,
    ),
    "none-left-out": (lambda: Item(name="a"), {"response_model_exclude_none": True}, True),
    "class": (lambda: {"a": "b"}, {"response_class": Upper}, True),
    "html": (lambda: "<p>", {"response_class": HTMLResponse}, True),
    "response": (lambda: HTMLResponse("<p>", headers={"X-Own": "own"}), {}, True),
    "own-etag": (lambda: HTMLResponse("<p>", headers={"ETag": '"own"', "Cache-Control": "max-age=7"}), {}, True),
    "several": (lambda: _linked(), {}, True),
    "templated": (lambda: Templated("<p>"), {}, True),
    "cookie": (lambda: _with_cookie(), {}, False),
    "streaming": (lambda: StreamingResponse(iter(["a", "b"])), {}, False),
    "one-chunk": (lambda: StreamingResponse(iter(["a"])), {}, False),
    "no-content": (lambda: None, {"status_code": 204}, False),
    "error": (lambda: PlainTextResponse("no", 500), {}, False),
}


def _linked() -> Response:
    response = PlainTextResponse("there")
    response.headers.append("Link", "<a>")
    response.headers.append("Link", "<b>")
    return response


def _with_cookie() -> Response:
    response = PlainTextResponse("there")
    response.set_cookie("a", "b")
    return response


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
@suspending
async def test_clients_get_what_they_get_without_a_cache(kind: str, shape: str) -> None:
    body, route, stored = SHAPES[shape]
    site, bare = Site(kind), FastAPI()
    site.page("/", expire=60, route=route)(body)
    bare.get("/", **route)(site.flavoured(body))
    extensions: dict[str, Any] = {"http.response.debug": {}}
    plain = await ask(bare, "/", extensions=extensions)
    for number in range(3):
        answer = await site.get("/", extensions=extensions)
        assert without_ours(answer) == without_ours(plain)
        if shape == "own-etag":
            assert (answer.header("etag"), answer.header("cache-control")) == ('"own"', "max-age=7")
        assert (answer.cached == "hit") == (stored and number > 0)


@BOTH
@suspending
async def test_dependencies_do_to_a_response_of_the_endpoints_own_what_they_do_without_a_cache(kind: str) -> None:
    # FastAPI leaves a response alone that the endpoint returns itself.
    numbers = itertools.count(1)

    async def stamped(response: Response) -> None:
        response.headers["X-Stamp"] = str(next(numbers))

    def body() -> Response:
        return PlainTextResponse("there", headers={"X-Own": "own", "X-Stamp": "the endpoint's"})

    site, bare = Site(kind), FastAPI()
    route: dict[str, Any] = {"dependencies": [Depends(stamped)]}
    site.page("/", expire=60, route=route)(body)
    bare.get("/", **route)(site.flavoured(body))
    for _ in range(3):
        assert without_ours(await site.get("/")) == without_ours(await ask(bare, "/"))


@BOTH
@suspending
async def test_files_are_sent_whole_or_in_parts_and_parts_are_not_stored(kind: str, tmp_path: Path) -> None:
    site = Site(kind)
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_bytes(b"the file")
    large.write_bytes(b"x" * 200_000)
    site.page("/small", expire=60)(_file(small))
    site.page("/large", expire=60)(_file(large))
    for path, file in (("/small", small), ("/large", large)):
        for _ in range(2):
            part = await site.get(path, headers={"Range": "bytes=0-2"})
            assert (part.status, part.body) == (206, file.read_bytes()[:3])
        for _ in range(2):
            answer = await site.get(path)
            assert (answer.status, answer.body) == (200, file.read_bytes())
    # What is one message is a page like any other, and a page may be sent whole (RFC 9110, section 14.2).
    answer = await site.get("/small", headers={"Range": "bytes=0-2"})
    assert (answer.status, answer.body) == (200, b"the file")
    assert (await site.get("/large", headers={"Range": "bytes=0-2"})).status == 206


@BOTH
@suspending
async def test_streams_beside_cached_endpoints_are_untouched(kind: str) -> None:
    site = Site(kind)

    @site.page("/", expire=60)
    def read() -> str:
        return "there"

    @site.app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for part in "abc":
                yield f"data: {part}\n\n"
                await asyncio.sleep(0)

        return StreamingResponse(parts(), media_type="text/event-stream")

    await site.get("/")
    for _ in range(2):
        answer = await site.get("/stream")
        assert answer.body == b"data: a\n\ndata: b\n\ndata: c\n\n"
        assert answer.cached == ""


@BOTH
@suspending
async def test_a_stream_of_a_cached_endpoint_is_not_held_back(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What comes before its first event has gone by the time it waits for that, and so has who waits for the leader."""
    site = Site(kind)
    first = asyncio.Event()

    async def parts() -> AsyncIterator[str]:
        await first.wait()
        yield "data: a\n\n"

    @site.page("/events", expire=60)
    def events() -> StreamingResponse:
        return StreamingResponse(parts(), media_type="text/event-stream")

    sent: list[list[Any]] = [[], []]

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def request(messages: list[Any]) -> None:
        async def send(message: Any) -> None:
            messages.append(message)

        await site.app(scope_of("/events"), receive, send)

    both = [asyncio.create_task(request(messages)) for messages in sent]
    await until(lambda: all(sent), "both have begun")
    for messages in sent:
        (start,) = messages
        assert start["type"] == "http.response.start"
        assert (b"cache-status", b"fast_cache; fwd=uri-miss") in start["headers"]
    first.set()
    await asyncio.gather(*both)
    assert [b"".join(message.get("body", b"") for message in messages) for messages in sent] == [b"data: a\n\n"] * 2
    assert site.runs == 2
    assert "it is streamed" in caplog.text


def streaming(kind: str, place: str, shape: str) -> Site:
    """A site with a stream whose second part comes when the door is open, somewhere beside what is cached."""
    site = Site(kind)

    @site.page("/{number}", expire=60)
    def read(number: int) -> int:
        return number

    async def suspending_parts() -> AsyncIterator[str]:
        yield "first"
        await site.door.pass_suspending()
        yield "last"

    def blocking_parts() -> Iterator[str]:
        yield "first"
        site.door.pass_blocking()
        yield "last"

    async def suspending_endpoint() -> StreamingResponse:
        return StreamingResponse(suspending_parts(), media_type="text/event-stream")

    def blocking_endpoint() -> StreamingResponse:
        return StreamingResponse(blocking_parts(), media_type="text/event-stream")

    endpoint: Any = suspending_endpoint if kind == "async" else blocking_endpoint
    options: dict[str, Any] = {}
    if place == "changing":
        options["dependencies"] = [site.cache.invalidating(everything=read)]
    if shape == "sse":
        options["response_class"] = pytest.importorskip("fastapi.sse").EventSourceResponse
        endpoint = suspending_parts if kind == "async" else blocking_parts
    routes = site.app.router.routes
    site.app.get("/apart/stream" if place == "apart" else "/stream", **options)(
        site.cache.cached(expire=60)(endpoint) if place == "cached" else endpoint
    )
    routes.insert(0, routes.pop())  # before the cached one, whose path would match
    return site


STREAMS = pytest.mark.parametrize(
    ("place", "shape"),
    [(place, shape) for place in ("apart", "matched", "changing", "cached") for shape in ("response", "sse")][:-1],
)


@BOTH
@STREAMS
@suspending
async def test_the_beginning_of_a_stream_is_sent_while_the_rest_is_not_there_yet(
    kind: str, place: str, shape: str
) -> None:
    site = streaming(kind, place, shape)
    for _ in range(2):  # the second time it is known what is at this path
        site.door.close()
        bodies: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(message: Message, bodies: asyncio.Queue[bytes] = bodies) -> None:
            if message["type"] == "http.response.body":
                bodies.put_nowait(message["body"])

        asked = site.start("/apart/stream" if place == "apart" else "/stream", take=take)
        assert b"first" in await asyncio.wait_for(bodies.get(), PATIENCE)
        site.door.open()
        (answer,) = await site.all([asked])
        assert answer.body.index(b"first") < answer.body.index(b"last")


@BOTH
@STREAMS
def test_a_server_sends_the_beginning_of_a_stream_while_the_rest_is_not_there_yet(
    kind: str, place: str, shape: str
) -> None:
    site = streaming(kind, place, shape)
    with serve(site.app) as served, served.client() as client:
        for _ in range(2):
            site.door.close()
            with client.stream("GET", "/apart/stream" if place == "apart" else "/stream") as answer:
                parts = answer.iter_raw()
                assert b"first" in next(parts)
                site.door.open()
                assert b"last" in b"".join(parts)


# Methods.


@BOTH
@suspending
async def test_head_and_options_are_what_fastapi_makes_of_them(kind: str) -> None:
    site = Site(kind)

    @site.page("/both", expire=60, route={"methods": ["GET", "HEAD", "OPTIONS"]})
    def read() -> str:
        return "there"

    @site.page("/get", expire=60)
    def only() -> str:
        return "there"

    await site.get("/both")
    await site.get("/get")
    for method in ("HEAD", "OPTIONS"):
        runs = site.runs
        assert (await site.get("/both", method=method)).status == 200
        assert site.runs == runs + 1
        assert (await site.get("/get", method=method)).status == 405
    assert (await site.get("/both")).body == b'"there"'


@BOTH
@suspending
async def test_methods_that_are_not_named_run_the_endpoint(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(kind)

    @site.page("/", expire=60, route={"methods": ["GET", "POST"]})
    def read() -> int:
        return site.runs

    assert (await site.get("/")).json() == 1
    assert [(await site.get("/", method="POST")).json() for _ in range(2)] == [2, 3]
    assert (await site.get("/")).json() == 1
    assert said(caplog).count("for POST") == 1


@BOTH
@suspending
async def test_the_body_of_a_post_is_in_the_key(kind: str) -> None:
    site = Site(kind)

    @site.page("/", expire=60, methods=("POST",), route={"methods": ["POST"]})
    def search(item: Item) -> dict[str, Any]:
        return {"name": item.name, "secret": item.secret}

    def asked(**fields: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        return {"method": "POST", "headers": headers, "body": json.dumps(fields).encode()}

    for _ in range(2):
        for fields in ({"name": "a"}, {"name": "b"}, {"name": "a", "secret": "s"}):
            answer = await site.get("/", **asked(**fields))
            assert answer.json() == {"secret": None, **fields}
    assert site.runs == 3
    site.door.close()
    tasks = [site.start("/", **asked(name="c")) for _ in range(5)]
    await (site.followed(4) if kind == "async" else site.ran(8))
    site.door.open()
    assert {answer.json()["name"] for answer in await site.all(tasks)} == {"c"}


class Fields(BaseModel):
    name: str
    size: int = 0


def by_fields(name: Annotated[str, Form()], size: Annotated[int, Form()] = 0) -> Any:
    return [name, size]


def by_model(fields: Annotated[Fields, Form()]) -> Any:
    return [fields.name, fields.size]


def by_bytes(name: Annotated[bytes, File()], size: Annotated[int, Form()] = 0) -> Any:
    return [name.decode(), size]


def form(files: Any = None, **fields: Any) -> dict[str, Any]:
    """What a browser sends."""
    request = httpx.Request("POST", "http://test/", data=fields, files=files)
    headers = {"Content-Type": request.headers["content-type"]}
    return {"method": "POST", "headers": headers, "body": request.read()}


FORMS: list[tuple[dict[str, Any], Any]] = [
    (form(name="a"), ["a", 0]),
    (form(name="b"), ["b", 0]),
    (form(name="a", size=1), ["a", 1]),
    (form(name="a&size=1"), ["a&size=1", 0]),
    (form(name="a\0b"), ["a\0b", 0]),
]
FILES: list[tuple[dict[str, Any], Any]] = [
    (form({"name": ("a", "one")}), ["one", 0]),
    (form({"name": ("a", "two")}), ["two", 0]),
    (form({"name": ("a", "one")}, size=1), ["one", 1]),
]


@BOTH
@pytest.mark.parametrize(("read", "sent"), [(by_fields, FORMS), (by_model, FORMS), (by_bytes, FILES)])
@suspending
async def test_the_fields_of_a_form_are_in_the_key(
    kind: str, read: Callable[..., Any], sent: list[tuple[dict[str, Any], Any]]
) -> None:
    site = Site(kind)
    site.page("/", expire=60, methods="POST", route={"methods": ["POST"]})(read)
    site.door.close()
    tasks = [site.start("/", **asked) for asked, _ in sent]
    await site.ran(len(sent))
    site.door.open()
    assert [answer.json() for answer in await site.all(tasks)] == [expected for _, expected in sent]
    for asked, expected in sent:
        answer = await site.get("/", **asked)
        assert (answer.json(), answer.cached) == (expected, "hit")
    assert site.runs == len(sent)


def by_upload(file: UploadFile) -> Any:
    return file.file.read().decode()


def by_uploads(file: list[UploadFile]) -> Any:
    return "".join(one.file.read().decode() for one in file)


def by_field_and_upload(name: Annotated[str, Form()], file: UploadFile) -> Any:
    return file.file.read().decode()


@BOTH
@pytest.mark.parametrize("read", [by_upload, by_uploads, by_field_and_upload])
@suspending
async def test_what_is_made_of_an_uploaded_file_is_not_cached(
    kind: str, read: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(kind)
    site.page("/", expire=60, methods="POST", route={"methods": ["POST"]})(read)
    for _ in range(2):
        for text in ("one", "two"):
            answer = await site.get("/", **form({"file": ("a.txt", text)}, name="a"))
            assert (answer.json(), answer.cached) == (text, "fwd=bypass")
    assert site.runs == 4
    assert said(caplog).count("runs uncached") == 1
    assert f"{read.__name__} runs uncached: file" in said(caplog)


@BOTH
@suspending
async def test_a_form_without_the_file_that_it_may_have_is_cached(kind: str) -> None:
    site = Site(kind)

    @site.page("/", expire=60, methods="POST", route={"methods": ["POST"]})
    def read(name: Annotated[str, Form()], file: Annotated[UploadFile | None, File()] = None) -> str:
        return name if file is None else file.file.read().decode()

    for runs, told in ((1, "fwd=uri-miss; stored"), (2, "hit")):
        answer = await site.get("/", **form(name="a"))
        assert (answer.json(), answer.cached) == ("a", told)
        answer = await site.get("/", **form({"file": ("a.txt", "of a file")}, name="a"))
        assert (answer.json(), answer.cached) == ("of a file", "fwd=bypass")
        assert site.runs == runs + 1


# Where an endpoint is.


@BOTH
@suspending
async def test_one_router_under_two_prefixes_is_two_pages_that_end_together(kind: str) -> None:
    site = Site(kind)
    router = APIRouter()
    read: Any = site.cache.cached(expire=60)(site.flavoured(lambda: site.runs))
    router.get("/items")(read)
    site.app.include_router(router, prefix="/a")
    site.app.include_router(router, prefix="/b")
    for _ in range(2):
        assert [(await site.get(path)).json() for path in ("/a/items", "/b/items")] == [1, 2]
    removing = read.invalidate()
    if kind == "async":
        await removing
    assert [(await site.get(path)).json() for path in ("/a/items", "/b/items")] == [3, 4]


@BOTH
@suspending
async def test_a_router_that_is_guarded_in_one_place_only(kind: str) -> None:
    site = Site(kind)
    guarded: list[str] = []

    async def guard(x_user: Annotated[str, Header()] = "") -> None:
        guarded.append(x_user)
        if not x_user:
            raise HTTPException(401)

    router = APIRouter()
    read: Any = site.cache.cached(expire=60, shared=True)(site.flavoured(lambda: "there"))
    router.get("/items")(read)
    site.app.include_router(router, prefix="/open")
    site.app.include_router(router, prefix="/guarded", dependencies=[Depends(guard)])
    assert await told(site, "/open/items") == MISS_AND_HITS
    assert (await site.get("/guarded/items")).status == 401
    assert await told(site, "/guarded/items", headers={"X-User": "ada"}) == MISS_AND_HITS
    assert (await site.get("/guarded/items")).status == 401
    assert "private" in (await site.get("/guarded/items", headers={"X-User": "bob"})).header("cache-control")
    assert "public" in (await site.get("/open/items")).header("cache-control")


@BOTH
@suspending
async def test_an_initialised_application_that_is_mounted_has_pages_of_its_own(kind: str) -> None:
    inner, outer = Site(kind), FastAPI()
    outer_cache = Cache()
    outer_cache.init_app(outer)
    outer.mount("/sub", inner.app)

    @inner.page("/items/{item}", expire=60, stale_while_revalidate=600, tags="t")
    def read(item: int) -> int:
        return inner.runs

    @outer.get("/items/{item}")
    @outer_cache.cached(expire=60)
    async def other(item: int) -> str:
        return "outer"

    for _ in range(3):
        assert (await ask(outer, "/sub/items/1")).json() == 1
        assert (await ask(outer, "/items/1")).json() == "outer"
    inner.cache.invalidate_tags("t", soft=True)
    assert (await ask(outer, "/sub/items/1")).json() == 1
    await inner.rested()
    assert (await ask(outer, "/sub/items/1")).json() == 2


@BOTH
@suspending
async def test_a_mounted_application_that_was_never_initialised_runs_uncached(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    site, inner = Site(kind), FastAPI()
    site.app.mount("/sub", inner)
    inner.get("/")(site.cache.cached(expire=60)(site.flavoured(lambda: site.runs)))
    assert [(await site.get("/sub/")).json() for _ in range(3)] == [1, 2, 3]
    assert said(caplog).count("was never initialised") == 1


class Timed(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def timed(request: Request) -> Response:
            response = await handler(request)
            response.headers["X-Timed"] = request.headers.get("x-asks", "")
            return response

        return timed


@BOTH
@suspending
async def test_a_custom_route_class_is_never_left_out(kind: str) -> None:
    site = Site(kind)
    router = APIRouter(route_class=Timed)
    router.get("/")(site.cache.cached(expire=60, public=True)(site.flavoured(lambda: "there")))
    site.app.include_router(router)
    for asks in ("a", "b", "c"):
        assert (await site.get("/", headers={"X-Asks": asks})).all("x-timed") == [asks]
    assert site.runs == 1


@BOTH
@suspending
async def test_hosts_share_a_path_and_nothing_else(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(kind)

    class ByVersion(APIRoute):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            match, child = super().matches(scope)
            wanted = dict(scope["headers"]).get(b"x-version", b"")
            return (match, child) if wanted == b"1" else (Match.NONE, {})

    old = APIRouter(route_class=ByVersion)

    @old.get("/items")
    async def plain() -> str:
        return "old"

    site.app.include_router(old)

    @site.page("/items", expire=60)
    def read() -> str:
        return "new"

    for _ in range(3):
        assert (await site.get("/items", headers={"X-Version": "1"})).json() == "old"
        assert (await site.get("/items")).json() == "new"
    assert (await site.get("/items")).cached == "hit"
    assert "never initialised" not in said(caplog)


@BOTH
@suspending
async def test_a_path_that_leads_elsewhere_later_is_cached_then(kind: str) -> None:
    site = Site(kind)

    @site.app.get("/{rest:path}")
    async def everything(rest: str) -> str:
        return "plain"

    assert (await site.get("/late")).json() == "plain"

    @site.page("/late", expire=60)
    def late() -> str:
        return "cached"

    site.app.router.routes.reverse()
    assert (await site.get("/late")).json() == "cached"
    assert (await site.get("/late")).json() == "cached"
    assert (await site.get("/late")).cached == "hit"


def test_web_sockets_go_by(caplog: pytest.LogCaptureFixture) -> None:
    from fastapi import WebSocket

    site = Site("async")

    @site.page("/", expire=60)
    def read() -> str:
        return "there"

    @site.app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    with TestClient(site.app) as client:
        assert client.get("/").json() == "there"
        for word in ("a", "b"):
            with client.websocket_connect("/socket") as connection:
                connection.send_text(word)
                assert connection.receive_text() == word
        assert client.get("/").json() == "there"
    assert site.runs == 1


@BOTH
@suspending
async def test_overrides_are_planned_anew(kind: str) -> None:
    site = Site(kind)

    async def tenant() -> str:
        return "one"

    async def override() -> str:
        return "two"

    async def from_header(x_tenant: Annotated[str, Header()] = "") -> str:
        return x_tenant

    @site.page("/", expire=60)
    def read(name: Annotated[str, Depends(tenant)]) -> str:
        return name

    @site.page("/public", expire=60, public=True)
    def public() -> int:
        return site.runs

    overrides = site.app.dependency_overrides
    for _ in range(2):
        assert (await site.get("/")).json() == "one"
    await site.get("/public")
    await site.get("/public")
    overrides[tenant] = override
    assert [(await site.get("/")).json() for _ in range(2)] == ["two", "two"]
    overrides[tenant] = from_header
    for name in ("ada", "bob", "ada"):
        assert (await site.get("/", headers={"X-Tenant": name})).json() == name
    overrides.clear()
    assert (await site.get("/")).json() == "one"


@BOTH
@suspending
async def test_while_there_are_overrides_nothing_is_answered_before_routing(kind: str) -> None:
    site = Site(kind)
    guarded: list[None] = []

    async def guard() -> None:
        """There from the start, and does nothing; a test puts something in its place."""

    async def counting() -> None:
        guarded.append(None)

    @site.page("/", expire=60, public=True, route={"dependencies": [Depends(guard)]})
    def read() -> str:
        return "there"

    assert await told(site, "/") == MISS_AND_HITS
    site.app.dependency_overrides[guard] = counting
    for number in (1, 2, 3):
        await site.get("/")
        assert len(guarded) == number


# What the author says.


@BOTH
@suspending
async def test_pages_vary_on_the_headers_that_are_named_and_on_so_many_values(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(kind, http=HTTPOptions(max_variants=3))

    @site.page("/", expire=60, public=True, vary_on="Accept-Language")
    def read(request: Annotated[Request, NotKeyed]) -> str:
        return request.headers.get("accept-language", "none")

    for _ in range(3):
        for language in ("en", "de", "fr"):
            answer = await site.get("/", headers={"Accept-Language": language})
            assert answer.json() == language
            assert answer.header("vary").lower() == "accept-language"
    assert site.runs == 3
    for runs in (4, 5):
        answer = await site.get("/", headers={"Accept-Language": "it"})
        assert (answer.json(), site.runs) == ("it", runs)
    assert (await site.get("/", headers={"Accept-Language": "en"})).cached == "hit"
    assert said(caplog).count("varies on more than 3") == 1


@BOTH
@suspending
async def test_public_pages_are_answered_before_routing_and_shared_ones_behind_their_guards(kind: str) -> None:
    site = Site(kind)
    asked: list[str] = []

    async def guard(authorization: Annotated[str, Header()] = "") -> None:
        asked.append(authorization)
        if not authorization:
            raise HTTPException(401)

    @site.page("/public", expire=60, public=True, route={"dependencies": [Depends(guard)]})
    def public() -> str:
        return "public"

    @site.page("/shared", expire=60, shared=True, route={"dependencies": [Depends(guard)]})
    def shared() -> str:
        return "shared"

    let_in = {"Authorization": "Bearer a"}
    assert await told(site, "/public", headers=let_in) == MISS_AND_HITS
    assert len(asked) == 1
    answer = await site.get("/public")
    assert (answer.status, len(asked)) == (200, 1)
    assert "public" in answer.header("cache-control")
    asked.clear()
    assert await told(site, "/shared", headers=let_in) == MISS_AND_HITS
    assert len(asked) == 3
    assert (await site.get("/shared")).status == 401
    etag = (await site.get("/shared", headers=let_in)).header("etag")
    assert (await site.get("/shared", headers={"If-None-Match": etag})).status == 401
    assert (await site.get("/shared", headers={"If-None-Match": etag, **let_in})).status == 304


@BOTH
@suspending
async def test_queries_that_are_not_declared_or_come_twice_are_routed(kind: str) -> None:
    site = Site(kind)

    @site.page("/", expire=60)
    def read(one: int = 0, many: Annotated[list[int] | None, Query()] = None) -> list[Any]:
        return [one, many]

    for _ in range(3):
        assert (await site.get("/?one=1")).json() == [1, None]
        assert (await site.get("/?one=1&one=2")).json() == [2, None]
        assert (await site.get("/?many=1&many=2")).json() == [0, [1, 2]]
        assert (await site.get("/?one=1&junk=2")).json() == [1, None]
        assert (await site.get("/?one=x")).status == 422
    assert site.runs == 3
    exchanges = [alias for alias in _aliases(site) if b"junk" in alias[1] or alias[1].count(b"=") > 1]
    assert exchanges == []
    assert ("/", b"one=1") in _aliases(site)


def _aliases(site: Site) -> Any:
    stack: Any = site.app.middleware_stack
    while not hasattr(stack, "aliases"):
        stack = stack.app
    return stack.aliases.table


# When init_app is called.


def test_init_app_inside_the_lifespan() -> None:
    cache = Cache()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cache.init_app(app)
        yield

    app = FastAPI(lifespan=lifespan)
    runs: list[None] = []

    @app.get("/")
    @cache.cached(expire=60)
    async def read() -> int:
        runs.append(None)
        return len(runs)

    for turn in (1, 2):
        with TestClient(app) as client:
            answers = [client.get("/") for _ in range(3)]
            assert len({answer.text for answer in answers}) == 1
            assert "; hit" in answers[2].headers["cache-status"]
        assert len(runs) <= turn


@BOTH
@pytest.mark.parametrize("outside", [False, True])
@suspending
async def test_init_app_after_the_first_request(kind: str, outside: bool) -> None:
    cache, app, site = Cache(), FastAPI(), Site(kind)
    if outside:
        app.add_middleware(GZipMiddleware)
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    app.get("/")(cache.cached(expire=60)(site.flavoured(lambda: site.runs)))
    assert [(await ask(app, "/")).json() for _ in range(2)] == [1, 2]
    cache.init_app(app)
    answers = [await ask(app, "/") for _ in range(3)]
    assert [answer.json() for answer in answers] == [3, 3, 3]
    assert [answer.cached for answer in answers] == MISS_AND_HITS


@suspending
async def test_init_app_after_the_first_request_where_it_can_not_get_in_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Closed:
        def __init__(self, app: ASGIApp) -> None:
            self.inner = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.inner(scope, receive, send)

    cache, app = Cache(), FastAPI()
    app.add_middleware(Closed)
    numbers = itertools.count(1)

    @app.get("/")
    @cache.cached(expire=60)
    async def read() -> int:
        return next(numbers)

    await ask(app, "/")
    cache.init_app(app)
    assert [(await ask(app, "/")).json() for _ in range(2)] == [2, 3]
    assert "not of the known shape" in said(caplog)
