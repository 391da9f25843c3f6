"""`invalidate`: keys by the templates that functions are decorated with."""

from __future__ import annotations

import enum
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import Header
from fastapi import Path as PathParameter
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from examples.sqlite_backend import SQLiteBackend
from fast_cache import (
    Cache,
    CacheBackend,
    ConfigurationError,
    InvalidTypeError,
    UnkeyableError,
)
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.stores import backends, cache_over

LONG = 60


backend = backends("templates", "memory", "redis", "layered")


class User(BaseModel):
    id: int
    name: str = ""


class Colour(enum.Enum):
    RED = "red"


class Cached:
    """A function with a template, and what is cached of it."""

    def __init__(self, cache: Cache, fn: Any, template: str) -> None:
        self.fn = cache.cached(expire=LONG, key=template)(fn)
        self.cache = cache

    def left(self, *calls: Any) -> list[Any]:
        """Those of the calls, each one argument or a tuple of them, that are still cached."""
        backend = self.cache.get_cache()
        return [call for call in calls if backend.has(self.fn.key(*_arguments(call)))]

    def fill(self, *calls: Any) -> None:
        for call in calls:
            self.fn(*_arguments(call))


def _arguments(call: Any) -> tuple[Any, ...]:
    return call if isinstance(call, tuple) else (call,)


def by_int(item_id: int) -> int:
    return 1


def by_text(name: str) -> int:
    return 1


def by_anything(item_id):  # type: ignore[no-untyped-def]
    return 1


def by_two(item_id: int, page: int = 1) -> int:
    return 1


def by_texts(first: str, second: str) -> int:
    return 1


def by_uuid(item_id: UUID) -> int:
    return 1


def by_uuid_and_page(item_id: UUID, page: int) -> int:
    return 1


def by_path(item_id: Annotated[int, PathParameter(ge=0)]) -> int:
    return 1


def by_day(day: date, price: Decimal, colour: Colour, sure: bool) -> int:
    return 1


def by_user(user: User) -> int:
    return 1


def by_token(token: Annotated[str, Header()]) -> int:
    return 1


SEVEN = UUID(int=7)

CASES: list[tuple[Any, str, list[Any], str, dict[str, Any], list[Any]]] = [
    (by_int, "items:{item_id}", [5, 6, 50], "items:5", {}, [6, 50]),
    (by_int, "items:{item_id}", [5, -5], "items:-5", {}, [5]),
    (by_int, "items:{item_id}", [5, 6, 50], "items:{item_id}", {"item_id": 5}, [6, 50]),
    (by_int, "items:{item_id}", [5, 6, 50], "items:*", {}, []),
    (by_int, "items:{item_id}", [5, 6, 50], "it*", {}, []),
    (by_int, "items:{item_id}", [5, 6, 50], "items:5*", {}, [6]),
    (by_int, "items:{item_id}", [5, "5"], "items:5", {}, ["5"]),
    (by_path, "items:{item_id}", [5, 6], "items:5", {}, [6]),
    (by_text, "names:{name}", ["ada", "bob"], "names:ada", {}, ["bob"]),
    (by_text, "names:{name}", ["ada", "bob"], "names:'ada'", {}, ["bob"]),
    (by_text, "names:{name}", ["ada", "adam", "bob"], "names:ad*", {}, ["bob"]),
    (by_text, "names:{name}", ["5", 5, "6"], "names:5", {}, ["6"]),
    (by_text, "names:{name}", ["a:b", "a", "b"], "names:a:b", {}, ["a", "b"]),
    (by_text, "names:{name}", ["it's {so} #1%", "x"], "names:it's {{so}} #1%", {}, ["x"]),
    (by_text, "names:{name}", ["ada", "bob"], "names:{name}", {"name": "ada"}, ["bob"]),
    (by_text, "a%b#{{c}}:{name}", ["ada", "bob"], "a%b#{{c}}:ada", {}, ["bob"]),
    (by_text, "a%b#{{c}}:{name}", ["ada", "bob"], "a%b#*", {}, []),
    (by_anything, "items:{item_id}", [5, "5", 6], "items:5", {}, [6]),
    (by_two, "items:{item_id}:{page}", [(5, 1), (5, 2), (50, 1)], "items:5:2", {}, [(5, 1), (50, 1)]),
    (by_two, "items:{item_id}:{page}", [(5, 1), (5, 2), (50, 1)], "items:5:*", {}, [(50, 1)]),
    (by_two, "items:{item_id}:{page}", [(5, 1), (5, 2), (50, 1)], "items:{item_id}:*", {"item_id": 5}, [(50, 1)]),
    (by_two, "items:{item_id}:{page}", [(5, 1), (5, 2), (50, 1)], "items:{item_id}*", {"item_id": 5}, [(50, 1)]),
    (by_two, "items:{item_id}:{page}", [(5, 1), (5, 2), (50, 1)], "items:{x}:{y}", {"x": 5, "y": 2}, [(5, 1), (50, 1)]),
    (by_two, "items:{item_id}:all:{page}", [(5, 1), (6, 1)], "items:5:a*", {}, [(6, 1)]),
    (by_two, "items-{item_id}-{page}", [(5, 1), (5, 2)], "items-5-2", {}, [(5, 1)]),
    (by_two, "items-{item_id}-{page}", [(5, 1), (50, 2)], "items-5-*", {}, [(50, 2)]),
    (by_two, "{item_id}{page}", [(5, 1), (51, 1), (5, 11), (6, 1)], "511", {}, [(5, 1), (6, 1)]),
    (by_texts, "{first}:{second}", [("a:b", "c"), ("a", "b:c"), ("a", "c")], "a:b:c", {}, [("a", "c")]),
    (by_texts, "{first}:{second}", [("a:b", "c"), ("a", "b:c"), ("b", "c")], "a:*", {}, [("b", "c")]),
    (by_texts, "{first}:{second}", [("a:b", "c"), ("a", "b")], "'a:b':'c'", {}, [("a", "b")]),
    (by_uuid, "items:{item_id}", [SEVEN, UUID(int=8)], f"items:{SEVEN}", {}, [UUID(int=8)]),
    (by_uuid, "items:{item_id}", [SEVEN, UUID(int=8)], f"items:UUID({SEVEN.hex})", {}, [UUID(int=8)]),
    (by_uuid, "items:{item_id}", [SEVEN, UUID(int=8)], f"items:{str(SEVEN)[:8]}*", {}, []),
    (
        by_uuid_and_page,
        "items:{item_id}:{page}",
        [(SEVEN, 1), (UUID(int=8), 1)],
        f"items:{SEVEN}:*",
        {},
        [(UUID(int=8), 1)],
    ),
    (
        by_day,
        "{day}|{price}|{colour}|{sure}",
        [(date(2026, 1, 2), Decimal("1.50"), Colour.RED, True), (date(2026, 1, 3), Decimal("1.50"), Colour.RED, True)],
        "2026-01-02|1.50|red|true",
        {},
        [(date(2026, 1, 3), Decimal("1.50"), Colour.RED, True)],
    ),
    (by_user, "user:{user.id}", [User(id=5), User(id=6)], "user:5", {}, [User(id=6)]),
    (by_user, "user:{user.id}", [User(id=5), User(id=6)], "user:{user.id}", {"user": User(id=5)}, [User(id=6)]),
    (by_user, "user:{user.id}", [User(id=5), User(id=6)], "user:{user_id}", {"user_id": 5}, [User(id=6)]),
    (by_token, "token:{token}", ["one", "two"], "token:one", {}, ["two"]),
    (by_token, "token:{token}", ["one", "two"], "token:{token}", {"token": "one"}, ["two"]),
]


