"""`invalidates` and `invalidating`: what a write changes is invalidated when it has succeeded, and not before."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx2 as httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel

from examples.sqlite_backend import SQLiteBackend
from fast_cache import (
    Cache,
    CacheBackend,
    ConfigurationError,
    InMemoryBackend,
    InvalidTypeError,
    RedisBackend,
)
from fast_cache.testing import Flavour, in_both_flavours, only_suspending
from tests.support.stores import backends, cache_over
from tests.support.uvicorn_server import serve

LONG = 60


backend = backends("invalidates")


class Session:
    """Looks like a handle, which is in no key."""

    __module__ = "sqlalchemy.orm.session"


class Reads:
    """Runs of cached functions."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def run(self, *of: Any) -> int:
        self.runs.append(of)
        return len(self.runs)


@in_both_flavours
async def test_results_of_the_same_arguments_are_invalidated(flavour: Flavour, backend: CacheBackend) -> None:
    store, reads = flavour.use(backend), Reads()

    @store.cached(expire=LONG)
    async def read(item_id: int) -> int:
        return reads.run(item_id)

    async def write(name: str, item_id: int = 1) -> str:
        return name

    wrapped = store._cache.invalidates(read)(flavour.function(write))
    assert [await flavour.call(read, 1), await flavour.call(read, 2)] == [1, 2]
    assert await flavour.call(wrapped, "a pen") == "a pen"
    assert [await flavour.call(read, 1), await flavour.call(read, 2)] == [3, 2]
    assert await flavour.call(wrapped, "a pen", item_id=2) == "a pen"
    assert [await flavour.call(read, 1), await flavour.call(read, 2)] == [3, 4]


@in_both_flavours
async def test_a_write_that_raises_invalidates_nothing(flavour: Flavour, backend: CacheBackend) -> None:
    store, reads = flavour.use(backend), Reads()

    @store.cached(expire=LONG)
    async def read(item_id: int) -> int:
        return reads.run(item_id)

    async def write(item_id: int) -> None:
        raise LookupError

    wrapped = store._cache.invalidates(read, tags="items", everything=read)(flavour.function(write))
    assert await flavour.call(read, 1) == 1
    with pytest.raises(LookupError):
        await flavour.call(wrapped, 1)
    assert await flavour.call(read, 1) == 1


@pytest.mark.parametrize("answer", [(1, "EUR"), {"item_id": 1, "currency": "EUR"}, [(1, "EUR"), (2, "EUR")], None])
@in_both_flavours
async def test_a_function_names_the_arguments(flavour: Flavour, backend: CacheBackend, answer: Any) -> None:
    store, reads, given = flavour.use(backend), Reads(), list[Any]()

    @store.cached(expire=LONG)
    async def price(item_id: int, currency: str) -> int:
        return reads.run(item_id)

    async def write(name: str, number: int) -> str:
        return name.upper()

    def name_them(number: int, result: str) -> Any:
        given.append((number, result))
        return answer

    wrapped = store._cache.invalidates(price, name_them)(flavour.function(write))
    assert [await flavour.call(price, 1, "EUR"), await flavour.call(price, 2, "EUR")] == [1, 2]
    await flavour.call(wrapped, "ada", number=7)
    assert given == [(7, "ADA")]
    await flavour.call(price, 1, "EUR")
    await flavour.call(price, 2, "EUR")
    expected = {str((1, "EUR")): [1], str(None): [], str([(1, "EUR"), (2, "EUR")]): [1, 2]}.get(str(answer), [1])
    assert [one for (one,) in reads.runs[2:]] == expected


@in_both_flavours
async def test_one_value_and_several_are_named(flavour: Flavour) -> None:
    store, reads = flavour.use(InMemoryBackend()), Reads()

    @store.cached(expire=LONG)
    async def read(item_id: int) -> int:
        return reads.run(item_id)

    async def write(ids: list[int]) -> None: ...

    one = store._cache.invalidates(read, lambda ids: ids[0])(flavour.function(write))
    several = store._cache.invalidates(read, lambda ids: ids)(flavour.function(write))
    for item_id in (1, 2, 3):
        await flavour.call(read, item_id)
    await flavour.call(one, [1, 2])
    assert [await flavour.call(read, item_id) for item_id in (1, 2, 3)] == [4, 2, 3]
    await flavour.call(several, [1, 2])
    assert [await flavour.call(read, item_id) for item_id in (1, 2, 3)] == [5, 6, 3]


