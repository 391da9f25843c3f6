"""What requests, dependencies and authors do at the edges of what a page is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import Message

from fast_cache import Cache, HTTPOptions, InMemoryBackend
from fast_cache.testing import PATIENCE


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
def cache(app: FastAPI) -> Cache:
    cache = Cache()
    cache.init_app(app, default_expire=60)
    return cache


def hit(answer: Any) -> bool:
    return "; hit" in answer.headers.get("cache-status", "")


async def read_body(request: Request) -> None:
    await request.body()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def server(app: FastAPI, headers: list[tuple[bytes, bytes]] | None = None) -> Callable[[], Any]:
    """Requests as a server makes them: the body can be received once, and then only that the client has left."""

    async def request() -> int:
        sent: list[Message] = []
        received = False

        async def receive() -> Message:
            nonlocal received
            if received:
                await asyncio.Event().wait()
            received = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "headers": headers or [(b"host", b"shop")],
        }
        await app(scope, receive, send)
        status: int = sent[0]["status"]
        return status

    return request


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"0")], [(b"content-length", b"2")]])
def test_a_dependency_that_reads_the_body_hangs_nobody_who_waited(
    app: FastAPI, cache: Cache, headers: list[tuple[bytes, bytes]]
) -> None:
    """The endpoint is sync, so a follower whose leader's answer can't be stored makes its request once more."""
    together = 3
    runs: list[int] = []
    flights = cache.get_cache().engine_store().flights

    @app.get("/", dependencies=[Depends(read_body)])
    @cache.cached(shared=True)
    def read() -> Response:
        runs.append(1)
        if len(runs) == 1 and waits:
            until(lambda: sum(map(flights.waiting, list(flights._table))) == together - 1)
        return JSONResponse("none", status_code=404)

    waits = (b"content-length", b"2") not in headers  # one with a body can't be made again, so it waits for nobody

    async def all_of_them() -> list[int]:
        request = server(app, headers)
        return await asyncio.wait_for(asyncio.gather(*(request() for _ in range(together))), PATIENCE)

    assert asyncio.run(all_of_them()) == [404] * together


def test_a_page_with_a_cookie_of_a_dependency_is_private_on_its_way(app: FastAPI, cache: Cache) -> None:
    def csrf(response: Response) -> None:
        response.set_cookie("csrf", "made for one")

    @app.get("/", dependencies=[Depends(csrf)])
    @cache.cached(expire=60)
    async def read() -> str:
        return "all"

    client = TestClient(app)
    answers = [client.get("/") for _ in range(2)]
    assert [hit(answer) for answer in answers] == [False, True]
    assert {answer.headers["cache-control"] for answer in answers} == {"private, max-age=60"}
    assert all("csrf" in answer.headers["set-cookie"] for answer in answers)


def test_what_a_dependency_says_of_caches_counts(app: FastAPI, cache: Cache) -> None:
    def no_store(response: Response) -> None:
        response.headers["Cache-Control"] = "no-store"
        response.headers["ETag"] = '"its own"'

    @app.get("/", dependencies=[Depends(no_store)])
    @cache.cached
    async def read() -> str:
        return "all"

    client = TestClient(app)
    for _ in range(2):
        answer = client.get("/")
        assert answer.headers.get_list("cache-control") == ["no-store"]
        assert answer.headers.get_list("etag") == ['"its own"']


def test_an_exception_with_a_cookie_is_raised_for_its_visitor_alone(app: FastAPI, cache: Cache) -> None:
    runs: list[int] = []
    began, door = asyncio.Event(), asyncio.Event()

    @app.get("/")
    @cache.cached
    async def read() -> str:
        runs.append(len(runs))
        if len(runs) == 1:
            began.set()
            await door.wait()
        raise HTTPException(400, headers={"set-cookie": f"visitor={len(runs)}"})

    async def three() -> None:
        request = server(app)
        tasks = [asyncio.create_task(request()) for _ in range(3)]
        await began.wait()
        for _ in range(20):  # the others have come as far as they can
            await asyncio.sleep(0)
        assert len(runs) == 1
        door.set()
        assert await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE) == [400] * 3

    asyncio.run(three())
    assert len(runs) == 3


@pytest.mark.parametrize(("status", "served"), [(404, 404), (403, 403), (500, 200), (503, 200)])
def test_only_a_failing_server_is_covered_for(
    app: FastAPI, cache: Cache, monkeypatch: pytest.MonkeyPatch, status: int, served: int
) -> None:
    fails: list[int] = []

    @app.get("/")
    @cache.cached(expire=60, stale_if_error=600)
    async def read() -> str:
        if fails:
            raise HTTPException(fails[0])
        return "old"

    client = TestClient(app)
    assert client.get("/").status_code == 200
    later = time.monotonic() + 120
    for module in ("fast_cache.backends.memory", "fast_cache.pages.route", "fast_cache.backends.store"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: later)
    fails.append(status)
    assert client.get("/").status_code == served


def test_an_author_may_have_a_missing_thing_covered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, found = Cache(), [1]
    cache.init_app(FastAPI())

    @cache.cached(expire=60, stale_if_error=600, errors=HTTPException)
    def read() -> int:
        if not found:
            raise HTTPException(404)
        return found[0]

    later = time.monotonic() + 120
    assert read() == 1
    for module in ("fast_cache.backends.memory", "fast_cache.wrapper", "fast_cache.backends.store"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: later)
    found.clear()
    assert read() == 1


def test_made_up_variants_are_not_in_the_way_for_good(
    app: FastAPI, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.init_app(app, http=HTTPOptions(max_variants=2))

    @app.get("/")
    @cache.cached(vary_on="Accept-Language")
    async def read() -> str:
        return "all"

    client = TestClient(app)

    def is_stored(language: str) -> bool:
        client.get("/", headers={"Accept-Language": language})
        return hit(client.get("/", headers={"Accept-Language": language}))

    assert [is_stored(language) for language in ("xx", "yy", "it")] == [True, True, False]
    now = time.monotonic()
    monkeypatch.setattr("fast_cache.pages.route.monotonic", lambda: now + 61)
    assert not is_stored("zz") or is_stored("it")  # the first after that begins a new count
    assert is_stored("it")


def test_long_queries_are_routed_each_time(app: FastAPI, cache: Cache) -> None:
    @app.get("/")
    @cache.cached
    async def read(q: str = "") -> int:
        return len(q)

    client = TestClient(app)
    [exchanges] = [app.state._fast_cache_exchanges] if client.get("/").is_success else []
    for length in (10, 10_000):
        for _ in range(3):
            assert client.get("/", params={"q": "x" * length}).json() == length
    assert {len(query) for _, query in exchanges.aliases.table} == {0, len("q=") + 10}


def test_other_options_hold_from_the_next_request_on(app: FastAPI, cache: Cache) -> None:
    backend = InMemoryBackend()
    cache.init_app(app, backend)

    @app.get("/")
    @cache.cached
    async def read() -> str:
        return "all"

    client = TestClient(app)
    for _ in range(2):
        client.get("/")
    cache.init_app(app, backend, http=HTTPOptions(cache_status="shop"))
    assert client.get("/").headers["cache-status"].startswith("shop; ")


def test_explain_knows_what_the_application_lacks(cache: Cache) -> None:
    def add(app: FastAPI) -> str:
        @app.get("/")
        @cache.cached
        async def read() -> str:
            return "all"

        [row] = cache.explain(app)
        return row.answered

    never, fine, covered, overridden = FastAPI(), FastAPI(), FastAPI(), FastAPI()
    for app in (fine, covered, overridden):
        cache.init_app(app)
    covered.user_middleware.append(Middleware(BaseHTTPMiddleware, dispatch=None))
    overridden.dependency_overrides[read_body] = lambda: None
    assert add(never) == "uncached"
    assert add(fine) == "before routing"
    assert add(covered) == "after dependencies"
    assert add(overridden) == "after dependencies"


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_returned_error_invalidates_nothing_whatever_was_before(
    app: FastAPI, cache: Cache, *, fails_first: bool
) -> None:
    runs = []

    @app.get("/")
    @cache.cached
    async def read() -> int:
        runs.append(1)
        return len(runs)

    @app.post("/", dependencies=[cache.invalidating(read)])
    async def write(how: str) -> Response:
        if how == "raise":
            raise HTTPException(409)
        return JSONResponse("", status_code=int(how))

    client = TestClient(app)
    if fails_first:
        assert client.post("/", params={"how": "raise"}).status_code == 409
    assert client.get("/").json() == 1
    assert client.post("/", params={"how": "409"}).status_code == 409
    assert client.get("/").json() == 1
    assert client.post("/", params={"how": "200"}).status_code == 200
    assert client.get("/").json() == 2


def test_headers_that_an_endpoint_takes_stand_in_vary(app: FastAPI, cache: Cache) -> None:
    @app.get("/")
    @cache.cached(vary_on="Accept")
    async def read(accept_language: Annotated[str, Header()] = "en") -> str:
        return accept_language

    answer = TestClient(app).get("/")
    assert answer.headers["vary"] == "accept, accept-language"
