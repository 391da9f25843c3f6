"""Functions that stand in a class: whose instance, whose class, and what hangs on them."""

from __future__ import annotations

import abc
import asyncio
import functools
import gc
import inspect
import logging
import sys
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.background import BackgroundTask

from fast_cache import Cache, CacheBackend, ConfigurationError, InMemoryBackend, NotKeyed, RedisBackend, UnkeyableError
from fast_cache.testing import Blocking, Flavour, Store, in_both_flavours

BACKENDS = pytest.mark.parametrize("kind", ["memory", "redis"])


def make_backend(kind: str, redis_url: str) -> CacheBackend:
    return RedisBackend(redis_url, namespace="traps") if kind == "redis" else InMemoryBackend()


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def make_shop(store: Store) -> tuple[Any, list[Any]]:
    """A class whose instances are told apart by their name, and what its methods were called with."""
    loads: list[Any] = []

    class Shop:
        """A shop."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> str:
            return self.name

        @store.cached()
        async def price(self, item: int) -> str:
            """What an item costs."""
            loads.append((self.name, item))
            return f"{self.name} {item}"

    return Shop, loads


@BACKENDS
@in_both_flavours
async def test_instances_are_told_apart_by_their_cache_key(flavour: Flavour, redis_url: str, kind: str) -> None:
    shop, loads = make_shop(flavour.use(make_backend(kind, redis_url)))
    for _ in range(2):
        assert await flavour.call(shop("a").price, 1) == "a 1"
        assert await flavour.call(shop("b").price, 1) == "b 1"
        assert await flavour.call(shop("a").price, item=1) == "a 1"
        assert await flavour.call(shop.price, shop("a"), 1) == "a 1"
    assert loads == [("a", 1), ("b", 1)]


@BACKENDS
@in_both_flavours
async def test_operations_are_reached_through_the_instance(flavour: Flavour, redis_url: str, kind: str) -> None:
    shop, loads = make_shop(flavour.use(make_backend(kind, redis_url)))
    a, b = shop("a"), shop("b")
    await flavour.call(a.price, 1)
    await flavour.call(b.price, 1)
    assert await flavour.call(a.price.invalidate, 1)
    assert not await flavour.call(a.price.invalidate, 1)
    await flavour.call(a.price, 1)
    await flavour.call(b.price, 1)
    assert loads == [("a", 1), ("b", 1), ("a", 1)]
    assert await flavour.call(a.price.refresh, 1) == "a 1"
    assert len(loads) == 4
    assert a.price.key(1) == shop("a").price.key(item=1) != b.price.key(1)


@BACKENDS
@in_both_flavours
async def test_operations_take_the_instance_first(flavour: Flavour, redis_url: str, kind: str) -> None:
    shop, loads = make_shop(flavour.use(make_backend(kind, redis_url)))
    await flavour.call(shop("a").price, 1)
    assert shop.price.key(shop("a"), 1) == shop("a").price.key(1)
    assert await flavour.call(shop.price.invalidate, shop("a"), 1)
    await flavour.call(shop("a").price, 1)
    assert await flavour.call(shop.price.refresh, shop("a"), 1) == "a 1"
    assert loads == [("a", 1)] * 3


@pytest.mark.parametrize("operation", ["invalidate", "refresh", "key"])
@in_both_flavours
async def test_operations_refuse_a_first_argument_that_is_no_instance(flavour: Flavour, operation: str) -> None:
    shop, _ = make_shop(flavour.use(InMemoryBackend()))
    for args in ((), (1,), ("a", 1), (None, 1), (shop, 1), (object(), 1)):
        with pytest.raises(ConfigurationError, match="instance") as caught:
            await flavour.call(getattr(shop.price, operation), *args)
        assert isinstance(caught.value, TypeError)


@in_both_flavours
async def test_instances_of_a_subclass_are_accepted_and_kept_apart(flavour: Flavour) -> None:
    shop, loads = make_shop(flavour.use(InMemoryBackend()))

    class Kiosk(shop):  # type: ignore[misc, valid-type]
        pass

    kiosk = Kiosk("a")
    assert await flavour.call(kiosk.price, 1) == "a 1"
    assert await flavour.call(shop("a").price, 1) == "a 1"
    assert len(loads) == 2
    assert await flavour.call(shop.price.invalidate, kiosk, 1)


@in_both_flavours
async def test_an_overriding_method_and_the_one_it_calls_are_two_functions(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    shop, loads = make_shop(store)

    class Kiosk(shop):  # type: ignore[misc, valid-type]
        @store.cached()
        async def price(self, item: int) -> str:
            loads.append("kiosk")
            return f"kiosk {await flavour.call(shop.price, self, item)}"

    for _ in range(2):
        assert await flavour.call(Kiosk("a").price, 1) == "kiosk a 1"
    assert loads == ["kiosk", ("a", 1)]


@in_both_flavours
async def test_instances_that_nothing_tells_apart_are_not_cached_and_the_ways_out_are_named(
    flavour: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(InMemoryBackend())
    loads: list[int] = []

    class Shop:
        @store.cached()
        async def price(self, item: int) -> int:
            loads.append(item)
            return item

    shop = Shop()
    assert [await flavour.call(each.price, 1) for each in (shop, shop, Shop())] == [1] * 3
    assert loads == [1] * 3
    (warning,) = warnings(caplog)
    for word in ("price", "self", "__cache_key__", "NotKeyed", "key_builder"):
        assert word in warning
    with pytest.raises(UnkeyableError, match="self"):
        await flavour.call(shop.price.invalidate, 1)


@in_both_flavours
async def test_an_instance_that_is_a_value_needs_no_cache_key(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    loads: list[str] = []

    @dataclass(frozen=True)
    class Shop:
        name: str

        @store.cached()
        async def price(self, item: int) -> str:
            loads.append(self.name)
            return f"{self.name} {item}"

    for _ in range(2):
        assert [await flavour.call(Shop(name).price, 1) for name in "ab"] == ["a 1", "b 1"]
    assert loads == ["a", "b"]


class Anywhere:
    """Whose instances are all the same to the result."""

    cache = Cache()
    loads: list[int] = []

    @cache.cached
    def price(self: Annotated[Any, NotKeyed], item: int) -> int:
        self.loads.append(item)
        return item


def test_an_instance_that_is_not_keyed_is_left_out() -> None:
    Anywhere.cache.init_app(FastAPI(), backend=InMemoryBackend())
    assert [Anywhere().price(1) for _ in range(3)] == [1] * 3
    assert Anywhere.loads == [1]
    assert Anywhere().price.invalidate(1) is True


class Above:
    """Classes are keyed by their names, so they have to be ones that can be imported."""

    cache = Cache()
    loads: list[str] = []

    @cache.cached
    @classmethod
    def plain(cls, item: int) -> str:
        Above.loads.append(cls.__name__)
        return f"{cls.__name__} {item}"

    @cache.cached
    @classmethod
    async def suspending(cls, item: int) -> str:
        Above.loads.append(cls.__name__)
        return f"{cls.__name__} {item}"


class Beneath(Above):
    pass


class Below:
    cache = Cache()
    loads: list[str] = []

    @classmethod
    @cache.cached
    def plain(cls, item: int) -> str:
        Below.loads.append(cls.__name__)
        return f"{cls.__name__} {item}"

    @classmethod
    @cache.cached
    async def suspending(cls, item: int) -> str:
        Below.loads.append(cls.__name__)
        return f"{cls.__name__} {item}"


class Underneath(Below):
    pass


@pytest.mark.parametrize(("base", "derived"), [(Above, Beneath), (Below, Underneath)], ids=["above", "below"])
@in_both_flavours
async def test_a_classmethod_is_cached_by_its_class(flavour: Flavour, base: Any, derived: Any) -> None:
    base.cache.init_app(FastAPI(), backend=InMemoryBackend())
    base.loads.clear()
    name = "plain" if isinstance(flavour, Blocking) else "suspending"
    ours, theirs, instances = getattr(base, name), getattr(derived, name), getattr(base(), name)
    for _ in range(2):
        assert await flavour.call(ours, 1) == f"{base.__name__} 1"
        assert await flavour.call(theirs, 1) == f"{derived.__name__} 1"
        assert await flavour.call(instances, item=1) == f"{base.__name__} 1"
    assert base.loads == [base.__name__, derived.__name__]
    if base is Above or sys.version_info < (3, 13):
        assert ours.key(1) != theirs.key(1)
        assert await flavour.call(ours.invalidate, 1)
        assert not await flavour.call(ours.invalidate, 1)
        await flavour.call(ours, 1)
        await flavour.call(theirs, 1)
        assert base.loads == [base.__name__, derived.__name__, base.__name__]
    else:  # from 3.13 on a classmethod hides from what it wraps which class it was reached through
        with pytest.raises(ConfigurationError, match="above"):
            await flavour.call(ours.invalidate, 1)


@pytest.mark.parametrize("above", [True, False])
@in_both_flavours
async def test_a_staticmethod_is_cached_like_a_function(flavour: Flavour, above: bool) -> None:
    cache = Cache()
    cache.init_app(FastAPI(), backend=InMemoryBackend())
    loads: list[int] = []

    async def body(item: int) -> int:
        loads.append(item)
        return item

    body.__qualname__ = "Shop.double"
    function = flavour.function(body)

    class Shop:
        double: Any = cache.cached()(staticmethod(function)) if above else staticmethod(cache.cached()(function))

    for _ in range(2):
        assert await flavour.call(Shop.double, 1) == 1
        assert await flavour.call(Shop().double, item=1) == 1
    assert loads == [1]
    assert Shop.double.key(1) == Shop().double.key(1)
    assert await flavour.call(Shop.double.invalidate, 1)
    await flavour.call(Shop.double, 1)
    assert await flavour.call(Shop().double.invalidate, 1)
    assert await flavour.call(Shop().double.refresh, 1) == 1
    assert loads == [1, 1, 1]


@in_both_flavours
async def test_a_cached_method_can_stand_below_property(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    loads: list[str] = []

    @dataclass(frozen=True)
    class Shop:
        name: str

        @property
        @store.cached()
        async def sign(self) -> str:
            loads.append(self.name)
            return self.name

    async def read(shop: Shop) -> Any:
        sign = shop.sign
        return await sign if inspect.isawaitable(sign) else sign

    assert [await read(Shop("a")), await read(Shop("a")), await read(Shop("b"))] == ["a", "a", "b"]
    assert loads == ["a", "b"]


@pytest.mark.parametrize("wrong", [property, functools.cached_property])
def test_a_property_is_refused_with_the_right_order(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="below"):
        Cache().cached(wrong(lambda self: 1))


@pytest.mark.parametrize("wrong", [int, InMemoryBackend().get, functools.partial(int, base=2), 5, None, "load"])
def test_what_is_no_function_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        Cache().cached()(wrong)


@in_both_flavours
async def test_a_method_looks_like_the_one_it_was(flavour: Flavour) -> None:
    shop, loads = make_shop(flavour.use(InMemoryBackend()))
    a = shop("a")
    for method in (shop.price, a.price):
        assert method.__name__ == "price"
        assert method.__qualname__.endswith("Shop.price")
        assert method.__doc__ == "What an item costs."
        assert method.__module__ == __name__
    assert list(inspect.signature(shop.price).parameters) == ["self", "item"]
    assert list(inspect.signature(a.price).parameters) == ["item"]
    assert a.price == a.price
    assert hash(a.price) == hash(a.price)
    assert a.price != shop("a").price
    assert a.price.__self__ is a
    assert await flavour.call(shop.price.__wrapped__, a, 1) == "a 1"
    assert await flavour.call(shop.price.__wrapped__, a, 1) == "a 1"
    assert loads == [("a", 1)] * 2, "__wrapped__ is the function itself, uncached"


def test_a_bound_method_can_be_a_background_task() -> None:
    """Starlette asks whether a callable has to be awaited: on a wrong answer it never runs."""
    cache = Cache()
    cache.init_app(FastAPI())
    loads: list[str] = []

    @dataclass(frozen=True)
    class Shop:
        name: str

        @cache.cached
        async def price(self, item: int) -> int:
            loads.append("price")
            return item

        @cache.cached
        def size(self) -> int:
            loads.append("size")
            return 1

    shop = Shop("a")
    for task in (BackgroundTask(shop.price, 1), BackgroundTask(shop.size), BackgroundTask(Shop.price, shop, 2)):
        asyncio.run(task())
    assert loads == ["price", "size", "price"]


def test_a_bound_method_can_be_an_endpoint() -> None:
    cache = Cache()
    loads: list[str] = []

    @dataclass(frozen=True)
    class Shop:
        name: str

        @cache.cached
        async def price(self, item: int) -> dict[str, Any]:
            loads.append("price")
            return {"shop": self.name, "item": item}

        @cache.cached
        def size(self) -> dict[str, str]:
            loads.append("size")
            return {"size of": self.name}

    app = FastAPI()
    cache.init_app(app)
    shop = Shop("a")
    app.get("/price/{item}")(shop.price)
    app.get("/size")(shop.size)
    client = TestClient(app)
    for _ in range(2):
        assert client.get("/price/1").json() == {"shop": "a", "item": 1}
        assert client.get("/size").json() == {"size of": "a"}
    assert loads == ["price", "size"]


def test_an_abstract_method_stays_abstract_until_it_is_overridden() -> None:
    cache = Cache()
    cache.init_app(FastAPI())

    class Base(abc.ABC):
        @cache.cached
        @abc.abstractmethod
        def price(self) -> int: ...

    class Shop(Base):
        def __cache_key__(self) -> str:
            return "shop"

        @cache.cached
        def price(self) -> int:
            return 1

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]
    assert Shop().price() == 1


@BACKENDS
@in_both_flavours
async def test_the_cache_does_not_keep_instances_alive(flavour: Flavour, redis_url: str, kind: str) -> None:
    shop, _ = make_shop(flavour.use(make_backend(kind, redis_url)))
    instance = shop("a")
    await flavour.call(instance.price, 1)
    await flavour.call(instance.price, 1)
    await flavour.call(instance.price.invalidate, 1)
    remembered = weakref.ref(instance)
    del instance
    gc.collect()
    assert remembered() is None
