"""The libraries whose survival is compared, each behind the same few methods: one class for each.

A scenario says what it wants (:class:`Wish`), and a class gives the configuration that its library documents for that,
or says that there is none. Nothing is written for a library that its documentation does not offer: no key builders, no
retries, no locks of ours. Where a library has several configurations that exclude each other, all are tried, and the
best answer counts.

Scenarios are written for an event loop. A library for blocking code is called in threads, and the function that it
caches waits there for the scenario's coroutine.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from fast_cache import Cache, InMemoryBackend, RedisBackend
from tests.benchmarks.peers import library
from tests.benchmarks.report import OURS

NAMESPACE = "survival"

PATIENCE = 0.2
"""Seconds for which every library is told to wait for Redis, be it for a connection or for an answer."""

Function = Callable[..., Awaitable[Any]]


class NotOffered(Exception):
    """The library has nothing of the kind."""


@dataclass(frozen=True)
class Wish:
    """What a scenario wants of a library.

    Args:
        configuration: one of :attr:`Peer.configurations`.
        redis_url: keep values there, not in memory.
        fresh: the lifetime in seconds.
        stale: for how long after that a value is served while it is loaded anew behind the callers.
        on_error: for how long after that a value is served if the function raises.
        unpickles: whether values from Redis may be unpickled.
        copies: callers can't change what is cached.
        elsewhere: the way to a second process, where a scenario takes two.
    """

    configuration: str = ""
    redis_url: str | None = None
    fresh: float = 60
    stale: float = 0
    on_error: float = 0
    unpickles: bool = True
    copies: bool = False
    elsewhere: Connection | None = None


@dataclass(frozen=True)
class Cached:
    """A cached function, and how its entries are removed."""

    call: Function
    delete: Callable[..., Awaitable[object]]
    clear: Callable[[], Awaitable[object]]


class Peer(ABC):
    """One library.

    Args:
        configurations: those that exclude each other, the default first. One that is not the default is named in the
            table where it is the better one.
        sharing: those in which concurrent callers share a load.
        blocking: its functions block.
        has_redis: whether it can keep values in Redis.
        note: what a reader of the table must know.
    """

    name: str
    distribution: str
    configurations: Sequence[str] = ("",)
    sharing: Sequence[str] = ("",)
    blocking = False
    has_redis = True
    note = ""

    @abstractmethod
    def cached(self, function: Function, wish: Wish) -> Cached:
        """Cache a coroutine function.

        Raises:
            NotOffered: the library can't have what is wished for.
        """

    def cached_sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Cache a function that blocks, for callers that block."""
        raise NotOffered

    @abstractmethod
    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        """Cache an endpoint of ``app``: a coroutine function, or one that blocks where the library does."""


