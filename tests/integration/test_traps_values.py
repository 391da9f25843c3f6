"""Results: None is one like any other, copies are copies, and what can't be stored faithfully is not stored."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from fastapi import Response
from pydantic import BaseModel

from fast_cache import CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.testing import Flavour, in_both_flavours

BACKENDS = pytest.mark.parametrize("kind", ["memory", "memory with copies", "redis"])


def make_backend(kind: str, redis_url: str) -> CacheBackend:
    if kind == "redis":
        return RedisBackend(redis_url, namespace="traps")
    return InMemoryBackend(copy=kind == "memory with copies")


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Item(BaseModel):
    name: str
    tags: list[str] = []


@BACKENDS
@pytest.mark.parametrize("value", [None, "", 0, False, 0.0, [], {}, (), b""], ids=ascii)
@in_both_flavours
async def test_a_falsy_result_is_cached(flavour: Flavour, redis_url: str, kind: str, value: Any) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[None] = []

    @store.cached(expire=60)
    async def load():  # type: ignore[no-untyped-def]
        loads.append(None)
        return value

    results = [await flavour.call(load) for _ in range(3)]
    assert results == [value] * 3
    assert [type(result) for result in results] == [type(value)] * 3
    assert len(loads) == 1


@in_both_flavours
async def test_with_copies_a_caller_who_changes_a_value_changes_only_its_own(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend(copy=True))
    loads: list[None] = []

    @store.cached()
    async def load() -> dict[str, list[int]]:
        loads.append(None)
        return {"list": [1]}

    for _ in range(3):
        result = await flavour.call(load)
        assert result == {"list": [1]}
        result["list"].append(2)
    assert len(loads) == 1


@in_both_flavours
async def test_with_copies_callers_who_shared_a_load_do_not_share_its_result(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend(copy=True))
    go = flavour.gate()

    @store.cached()
    async def load() -> list[int]:
        await go.passed()
        return [1]

    callers = [flavour.start(load) for _ in range(3)]
    await store.followed(load.key(), 2)
    go.open()
    results = [await caller.result() for caller in callers]
    results[0].append(2)
    results[1].append(3)
    assert results[2] == [1]
    assert await flavour.call(load) == [1]


@in_both_flavours
async def test_with_copies_a_value_set_by_hand_is_taken_in_as_it_is_now(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend(copy=True))
    value = [1]
    await store.set("key", value)
    value.append(2)
    first = await store.get("key")
    first.append(3)
    assert await store.get("key") == [1]


@in_both_flavours
async def test_without_copies_callers_share_the_stored_object(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())

    @store.cached()
    async def load() -> list[int]:
        return [1]

    assert await flavour.call(load) is await flavour.call(load)


@in_both_flavours
async def test_with_copies_a_result_that_can_not_be_copied_reaches_its_caller(
    flavour: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(InMemoryBackend(copy=True))

    class Stubborn:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no")

    loads: list[Stubborn] = []

    @store.cached()
    async def load() -> Any:
        loads.append(Stubborn())
        return loads[-1]

    assert [await flavour.call(load) for _ in range(3)] == loads
    assert len(loads) == 3
    assert len(warnings(caplog)) == 1


@in_both_flavours
async def test_on_redis_a_result_that_can_not_be_stored_reaches_its_caller(
    flavour: Flavour, redis_url: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    loads: list[object] = []

    @store.cached()
    async def load() -> Any:
        loads.append(object())
        return loads[-1]

    for number in range(1, 4):
        assert await flavour.call(load) is loads[-1]
        assert len(loads) == number
    assert list(raw.scan_iter("traps:v:*")) == []
    (warning,) = warnings(caplog)
    assert "load" in warning
    assert "not stored" in warning


@in_both_flavours
async def test_on_redis_a_result_is_never_silently_turned_into_the_annotated_type(
    flavour: Flavour, redis_url: str
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    returned: dict[str, Any] = {
        "dict for a model": {"name": "Kettle", "tags": []},
        "text for an int": "1",
        "tuple for a list": (1, 2),
        "bool for an int": True,
        "None": None,
        "subclass": type("Special", (Item,), {})(name="Kettle"),
    }

    @store.cached()
    async def item(which: str) -> Item:
        return returned[which]  # type: ignore[no-any-return]

    @store.cached()
    async def number(which: str) -> int:
        return returned[which]  # type: ignore[no-any-return]

    @store.cached()
    async def numbers(which: str) -> list[int]:
        return returned[which]  # type: ignore[no-any-return]

    for load in (item, number, numbers):
        for which, value in returned.items():
            for _ in range(2):
                result = await flavour.call(load, which)
                assert type(result) is type(value), f"{which} from {load.__name__}"
                assert result == value


@in_both_flavours
async def test_on_redis_a_value_that_can_not_be_stored_by_hand_is_the_callers_error(
    flavour: Flavour, redis_url: str
) -> None:
    from fast_cache import EncodeError

    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    await store.set("key", "before")
    with pytest.raises(EncodeError):
        await store.set("key", object())
    assert await store.get("key") is None, "what was to be replaced would be stale"


@BACKENDS
@in_both_flavours
async def test_a_result_that_can_be_read_only_once_is_not_cached(
    flavour: Flavour, redis_url: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(make_backend(kind, redis_url))

    @store.cached()
    async def numbers() -> Iterator[int]:
        return iter([1, 2])

    assert [list(await flavour.call(numbers)) for _ in range(3)] == [[1, 2]] * 3
    (warning,) = warnings(caplog)
    assert "numbers" in warning
    assert "once" in warning


@BACKENDS
@in_both_flavours
async def test_a_response_is_not_cached_as_a_value(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))

    @store.cached()
    async def page() -> Response:
        return Response("page")

    first, second = [await flavour.call(page) for _ in range(2)]
    assert first is not second


@BACKENDS
@in_both_flavours
async def test_only_what_the_condition_says_yes_to_is_stored(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[int] = []

    @store.cached(condition=lambda result: result is not None)
    async def find(number: int) -> str | None:
        loads.append(number)
        return None if number < 0 else "found"

    for number in (1, -1, 1, -1, 1, -1):
        await flavour.call(find, number)
    assert loads == [1, -1, -1, -1]


@in_both_flavours
async def test_a_condition_that_raises_takes_no_result_away(flavour: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    store = flavour.use(InMemoryBackend())
    loads: list[None] = []

    @store.cached(condition=lambda result: result["missing"])
    async def load() -> dict[str, int]:
        loads.append(None)
        return {"present": 1}

    assert [await flavour.call(load) for _ in range(3)] == [{"present": 1}] * 3
    assert len(loads) == 3
    assert len(warnings(caplog)) == 1


def test_a_condition_that_can_not_be_asked_is_refused() -> None:
    from fast_cache import Cache, ConfigurationError

    async def later(result: object) -> bool:
        return True

    wrong: list[Any] = [later, "yes", True]
    for condition in wrong:
        with pytest.raises(ConfigurationError, match="condition"):
            Cache().cached(condition=condition)(lambda: None)
