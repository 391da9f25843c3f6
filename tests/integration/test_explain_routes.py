"""``cache.explain(app)``: a row for each route with a cached endpoint, that says what a request would meet."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.testclient import TestClient

from fast_cache import Cache, CacheBackend, InMemoryBackend, InvalidTypeError
from tests.support.pages import make_backend


def get_user(x_user: Annotated[str, Header()]) -> str:
    return x_user


def around(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def other(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return other


def make(backend: CacheBackend | None = None) -> tuple[FastAPI, Cache]:
    app, cache, router = FastAPI(), Cache(), APIRouter()
    cache.init_app(app, backend)

    @router.get("/items/{item_id}")
    @cache.cached
    async def item(item_id: int, q: str = "") -> int:
        return item_id

    @app.get("/me")
    @cache.cached
    def me(user: Annotated[str, Depends(get_user)]) -> str:
        return user

    @app.get("/asking")
    @cache.cached
    def asking(request: Request) -> str:
        return "?"

    @app.get("/kinds", dependencies=[Depends(get_user)])
    @cache.cached(public=True, vary_on="Accept")
    def kinds() -> str:
        return "any"

    @app.post("/posted")
    @cache.cached
    def posted() -> None: ...

    @app.get("/around")
    @around
    @cache.cached
    async def wrapped() -> None: ...

    @app.get("/plain")
    def plain() -> None: ...

    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b")
    return app, cache


def test_each_route_has_its_row() -> None:
    app, cache = make()
    rows = {row.path: row for row in cache.explain(app)}
    assert {path: row.answered for path, row in rows.items()} == {
        "/me": "after dependencies",
        "/asking": "uncached",
        "/kinds": "before routing",
        "/posted": "uncached",
        "/around": "as a value",
        "/a/items/{item_id}": "before routing",
        "/b/items/{item_id}": "before routing",
    }
    assert rows["/a/items/{item_id}"].key == ("route", "method", "item_id", "q")
    assert rows["/me"].key == ("route", "method", "user (digest)")
    assert rows["/kinds"].key == ("route", "method", "header accept (digest)")
    assert "is the request itself, which no key can hold" in rows["/asking"].reasons[0]
    assert rows["/posted"].reasons == ("only GET is cached; see methods=",)
    assert rows["/me"].function.endswith("make.<locals>.me")


def test_it_tells_what_happens(caplog: pytest.LogCaptureFixture) -> None:
    app, cache = make()
    client = TestClient(app)
    for row in cache.explain(app):
        if row.methods != ("GET",):
            continue
        url = row.path.format(item_id=1)
        for _ in range(2):
            answer = client.get(url, headers={"x-user": "ada"})
        status = answer.headers.get("cache-status", "none")
        assert ("; hit" in status) == (row.answered in ("before routing", "after dependencies")), (row.path, status)


@pytest.mark.parametrize("store", ["memory", "copies", "redis", "layered"])
def test_what_is_not_at_hand_is_not_answered_before_routing(store: str, redis_url: str) -> None:
    made = InMemoryBackend(copy=True) if store == "copies" else make_backend(store, redis_url)
    with contextlib.closing(made) as backend:
        app, cache = make(backend)
        routed: list[bool] = []

        class Seen:
            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await self.app(scope, receive, send)
                routed.append("endpoint" in scope)

        app.add_middleware(Seen)
        with TestClient(app) as client:
            (row,) = [row for row in cache.explain(app) if row.path == "/a/items/{item_id}"]

            def is_answered_before_routing() -> bool:
                client.get("/a/items/1")
                return not routed[-1]

            if row.answered == "before routing":
                assert row.reasons == ()
                deadline = time.monotonic() + 20
                while not is_answered_before_routing():  # two tiers have to hear first that they are told of changes
                    assert time.monotonic() < deadline
            else:
                assert "the backend keeps nothing in local memory that may be handed out" in row.reasons[0]
                assert not any(is_answered_before_routing() for _ in range(4))
        assert (row.answered == "before routing") == (store in ("memory", "layered"))


def test_what_runs_uncached_is_said_when_the_application_starts(caplog: pytest.LogCaptureFixture) -> None:
    app, cache = make()

    @app.get("/starting")
    @cache.cached
    def told_at_the_start(request: Request) -> str:
        return "?"

    with TestClient(app) as client:
        said = [record.getMessage() for record in caplog.records if record.name == "fast_cache"]
        told = [text for text in said if "told_at_the_start" in text]
        assert len(told) == 1
        assert "parameter request of told_at_the_start is the request itself" in told[0]
        assert client.get("/starting").is_success
    assert [record.getMessage() for record in caplog.records if record.name == "fast_cache"] == said


def test_it_is_drawn_as_a_table() -> None:
    app, cache = make()
    head, rule, *rows = str(cache.explain(app)).splitlines()
    assert head.split() == ["route", "methods", "answered", "key", "why"]
    assert set(rule) == {"-", " "}
    assert len(rows) == 7
    assert len({row.index(one.answered) for row, one in zip(rows, cache.explain(app), strict=True)}) == 1


def test_only_an_application_can_be_explained() -> None:
    with pytest.raises(InvalidTypeError, match="explain takes the FastAPI application"):
        Cache().explain("shop")  # type: ignore[arg-type]
