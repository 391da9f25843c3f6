"""Everything of a function, or of a namespace, ends at once, however much it is, and what is being loaded too."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, ConfigurationError, InMemoryBackend, RedisBackend
from fast_cache.backends import ten_methods
from fast_cache.testing import Flavour, Store, Suspending, in_both_flavours
from tests.integration.test_tags import Pages, backend  # noqa: F401  # the fixture

LONG_TEXT = "x" * 500
"""More than fits into a slot of local memory."""


async def clear(store: Store, namespace: str | None = None) -> None:
    if isinstance(store._flavour, Suspending):
        await store._cache.aclear(namespace)
    else:
        store._cache.clear(namespace)


async def everything(flavour: Flavour, function: Any) -> None:
    done = function.invalidate_all()
    if isinstance(flavour, Suspending):
        await done


class Reports:
    """Two functions of two namespaces; runs are counted."""

    def __init__(self, store: Store) -> None:
        self.runs: list[Any] = []

        async def report(of: int | str) -> str:
            self.runs.append(of)
            return f"{of} {len(self.runs)}"

        async def summary(of: int | str) -> str:
            self.runs.append(("summary", of))
            return f"{of} {len(self.runs)}"

        self.report = store.cached(expire=60, namespace="a")(report)
        self.summary = store.cached(expire=60, namespace="b")(summary)


@in_both_flavours
async def test_a_function_is_invalidated_as_a_whole(flavour: Flavour, backend: CacheBackend) -> None:  # noqa: F811
    reports = Reports(flavour.use(backend))
    for of in (1, 2, LONG_TEXT):
        await flavour.call(reports.report, of)
        await flavour.call(reports.summary, of)
    del reports.runs[:]
    await everything(flavour, reports.report)
    for of in (1, 2, LONG_TEXT):
        await flavour.call(reports.report, of)
        await flavour.call(reports.summary, of)
    assert reports.runs == [1, 2, LONG_TEXT], "all of the one, nothing of the other"
    for of in (1, 2, LONG_TEXT):
        await flavour.call(reports.report, of)
    assert len(reports.runs) == 3, "and what came after it stays"


@in_both_flavours
async def test_a_namespace_is_cleared_as_a_whole(flavour: Flavour, backend: CacheBackend) -> None:  # noqa: F811
    store = flavour.use(backend)
    reports = Reports(store)
    await flavour.do(backend, "set", "by hand", 1)
    for of in (1, LONG_TEXT):
        await flavour.call(reports.report, of)
        await flavour.call(reports.summary, of)
    del reports.runs[:]
    await clear(store, "b")
    for of in (1, LONG_TEXT):
        await flavour.call(reports.report, of)
        await flavour.call(reports.summary, of)
    assert reports.runs == [("summary", 1), ("summary", LONG_TEXT)]
    assert await flavour.do(backend, "get", "by hand") == 1
    await clear(store)
    assert await flavour.do(backend, "get", "by hand") is None
    await flavour.call(reports.report, 1)
    assert len(reports.runs) == 3


@in_both_flavours
async def test_a_load_in_flight_does_not_undo_it(flavour: Flavour, backend: CacheBackend) -> None:  # noqa: F811
    pages, gate = Pages(flavour.use(backend), tags=None), flavour.gate()
    pages.before = gate.passed
    caller = flavour.start(pages.page, 1)
    await flavour.until(lambda: _is(bool(pages.runs)), "it loads")
    await everything(flavour, pages.page)
    gate.open()
    assert await caller.result() == "1/1 1"
    assert await flavour.call(pages.page, 1) == "1/1 2"
    assert await flavour.call(pages.page, 1) == "1/1 2"


@in_both_flavours
async def test_methods_of_all_instances_end(flavour: Flavour, backend: CacheBackend) -> None:  # noqa: F811
    store = flavour.use(backend)
    runs: list[tuple[str, int]] = []

    async def price(self: Any, item: int) -> int:
        runs.append((self.name, item))
        return item

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> str:
            return self.name

    cached = store.cached(expire=60)(price)
    one, other = Shop("one"), Shop("other")
    for shop in (one, other, one):
        await flavour.call(cached, shop, 1)
    assert runs == [("one", 1), ("other", 1)]
    await everything(flavour, cached)
    for shop in (one, other):
        await flavour.call(cached, shop, 1)
    assert len(runs) == 4


def test_names_of_groups_are_none_that_tags_have() -> None:
    cache = Cache()
    cache.init_app(FastAPI())
    with pytest.raises(ConfigurationError, match=r"U\+0000"):
        cache.invalidate_tags("\0a:")
    with pytest.raises(ConfigurationError, match="namespace= is empty"):
        cache.clear("")
    Cache().clear("a")
    Cache().clear()


def test_what_is_cleared_of_a_function_goes_behind_its_callers_backs() -> None:
    """However many entries there were, the call takes none of them out; later changes do, a few at a time."""
    memory, cache = InMemoryBackend(max_size=20_000), Cache()
    cache.init_app(FastAPI(), memory)

    @cache.cached
    def square(number: int) -> int:
        return number * number

    @cache.cached
    def other(number: int) -> int:
        return -number

    for number in range(10_000):
        square(number)
        other(number)
    square.invalidate_all()
    assert len(memory) == 20_000
    assert memory.stats().evictions["cleared"] == 0
    for number in range(400):
        assert square(number) == number * number
        assert other(number) == -number
    assert len(memory) == 10_400
    assert memory.stats().evictions["cleared"] == 10_000
    assert square.stats().misses == 10_400
    assert other.stats().misses == 10_000, "the room was taken by nobody else's"


def test_entries_that_were_cleared_may_be_evicted_before_they_are_taken_out() -> None:
    memory, cache = InMemoryBackend(max_size=1000), Cache()
    cache.init_app(FastAPI(), memory)

    @cache.cached
    def square(number: int) -> int:
        return number * number

    for lap in range(5):
        for number in range(1500):
            assert square(number) == number * number
        square.invalidate_all()
        assert square(lap) == lap * lap
        square.invalidate_all()
    memory.clear()
    assert len(memory) == 0
    assert square(3) == 9
    assert len(memory) == 1


@in_both_flavours
async def test_another_process_notices_within_a_second_where_nobody_tells(
    flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.sqlite_backend import SQLiteBackend

    now = 1000.0
    monkeypatch.setattr(ten_methods, "monotonic", lambda: now)
    ours, theirs = (Reports(flavour.use(SQLiteBackend(tmp_path / "cache.db"))) for _ in range(2))
    await flavour.call(ours.report, 1)
    await flavour.call(theirs.report, 1)
    await everything(flavour, theirs.report)
    await flavour.call(theirs.report, 1)
    assert (ours.runs, theirs.runs) == ([1], [1])
    now += 1.0
    await everything(flavour, theirs.report)
    await flavour.call(ours.report, 1)
    assert (ours.runs, theirs.runs) == ([1, 1], [1])


@in_both_flavours
async def test_the_token_of_a_group_that_is_lost_ends_what_was_stored_with_it(flavour: Flavour, redis_url: str) -> None:
    reports = Reports(flavour.use(RedisBackend(redis_url, namespace="tags", timeout=10)))
    await flavour.call(reports.report, 1)
    await everything(flavour, reports.report)
    await flavour.call(reports.report, 1)
    with contextlib.closing(redis.Redis.from_url(redis_url)) as raw:
        assert raw.delete(*raw.keys("tags:t:*")) == 2, "of the function and of its namespace"
    await flavour.call(reports.report, 1)
    assert len(reports.runs) == 3


async def _is(value: bool) -> bool:
    return value