@pytest.mark.parametrize(("fn", "template", "calls", "text", "values", "left"), CASES, ids=[case[3] for case in CASES])
def test_what_a_text_names(
    fn: Any, template: str, calls: list[Any], text: str, values: dict[str, Any], left: list[Any], backend: CacheBackend
) -> None:
    cache = cache_over(backend)
    cached = Cached(cache, fn, template)
    cached.fill(*calls)
    assert cached.left(*calls) == calls
    cache.invalidate(text, **values)
    assert cached.left(*calls) == left


@in_both_flavours
async def test_every_function_with_the_template_is_meant_and_no_other(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)

    def decorated(name: str, **options: Any) -> Any:
        async def read(item_id: int) -> int:
            return item_id

        read.__qualname__ = name
        return store.cached(expire=LONG, **options)(read)

    meant = [decorated("one", key="items:{item_id}"), decorated("two", key="items:{item_id}", namespace="shop")]
    others = [decorated("three", key="item:{item_id}"), decorated("four"), decorated("five", key="items/{item_id}")]

    async def left() -> list[str]:
        return [fn.__qualname__ for fn in (*meant, *others) if await store.has(fn.key(5))]

    async def fill() -> None:
        for fn in (*meant, *others):
            await flavour.call(fn, 5)

    for text, values in (("items:5", {}), ("items:{item_id}", {"item_id": 5}), ("items:*", {})):
        await fill()
        assert len(await left()) == 5
        await flavour.do(store._cache, "invalidate", text, **values)
        assert await left() == ["three", "four", "five"]


@in_both_flavours
async def test_loads_under_way_are_fenced_off(flavour: Flavour, backend: CacheBackend) -> None:
    for text in ("items:5:1", "items:5:*", "items:*"):
        store, loading, go_on = flavour.use(backend), flavour.gate(), flavour.gate()
        runs = list[int]()

        @store.cached(expire=LONG, key="items:{item_id}:{page}")
        async def read(item_id: int, page: int, runs: Any, loading: Any, go_on: Any) -> int:
            runs.append(1)
            if len(runs) == 1:
                loading.open()
                await go_on.passed()
            return len(runs)

        early = flavour.start(read, 5, 1, runs, loading, go_on)
        await loading.passed()
        await flavour.do(store._cache, "invalidate", text)
        go_on.open()
        await early.result()
        assert await flavour.call(read, 5, 1, runs, loading, go_on) == 2
        await store.clear()