@in_both_flavours
async def test_many_targets_templates_tags_and_whole_functions(flavour: Flavour, backend: CacheBackend) -> None:
    store, reads = flavour.use(backend), Reads()

    @store.cached(expire=LONG)
    async def read(item_id: int) -> int:
        return reads.run("read", item_id)

    @store.cached(expire=LONG, key="list:{page}:{size}")
    async def listed(page: int, size: int = 10) -> int:
        return reads.run("listed", page)

    @store.cached(expire=LONG, tags="owner:{owner}")
    async def basket(owner: str) -> int:
        return reads.run("basket", owner)

    @store.cached(expire=LONG)
    async def report(day: int) -> int:
        return reads.run("report", day)

    async def write(item_id: int, owner: str) -> None: ...

    async def read_all() -> list[Any]:
        reads.runs.clear()
        for fn, arguments in ((read, (1, 2)), (listed, (1, 2)), (basket, ("ada", "bob")), (report, (1, 2))):
            for argument in arguments:
                await flavour.call(fn, argument)
        return list(reads.runs)

    decorate = store._cache.invalidates(
        read, listed, lambda item_id: (item_id, 10), "list:2:*", tags="owner:{owner}", everything=[report]
    )
    wrapped = decorate(flavour.function(write))
    assert len(await read_all()) == 8
    assert await read_all() == []
    await flavour.call(wrapped, 1, "ada")
    expected = [("read", 1), ("listed", 1), ("listed", 2), ("basket", "ada"), ("report", 1), ("report", 2)]
    assert await read_all() == expected


@in_both_flavours
async def test_a_template_has_fields_of_the_write(flavour: Flavour, backend: CacheBackend) -> None:
    store, reads = flavour.use(backend), Reads()

    class Item(BaseModel):
        number: int

    @store.cached(expire=LONG, key="items:{item_id}")
    async def read(item_id: int) -> int:
        return reads.run(item_id)

    async def write(item: Item) -> None: ...

    wrapped = store._cache.invalidates("items:{item.number}")(flavour.function(write))
    assert [await flavour.call(read, 1), await flavour.call(read, 2)] == [1, 2]
    await flavour.call(wrapped, Item(number=1))
    assert [await flavour.call(read, 1), await flavour.call(read, 2)] == [3, 2]


@in_both_flavours
async def test_functions_that_load_many_are_targets(flavour: Flavour, backend: CacheBackend) -> None:
    store, reads = flavour.use(backend), Reads()

    @store.cached_many(expire=LONG)
    async def stock(ids: list[int]) -> dict[int, int]:
        number = reads.run(*ids)
        return dict.fromkeys(ids, number)

    async def write(ids: Any) -> None: ...

    by_name = store._cache.invalidates(stock)(flavour.function(write))
    one = store._cache.invalidates(stock, lambda ids: ids[0])(flavour.function(write))
    several = store._cache.invalidates(stock, lambda ids: ([*ids],))(flavour.function(write))
    each = store._cache.invalidates(stock, lambda ids: ids)(flavour.function(write))
    ids = [1, 2, 3]
    await flavour.call(stock, ids)
    for number, (fn, loaded) in enumerate([(by_name, (1, 2)), (one, (1,)), (several, (1, 2)), (each, (1, 2))], 1):
        await flavour.call(fn, [1, 2])
        await flavour.call(stock, ids)
        assert reads.runs[number] == loaded


