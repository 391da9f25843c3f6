"""A cache's start and stop around the lifespans that FastAPI knows."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.testclient import TestClient

from fast_cache.errors import ConfigurationError
from fast_cache.http.lifespan import bind_lifespan


class Cache:
    """Two methods that say when they are called."""

    def __init__(self, log: list[str], name: str = "cache") -> None:
        self.log = log
        self.name = name

    async def start(self) -> None:
        self.log.append(f"{self.name} starts")

    async def stop(self) -> None:
        self.log.append(f"{self.name} stops")


class Failing(Cache):
    def __init__(self, log: list[str], error: Exception) -> None:
        super().__init__(log)
        self.error = error

    async def start(self) -> None:
        await super().start()
        raise self.error

    async def stop(self) -> None:
        await super().stop()
        raise self.error


def app_with_lifespan(log: list[str], name: str = "user", state: Any = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        log.append(f"{name} starts")
        try:
            yield state
        finally:
            log.append(f"{name} stops")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    def read() -> str:
        log.append("request")
        return "answer"

    return app


def test_the_cache_starts_before_the_users_lifespan_and_stops_after_it() -> None:
    log: list[str] = []
    app = app_with_lifespan(log)
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)
    with TestClient(app) as client:
        client.get("/")
    assert log == ["cache starts", "user starts", "request", "user stops", "cache stops"]


def test_the_users_state_is_handed_on_as_it_is() -> None:
    pool = object()
    log: list[str] = []
    app = app_with_lifespan(log, state={"pool": pool})

    @app.get("/state")
    def read(request: Request) -> bool:
        return request.state.pool is pool

    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)
    with TestClient(app) as client:
        assert client.get("/state").json() is True
        assert client.app_state == {"pool": pool}


def test_an_app_may_live_several_times() -> None:
    log: list[str] = []
    app = app_with_lifespan(log)
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)
    once = ["cache starts", "user starts", "user stops", "cache stops"]
    for lives in (1, 2, 3):
        with TestClient(app):
            pass
        assert log == once * lives


def test_a_startup_that_fails_still_stops_the_cache() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    app = FastAPI(lifespan=lifespan)
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)
    with pytest.raises(RuntimeError, match="no database"), TestClient(app):
        pass
    assert log == ["cache starts", "cache stops"]


def test_a_failing_shutdown_still_stops_the_cache_and_is_not_hidden() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        raise RuntimeError("cannot close")

    app = FastAPI(lifespan=lifespan)
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)
    with pytest.raises(RuntimeError, match="cannot close"), TestClient(app):
        pass
    assert log == ["cache starts", "cache stops"]


def test_an_exception_of_the_app_reaches_the_users_lifespan() -> None:
    log: list[str] = []
    seen: list[BaseException] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(error)
            raise

    app = FastAPI(lifespan=lifespan)
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)
    fault = ValueError("broken")

    async def live() -> None:
        async with app.router.lifespan_context(app):
            raise fault

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(live())
    assert seen == [fault]
    assert log == ["cache starts", "cache stops"]


def test_routers_included_afterwards_keep_their_lifespans_and_state() -> None:
    log: list[str] = []
    app = app_with_lifespan(log, state={"user": 1})
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)

    @asynccontextmanager
    async def of_router(app: Any) -> AsyncIterator[dict[str, int]]:
        log.append("router starts")
        yield {"router": 2}
        log.append("router stops")

    app.include_router(APIRouter(lifespan=of_router))
    bind_lifespan(app, cache.start, cache.stop)
    with TestClient(app) as client:
        assert client.app_state == {"user": 1, "router": 2}
    assert log == [
        "cache starts",
        "user starts",
        "router starts",
        "router stops",
        "user stops",
        "cache stops",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_event_handlers_still_run_whenever_they_are_added() -> None:
    log: list[str] = []
    app = FastAPI(on_startup=[lambda: log.append("first")])
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)

    @app.on_event("startup")
    async def startup() -> None:
        log.append("second")

    @app.on_event("shutdown")
    def shutdown() -> None:
        log.append("down")

    with TestClient(app):
        pass
    assert log == ["cache starts", "first", "second", "down", "cache stops"]


def test_binding_the_same_cache_again_changes_nothing() -> None:
    log: list[str] = []
    app = app_with_lifespan(log)
    cache = Cache(log)
    for _ in range(3):
        bind_lifespan(app, cache.start, cache.stop)
    with TestClient(app):
        pass
    assert log == ["cache starts", "user starts", "user stops", "cache stops"]


def test_two_caches_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    app = app_with_lifespan(log)
    one, two = Cache(log, "one"), Cache(log, "two")
    bind_lifespan(app, one.start, one.stop)
    bind_lifespan(app, two.start, two.stop)
    bind_lifespan(app, one.start, one.stop)
    with TestClient(app):
        pass
    assert log == ["one starts", "two starts", "user starts", "user stops", "two stops", "one stops"]


def test_a_cache_serves_two_apps_each_in_its_own_life() -> None:
    log: list[str] = []
    cache = Cache(log)
    apps = [app_with_lifespan(log, name) for name in ("a", "b")]
    for app in apps:
        bind_lifespan(app, cache.start, cache.stop)
    for app in apps:
        with TestClient(app):
            pass
    assert log == [
        *("cache starts", "a starts", "a stops", "cache stops"),
        *("cache starts", "b starts", "b stops", "cache stops"),
    ]


def test_a_cache_bound_while_the_app_runs_is_stopped_with_it() -> None:
    log: list[str] = []
    first, late = Cache(log, "first"), Cache(log, "late")
    app = app_with_lifespan(log)
    bind_lifespan(app, first.start, first.stop)
    with TestClient(app):
        bind_lifespan(app, late.start, late.stop)
    assert log == ["first starts", "user starts", "user stops", "late stops", "first stops"]


def test_without_a_lifespan_requests_are_served_and_nothing_is_started() -> None:
    log: list[str] = []
    inner = app_with_lifespan(log)
    cache = Cache(log)
    bind_lifespan(inner, cache.start, cache.stop)
    assert TestClient(inner).get("/").json() == "answer"
    outer = FastAPI()
    outer.mount("/inner", inner)
    with TestClient(outer) as client:
        assert client.get("/inner/").json() == "answer"
    assert log == ["request", "request"]


def test_a_cache_that_cannot_start_or_stop_does_not_keep_the_app_from_it(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    app = app_with_lifespan(log)
    cache, other = Failing(log, OSError("no route to host")), Cache(log, "other")
    bind_lifespan(app, cache.start, cache.stop)
    bind_lifespan(app, other.start, other.stop)
    with caplog.at_level(logging.ERROR, logger="fast_cache"), TestClient(app) as client:
        assert client.get("/").status_code == 200
    assert log == [
        *("cache starts", "other starts", "user starts", "request"),
        *("user stops", "other stops", "cache stops"),
    ]
    assert [record.exc_info is not None for record in caplog.records if record.name == "fast_cache"] == [True, True]


def test_a_wrong_option_found_at_startup_ends_it_and_stops_the_cache() -> None:
    log: list[str] = []
    app = app_with_lifespan(log)
    cache = Failing(log, ConfigurationError("the database number is wrong"))
    bind_lifespan(app, cache.start, cache.stop)
    with pytest.raises(ConfigurationError, match="database number"), TestClient(app):
        pass
    assert log == ["cache starts", "cache stops"]


def test_an_app_that_is_gone_is_not_held() -> None:
    log: list[str] = []
    app = app_with_lifespan(log)
    cache = Cache(log)
    bind_lifespan(app, cache.start, cache.stop)
    with TestClient(app):
        pass
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
