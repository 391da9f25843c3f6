"""`get_or_set`: the same promises as for decorated functions, under a key of the caller's choosing."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.errors import ConfigurationError, InvalidTypeError, LoadTimeout
from fast_cache.testing import Flavour, Suspending, in_both_flavours

SOON = 0.05
LONG = 60


@pytest.fixture(params=["memory", "ten methods", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="stale")
    return SQLiteBackend(tmp_path / "cache.db")


class Keyed:
    """`get_or_set` of a cache over ``backend``, in one spelling."""

    def __init__(self, flavour: Flavour, backend: CacheBackend | None) -> None:
        self.flavour = flavour
        self.cache = Cache()
        if backend is not None:
            flavour.use(backend)
            self.cache.init_app(FastAPI(), backend)

    async def __call__(self, key: str, loader: Any, *args: Any, **options: Any) -> Any:
        if isinstance(self.flavour, Suspending):
            return await self.cache.aget_or_set(key, loader, *args, **options)
        return self.cache.get_or_set(key, loader, *args, **options)

    def loader(self, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self.flavour.function(body)


@in_both_flavours
async def test_a_value_is_loaded_once_and_is_found_by_the_backend(flavour: Flavour, backend: CacheBackend) -> None:
    keyed, loads = Keyed(flavour, backend), []

    async def load() -> list[int]:
        loads.append(1)
        return [1, 2]

    loader = keyed.loader(load)
    assert [await keyed("a key", loader, LONG) for _ in range(3)] == [[1, 2]] * 3
    assert len(loads) == 1
    assert await flavour.do(backend, "has", "a key")
    await flavour.do(backend, "delete", "a key")
    await keyed("a key", loader, LONG)
    assert len(loads) == 2
    assert keyed.cache.stats().loads == 2
    assert keyed.cache.stats().hits >= 2


@in_both_flavours
async def test_what_was_set_by_hand_is_found(flavour: Flavour) -> None:
    backend = InMemoryBackend()
    keyed = Keyed(flavour, backend)
    await flavour.do(backend, "set", "a key", None)

    async def load() -> int:
        raise AssertionError

    assert await keyed("a key", keyed.loader(load)) is None


@in_both_flavours
async def test_callers_of_one_key_share_a_load(flavour: Flavour, backend: CacheBackend) -> None:
    keyed, gate, loads = Keyed(flavour, backend), flavour.gate(), []

    async def load() -> int:
        loads.append(1)
        await gate.passed()
        return len(loads)

    loader = keyed.loader(load)
    call = keyed.cache.aget_or_set if isinstance(flavour, Suspending) else keyed.cache.get_or_set
    callers = [flavour.start(call, "a key", loader) for _ in range(5)]

    async def followed() -> bool:
        return backend.engine_store().flights.waiting("a key") == 4

    await flavour.until(followed, "four callers follow")
    gate.open()
    assert [await caller.result() for caller in callers] == [1] * 5
    assert loads == [1]


@in_both_flavours
async def test_a_value_that_was_removed_meanwhile_is_not_stored(flavour: Flavour, backend: CacheBackend) -> None:
    keyed = Keyed(flavour, backend)

    async def load() -> int:
        await flavour.do(backend, "delete", "a key")
        return 1

    assert await keyed("a key", keyed.loader(load), LONG) == 1
    assert not await flavour.do(backend, "has", "a key")


@in_both_flavours
async def test_options_hold_here_too(flavour: Flavour, backend: CacheBackend) -> None:
    keyed = Keyed(flavour, backend)
    answers: list[Any] = [1, OSError(), 2]

    async def load() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    loader = keyed.loader(load)
    assert await keyed("unwanted", keyed.loader(_none), condition=bool) is None
    assert not await flavour.do(backend, "has", "unwanted")
    assert await keyed("a key", loader, SOON, stale_if_error=LONG, throttle=SOON) == 1

    async def second() -> bool:
        return bool(await keyed("a key", loader, SOON, stale_if_error=LONG, throttle=SOON) == 2)

    await flavour.until(second, "the third load has replaced what was stale")
    assert answers == []


async def _none() -> None:
    return None


@in_both_flavours
async def test_patience_has_an_end(flavour: Flavour, backend: CacheBackend) -> None:
    keyed, gate = Keyed(flavour, backend), flavour.gate()

    async def load() -> int:
        await gate.passed()
        return 1

    loader = keyed.loader(load)
    with pytest.raises(LoadTimeout):
        await keyed("a key", loader, LONG, hard_timeout=SOON)
    gate.open()
    assert await keyed("a key", loader, LONG, hard_timeout=LONG) == 1


@in_both_flavours
async def test_before_init_app_the_loader_is_called(flavour: Flavour) -> None:
    keyed, loads = Keyed(flavour, None), []

    async def load() -> int:
        loads.append(1)
        return 1

    loader = keyed.loader(load)
    assert [await keyed("a key", loader), await keyed("a key", loader)] == [1, 1]
    assert len(loads) == 2


def test_the_async_form_takes_plain_functions_too() -> None:
    cache = Cache()
    cache.init_app(FastAPI())
    assert asyncio.run(cache.aget_or_set("a key", lambda: 1)) == 1


def test_what_can_not_work_is_refused() -> None:
    cache = Cache()
    cache.init_app(FastAPI())

    async def load() -> int:
        raise AssertionError

    not_a_function: Any = 5
    not_a_key: Any = 5
    nonsense: Any = {"nonsense": 1}
    with pytest.raises(InvalidTypeError, match="aget_or_set"):
        cache.get_or_set("a key", load)  # type: ignore[unused-coroutine]
    with pytest.raises(InvalidTypeError, match="function without arguments, not a int"):
        cache.get_or_set("a key", not_a_function)
    with pytest.raises(ConfigurationError):
        cache.get_or_set(not_a_key, lambda: 1)
    with pytest.raises(ConfigurationError, match="expire"):
        cache.get_or_set("a key", lambda: 1, 0)
    with pytest.raises(InvalidTypeError, match="no option nonsense="):
        cache.get_or_set("a key", lambda: 1, **nonsense)


class Repository:
    def __init__(self, session: Session) -> None:
        self.session = session

    def read(self) -> bool:
        return self.session.is_active


class Slotted:
    __slots__ = ("__repository",)

    def __init__(self, session: Session) -> None:
        self.__repository = Repository(session)

    def __call__(self) -> bool:
        return self.__repository.read()


def _outer(session: Session) -> Callable[[], Any]:
    def inner() -> bool:
        return session.is_active

    return lambda: inner()


def _keyword(session: Session) -> Callable[[], Any]:
    def load(*, held: Session = session) -> bool:
        return held.is_active

    return load


def _wrapped(session: Session) -> Callable[[], Any]:
    @functools.wraps(_keyword(session))
    def load() -> bool:
        wrapped: Any = load
        return bool(wrapped.__wrapped__())

    return load


HOLDERS: dict[str, Callable[[Session], Callable[[], Any]]] = {
    "closure": lambda session: lambda: session.is_active,
    "closure over an instance": lambda session: _over(Repository(session)),
    "partial": lambda session: functools.partial(Repository.read, Repository(session)),
    "default": lambda session: lambda held=session: held.is_active,  # type: ignore[misc]
    "keyword default": _keyword,
    "method of a builtin": lambda session: [session].copy,
    "method of an instance": lambda session: Repository(session).read,
    "nested closure": _outer,
    "wrapped": _wrapped,
    "object with slots": Slotted,
    "dict": lambda session: functools.partial(dict, {"sessions": [session]}),
}


def _over(repository: Repository) -> Callable[[], Any]:
    return lambda: repository.read()


@pytest.mark.parametrize("holds", HOLDERS)
def test_a_loader_that_holds_a_session_is_never_run_behind_its_caller(holds: str) -> None:
    """When the value has expired the load runs at once, while the session is open."""
    backend = InMemoryBackend()
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    with Session(create_engine("sqlite://")) as session:
        held = HOLDERS[holds](session)
        assert cache.get_or_set("a key", lambda: "old", SOON, stale_while_revalidate=LONG) == "old"
        while backend.has("a key"):
            pass
        assert cache.get_or_set("a key", held, SOON, stale_while_revalidate=LONG) != "old"


def test_a_loader_that_holds_what_lasts_is_run_behind_its_caller() -> None:
    backend = InMemoryBackend()
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    engine, sessions = create_engine("sqlite://"), []

    def load() -> str:
        with Session(engine) as session:
            sessions.append(session.is_active)
        assert cache is not None
        return "new"

    assert cache.get_or_set("a key", lambda: "old", SOON, stale_while_revalidate=LONG) == "old"
    while backend.has("a key"):
        pass
    assert cache.get_or_set("a key", load, SOON, stale_while_revalidate=LONG) == "old"
    while not sessions:
        pass


def test_what_a_condition_holds_is_let_go() -> None:
    cache = Cache()
    cache.init_app(FastAPI())

    class Visit:
        pass

    def visit(number: int) -> weakref.ref[Visit]:
        visit = Visit()
        cache.get_or_set(f"key {number}", lambda: 1, 10, condition=lambda value: visit is not None)
        cache.get_or_set(f"other key {number}", lambda: 1, lambda value: 5 if visit is not None else 6)
        return weakref.ref(visit)

    visits = [visit(number) for number in range(5)]
    gc.collect()
    assert [visit() for visit in visits] == [None] * 5


def test_options_are_validated_once_and_told_apart_by_their_types() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())

    def load() -> int:
        return 1

    for key in "abc":
        cache.get_or_set(key, load, expire=1, stale_if_error=1)
    assert len(cache._loading._policies) == 1
    with pytest.raises(InvalidTypeError):
        cache.get_or_set("d", load, expire=True, stale_if_error=1)
    for key in "efg":  # what may hold a request is not kept
        cache.get_or_set(key, load, expire=1, condition=lambda value: True)
    assert len(cache._loading._policies) == 1