class FastCache(Peer):
    name = OURS
    distribution = "fast_cache"
    configurations = ("", 'lock="distributed"')

    def cached(self, function: Function, wish: Wish) -> Cached:
        if wish.configuration and not wish.redis_url:
            raise NotOffered
        cache = Cache()
        backend = (
            RedisBackend(wish.redis_url, namespace=NAMESPACE, timeout=PATIENCE, connect_timeout=PATIENCE)
            if wish.redis_url
            else InMemoryBackend(copy=wish.copies)
        )
        cache.init_app(FastAPI(), backend=backend)
        decorate = cache.cached(
            expire=wish.fresh,
            stale_while_revalidate=wish.stale or None,
            stale_if_error=wish.on_error or None,
            lock="distributed" if wish.configuration else "local",
        )
        cached: Any = decorate(function)
        return Cached(cached, cached.invalidate, backend.aclear)

    def cached_sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._decorator()(function)

    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        return self._decorator(app)(function)

    def _decorator(self, app: FastAPI | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        cache = Cache()
        cache.init_app(app or FastAPI(), backend=InMemoryBackend())
        return cache.cached(expire=60)


class Cashews(Peer):
    name = "cashews"
    distribution = "cashews"
    configurations = ("", "lock=True", "protected=False")
    sharing = ("", "lock=True")

    def cached(self, function: Function, wish: Wish) -> Cached:
        cache = self._cache(wish)
        options = {
            "": {},
            "lock=True": {"lock": True, "protected": False},
            "protected=False": {"protected": False},
        }[wish.configuration]
        if wish.stale or wish.on_error:
            if wish.configuration == "lock=True":
                raise NotOffered
            strategy = (
                cache.early(ttl=wish.fresh + wish.stale, early_ttl=wish.fresh, **options)
                if wish.stale
                else cache.soft(ttl=wish.fresh + wish.on_error, soft_ttl=wish.fresh, **options)
            )
        else:
            strategy = cache(ttl=wish.fresh, **options)
        key = library("cashews.key")
        template = key.get_cache_key_template(function)

        async def delete(*args: Any) -> None:
            await cache.delete(key.get_cache_key(function, template, args, {}))

        return Cached(strategy(function), delete, cache.clear)

    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        decorated: Callable[..., Any] = self._cache(Wish())(ttl=60)(function)
        return decorated

    def _cache(self, wish: Wish) -> Any:
        cache = library("cashews").Cache()
        if wish.redis_url:
            cache.setup(
                wish.redis_url,
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
                retry=_no_retries("redis.asyncio.retry"),
                pickle_type="default" if wish.unpickles else "json",
            )
        else:
            cache.setup("mem://", **({"pickle_type": "default"} if wish.copies else {}))
        return cache


class Aiocache(Peer):
    name = "aiocache"
    distribution = "aiocache"
    configurations = ("", "cached_stampede")
    sharing = ("cached_stampede",)

    def cached(self, function: Function, wish: Wish) -> Cached:
        if wish.stale or wish.on_error:
            raise NotOffered
        decorator = self._decorator(wish)
        cached: Any = decorator(function)

        async def delete(*args: Any) -> None:
            await cached.cache.delete(decorator.get_cache_key(function, args, {}))

        return Cached(cached, delete, cached.cache.clear)

    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        decorated: Callable[..., Any] = self._decorator(Wish())(function)
        return decorated

    def _decorator(self, wish: Wish) -> Any:
        aiocache, serializers = library("aiocache"), library("aiocache.serializers")
        options: dict[str, Any] = {"ttl": wish.fresh, "namespace": NAMESPACE}
        if wish.redis_url:
            address = urlsplit(wish.redis_url)
            options |= {
                "cache": aiocache.Cache.REDIS,
                "endpoint": address.hostname,
                "port": address.port,
                "timeout": PATIENCE,
                "serializer": serializers.PickleSerializer() if wish.unpickles else serializers.JsonSerializer(),
            }
        elif wish.copies:
            options["serializer"] = serializers.PickleSerializer()
        make = aiocache.cached_stampede if wish.configuration == "cached_stampede" else aiocache.cached
        return make(**options)


class Dogpile(Peer):
    name = "dogpile.cache"
    distribution = "dogpile.cache"
    configurations = ("", "distributed_lock")
    sharing = ("", "distributed_lock")
    blocking = True
    note = "dogpile.cache is for blocking code: its callers are threads."

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=128)

    def cached(self, function: Function, wish: Wish) -> Cached:
        loop = asyncio.get_running_loop()

        def blocking(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                return await function(*args, **kwargs)

            return asyncio.run_coroutine_threadsafe(run(), loop).result()

        blocking.__name__ = function.__name__
        blocking.__module__ = function.__module__
        vars(blocking)["__signature__"] = inspect.signature(function)
        region = self._region(wish)
        cached = self._decorator(region)(blocking)

        def in_thread(call: Callable[..., Any]) -> Function:
            async def called(*args: Any, **kwargs: Any) -> Any:
                return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))

            return called

        return Cached(in_thread(cached), in_thread(cached.invalidate), in_thread(region.invalidate))

    def cached_sync(self, function: Callable[..., Any]) -> Callable[..., Any]:
        cached: Callable[..., Any] = self._decorator(self._region(Wish()))(function)
        return cached

    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        return self.cached_sync(function)

    def _decorator(self, region: Any) -> Callable[..., Any]:
        util = library("dogpile.cache.util")
        decorator: Callable[..., Any] = region.cache_on_arguments(
            function_key_generator=util.kwarg_function_key_generator, to_str=repr
        )
        return decorator

    def _region(self, wish: Wish) -> Any:
        if wish.configuration and not wish.redis_url:
            raise NotOffered  # such locks are kept in Redis
        json = library("json")
        options: dict[str, Any] = {}
        if wish.stale or wish.on_error:
            options["async_creation_runner"] = _behind_the_caller
        if not wish.unpickles:
            options |= {"serializer": lambda value: json.dumps(value).encode(), "deserializer": json.loads}
        region = library("dogpile.cache").make_region(**options)
        if not wish.redis_url:
            store = "dogpile.cache.memory_pickle" if wish.copies else "dogpile.cache.memory"
            return region.configure(store, expiration_time=wish.fresh)
        arguments: dict[str, Any] = {
            "url": wish.redis_url,
            "socket_timeout": PATIENCE,
            "socket_connect_timeout": PATIENCE,
            "connection_kwargs": {"retry": _no_retries("redis.retry")},
        }
        if wish.configuration == "distributed_lock":
            arguments |= {"distributed_lock": True, "thread_local_lock": False, "lock_timeout": 30}
        return region.configure("dogpile.cache.redis", expiration_time=wish.fresh, arguments=arguments)