@in_both_flavours
async def test_methods_are_targets_and_writes(flavour: Flavour, backend: CacheBackend) -> None:
    store, reads = flavour.use(backend), Reads()
    cache = store._cache

    async def price_body(self: Any, item_id: int) -> int:
        return reads.run(self.name, item_id)

    async def write_body(self: Any, item_id: int) -> str:
        return f"{self.name}:{item_id}"

    async def class_body(cls: Any, item_id: int) -> str:
        return str(cls.__name__)

    async def static_body(item_id: int) -> str:
        return "static"

    for body in (price_body, write_body, class_body, static_body):
        body.__qualname__ = f"Shop.{body.__name__}"

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> str:
            return self.name

        price = cache.cached(expire=LONG)(flavour.function(price_body))
        write = cache.invalidates(price)(flavour.function(write_body))
        write_class = cache.invalidates(everything=price)(classmethod(flavour.function(class_body)))
        write_static = cache.invalidates(everything=price)(staticmethod(flavour.function(static_body)))

    one, other = Shop("one"), Shop("other")
    assert [await flavour.call(shop.price, 1) for shop in (one, other)] == [1, 2]
    assert await flavour.call(one.write, 1) == "one:1"
    assert [await flavour.call(shop.price, 1) for shop in (one, other)] == [3, 2]

    async def write_bound(item_id: int) -> None: ...

    await flavour.call(cache.invalidates(other.price)(flavour.function(write_bound)), 1)
    assert [await flavour.call(shop.price, 1) for shop in (one, other)] == [3, 4]
    assert await flavour.call(Shop.write_class, 1) == "Shop"
    assert await flavour.call(other.write_static, 1) == "static"
    assert [await flavour.call(shop.price, 1) for shop in (one, other)] == [5, 6]


def test_a_sync_write_invalidates_what_is_async_and_the_other_way_round(backend: CacheBackend) -> None:
    cache, reads = cache_over(backend), Reads()

    @cache.cached(expire=LONG)
    async def aread(item_id: int) -> int:
        return reads.run(item_id)

    @cache.cached(expire=LONG)
    def read(item_id: int) -> int:
        return reads.run(item_id)

    @cache.invalidates(aread, read)
    def write(item_id: int) -> None: ...

    @cache.invalidates(aread, read)
    async def awrite(item_id: int) -> None: ...

    async def main() -> None:
        assert [await aread(1), read(1)] == [1, 2]
        write(1)
        assert [await aread(1), read(1)] == [3, 4]
        await awrite(1)
        assert [await aread(1), read(1)] == [5, 6]
        await backend.aclose()

    asyncio.run(main())


@in_both_flavours
async def test_a_response_that_says_no_is_no_success(flavour: Flavour, backend: CacheBackend) -> None:
    store, reads = flavour.use(backend), Reads()

    @store.cached(expire=LONG)
    async def read(status: int) -> int:
        return reads.run(status)

    async def write(status: int) -> Response:
        return JSONResponse({}, status_code=status)

    wrapped = store._cache.invalidates(read)(flavour.function(write))
    for status in (200, 302, 400, 503):
        await flavour.call(read, status)
        await flavour.call(wrapped, status)
        await flavour.call(read, status)
    assert [status for (status,) in reads.runs] == [200, 200, 302, 302, 400, 503]


