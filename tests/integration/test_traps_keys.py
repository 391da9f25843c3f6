"""Keys: a call has one, however it is written; calls that differ never share one; what has none is never guessed."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from fast_cache import Cache, CacheBackend, ConfigurationError, InMemoryBackend, NotKeyed, RedisBackend, UnkeyableError
from fast_cache.testing import Flavour, in_both_flavours

BACKENDS = pytest.mark.parametrize("kind", ["memory", "redis"])


def make_backend(kind: str, redis_url: str, namespace: str = "traps") -> CacheBackend:
    return RedisBackend(redis_url, namespace=namespace) if kind == "redis" else InMemoryBackend(namespace)


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Colour(Enum):
    RED = 1
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class User(BaseModel):
    id: int
    name: str = "Ada"


class Account(BaseModel):
    id: int
    name: str = "Ada"


@dataclass(frozen=True)
class Point:
    x: Any


class Stranger:
    """Nothing says what one of these is."""


APART: list[Any] = [
    1,
    True,
    1.0,
    "1",
    b"1",
    Decimal("1"),
    Decimal("1.0"),
    Decimal("1.00"),
    1 + 0j,
    Level.LOW,
    Colour.RED,
    Colour.BLUE,
    0,
    False,
    0.0,
    -0.0,
    "",
    b"",
    None,
    "None",
    [],
    (),
    {},
    set(),
    frozenset(),
    [1],
    [True],
    (1,),
    (True,),
    (1, 1),
    ((1,), 1),
    (1, (1,)),
    {1},
    {1: 1},
    {1: True},
    {"1": 1},
    ["1, 2"],
    ["1", "2"],
    "1,2",
    "'1'",
    "x=1",
    "1)",
    date(2024, 1, 1),
    datetime(2024, 1, 1),
    "2024-01-01",
    UUID(int=1),
    str(UUID(int=1)),
    PurePosixPath("/a"),
    Path("/a"),
    "/a",
    Point(1),
    Point(True),
    Point(Point(1)),
    User(id=1),
    Account(id=1),
    User(id=1, name="Bob"),
    SecretStr("1"),
    SecretStr("2"),
    "\x00",
    "\ud800",
    "%00",
    "a" * 500,
    "a" * 501,
]
"""Arguments of which no two are the same, although many are equal or look alike."""


@BACKENDS
@in_both_flavours
async def test_arguments_that_look_alike_are_apart(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[int] = []

    @store.cached()
    async def load(argument: Any) -> int:
        loads.append(len(loads))
        return len(loads) - 1

    first = [await flavour.call(load, argument) for argument in APART]
    second = [await flavour.call(load, argument) for argument in APART]
    assert first == list(range(len(APART)))
    assert second == first
    assert len(loads) == len(APART)


@BACKENDS
@in_both_flavours
async def test_one_call_is_one_however_it_is_written(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[tuple[int, int]] = []

    @store.cached()
    async def load(x: int, y: int = 2) -> int:
        loads.append((x, y))
        return x + y

    spellings: list[tuple[tuple[int, ...], dict[str, int]]] = [
        ((1,), {}),
        ((), {"x": 1}),
        ((1, 2), {}),
        ((1,), {"y": 2}),
        ((), {"x": 1, "y": 2}),
        ((), {"y": 2, "x": 1}),
    ]
    assert [await flavour.call(load, *args, **kwargs) for args, kwargs in spellings] == [3] * len(spellings)
    assert loads == [(1, 2)]
    assert len({load.key(*args, **kwargs) for args, kwargs in spellings}) == 1
    assert await flavour.call(load.invalidate, y=2, x=1)
    await flavour.call(load, 1)
    assert loads == [(1, 2)] * 2


@in_both_flavours
async def test_the_order_of_keyword_arguments_does_not_matter_and_that_of_others_does(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())

    @store.cached()
    async def load(*args: int, **kwargs: int) -> tuple[Any, Any]:
        return args, kwargs

    assert load.key(1, 2, a=3, b=4) == load.key(1, 2, b=4, a=3)
    calls = [load.key(1, 2), load.key(2, 1), load.key(1, 2, a=3), load.key(1, 2, b=3), load.key((1, 2)), load.key()]
    assert len(set(calls)) == len(calls)
    assert await flavour.call(load, 1, b=2) == ((1,), {"b": 2})


@in_both_flavours
async def test_no_text_of_an_argument_imitates_another_call(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())

    @store.cached()
    async def load(a: str, b: str = "", **more: str) -> None: ...

    texts = ["", "a", "b", ",", "'", "','", "',b='", "=", ":", "a=", "'a'", "\\", "\\'", "%27", "a,b", "{b}", "h:", "#"]
    calls = [load.key(a, b) for a, b in itertools.product(texts, repeat=2)]
    calls += [load.key(a, b, c=c) for a, b, c in itertools.product(texts[:8], repeat=3)]
    assert len(set(calls)) == len(calls)


ODD = [
    "*",
    "?",
    "[a-z]",
    "sh?p",
    "{tag}",
    "}{",
    "{}",
    "a:b",
    "a::b",
    ":",
    "%",
    "%3A",
    "%2A",
    "a b",
    "ключ",
    "'",
    '"',
    "\\",
]


@BACKENDS
@in_both_flavours
async def test_glob_characters_and_braces_in_namespaces_and_keys_are_only_characters(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    stores = [flavour.use(make_backend(kind, redis_url, namespace)) for namespace in ODD]
    for number, store in enumerate(stores):
        for key in ODD:
            await store.set(key, [number, key])
    for number, store in enumerate(stores):
        assert [await store.get(key) for key in ODD] == [[number, key] for key in ODD]
    for number, store in enumerate(stores):
        assert await store.delete("*")
        assert [await store.has(key) for key in ODD] == [key != "*" for key in ODD]
        await store.clear()
        assert not any([await store.has(key) for key in ODD])
        for later, other in enumerate(stores[number + 1 :], number + 1):
            assert [await other.get(key) for key in ODD] == [[later, key] for key in ODD], f"clearing {ODD[number]!r}"


@BACKENDS
@in_both_flavours
async def test_glob_characters_and_braces_in_a_functions_namespace_and_arguments(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[tuple[str, str]] = []

    def make(namespace: str) -> Any:
        @store.cached(namespace=namespace)
        async def load(argument: str) -> str:
            loads.append((namespace, argument))
            return f"{namespace} {argument}"

        return load

    functions = {namespace: make(namespace) for namespace in ODD}
    for _ in range(2):
        for namespace, load in functions.items():
            assert [await flavour.call(load, text) for text in ODD] == [f"{namespace} {text}" for text in ODD]
    assert len(loads) == len(ODD) ** 2
    assert await flavour.call(functions["*"].invalidate, "*")
    await flavour.call(functions["*"], "*")
    await flavour.call(functions["*"], "?")
    assert len(loads) == len(ODD) ** 2 + 1


@BACKENDS
@pytest.mark.parametrize(
    "options",
    [
        [{}, {"version": 2}, {"version": "3"}, {"version": "1.1"}],
        [{}, {"namespace": "a"}, {"namespace": "b"}, {"namespace": "a:b"}],
        [{"namespace": "a", "version": 1}, {"namespace": "a", "version": 2}, {"namespace": "a:2"}],
    ],
    ids=["version", "namespace", "both"],
)
@in_both_flavours
async def test_another_version_or_namespace_is_another_entry(
    flavour: Flavour, redis_url: str, kind: str, options: list[dict[str, Any]]
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[None] = []

    def make(options: dict[str, Any]) -> Any:
        @store.cached(**options)
        async def load() -> int:
            loads.append(None)
            return len(loads)

        return load

    functions = [make(each) for each in options]
    assert [await flavour.call(load) for load in functions] == list(range(1, len(options) + 1))
    assert [await flavour.call(load) for load in functions] == list(range(1, len(options) + 1))
    again = make(options[-1])
    assert await flavour.call(again) == len(options)
    await flavour.call(functions[0].invalidate)
    assert await flavour.call(functions[1]) == 2


def test_version_1_is_the_default_version() -> None:
    def load() -> None: ...

    keys = {Cache().cached(version=version)(load).key() for version in (None, 1, "1")}
    assert len(keys) == 1


@BACKENDS
@in_both_flavours
async def test_a_key_builder_decides_the_argument_part(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    built: list[tuple[Any, ...]] = []
    loads: list[int] = []

    def builder(user: User, page: int = 1, *, locale: str = "en") -> Any:
        built.append((user.id, page, locale))
        return user.id, page

    @store.cached(key_builder=builder)
    async def load(user: User, page: int = 1, *, locale: str = "en") -> str:
        loads.append(user.id)
        return f"{user.id} {page} {locale}"

    assert await flavour.call(load, User(id=1)) == "1 1 en"
    assert await flavour.call(load, User(id=1, name="Bob"), page=1, locale="de") == "1 1 en"
    assert await flavour.call(load, User(id=1), 2) == "1 2 en"
    assert await flavour.call(load, User(id=2)) == "2 1 en"
    assert built[:3] == [(1, 1, "en"), (1, 1, "de"), (1, 2, "en")]
    assert loads == [1, 1, 2]


@in_both_flavours
async def test_a_key_builder_that_raises_or_gives_nothing_usable_leaves_the_call_uncached(
    flavour: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(InMemoryBackend())
    loads: list[int] = []

    @store.cached(key_builder=lambda number: 1 // number)
    async def dividing(number: int) -> int:
        loads.append(number)
        return number

    @store.cached(key_builder=lambda number: Stranger())
    async def strange(number: int) -> int:
        loads.append(number)
        return number

    assert [await flavour.call(dividing, 0) for _ in range(3)] == [0] * 3
    assert [await flavour.call(strange, 1) for _ in range(3)] == [1] * 3
    assert loads == [0, 0, 0, 1, 1, 1]
    assert len(warnings(caplog)) == 2
    assert all("key_builder" in warning for warning in warnings(caplog))


def test_a_key_builder_that_can_not_work_is_refused_at_decoration() -> None:
    async def suspending(number: int) -> int:
        return number

    def others(text: str, more: str) -> str:
        return text

    def load(number: int) -> None: ...

    wrong: list[Any] = [suspending, others, "text"]
    for builder in wrong:
        with pytest.raises(ConfigurationError, match="key_builder"):
            Cache().cached(key_builder=builder)(load)
    with pytest.raises(ConfigurationError, match="key_builder"):
        Cache().cached(key_builder=lambda number: number, key="{number}")(load)


@BACKENDS
@in_both_flavours
async def test_a_template_decides_the_argument_part(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[int] = []

    @store.cached(key="user:{user.id}:{page}")
    async def load(user: User, page: Any = 1, trace: object = None) -> str:
        loads.append(user.id)
        return f"{user.id} {page}"

    assert await flavour.call(load, User(id=1)) == "1 1"
    assert await flavour.call(load, user=User(id=1, name="Bob"), trace=object()) == "1 1"
    assert await flavour.call(load, User(id=1), 2) == "1 2"
    assert await flavour.call(load, User(id=2)) == "2 1"
    assert loads == [1, 1, 2]
    assert await flavour.call(load.invalidate, User(id=1))
    assert await flavour.call(load, User(id=1)) == "1 1"
    assert loads == [1, 1, 2, 1]


def test_fields_of_a_template_can_not_run_into_each_other() -> None:
    @Cache().cached(key="{a}:{b}")
    def load(a: Any, b: Any) -> None: ...

    @Cache().cached(key="{a}{b}")
    def joined(a: Any, b: Any) -> None: ...

    for fn in (load, joined):
        pairs = list(itertools.product(["", ":", "1", 1, "1:", ":1", "11", 11, "'", "1':'1"], repeat=2))
        assert len({fn.key(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("template", ["{nobody}", "{user.__class__}", "{user!r}", "{user:>10}", "{", "", "{}", "{0}"])
def test_a_template_that_can_not_work_is_refused_at_decoration(template: str) -> None:
    def load(user: User) -> None: ...

    with pytest.raises(ConfigurationError, match="key"):
        Cache().cached(key=template)(load)


@BACKENDS
@in_both_flavours
async def test_key_is_what_the_backend_takes(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[int] = []

    @store.cached()
    async def load(number: int) -> User:
        loads.append(number)
        return User(id=number)

    assert await store.get(load.key(1), "absent") == "absent"
    await flavour.call(load, 1)
    found = await store.get(load.key(1), "absent")
    assert found == User(id=1)
    assert type(found) is User
    assert await store.has(load.key(number=1))
    assert not await store.has(load.key(2))
    assert await store.delete(load.key(1))
    await flavour.call(load, 1)
    assert loads == [1, 1]


@in_both_flavours
async def test_an_argument_that_has_no_key_leaves_the_call_uncached_and_names_the_ways_out(
    flavour: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(InMemoryBackend())
    loads: list[object] = []

    @store.cached()
    async def load(number: int, helper: Stranger) -> int:
        loads.append(helper)
        return number

    helper = Stranger()
    assert [await flavour.call(load, 1, helper) for _ in range(3)] == [1] * 3
    assert await flavour.call(load, 1, Stranger()) == 1
    assert len(loads) == 4
    (warning,) = warnings(caplog)
    for word in ("load", "helper", "NotKeyed", "__cache_key__", "key_builder"):
        assert word in warning
    for operation in (load.key, load.invalidate):
        with pytest.raises(UnkeyableError, match="helper"):
            await flavour.call(operation, 1, helper)
    assert await flavour.call(load.refresh, 1, helper) == 1


@in_both_flavours
async def test_a_parameter_that_is_not_keyed_is_left_out(flavour: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    store = flavour.use(InMemoryBackend())
    loads: list[int] = []

    @store.cached()
    async def load(number: int, helper: Annotated[Stranger, NotKeyed]) -> int:
        loads.append(number)
        return number

    assert [await flavour.call(load, 1, Stranger()) for _ in range(3)] == [1] * 3
    assert loads == [1]
    assert warnings(caplog) == []


@in_both_flavours
async def test_a_call_that_the_function_does_not_take_fails_as_if_undecorated(
    flavour: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(InMemoryBackend())

    @store.cached()
    async def load(number: int) -> int:
        return number

    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"number": 1}), ((1,), {"unknown": 1})):
        with pytest.raises(TypeError, match="argument"):
            await flavour.call(load, *args, **kwargs)
    assert warnings(caplog) == []


@in_both_flavours
async def test_two_functions_of_one_factory_do_not_share_entries(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())

    def make(factor: int) -> Any:
        @store.cached()
        async def times(number: int) -> int:
            return factor * number

        return times

    twice, thrice = make(2), make(3)
    assert [await flavour.call(twice, 5), await flavour.call(thrice, 5)] == [10, 15]