class AsyncCache(Peer):
    name = "async-cache"
    distribution = "async-cache"
    has_redis = False
    note = (
        "async-cache keeps values in memory only. Its decorators hide a signature, so they can't stand on an endpoint."
    )

    def cached(self, function: Function, wish: Wish) -> Cached:
        if wish.stale or wish.on_error or wish.redis_url:
            raise NotOffered
        cached: Any = library("cache").AsyncTTL(time_to_live=wish.fresh, maxsize=None)(function)

        async def delete(*args: Any) -> None:
            cached.invalidate_cache(*args)

        async def clear() -> None:
            cached.clear_cache()

        return Cached(cached, delete, clear)

    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        raise NotOffered


class FastapiCache(Peer):
    name = "fastapi-cache2"
    distribution = "fastapi-cache2"
    sharing = ()

    def cached(self, function: Function, wish: Wish) -> Cached:
        if wish.stale or wish.on_error:
            raise NotOffered
        package = library("fastapi_cache")
        cached = self._decorator(wish)(function)

        async def delete(*args: Any) -> None:
            builder = package.FastAPICache.get_key_builder()
            await package.FastAPICache.clear(key=builder(function, f"{NAMESPACE}:", args=args, kwargs={}))

        return Cached(cached, delete, package.FastAPICache.clear)

    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        decorated: Callable[..., Any] = self._decorator(Wish())(function)
        return decorated

    def _decorator(self, wish: Wish) -> Any:
        package, coders = library("fastapi_cache"), library("fastapi_cache.coder")
        if wish.redis_url:
            client = library("redis.asyncio").Redis.from_url(
                wish.redis_url,
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
                retry=_no_retries("redis.asyncio.retry"),
            )
            backend = library("fastapi_cache.backends.redis").RedisBackend(client)
        else:
            backend = library("fastapi_cache.backends.inmemory").InMemoryBackend()
        package.FastAPICache.init(backend, prefix=NAMESPACE)
        coder = coders.PickleCoder if wish.redis_url and wish.unpickles else coders.JsonCoder
        return library("fastapi_cache.decorator").cache(expire=int(wish.fresh), coder=coder)


PEERS: Sequence[type[Peer]] = (FastCache, Cashews, Aiocache, Dogpile, AsyncCache, FastapiCache)


def _no_retries(module: str) -> Any:
    """For libraries that take the driver's options: by default it tries ten times, with pauses."""
    return library(module).Retry(library("redis.backoff").NoBackoff(), 0)


def _behind_the_caller(region: Any, key: Any, creator: Callable[[], Any], mutex: Any) -> None:
    """The runner that the documentation of dogpile.cache shows."""

    def runner() -> None:
        try:
            region.set(key, creator())
        finally:
            mutex.release()

    threading.Thread(target=runner, daemon=True).start()