@in_both_flavours
async def test_what_names_arguments_may_fail_and_everything_goes(
    flavour: Flavour, backend: CacheBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store, reads = flavour.use(backend), Reads()

    @store.cached(expire=LONG)
    async def read(item_id: int) -> int:
        return reads.run(item_id)

    async def write(item: Any) -> str:
        return "written"

    write.__qualname__ = f"write_{uuid4().hex}"  # it is warned once of each
    mappers: list[Any] = [
        lambda item: item["id"],
        lambda item: (1, 2, 3),
        lambda item: {"number": 1},
        lambda item: object(),
    ]
    for mapper in mappers:
        wrapped = store._cache.invalidates(read, mapper)(flavour.function(write))
        runs = [await flavour.call(read, item_id) for item_id in (1, 2)]
        with caplog.at_level(logging.WARNING, "fast_cache"):
            assert await flavour.call(wrapped, {"secret": "s3cret"}) == "written"
        assert [await flavour.call(read, item_id) for item_id in (1, 2)] == [run + 2 for run in runs]
    assert "s3cret" not in caplog.text
    assert f"{write.__qualname__} has written" in caplog.text


def test_it_is_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = cache_over()

    @cache.cached
    def read_for_a_warning(item_id: int) -> int:
        return item_id

    @cache.invalidates(read_for_a_warning, lambda item: item.number)
    def write(item: Any) -> None: ...

    for _ in range(3):
        write(1)
    assert [record.message.count("AttributeError") for record in caplog.records] == [1]


def test_what_can_be_read_only_once_is_no_argument_to_look_at_later(caplog: pytest.LogCaptureFixture) -> None:
    cache, reads = cache_over(), Reads()

    @cache.cached_many
    def stock_read_once(ids: Any) -> dict[int, int]:
        number = reads.run(*ids)
        return dict.fromkeys(ids, number)

    @cache.invalidates(stock_read_once)
    def write(ids: Any) -> int:
        return sum(ids)

    stock_read_once([1, 2])
    assert write(iter([1])) == 1
    stock_read_once([1, 2])
    assert reads.runs == [(1, 2), (1, 2)]
    assert "only once" in caplog.text


def test_arguments_are_looked_at_when_the_write_has_happened() -> None:
    cache, reads = cache_over(), Reads()

    @cache.cached
    def read(item_id: int) -> int:
        return reads.run(item_id)

    @cache.invalidates(read, lambda row: row["id"])
    def insert(row: dict[str, int]) -> None:
        row["id"] = 7

    read(7)
    insert({})
    read(7)
    assert reads.runs == [(7,), (7,)]


def test_the_signature_stays(backend: CacheBackend) -> None:
    cache = cache_over(backend)

    @cache.cached
    def read(item_id: int) -> int:
        return item_id

    def write(item_id: int, *names: str, deep: bool = False, **more: int) -> None:
        """What it does."""

    async def awrite(item_id: int) -> None: ...

    wrapped, awrapped = cache.invalidates(read)(write), cache.invalidates(read)(awrite)
    assert inspect.signature(wrapped) == inspect.signature(write)
    assert (wrapped.__name__, wrapped.__doc__) == ("write", "What it does.")
    assert not inspect.iscoroutinefunction(wrapped)
    assert inspect.iscoroutinefunction(awrapped)
    with pytest.raises(TypeError):
        wrapped()  # type: ignore[call-arg]


def _plain(item_id: int) -> None: ...


async def _suspends(item_id: int) -> None: ...


def _yields(item_id: int) -> Iterator[int]:
    yield item_id


async def _ayields(item_id: int) -> AsyncIterator[int]:
    yield item_id


class _AsyncCallable:
    async def __call__(self, item_id: int) -> int:
        return item_id


class _Model(BaseModel):
    item_id: int


def test_what_can_be_told_at_decoration_is_refused_there() -> None:
    cache = cache_over()

    @cache.cached
    def read(item_id: int) -> int:
        return item_id

    @cache.cached
    def wide(item_id: int, page: int = 1) -> int:
        return item_id

    refused: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((), {}, "nothing is named"),
        ((), {"tags": ()}, "tags is empty"),
        ((_plain,), {}, "must be a function decorated"),
        ((read, _suspends), {}, "plain function, not an async one"),
        ((read, _AsyncCallable()), {}, "plain function, not an async one"),
        ((read, _yields), {}, "generator function"),
        ((read, _Model), {}, "plain function"),
        ((read, 5), {}, "plain function"),
        ((read, lambda number: number), {}, "takes number, which the write has no parameter for; it has item_id"),
        ((wide,), {}, "depend on page, which _plain has no parameter"),
        (("items:{number}",), {}, "no parameter 'number'"),
        (("items:?",), {}, "is a pattern"),
        (("items:*:*",), {}, "is a pattern"),
        (("",), {}, "is empty"),
        (("items:{item_id!r}",), {}, "format or conversion"),
        ((), {"tags": "item:{number}"}, "no parameter 'number'"),
        ((), {"everything": _plain}, "must be a function decorated"),
        ((), {"everything": "items"}, "must be a function decorated"),
        ((), {"everything": [read, 5]}, "must be a function decorated"),
    ]
    for targets, options, says in refused:
        with pytest.raises(ConfigurationError, match=says):
            cache.invalidates(*targets, **options)(_plain)
    ok = cache.invalidates(read)
    for wrong, says in (
        (_yields, "generator"),
        (_ayields, "generator"),
        (read, "is cached"),
        (_Model, "the class _Model"),
        (5, "a int"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            ok(wrong)  # type: ignore[type-var]

    def own_result(item_id: int, result: int) -> None: ...

    with pytest.raises(ConfigurationError, match="takes result"):
        cache.invalidates(read, lambda result: result)(own_result)
    with pytest.raises(InvalidTypeError):
        cache.invalidating(_plain)


def test_a_signature_that_is_not_its_own_lets_everything_go() -> None:
    cache, reads = cache_over(), Reads()

    @cache.cached
    def read(item_id: int) -> int:
        return reads.run(item_id)

    def inner(item_id: int) -> int:
        return item_id

    @functools.wraps(inner)
    def outer() -> int:
        return inner(1)

    read(1)
    assert cache.invalidates(read)(outer)() == 1
    read(1)
    assert reads.runs == [(1,), (1,)]


def test_an_endpoint_of_which_nothing_can_be_read_gives_text() -> None:
    cache, app, given = Cache(), FastAPI(), list[Any]()
    cache.init_app(app)

    @cache.cached
    def read(item_id: int) -> int:
        return item_id

    class Endpoint:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, item_id: int) -> None: ...

    app.put("/items/{item_id}", dependencies=[cache.invalidating(read, lambda item_id: given.append(item_id))])(
        Endpoint()
    )
    with TestClient(app) as client:
        assert client.put("/items/1").status_code == 200
    assert given == ["1"]


def test_a_handle_need_not_be_there(backend: CacheBackend) -> None:
    cache, reads = cache_over(backend), Reads()

    @cache.cached(expire=LONG)
    def read(session: Session, item_id: int) -> int:
        return reads.run(item_id)

    @cache.invalidates(read)
    def write(item_id: int) -> None: ...

    read(Session(), 1)
    write(1)
    read(Session(), 1)
    assert reads.runs == [(1,), (1,)]


def test_before_init_app_nothing_happens() -> None:
    cache = Cache()

    @cache.cached(key="items:{item_id}")
    def read(item_id: int) -> int:
        return item_id

    @cache.invalidates(read, "items:{item_id}", tags="all", everything=read)
    def write(item_id: int) -> int:
        return item_id

    assert write(1) == 1
    cache.invalidate("items:1")


def test_a_template_that_no_function_has_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    cache = cache_over()

    @cache.invalidates("nobody:{item_id}")
    def write(item_id: int) -> int:
        return item_id

    assert write(1) == 1
    assert "nobody:{item_id}" in caplog.text


@in_both_flavours
async def test_a_store_that_is_away_does_not_reach_the_caller(flavour: Flavour) -> None:
    store = flavour.use(RedisBackend("redis://127.0.0.1:1/0", namespace="away", connect_timeout=0.1))

    @store.cached(expire=LONG, key="items:{item_id}:{page}", tags="items")
    async def read(item_id: int, page: int) -> int:
        return item_id

    async def write(item_id: int) -> str:
        return "written"

    decorate = store._cache.invalidates(read, lambda item_id: (item_id, 1), "items:1:*", tags="items", everything=read)
    assert await flavour.call(decorate(flavour.function(write)), 1) == "written"


@only_suspending
async def test_who_is_cancelled_after_the_write_loses_no_invalidation(flavour: Flavour, tmp_path: Path) -> None:
    class Remote(SQLiteBackend):
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def adelete(self, key: str) -> Any:
            self.waiting.set()
            await self.go_on.wait()
            return await super().adelete(key)

    backend, reads = Remote(tmp_path / "cache.db"), Reads()
    store = flavour.use(backend)

    @store.cached(expire=LONG)
    async def read(item_id: int) -> int:
        return reads.run(item_id)

    @store._cache.invalidates(read, lambda item_id: [1, 2])
    async def write(item_id: int) -> None: ...

    assert [await read(1), await read(2)] == [1, 2]
    task = asyncio.create_task(write(1))
    await backend.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    backend.go_on.set()

    async def gone() -> bool:
        return not await store.has(read.key(1)) and not await store.has(read.key(2))

    await flavour.until(gone, "both are invalidated")


@in_both_flavours
async def test_loads_that_began_before_are_fenced_off(flavour: Flavour, backend: CacheBackend) -> None:
    store, rows = flavour.use(backend), {1: "old"}
    loading, go_on = flavour.gate(), flavour.gate()

    @store.cached(expire=LONG)
    async def read(item_id: int) -> str:
        row = rows[item_id]
        if row == "old":
            loading.open()
            await go_on.passed()
        return row

    async def write(item_id: int) -> None:
        rows[item_id] = "new"

    early = flavour.start(read, 1)
    await loading.passed()
    await flavour.call(store._cache.invalidates(read)(flavour.function(write)), 1)
    go_on.open()
    assert await early.result() == "old"
    assert await flavour.call(read, 1) == "new"


# Endpoints.


class Shop:
    """An app whose items are read from the cache, and written."""

    def __init__(self, backend: CacheBackend) -> None:
        self.cache = cache = Cache()
        self.app = app = FastAPI()
        cache.init_app(app, backend)
        self.runs = 0

        @app.get("/items/{item_id}")
        @cache.cached(expire=LONG)
        async def read_item(item_id: int, tag: str = "none") -> int:
            self.runs += 1
            return self.runs

        self.read_item = read_item

    def read(self, client: Any) -> int:
        number: int = client.get("/items/5").json()
        return number


def test_an_endpoint_may_be_the_write(backend: CacheBackend) -> None:
    shop = Shop(backend)

    @shop.app.put("/items/{item_id}")
    @shop.cache.invalidates(shop.read_item, lambda item_id: (item_id, "none"))
    async def write_item(item_id: int, name: Annotated[str, Query()], response: Response) -> str:
        if name == "raise":
            raise HTTPException(409)
        return name

    @shop.app.delete("/items/{item_id}")
    @shop.cache.invalidates(everything=shop.read_item)
    def delete_item(item_id: int) -> None: ...

    with TestClient(shop.app) as client:
        assert [shop.read(client), shop.read(client)] == [1, 1]
        assert client.put("/items/5", params={"name": "raise"}).status_code == 409
        assert client.put("/items/5").status_code == 422
        assert shop.read(client) == 1
        assert client.put("/items/5", params={"name": "a pen"}).json() == "a pen"
        assert [shop.read(client), shop.read(client)] == [2, 2]
        assert client.delete("/items/5").status_code == 200
        assert shop.read(client) == 3
        assert "fast_cache" not in client.get("/openapi.json").text


def _endpoints(shop: Shop) -> None:
    target = shop.cache.invalidating(shop.read_item, lambda item_id: (item_id, "none"))

    @shop.app.put("/items/{item_id}", dependencies=[target])
    async def write_item(item_id: int, response: Response, how: str = "well") -> str:
        if how == "raise":
            raise HTTPException(409)
        if how == "crash":
            raise LookupError
        if how == "status":
            response.status_code = 503
        return how

    @shop.app.post("/items/{item_id}")
    def write_item_blocking(item_id: int, done: None = target) -> None: ...


def test_a_dependency_invalidates_after_success(backend: CacheBackend) -> None:
    shop = Shop(backend)
    _endpoints(shop)
    with TestClient(shop.app, raise_server_exceptions=False) as client:
        assert [shop.read(client), shop.read(client)] == [1, 1]
        for how, status in (("raise", 409), ("crash", 500), ("status", 503)):
            assert client.put("/items/5", params={"how": how}).status_code == status
            assert shop.read(client) == 1
        assert client.put("/items/6").status_code == 200
        assert shop.read(client) == 1
        assert client.put("/items/5").status_code == 200
        assert [shop.read(client), shop.read(client)] == [2, 2]
        assert client.post("/items/5").status_code == 200
        assert shop.read(client) == 3


def test_a_dependency_invalidates_before_the_response(backend: CacheBackend) -> None:
    """Whoever has the answer to a write reads what is new: there is no moment in between."""
    shop = Shop(backend)
    _endpoints(shop)
    with serve(shop.app) as server, httpx.Client(base_url=server.url) as client:
        for number in range(1, 51):
            assert shop.read(client) == number
            assert client.put("/items/5").status_code == 200


def test_a_dependency_knows_arguments_by_the_types_of_the_endpoint(backend: CacheBackend) -> None:
    cache, app, reads = Cache(), FastAPI(), Reads()
    cache.init_app(app, backend)
    given: list[Any] = []
    number = UUID(int=7)

    @cache.cached(expire=LONG, tags="owner:{owner}")
    def by_uuid(item_id: UUID, owner: str) -> int:
        return reads.run("uuid")

    @cache.cached(expire=LONG, key="items:{item_id}")
    def by_template(item_id: UUID) -> int:
        return reads.run("template")

    @cache.cached(expire=LONG)
    def by_name(item_id: UUID, size: int, owner: str) -> int:
        return reads.run("name")

    def name_them(item_id: UUID, owner: str, sizes: list[int], limit: int, extra: str) -> Any:
        given.append((item_id, owner, sizes, limit, extra))
        return (item_id, owner)

    @app.put("/items/{item_id}", dependencies=[cache.invalidating(by_uuid, name_them, "items:{item_id}", by_name)])
    def write(
        item_id: UUID,
        owner: Annotated[str, Query(alias="who")],
        sizes: Annotated[list[int], Query()],
        limit: int = 3,
        fresh: Annotated[bool, Query()] = True,
    ) -> None: ...

    def read_all() -> list[Any]:
        reads.runs.clear()
        by_uuid(number, "ada")
        by_template(number)
        by_name(number, 2, "ada")
        return [name for (name,) in reads.runs]

    assert read_all() == ["uuid", "template", "name"]
    assert read_all() == []
    with TestClient(app) as client:
        query: dict[str, Any] = {"who": "ada", "sizes": [1, 2], "extra": "text", "size": "2"}
        assert client.put(f"/items/{number}", params=query).status_code == 200
    assert given == [(number, "ada", [1, 2], 3, "text")]
    assert read_all() == ["uuid", "template", "name"]


def test_a_dependency_that_lacks_an_argument_lets_everything_go(caplog: pytest.LogCaptureFixture) -> None:
    cache, app, reads = Cache(), FastAPI(), Reads()
    cache.init_app(app)

    @cache.cached
    def read(item_id: int) -> int:
        return reads.run(item_id)

    @app.put("/items", dependencies=[cache.invalidating(read)])
    def write() -> None: ...

    with TestClient(app) as client:
        read(1)
        assert client.put("/items").status_code == 200
        assert client.put("/items").status_code == 200
        read(1)
    assert reads.runs == [(1,), (1,)]
    assert caplog.text.count("there is no argument item_id") == 1


def test_a_dependency_takes_tags_and_whole_functions() -> None:
    cache, app, reads = Cache(), FastAPI(), Reads()
    cache.init_app(app)

    @cache.cached(tags="owner:{owner}")
    def basket(owner: str) -> int:
        return reads.run(owner)

    @cache.cached
    def report() -> int:
        return reads.run("report")

    @app.post("/owners/{owner}", dependencies=[cache.invalidating(tags="owner:{owner}", everything=report)])
    def write(owner: str) -> None: ...

    with TestClient(app) as client:
        basket("ada"), basket("bob"), report()
        client.post("/owners/ada")
        basket("ada"), basket("bob"), report()
    assert reads.runs == [("ada",), ("bob",), ("report",), ("ada",), ("report",)]


def test_a_dependency_in_a_transaction_waits_for_its_end() -> None:
    cache, app, reads = Cache(), FastAPI(), Reads()
    cache.init_app(app)

    @cache.cached
    def read(item_id: int) -> int:
        return reads.run(item_id)

    async def unit_of_work() -> AsyncIterator[None]:
        async with cache.transaction():
            yield
            read(1)

    @app.put("/items/{item_id}", dependencies=[Depends(unit_of_work), cache.invalidating(read)])
    def write(item_id: int) -> None: ...

    with TestClient(app) as client:
        read(1)
        client.put("/items/1")
        assert len(reads.runs) == 2, "inside it is known to be invalidated, and not before the end"
        read(1)
    assert len(reads.runs) == 3


def test_writes_and_reads_at_once_never_leave_what_is_old(backend: CacheBackend) -> None:
    cache, row = cache_over(backend), [0]

    @cache.cached(expire=LONG)
    def read(item_id: int) -> int:
        return row[0]

    @cache.invalidates(read)
    def write(item_id: int) -> int:
        row[0] += 1
        return row[0]

    stop = threading.Event()
    wrong: list[tuple[int, int]] = []

    def keep_reading() -> None:
        while not stop.is_set():
            read(1)

    threads = [threading.Thread(target=keep_reading) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            written = write(1)
            found = read(1)
            if found < written:
                wrong.append((written, found))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
