"""One endpoint, which returns twenty models, in an application of its own for each way to answer it.

An application each, because a cache may stand in the way of whatever else passes. All answer ``GET /items?page=`` with
the same twenty models, and ``GET /counts`` tells how often cached endpoints have run in this process, and what
processor time it took. Nothing is computed for the models: a page that takes a query to the database gains more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fast_cache import Cache, InMemoryBackend
from tests.benchmarks.peers import library
from tests.benchmarks.report import OURS

WAY = "BENCH_HTTP_WAY"
"""The name in the environment of the way that ``app`` goes."""

PATH = "/items"

LIFETIME = 3600
SIZE = 100_000

RUNS, CPU = "runs", "cpu"
"""Among the counts: how often a cached endpoint has run, and nanoseconds."""

MODELS = 20

_runs = 0


class Item(BaseModel):
    id: int
    name: str
    description: str
    price: float
    in_stock: bool
    labels: list[str]


ITEMS = [
    Item(
        id=number,
        name=f"Kettle {number}",
        description="A kettle for the stove, of enamelled steel, with a wooden handle.",
        price=24.5 + number,
        in_stock=number % 3 > 0,
        labels=["kitchen", "new"],
    )
    for number in range(MODELS)
]

BODY = TypeAdapter(list[Item]).dump_json(ITEMS)

READY = Response(BODY, media_type="application/json")
"""Made once: nothing is faster."""


def runs() -> int:
    """How often cached endpoints have run."""
    return _runs


def _ran() -> None:
    global _runs
    _runs += 1


async def tenant(x_tenant: Annotated[str, Header()]) -> str:
    """A dependency whose result decides what is read."""
    return x_tenant


async def admitted(x_tenant: Annotated[str, Header()]) -> None:
    """A dependency that keeps strangers out."""
    if not x_tenant:
        raise HTTPException(403)


Tenant = Annotated[str, Depends(tenant)]


async def items(page: int) -> list[Item]:
    return ITEMS


async def cached_items(page: int) -> list[Item]:
    _ran()
    return ITEMS


async def cached_items_of(page: int, owner: Tenant) -> list[Item]:
    _ran()
    return ITEMS


async def items_of(page: int, owner: Tenant) -> list[Item]:
    return ITEMS


async def ready(page: int) -> Response:
    return READY


async def ready_of(page: int, owner: Tenant) -> Response:
    return READY


def bare() -> ASGIApp:
    """What is to be beaten: a route that reads nothing of the request."""

    async def endpoint(request: Request) -> Response:
        return READY

    async def tell(request: Request) -> Response:
        return JSONResponse(counts())

    return Starlette(routes=[Route(PATH, endpoint), Route("/counts", tell)])


def made_anew() -> ASGIApp:
    """The same route as it is usually written."""

    async def endpoint(request: Request) -> Response:
        return Response(BODY, media_type="application/json")

    return Starlette(routes=[Route(PATH, endpoint)])


def uncached() -> FastAPI:
    return _application(items)


def uncached_after_dependency() -> FastAPI:
    return _application(items_of)


def with_ready() -> FastAPI:
    """An endpoint that has its parameter read and checked, and nothing serialised."""
    return _application(ready, model=None)


def with_ready_of_tenant() -> FastAPI:
    return _application(ready_of, model=None)


def with_ready_behind_guard() -> FastAPI:
    return _application(ready, admitted, model=None)


def before_routing() -> FastAPI:
    return _by_ours(cached_items)


def after_keyed_dependency() -> FastAPI:
    return _by_ours(cached_items_of)


def after_guard() -> FastAPI:
    return _by_ours(cached_items, admitted, shared=True)


def by_fastapi_cache() -> FastAPI:
    """As its documentation begins."""
    fastapi_cache = library("fastapi_cache")
    backend = library("fastapi_cache.backends.inmemory").InMemoryBackend()
    fastapi_cache.FastAPICache.reset()  # it belongs to the process, and takes the second init for none
    fastapi_cache.FastAPICache.init(backend, prefix="fastapi-cache")
    return _application(library("fastapi_cache.decorator").cache(expire=LIFETIME)(cached_items))


def by_cashews() -> FastAPI:
    cache = library("cashews").Cache()
    cache.setup(f"mem://?size={SIZE}")
    return _application(cache(ttl=LIFETIME, key="items:{page}")(cached_items))


def by_cashews_with_middlewares() -> FastAPI:
    """With those that its documentation adds for FastAPI, which send ``ETag``, ``Cache-Control`` and ``Age``."""
    parts = library("cashews.contrib.fastapi")
    cache = library("cashews").Cache()
    cache.setup(f"mem://?size={SIZE}")
    app = _application(cache(ttl=parts.cache_control_ttl(default=LIFETIME), key="items:{page}")(cached_items))
    app.add_middleware(parts.CacheDeleteMiddleware)
    app.add_middleware(parts.CacheEtagMiddleware, cache_instance=cache)
    app.add_middleware(parts.CacheRequestControlMiddleware, cache_instance=cache)
    return app


BARE = "Starlette, a ready response"
UNCACHED, UNCACHED_AFTER = "FastAPI, not cached", "FastAPI, not cached, with a dependency"
BEFORE, AFTER = f"{OURS}, before routing", f"{OURS}, after dependencies"
FASTAPI_CACHE, CASHEWS = "fastapi-cache2", "cashews"

OVER_THE_WIRE: dict[str, Callable[[], ASGIApp]] = {
    BARE: bare,
    BEFORE: before_routing,
    AFTER: after_keyed_dependency,
    UNCACHED: uncached,
    UNCACHED_AFTER: uncached_after_dependency,
    FASTAPI_CACHE: by_fastapi_cache,
    CASHEWS: by_cashews,
}

PEERS = (FASTAPI_CACHE, CASHEWS)


def plain(*, cached: bool) -> FastAPI:
    """An application with an endpoint that is not cached; with the cache, or without it."""
    app = _by_ours(cached_items) if cached else _application(items)

    @app.get("/plain/{number}")
    async def one(number: int) -> dict[str, int]:
        return {"number": number}

    return app


def counts() -> dict[str, int]:
    return {RUNS: _runs, CPU: time.process_time_ns()}


def _application(
    endpoint: Callable[..., Any], *guards: Callable[..., Any], app: FastAPI | None = None, model: Any = list[Item]
) -> FastAPI:
    app = app or FastAPI()
    # The model is said here: under fastapi-cache2 FastAPI can't read an annotation that is text.
    app.get(PATH, response_model=model, dependencies=[Depends(guard) for guard in guards])(endpoint)

    @app.get("/counts")
    async def tell() -> dict[str, int]:
        return counts()

    return app


def _by_ours(endpoint: Callable[..., Any], *guards: Callable[..., Any], **options: Any) -> FastAPI:
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend=InMemoryBackend(max_size=SIZE))
    return _application(cache.cached(expire=LIFETIME, **options)(endpoint), *guards, app=app)


def __getattr__(name: str) -> ASGIApp:
    """``app``, made when it is asked for, the way that the environment says."""
    if name != "app":
        raise AttributeError(name)
    return OVER_THE_WIRE[os.environ[WAY]]()