def test_functions_that_load_many_have_templates_too(backend: CacheBackend) -> None:
    cache = cache_over(backend)

    @cache.cached_many(expire=LONG, key="stock:{ids}:{city}")
    def stock(ids: list[int], city: str = "Rome") -> dict[int, int]:
        return dict.fromkeys(ids, 1)

    stock([1, 2, 3])
    cache.invalidate("stock:1:Rome")
    cache.invalidate("stock:{ids}:{city}", ids=2, city="Rome")
    assert [backend.has(stock.key(item_id)) for item_id in (1, 2, 3)] == [False, False, True]


def test_a_method_is_named_by_what_its_template_says(backend: CacheBackend) -> None:
    cache = cache_over(backend)

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache.cached(expire=LONG, key="price:{self.name}:{item_id}")
        def price(self, item_id: int) -> int:
            return 1

    one, other = Shop("one"), Shop("other")
    one.price(1), other.price(1)
    cache.invalidate("price:one:*")
    assert [backend.has(shop.price.key(1)) for shop in (one, other)] == [False, True]
    cache.invalidate("price:{self.name}:{item_id}", self=other, item_id=1)
    assert not backend.has(other.price.key(1))


def test_a_backend_that_lists_no_keys_lets_all_go(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "cache.db")
    cache = cache_over(backend)
    cached = Cached(cache, by_two, "items:{item_id}:{page}")
    cached.fill((5, 1), (6, 1))
    cache.invalidate("items:5:*")
    cached.fill((5, 1), (6, 1))
    assert cached.fn.stats().loads == 4, "of both"
    backend.close()


REFUSED = [
    ("itms:5", {}, "none of the key templates.*'items:{item_id}'"),
    ("items:", {}, "none of the key templates"),
    ("items:abc", {}, "none of the key templates"),
    ("items:5:6", {}, "none of the key templates"),
    ("items:{item_id}:{page}", {"item_id": 5, "page": 1}, "none of the key templates"),
    ("items:{item_id}", {}, "no parameter 'item_id'"),
    ("items:{item_id}", {"item_id": 5, "page": 1}, "no field for page"),
    ("items:5", {"item_id": 5}, "no field for item_id"),
    ("items:?", {}, "is a pattern"),
    ("items:[5]", {}, "is a pattern"),
    ("items:**", {}, "is a pattern"),
    ("*:5", {}, "is a pattern"),
    ("*", {}, r"cache\.clear"),
    ("", {}, "is empty"),
    ("items:{", {}, "is not a template"),
    ("items:{item_id:d}", {"item_id": 5}, "format or conversion"),
    ("items:{item_id._secret}", {"item_id": 5}, "private"),
]


@pytest.mark.parametrize(("text", "values", "says"), REFUSED, ids=[case[0] or "empty" for case in REFUSED])
def test_what_names_nothing_is_refused(text: str, values: dict[str, Any], says: str) -> None:
    for cache in (cache_over(), Cache()):
        cached = Cached(cache, by_int, "items:{item_id}")
        with pytest.raises(ConfigurationError, match=says):
            cache.invalidate(text, **values)
        assert cached.fn(5) == 1


def test_a_value_that_has_no_key_is_refused() -> None:
    cache = cache_over()
    Cached(cache, by_int, "items:{item_id}")
    with pytest.raises(UnkeyableError):
        cache.invalidate("items:{item_id}", item_id=object())
    with pytest.raises(InvalidTypeError):
        cache.invalidate(b"items:5")  # type: ignore[arg-type]


def test_without_any_template_it_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match="no function has one; decorate it with key="):
        cache_over().invalidate("items:5")


def test_a_text_with_very_many_readings_lets_all_go() -> None:
    cache = cache_over()
    cached = Cached(cache, by_texts, "{first}:{second}")
    cached.fill(("a", "b"))
    cache.invalidate(":".join("a" * 400))
    assert cached.left(("a", "b")) == []


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="*?[]{}"), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, st.lists(st.tuples(TEXTS, TEXTS), max_size=3))
def test_what_is_written_down_is_found_whatever_it_is(first: str, second: str, others: list[tuple[str, str]]) -> None:
    """Nothing that reads so is left, and nothing goes that does not."""
    cache = cache_over()
    cached = Cached(cache, by_texts, "a:{first}:{second}")
    calls = list({(first, second), *others})
    cached.fill(*calls)
    written = f"a:{first}:{second}"
    cache.invalidate(written)
    assert cached.left((first, second)) == []
    assert all(call in cached.left(call) for call in calls if not _may_be(call, written))


def _may_be(call: tuple[str, str], written: str) -> bool:
    return f"a:{call[0]}:{call[1]}" == written or any("'" in text for text in (*call, written))


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 8))
def test_every_beginning_finds_what_begins_so(first: str, second: str, length: int) -> None:
    cache = cache_over()
    cached = Cached(cache, by_texts, "a:{first}:{second}")
    cached.fill((first, second))
    cache.invalidate(f"a:{first}:{second}"[: 1 + length] + "*")
    assert cached.left((first, second)) == []
