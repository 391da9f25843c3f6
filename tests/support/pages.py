"""Applications whose endpoints are cached, for tests to attack: endpoints of either kind that wait until they are let
go, over any of the backends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, HTTPOptions, InMemoryBackend, LayeredBackend, RedisBackend
from fast_cache.testing import PATIENCE
from tests.support.asgi_client import Answer, ask

KINDS: Final = ["async", "sync"]
STORES: Final = ["memory", "redis", "layered"]


def make_backend(store: str, redis_url: str, namespace: str = "pages") -> CacheBackend:
    if store == "memory":
        return InMemoryBackend()
    far = RedisBackend(redis_url, namespace=namespace, timeout=10.0)
    return far if store == "redis" else LayeredBackend(InMemoryBackend(), far)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that must happen."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 -- threads bring it about too
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"never came about: {what}") from None


class Door:
    """Where endpoints wait. It is open at first."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_blocking(self) -> None:
        assert self._open.wait(PATIENCE), "the door was never opened"

    async def pass_suspending(self) -> None:
        await until(self._open.is_set, "the door is opened")


class Site:
    """An application with a cache, and what its endpoints did."""

    def __init__(self, kind: str, backend: CacheBackend | None = None, http: HTTPOptions | None = None) -> None:
        self.kind = kind
        self.backend = InMemoryBackend() if backend is None else backend
        self.app = FastAPI()
        self.cache = Cache()
        self.cache.init_app(self.app, self.backend, http=http)
        self.door = Door()
        self.began: list[Any] = []
        """The arguments that endpoints were called with."""

    @property
    def runs(self) -> int:
        return len(self.began)

    def flavoured(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """``body`` as a function of this kind that notes its call and waits at the door before it does anything."""

        @functools.wraps(body)
        async def suspending(*args: Any, **kwargs: Any) -> Any:
            self.began.append(kwargs)
            await self.door.pass_suspending()
            return body(*args, **kwargs)

        @functools.wraps(body)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            self.began.append(kwargs)
            self.door.pass_blocking()
            return body(*args, **kwargs)

        return suspending if self.kind == "async" else blocking

    def page(self, path: str, *, route: dict[str, Any] | None = None, **options: Any) -> Callable[[Any], Any]:
        """Add ``body`` as a cached endpoint; returns the decorated function."""

        def add(body: Callable[..., Any]) -> Any:
            cached: Any = self.cache.cached(**options)(self.flavoured(body))
            self.app.api_route(path, **{"methods": ["GET"], **(route or {})})(cached)
            return cached

        return add

    def start(self, url: str, **more: Any) -> asyncio.Task[Answer]:
        return asyncio.create_task(ask(self.app, url, **more))

    async def get(self, url: str, **more: Any) -> Answer:
        return await asyncio.wait_for(ask(self.app, url, **more), PATIENCE)

    async def all(self, tasks: list[asyncio.Task[Answer]]) -> list[Answer]:
        return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

    async def call(self, owner: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``name`` of a cache or a backend, as an async program does."""
        return await getattr(owner, f"a{name}")(*args, **kwargs)

    @property
    def flights(self) -> Any:
        return self.backend.engine_store().flights

    @property
    def followers(self) -> int:
        """How many requests wait for the load of another one."""
        flights = self.flights
        return sum(flights.waiting(key) for key in list(flights._table))

    async def followed(self, count: int) -> None:
        await until(lambda: self.followers == count, f"{count} requests wait")

    async def ran(self, count: int) -> None:
        await until(lambda: self.runs >= count, f"{count} endpoints have begun")

    async def rested(self) -> None:
        """Wait for what goes on behind visitors."""
        await self.cache._binding.background.drain(PATIENCE)

    def assert_nothing_left(self) -> None:
        assert len(self.flights) == 0
        assert len(self.cache._binding.background) == 0


@contextlib.asynccontextmanager
async def site(kind: str, store: str = "memory", redis_url: str = "", **options: Any) -> AsyncIterator[Site]:
    """An application that runs as long as this lasts, and leaves no load behind."""
    made = Site(kind, make_backend(store, redis_url), **options)
    async with made.app.router.lifespan_context(made.app):
        try:
            yield made
        finally:
            made.door.open()
            await made.rested()
    made.assert_nothing_left()
