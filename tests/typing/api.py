"""What a type checker sees. Nothing here runs; `make check` fails when one of the types changes.

Each ``type: ignore`` names an error that has to be there: the checker reports the ones that are not needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar, assert_type

from fastapi import Depends, FastAPI

from fast_cache import (
    Cache,
    CacheBackend,
    CacheDep,
    InMemoryBackend,
    PickleSerializer,
    RedisBackend,
    Serializer,
    backend_from_url,
    cache,
)

P = ParamSpec("P")
T = TypeVar("T")


@cache.cached
async def bare_async(item_id: int, *, currency: str = "EUR") -> float:
    return 1.0


@cache.cached()
def called(item_id: int) -> str:
    return ""


@cache.cached(expire="5m", version=2, condition=bool)
async def with_options(item_id: int) -> list[str]:
    return []


@cache.cached
def takes_anything(anything: Any, other: object) -> int:
    return 1


class Shop:
    @cache.cached
    async def price(self, item_id: int) -> float:
        return 1.0

    @cache.cached(expire=60)
    def name(self, item_id: int) -> str:
        return ""

    @cache.cached
    @classmethod
    def rate(cls, item_id: int) -> float:
        return 1.0

    @staticmethod
    @cache.cached
    def below_staticmethod(item_id: int) -> str:
        return ""

    @cache.cached(expire=5)
    @staticmethod
    def above_staticmethod(item_id: int) -> str:
        return ""


@cache.invalidates(bare_async, lambda item_id: item_id, "items:*", tags="items", everything=[called, with_options])
async def write_async(item_id: int, *, name: str = "") -> str:
    return name


@cache.invalidates(everything=called)
def write(item_id: int) -> int:
    return item_id


@cache.transaction()
async def write_together(item_id: int) -> bool:
    return True


class Stock:
    @cache.invalidates(everything=called)
    async def write(self, item_id: int) -> str:
        return ""

    @cache.invalidates(everything=called)
    @staticmethod
    def write_static(item_id: int) -> str:
        return ""


async def writes() -> None:
    coroutine = write_async(1, name="a pen")
    await assert_type(coroutine, Coroutine[Any, Any, str])
    assert_type(write(1), int)
    assert_type(await write_together(1), bool)
    assert_type(await Stock().write(1), str)
    assert_type(Stock.write_static(1), str)
    await write_async("1")  # type: ignore[arg-type]
    write()  # type: ignore[call-arg]
    await write_together(name="")  # type: ignore[call-arg]
    cache.invalidate("items:{item_id}", item_id=5)
    await cache.ainvalidate("items:5")
    with cache.transaction() as nothing:
        assert_type(nothing, None)
    async with cache.transaction() as nothing:
        assert_type(nothing, None)
    FastAPI(dependencies=[cache.invalidating(bare_async)])


async def functions() -> None:
    coroutine = bare_async(1, currency="USD")
    await assert_type(coroutine, Coroutine[Any, Any, float])
    assert_type(await bare_async(1), float)
    assert_type(called(1), str)
    assert_type(await with_options(1), list[str])
    bare_async("1")  # type: ignore[call-overload]
    bare_async(1, "USD")  # type: ignore[call-overload]
    called()  # type: ignore[call-overload]
    assert_type(takes_anything("x", other=1), int)
    assert_type(takes_anything.key(anything=1, other=2), str)


async def bypassing(shop: Shop) -> None:
    assert_type(await bare_async(1, currency="USD", skip_cache=True), float)
    assert_type(called(1, skip_cache=True), str)
    assert_type(shop.name(1, skip_cache=True), str)
    assert_type(await shop.price(1, skip_cache=True), float)


def traced(fn: Callable[P, T]) -> Callable[P, T]:
    return fn


def takes_a_callback(fn: Callable[[int], str]) -> str:
    return fn(1)


def as_any_other_function() -> None:
    assert_type(takes_a_callback(called), str)
    assert_type(traced(called)(1), str)
    traced(called)("1")  # type: ignore[arg-type]


async def operations() -> None:
    invalidation = bare_async.invalidate(1)
    await assert_type(invalidation, Awaitable[bool])
    assert_type(called.invalidate(1), bool)
    assert_type(await bare_async.refresh(1), float)
    assert_type(called.refresh(1), str)
    assert_type(called.key(1), str)
    called.invalidate("1")  # type: ignore[arg-type]
    called.key()  # type: ignore[call-arg]


async def methods(shop: Shop) -> None:
    assert_type(await shop.price(1), float)
    assert_type(await Shop.price(shop, 1), float)
    assert_type(shop.name(1), str)
    assert_type(shop.name.invalidate(1), bool)
    assert_type(Shop.name.invalidate(shop, 1), bool)
    assert_type(await shop.price.refresh(1), float)
    assert_type(Shop.below_staticmethod(1), str)
    assert_type(Shop.above_staticmethod(1), str)
    shop.name("1")  # type: ignore[call-overload]
    # What mypy can't tell: the type of a classmethod has its class first, as that of a method has its instance, and a
    # staticmethod looks like a method without parameters.
    Shop.rate(1)  # type: ignore[call-overload]
    shop.above_staticmethod(1)  # type: ignore[call-overload]
    shop.name.invalidate()  # type: ignore[call-arg]


app = FastAPI()
cache.init_app(app, backend=InMemoryBackend(max_size=10), default_expire="5m")
cache.init_app(app, RedisBackend("redis://localhost:6379/0", namespace="shop"))
cache.init_app(app, backend="layered://localhost:6379/0?l1_expire=30s")
cache.init_app(app, backend_from_url("memory://"))
cache.init_app(app, backend=b"memory://")  # type: ignore[arg-type]
Cache().init_app(app, default_expire=1.5)
assert_type(backend_from_url("redis://localhost:6379/0"), CacheBackend)
backend_from_url(None)  # type: ignore[arg-type]


@app.get("/items/{item_id}")
@cache.cached(expire=60)
async def read_item(item_id: int, store: CacheDep) -> float:
    assert_type(store, CacheBackend)
    return 1.0


@app.get("/other")
async def other(store: Annotated[CacheBackend, Depends(cache.get_cache)]) -> Any:
    return await store.aget("key", default=0)


async def loaders() -> None:
    async def load() -> float:
        return 1.0

    assert_type(cache.get_or_set("key", lambda: 1, expire="5m", stale_if_error=60), int)
    assert_type(await cache.aget_or_set("key", load, 60, refresh_ahead=0.2), float)
    cache.get_or_set("key", lambda: 1, nonsense=1)  # type: ignore[call-arg]
    cache.get_or_set("key")  # type: ignore[call-arg]
    report = await cache.awarmup({"key": load}, concurrency=2)
    assert_type(report.failed, dict[str, Exception])


@cache.cached(expire=lambda result, item_id: 60 if result else 0, stale_if_error="1h", errors=OSError)
def adaptive(item_id: int) -> str | None:
    cache.current.expire = "5m"
    return None


@cache.early("10m", "7m", jitter=0.1)
async def early(item_id: int) -> str:
    return ""


@cache.locked("10m", lock_timeout="5s")
async def locked(item_id: int) -> str:
    return ""


@cache.cached(expire=60, lock=False)
def apart(item_id: int) -> str:
    return ""


def locks() -> None:
    assert_type(cache.get_or_set("key", lambda: 1, lock="distributed", lock_timeout=5), int)
    cache.cached(lock="remote")  # type: ignore[call-overload]
    cache.cached(lock=True)  # type: ignore[call-overload]
    RedisBackend(lease="2s")


async def looks() -> None:
    assert_type(await locked(1), str)
    assert_type(apart.explain(1).lease, float | None)
    assert_type(adaptive(1), str | None)
    assert_type(await early(1), str)
    assert_type(adaptive.explain(1).answer, str)
    assert_type((await early.explain(1)).expires_in, float | None)
    with cache.detect() as calls, cache.disabled():
        assert_type(calls[0].source, str)


@cache.cached_many(expire=60, window=0.01)
async def many_async(ids: Iterable[int], city: str = "Rome") -> dict[int, str]:
    return {}


@cache.cached_many
def many(ids: Iterable[int]) -> Mapping[int, str]:
    return {}


class Library:
    @cache.cached_many(expire=60)
    async def books(self, ids: list[int]) -> dict[int, str]:
        return {}


async def loaders_of_many(library: Library) -> None:
    assert_type(await many_async([1], city="Bari"), dict[int, str])
    assert_type(many(ids=[1]), dict[int, str])
    assert_type(await library.books([1]), dict[int, str])
    await many_async(["1"])  # type: ignore[list-item]
    many(1)  # type: ignore[call-overload]
    assert_type(await many_async.get(1), str | None)
    assert_type(many.get(1, default=0), str | int)
    many.get("1")  # type: ignore[call-overload]
    assert_type(await many_async.invalidate([1]), int)
    assert_type(many.invalidate([1]), int)
    assert_type(await many_async.refresh([1]), dict[int, str])
    assert_type(await library.books.get(1), str | None)
    assert_type(many.key(1), str)
    assert_type(cache.many(["a"], lambda keys: dict.fromkeys(keys, 1), expire="1m"), dict[str, int])


def many_of_a_subclass(fn: Callable[[Iterable[int]], Mapping[int, str]]) -> None: ...


many_of_a_subclass(many)


@cache.cached(expire=60, tags=("user:{user_id}", "pages"))
def tagged(user_id: int) -> str:
    cache.current.tags.add("late")
    return ""


async def tags() -> None:
    assert_type(tagged(1), str)
    assert_type(cache.invalidate_tags("user:1", "pages"), None)
    assert_type(await cache.ainvalidate_tags("pages"), None)
    cache.invalidate_tags(1)  # type: ignore[arg-type]
    assert_type(cache.get_or_set("key", lambda: 1, tags="pages"), int)


class Halves(Serializer[float]):
    def dumps(self, value: float) -> bytes:
        return str(value).encode()

    def loads(self, data: bytes) -> float:
        return float(data)


class Confused(Serializer[float]):
    def dumps(self, value: str) -> bytes:  # type: ignore[override]
        return b""

    def loads(self, data: bytes) -> str:  # type: ignore[override]
        return ""


@cache.cached(expire=60, serializer=Halves())
def half(number: int) -> float:
    return number / 2


def serializers() -> None:
    assert_type(half(1), float)
    assert_type(Halves().loads(b""), float)
    Halves().dumps("1")  # type: ignore[arg-type]
    Serializer[float]()  # type: ignore[abstract]
    RedisBackend(serializer=PickleSerializer(secret=["a secret", b"another"]), compress_above=None)
    RedisBackend(serializer=Halves)  # type: ignore[arg-type]
    PickleSerializer(secret="a secret", algorithm="md5")  # type: ignore[arg-type]
    assert_type(cache.get_or_set("key", lambda: 1.0, serializer=Halves()), float)
    cache.cached(serializer="pickle")  # type: ignore[call-overload]


async def calls(store: CacheDep, plain: CacheBackend) -> None:
    assert_type(store.get_many("a", "b", default=0), tuple[Any, ...])
    assert_type(await store.aget_many(["a", "b"]), tuple[Any, ...])
    store.set_many({"a": 1}, expire="5m")
    store.set_many([("a", 1)])  # type: ignore[arg-type]
    assert_type(await store.adelete_many("a", "b"), int)
    assert_type(store.incr("n", by=2, expire=60), int)
    assert_type(await store.adecr("n"), int)
    store.incr("n", 1.5)  # type: ignore[arg-type]
    assert_type(store.add("a", 1), bool)
    assert_type(await store.aexpire("a", "5m"), bool)
    store.expire("a")  # type: ignore[call-arg]
    assert_type(store.touch("a"), bool)
    assert_type(store.ttl("a"), float | None)
    assert_type(await store.aping(), bool)
    assert_type(list(store.scan("user:")), list[str])
    assert_type([key async for key in store.ascan("user:")], list[str])
    assert_type(store.delete_match("user:"), int)
    with plain.lock("a", expire="30s", wait=0) as lock:
        assert_type(lock.token, int)
        lock.extend("1m")
    async with plain.alock("a", wait=None) as lock:
        await lock.aextend()
