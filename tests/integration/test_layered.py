"""Two tiers in one process: what is served from local memory, and for how long, over a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, LayeredBackend, RedisBackend
from fast_cache.backends.channel import News
from fast_cache.entry import AgedEntry, Entry
from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.freshness import Life
from fast_cache.testing import Flavour, Store, in_both_flavours
from tests.integration.test_tags import Pages
from tests.support.deployments import port_of
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.tiers import ROOT, all_told, coherence, copy_of, layered, reads, store_of, wait_for

LONG = 3600

both_ways = pytest.mark.parametrize("how", ["tracking", "pubsub"])


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.flush()
    return redis_server


class User(BaseModel):
    id: int
    name: str


class Counted:
    """A function of one argument over two tiers; what it returns says how often it was run."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.runs = 0

        async def load(number: int) -> str:
            self.runs += 1
            return f"{number}: {self.runs}"

        self.load = store.cached(**{"expire": LONG, **options})(load)


async def until_sure(flavour: Flavour, backend: CacheBackend) -> None:
    """Wait until copies are believed: something has to be asked first."""
    assert isinstance(backend, LayeredBackend)
    await flavour.do(backend, "get", "nothing")

    async def sure() -> bool:
        return coherence(backend).sure

    await flavour.until(sure, "changes are heard of")


async def settled(flavour: Flavour, backend: LayeredBackend) -> None:
    """Wait until there is no news on its way of what was written so far: that of something else comes behind it."""
    near, channel, other = store_of(backend)._near, store_of(backend)._channel, "something else"
    assert channel is not None
    near.put(other, 1, Life())
    if channel.tells:
        await channel.tell(port_of(flavour), News((other,)))
    else:
        await flavour.do(backend.l2, "set", other, 1, 1)

    async def is_told() -> bool:
        return near.entry(other) is None

    await flavour.until(is_told, "all is told")


async def until_gone(flavour: Flavour, backend: LayeredBackend, key: str) -> None:
    async def gone() -> bool:
        return copy_of(backend, key) is None

    await flavour.until(gone, "the copy is dropped")


def held(backend: LayeredBackend, key: str) -> Entry:
    entry = copy_of(backend, key)
    assert entry is not None
    return entry


def value_key(server: RedisServer) -> bytes:
    """The name of the only value, but for that of :func:`settled`."""
    (name,) = [name for name in server.command("KEYS", "*") if b":v:" in name and b"something else" not in name]
    assert isinstance(name, bytes)
    return name


# What is served from local memory.


@both_ways
@in_both_flavours
async def test_a_hit_does_not_ask_redis(flavour: Flavour, server: RedisServer, how: str) -> None:
    store = flavour.use(backend := layered(server.url, coherence=how))
    await until_sure(flavour, backend)
    loads = []

    @store.cached(expire=LONG)
    async def by_slot(number: int) -> int:
        loads.append(number)
        return number

    @store.cached(expire=LONG, tags=["all"])
    async def by_text(numbers: list[int]) -> list[int]:
        loads.append(0)
        return numbers

    await store.set("by hand", {"a": 1})
    for _ in range(2):  # the first writes, the second copies
        assert await flavour.call(by_slot, 1) == 1
        assert await flavour.call(by_text, [1, 2]) == [1, 2]
        await settled(flavour, backend)
        assert await store.get("by hand") == {"a": 1}
    before = reads(server)
    for _ in range(10):
        assert await flavour.call(by_slot, 1) == 1
        assert await flavour.call(by_text, [1, 2]) == [1, 2]
        assert await store.get("by hand") == {"a": 1}
    assert reads(server) == before
    assert loads == [1, 0]


@in_both_flavours
async def test_methods_have_copies_too_and_lose_them(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    runs = []

    class Shop:
        @store.cached(expire=LONG)
        async def fetch(self, number: int) -> int:
            runs.append(number)
            return number

        def __cache_key__(self) -> str:
            return "shop"

    shop, other = Shop(), Shop()
    for _ in range(2):
        await flavour.call(shop.fetch, 1)
        await settled(flavour, backend)
    before = reads(server)
    assert await flavour.call(other.fetch, 1) == 1
    assert reads(server) == before
    await flavour.call(shop.fetch.invalidate, 1)
    await flavour.call(other.fetch, 1)
    assert runs == [1, 1]


@in_both_flavours
async def test_a_method_is_not_looked_at_while_copies_are_not_believed(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)

    class Shop:
        @store.cached(expire=LONG)
        async def fetch(self, number: int) -> int:
            return number

        def __cache_key__(self) -> str:
            return "shop"

    for _ in range(3):
        await flavour.call(Shop().fetch, 1)
        await settled(flavour, backend)
    store_of(backend).lapsed()
    before = coherence(backend).confirmed
    await flavour.call(Shop().fetch, 1)
    assert coherence(backend).confirmed == before + 1


@in_both_flavours
async def test_many_at_once_are_copies_each(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    asked = []

    @store.cached_many(expire=LONG)
    async def load(numbers: list[int]) -> dict[int, str]:
        asked.append(list(numbers))
        return {number: str(number) for number in numbers}

    for _ in range(2):
        assert await flavour.call(load, [1, 2]) == {1: "1", 2: "2"}
        await settled(flavour, backend)
    before = reads(server)
    assert await flavour.call(load, [1, 2]) == {1: "1", 2: "2"}
    assert reads(server) == before
    await flavour.call(load.invalidate, [1])
    assert await flavour.call(load, [1, 2, 3]) == {1: "1", 2: "2", 3: "3"}
    assert asked == [[1, 2], [1, 3]]
    await store.ask("set_many", {"a": 1, "b": None})
    assert await store.ask("get_many", ["a", "b", "c"]) == (1, None, None)


@in_both_flavours
async def test_what_is_refreshed_is_served_at_once(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    counted = Counted(store)
    for _ in range(3):
        assert await flavour.call(counted.load, 1) == "1: 1"
    assert await flavour.call(counted.load.refresh, 1) == "1: 2"
    for _ in range(3):
        assert await flavour.call(counted.load, 1) == "1: 2"


# How long a copy lives.


@in_both_flavours
async def test_a_copy_ends_before_what_it_is_a_copy_of(flavour: Flavour, server: RedisServer) -> None:
    """Also where the answer was long on its way: what is left was counted when it was given."""
    with Proxy(server.port) as lanes:
        store = flavour.use(backend := layered(lanes.url, server.url))
        await until_sure(flavour, backend)
        counted = Counted(store, expire=60)
        await flavour.call(counted.load, 1)
        news = coherence(backend).news
        server.command("PEXPIRE", value_key(server), 20_000)

        async def told() -> bool:
            return coherence(backend).news > news

        await flavour.until(told, "the change is told, and no longer in the way")
        lanes.delay(to_client=0.5)
        await flavour.call(counted.load, 1)
        lanes.delay()
        left = (server.command("PTTL", value_key(server)) + 2) / 1000  # which it counts, and rounds
        assert 0 < held(backend, counted.load.key(1)).expires - monotonic() <= left
    assert counted.runs == 1


@both_ways
@in_both_flavours
async def test_a_copy_ends_when_the_life_of_its_value_is_shortened(
    flavour: Flavour, server: RedisServer, how: str
) -> None:
    store = flavour.use(backend := layered(server.url, coherence=how))
    other = flavour.use(layered(server.url, coherence=how))
    await until_sure(flavour, backend)
    await store.set("k", 1, LONG)
    for call, args in (("touch", ()), ("expire", (30,))):
        await settled(flavour, backend)
        assert await store.get("k") == 1
        assert "k" in store_of(backend).by_hand.table
        assert await other.ask(call, "k", *args)

        async def gone() -> bool:
            return "k" not in store_of(backend).by_hand.table

        await flavour.until(gone, "the copy is dropped")
    assert await store.get("k") == 1
    assert 0 < store_of(backend).by_hand.table["k"].expires - monotonic() <= 30


@in_both_flavours
async def test_a_copy_may_be_told_to_end_earlier(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url, l1_expire=5))
    await until_sure(flavour, backend)
    counted = Counted(store)
    for _ in range(2):
        await flavour.call(counted.load, 1)
        await settled(flavour, backend)
    await flavour.call(counted.load, 1)
    assert 0 < held(backend, counted.load.key(1)).expires - monotonic() <= 5
    assert server.command("PTTL", value_key(server)) > 5000


@in_both_flavours
async def test_what_is_stale_is_served_while_it_is_refreshed(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    counted = Counted(store, expire=60, stale_while_revalidate=60)
    for _ in range(2):
        await flavour.call(counted.load, 1)
    server.command("PEXPIRE", value_key(server), 59_000)
    await until_gone(flavour, backend, counted.load.key(1))
    assert await flavour.call(counted.load, 1) == "1: 1"

    async def refreshed() -> bool:
        return bool(await flavour.call(counted.load, 1) == "1: 2")

    await flavour.until(refreshed, "it is refreshed behind the caller")
    assert counted.runs == 2


@pytest.mark.parametrize("copy", [False, True], ids=["shared", "copying"])
@in_both_flavours
async def test_a_copy_is_refreshed_ahead(flavour: Flavour, server: RedisServer, copy: bool) -> None:
    store = flavour.use(backend := layered(server.url, copy=copy, l1_expire=20))
    await until_sure(flavour, backend)
    counted = Counted(store, expire=60, refresh_ahead=30)
    for _ in range(5):  # the copy ends soon, the value does not
        assert await flavour.call(counted.load, 1) == "1: 1"
    await store.drain()
    assert counted.runs == 1
    server.command("PEXPIRE", value_key(server), 29_000)
    await until_gone(flavour, backend, counted.load.key(1))
    assert await flavour.call(counted.load, 1) == "1: 1"

    async def refreshed() -> bool:
        return bool(await flavour.call(counted.load, 1) == "1: 2")

    await flavour.until(refreshed, "it is refreshed behind the caller")


@in_both_flavours
async def test_a_copy_that_is_due_is_refreshed_early(flavour: Flavour, server: RedisServer) -> None:
    """A copy knows how long its value lives and how long it took, and is taken at a glance until it may be due."""
    store = flavour.use(backend := layered(server.url, max_staleness=120))
    await until_sure(flavour, backend)
    runs = []

    @store.cached(expire=60, early=10.0)
    async def load(number: int) -> int:
        began = monotonic()

        async def worked() -> bool:
            return monotonic() - began > 0.1

        await flavour.until(worked, "the load takes a while")
        runs.append(number)
        return len(runs)

    for _ in range(2):
        assert await flavour.call(load, 1) == 1
        await settled(flavour, backend)
    entry = held(backend, load.key(1))
    assert isinstance(entry, AgedEntry)
    assert entry.age.lifetime == 60
    assert entry.expires == pytest.approx(entry.age.fresh_until - 10 * 10.0 * entry.age.load)
    assert 0.1 <= entry.age.load < 1


@in_both_flavours
async def test_hits_that_are_counted_are_counted_behind(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    counted = Counted(store, hits=2)
    assert [await flavour.call(counted.load, 1) for _ in range(6)] == ["1: 1"] * 3 + ["1: 2"] * 3


@in_both_flavours
async def test_what_was_raised_is_raised_from_a_copy(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    runs = []

    @store.cached(expire=LONG, cache_errors={LookupError: LONG})
    async def load(number: int) -> int:
        runs.append(number)
        raise LookupError(f"no {number}")

    for _ in range(4):
        with pytest.raises(LookupError, match="no 1"):
            await flavour.call(load, 1)
        assert await store.get(load.key(1), "absent") == "absent"
    assert runs == [1]


# What ends a copy.


@in_both_flavours
async def test_tags_end_copies_also_those_added_while_loading(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    other = Pages(flavour.use(layered(server.url)))
    pages = Pages(store)
    pages.late = ["late"]
    for runs, invalidate in (
        (1, None), (2, pages.invalidate), (3, other.invalidate), (4, pages.invalidate), (5, other.invalidate),
    ):  # fmt: skip
        if invalidate is not None:
            await invalidate("user:1" if runs < 4 else "late")
            await until_gone(flavour, backend, pages.page.key(1))
        for _ in range(2):
            assert await flavour.call(pages.page, 1) == f"1/1 {runs}"
            await settled(flavour, backend)
        assert copy_of(backend, pages.page.key(1)) is not None


@both_ways
@in_both_flavours
async def test_whatever_is_changed_by_hand_is_seen_at_once(flavour: Flavour, server: RedisServer, how: str) -> None:
    store = flavour.use(backend := layered(server.url, coherence=how))
    await until_sure(flavour, backend)
    await store.set("a:1", 1)
    assert await store.get("a:1") == 1
    assert await store.ask("incr", "a:1") == 2
    assert await store.get("a:1") == 2
    assert await store.ask("decr", "a:1") == 1
    assert await store.get("a:1") == 1
    await store.set("a:1", None)
    assert await store.get("a:1", "absent") is None
    assert await store.get("a:1", "absent") is None
    assert await store.has("a:1")
    assert not await store.ask("add", "a:1", 5)
    assert await store.delete("a:1")
    assert await store.get("a:1", "absent") == "absent"
    assert await store.ask("add", "a:1", 5)
    assert await store.get("a:1") == 5
    await store.ask("set_many", {"a:1": 6, "a:2": 7, "b": 8})
    assert [await store.get(key) for key in ("a:1", "a:2", "b")] == [6, 7, 8]
    assert sorted(await store.keys("a:")) == ["a:1", "a:2"]
    assert await store.ask("delete_match", "a:") == 2
    assert [await store.get(key) for key in ("a:1", "a:2", "b")] == [None, None, 8]
    assert await store.ask("delete_many", ["b", "c"]) == 1
    assert await store.get("b") is None
    await store.set("b", 9)
    assert await store.get("b") == 9
    await store.clear()
    assert await store.get("b") is None


@in_both_flavours
async def test_what_the_store_behind_is_told_directly_is_heard(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    behind = flavour.use(backend.l2)
    counted = Counted(store)
    for _ in range(2):
        await flavour.call(counted.load, 1)
    assert await behind.delete(counted.load.key(1))
    await until_gone(flavour, backend, counted.load.key(1))
    assert await flavour.call(counted.load, 1) == "1: 2"


# What is copied.


@in_both_flavours
async def test_looking_at_a_value_leaves_no_copy(flavour: Flavour, server: RedisServer) -> None:
    """It would be one that knows nothing of what its function wants to count, or to refresh."""
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    for options in ({"hits": 1}, {"refresh_ahead": 0.5}):
        counted = Counted(store, namespace=next(iter(options)), **options)
        await flavour.call(counted.load, 1)
        assert (await flavour.call(counted.load.explain, 1)).answer == "fresh"
        assert copy_of(backend, counted.load.key(1)) is None
        assert await flavour.call(counted.load, 1) == "1: 1"


@in_both_flavours
async def test_types_never_mix(flavour: Flavour, server: RedisServer) -> None:
    """One value, as the function that stored it takes it and as who knows its key only: each as without copies."""
    store = flavour.use(backend := layered(server.url))
    plain = flavour.use(RedisBackend(server.url, namespace="tiers", timeout=10))
    await until_sure(flavour, backend)

    async def load(number: int) -> User:
        return User(id=number, name="Ada")

    def annotated(fn: Any) -> Any:
        fn.__annotations__["return"] = User
        return fn

    fetch = store.cached(expire=LONG)(annotated(load))
    for first in ("function", "hand"):
        await flavour.call(fetch.refresh, 1)
        for _ in range(3):
            by_hand = await store.get(fetch.key(1)) if first == "hand" else None
            assert await flavour.call(fetch, 1) == User(id=1, name="Ada")
            by_hand = by_hand or await store.get(fetch.key(1))
            expected = await plain.get(fetch.key(1))
            assert (type(by_hand), by_hand) == (type(expected), expected)
    await store.set(fetch.key(1), {"id": 1, "name": "Bob"})
    for _ in range(2):
        assert type(await flavour.call(fetch, 1)) is User


@in_both_flavours
async def test_copies_can_be_objects_of_ones_own(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url, copy=True))
    await until_sure(flavour, backend)

    @store.cached(expire=LONG)
    async def load(number: int) -> list[int]:
        return [number]

    await store.set("k", [1])
    for _ in range(4):
        await settled(flavour, backend)
        for found in (await flavour.call(load, 1), await store.get("k")):
            assert found == [1]
            found.append(2)
    before = reads(server)
    assert await flavour.call(load, 1) == [1]
    assert await store.get("k") == [1]
    assert reads(server) == before


@in_both_flavours
async def test_large_and_compressed_values_are_copied_and_confirmed(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    text = "a long text " * 100_000

    @store.cached(expire=LONG, tags=["b", "a"])
    async def load(number: int) -> str:
        return text

    await store.set("k", text)
    for _ in range(2):
        assert await flavour.call(load, 1) == text
        await settled(flavour, backend)
        assert await store.get("k") == text
    store_of(backend).lapsed()
    with flavour_counts(server) as asked:
        assert await flavour.call(load, 1) == text
        assert await store.get("k") == text
    assert coherence(backend).confirmed == 2
    assert asked[0] < 10_000, "the values themselves were asked for"


@contextlib.contextmanager
def flavour_counts(server: RedisServer) -> Iterator[list[int]]:
    """How many bytes the server sent meanwhile; what it tells here included."""
    counted = [sent(server)]
    yield counted
    counted[0] = sent(server) - counted[0]


def sent(server: RedisServer) -> int:
    lines = server.command("INFO", "stats").decode().splitlines()
    return int(next(line for line in lines if line.startswith("total_net_output_bytes:")).split(":")[1])


# While copies are not believed.


@in_both_flavours
async def test_out_of_sight_a_copy_is_confirmed_or_fetched_anew(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    pages = Pages(store)
    behind = flavour.use(RedisBackend(server.url, namespace="tiers", timeout=10))
    others = Pages(behind)
    for change in (None, "delete", "set", "tag", "clear", "flush"):
        for _ in range(2):
            await flavour.call(pages.page, 1)
            await settled(flavour, backend)
        runs, before = len(pages.runs), coherence(backend).confirmed
        store_of(backend).learn = lambda news: None  # type: ignore[method-assign]  # deaf
        store_of(backend).lapsed()
        heard = store_of(backend).heard
        store_of(backend).heard = lambda at: None  # type: ignore[method-assign]
        match change:
            case "delete":
                assert await behind.delete(pages.page.key(1))
            case "set":
                await behind.set(pages.page.key(1), "another")
            case "tag":
                await others.invalidate("pages")
            case "clear":
                await behind.clear()
            case "flush":
                server.flush()
        got = await flavour.call(pages.page, 1)
        assert len(pages.runs) == runs + (change is not None), change
        assert got == f"1/1 {len(pages.runs)}"
        assert coherence(backend).confirmed == before + (change is None), change
        del store_of(backend).learn, store_of(backend).heard
        heard(monotonic())
        await store.clear()


@in_both_flavours
async def test_what_was_found_before_all_was_dropped_is_not_believed_after(
    flavour: Flavour, server: RedisServer
) -> None:
    """A channel that attaches between the look at a copy and the question whether copies are to be believed."""
    store = flavour.use(backend := layered(server.url))
    await until_sure(flavour, backend)
    behind = flavour.use(RedisBackend(server.url, namespace="tiers", timeout=10))
    counted = Counted(store)
    for _ in range(2):
        await flavour.call(counted.load, 1)
        await settled(flavour, backend)
    two = store_of(backend)
    two.close()  # nobody listens
    await behind.delete(counted.load.key(1))
    find = two._near.find

    def found_and_attached(*args: Any, **kwargs: Any) -> Any:
        two._near.find = find  # type: ignore[method-assign]
        found = find(*args, **kwargs)
        two.attached()
        return found

    two._near.find = found_and_attached  # type: ignore[method-assign]
    assert await flavour.call(counted.load, 1) == "1: 2"


@in_both_flavours
async def test_a_copy_that_nobody_has_hidden_yet_is_not_believed_for_longer_than_what_was_heard(
    flavour: Flavour, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that would hide it was stopped, too."""
    store = flavour.use(backend := layered(server.url, max_staleness=40))
    await until_sure(flavour, backend)
    counted = Counted(store)
    for _ in range(2):
        await flavour.call(counted.load, 1)
        await settled(flavour, backend)
    two, entry = store_of(backend), held(backend, counted.load.key(1))
    assert 30 < entry.expires - monotonic() <= 40
    monkeypatch.setattr(two, "heard", lambda at: None)
    monkeypatch.setattr(two, "_trusted", monotonic())
    entry.expires = two._trusted
    confirmed = coherence(backend).confirmed
    for times in (1, 2):
        assert await flavour.call(counted.load, 1) == "1: 1"
        assert coherence(backend).confirmed == confirmed + times
    monkeypatch.setattr(two, "_trusted", monotonic() + 20)
    for _ in range(2):
        assert await flavour.call(counted.load, 1) == "1: 1"
    assert coherence(backend).confirmed == confirmed + 2
    assert 10 < entry.expires - monotonic() <= 20, "it is at a glance again"


# A store behind that is not Redis.


@pytest.mark.parametrize("carried", [False, True], ids=["alone", "with news"])
@in_both_flavours
async def test_a_store_of_ones_own(flavour: Flavour, server: RedisServer, tmp_path: Path, carried: bool) -> None:
    path = tmp_path / "cache.db"
    carriers = [RedisBackend(server.url, namespace="news", timeout=10) for _ in range(2 if carried else 0)]

    for carrier in carriers:
        flavour.use(carrier)

    def make() -> LayeredBackend:
        return LayeredBackend(l2=SQLiteBackend(path), max_staleness=30, coherence=carriers.pop() if carried else None)

    store = flavour.use(backend := make())
    other = flavour.use(theirs := make())
    counted, elsewhere = Counted(store), Counted(other)
    if carried:
        await flavour.call(counted.load, 0)
        await flavour.call(elsewhere.load, 0)

        async def sure() -> bool:
            return coherence(backend).sure and coherence(theirs).sure

        await flavour.until(sure, "changes are heard of")
    for _ in range(3):
        assert await flavour.call(counted.load, 1) == ("1: 2" if carried else "1: 1")
    assert 0 < held(backend, counted.load.key(1)).expires - monotonic() <= 30, "how long it lives nobody can tell"
    await flavour.call(elsewhere.load.invalidate, 1)
    if carried:
        await until_gone(flavour, backend, counted.load.key(1))
        assert await flavour.call(counted.load, 1) == "1: 3"
    runs = counted.runs
    await flavour.call(counted.load.invalidate, 1)
    assert await flavour.call(counted.load, 1) == f"1: {runs + 1}"
    await store.set("k", 1)
    assert await store.get("k") == 1
    await flavour.do(backend.l2, "set", "k", 2)
    assert await store.get("k") == 2


# How it is made.


def test_tiers_that_can_t_work_are_refused(tmp_path: Path) -> None:
    memory, far, sqlite = InMemoryBackend(), RedisBackend(), SQLiteBackend(tmp_path / "cache.db")
    taken = InMemoryBackend()
    whole = LayeredBackend(taken, RedisBackend())
    refusals: list[tuple[str, Any]] = [
        ("needs l2=", lambda: LayeredBackend()),
        ("needs l2=", lambda: LayeredBackend(memory)),
        ("swapped", lambda: LayeredBackend(far, memory)),  # type: ignore[arg-type]
        ("no other process shares", lambda: LayeredBackend(memory, InMemoryBackend())),
        ("two tiers already", lambda: LayeredBackend(memory, whole)),
        ("l1 must be an InMemoryBackend", lambda: LayeredBackend(whole, far)),  # type: ignore[arg-type]
        ("l1 must be an InMemoryBackend", lambda: LayeredBackend(RedisBackend(), far)),  # type: ignore[arg-type]
        ("belongs to another", lambda: LayeredBackend(taken, far)),
        ("longer than anything lives", lambda: LayeredBackend(memory, RedisBackend(max_expire=10), l1_expire=11)),
        ("nothing tells this process", lambda: LayeredBackend(memory, sqlite, l1_expire=11, max_staleness=10)),
        (
            "does not tell when its values end",
            lambda: LayeredBackend(memory, sqlite, l1_expire=11, max_staleness=10, coherence=far),
        ),
        ("at least 0.1 s", lambda: LayeredBackend(memory, far, max_staleness=0.05)),
        ("coherence must be", lambda: LayeredBackend(memory, far, coherence="gossip")),
        ("carries no news", lambda: LayeredBackend(memory, sqlite, coherence="pubsub")),
        ("carries no news", lambda: LayeredBackend(memory, far, coherence=sqlite)),
        ("l1_expire", lambda: LayeredBackend(memory, far, l1_expire=0)),
        ("max_staleness", lambda: LayeredBackend(memory, far, max_staleness=-1)),
    ]
    for said, make in refusals:
        with pytest.raises(ConfigurationError, match=said):
            make()
    with pytest.raises(InvalidTypeError):
        LayeredBackend(memory, 5)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError):
        LayeredBackend(memory, far, l1_expire=[])  # type: ignore[arg-type]
    LayeredBackend(memory, far)  # what was refused took nothing


@in_both_flavours
async def test_it_tells_how_it_keeps_up(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url, max_staleness=1))
    fresh = coherence(backend)
    assert (fresh.sure, fresh.listens, fresh.silence) == (False, True, None)
    await until_sure(flavour, backend)
    await store.set("k", 1)

    async def heard() -> bool:
        now = coherence(backend)
        return now.news > 0 and now.silence is not None and now.longest_silence > 0

    await flavour.until(heard, "the change is told, and questions are answered")
    assert (coherence(backend).lapses, coherence(backend).losses, coherence(backend).confirmed) == (0, 0, 0)
    assert (coherence(backend).silence or 0) <= coherence(backend).longest_silence
    assert backend.l2.stats().coherence is None


# Threads, loops, processes.


def listening() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fast_cache news"]


@in_both_flavours
async def test_it_can_be_closed_and_used_again(flavour: Flavour, server: RedisServer) -> None:
    store = flavour.use(backend := layered(server.url))
    counted = Counted(store)
    before = len(listening())
    for _ in range(3):
        await until_sure(flavour, backend)
        assert len(listening()) == before + 1
        for _ in range(3):
            assert await flavour.call(counted.load, 1) == "1: 1"
        await flavour.do(backend, "close")
        assert not coherence(backend).sure

        async def ended() -> bool:
            return len(listening()) == before

        await flavour.until(ended, "its thread ends")
    assert await flavour.call(counted.load, 1) == "1: 1"


def test_one_that_is_closed_while_it_attaches_is_not_believed(server: RedisServer) -> None:
    """Whoever closes it is another thread, and may come at any moment."""
    with contextlib.closing(layered(server.url)) as backend:
        two = store_of(backend)
        attached, closed = two.attached, threading.Event()

        def attached_late() -> None:
            two.attached = attached  # type: ignore[method-assign]
            backend.close()
            attached()
            closed.set()

        two.attached = attached_late  # type: ignore[method-assign]
        assert two._channel is not None
        two._channel.awake()
        assert closed.wait(30)
        for thread in listening():
            thread.join(30)
        assert not coherence(backend).sure


def test_its_thread_ends_with_it(server: RedisServer) -> None:
    before = set(listening())
    backend = layered(server.url, max_staleness=1)
    Cache().init_app(FastAPI(), backend=backend)
    backend.get("k")
    (thread,) = set(listening()) - before
    gone = weakref.ref(backend)
    backend.l2.close()
    del backend
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not thread.is_alive()


def test_a_thread_that_fails_is_not_relied_on(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    with contextlib.closing(layered(server.url)) as backend:
        backend.get("k")
        two = store_of(backend)
        wait_for(lambda: coherence(backend).sure, "changes are heard of")
        monkeypatch.setattr(two, "learn", lambda news: 1 / 0)
        threads = listening()
        backend.l2.set("k", 1)
        for thread in threads:
            thread.join(30)
        assert not coherence(backend).sure
        monkeypatch.undo()
        backend.get("k")
        wait_for(lambda: coherence(backend).sure, "changes are heard of")
    assert len(failures) == 1


def test_loops_share_the_copies(server: RedisServer) -> None:
    backend = layered(server.url)
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)
    runs = []

    @cache.cached(expire=LONG)
    async def load(number: int) -> int:
        runs.append(number)
        return number

    async def use() -> None:
        assert await load(1) == 1

    asyncio.run(use())
    wait_for(lambda: coherence(backend).sure, "changes are heard of")
    for _ in range(2):
        asyncio.run(use())
        wait_for(all_told(backend), "all is told")
    before = reads(server)
    for _ in range(3):
        asyncio.run(use())
    assert reads(server) == before
    assert runs == [1]
    backend.close()


_FORKED = r"""
import json, os, sys
from tests.support.tiers import Served, wait_for, coherence

served = Served(sys.argv[1])
served.raw.set("truth:1", "old")
served.item(1)
wait_for(lambda: coherence(served.backend).sure, "changes are heard of")
assert [served.item(1) for _ in range(3)] == ["old"] * 3
told, tell = os.pipe()
child = os.fork()
if child == 0:
    first = coherence(served.backend).sure
    held = served.item(1)
    wait_for(lambda: coherence(served.backend).sure, "the child hears by itself")
    served.item(1)
    os.write(tell, json.dumps([first, held, served.threads().count("fast_cache news")]).encode() + b"\n")
    wait_for(lambda: served.item(1) == "new", "the child hears of the parent's change")
    served.change(1, "newer")
    os._exit(0)
report = json.loads(os.fdopen(told).readline())
served.change(1, "new")
wait_for(lambda: served.item(1) == "newer", "the parent hears of the child's change")
_, status = os.waitpid(child, 0)
print(json.dumps([*report, os.waitstatus_to_exitcode(status), coherence(served.backend).losses]))
served.backend.close()
"""


def test_a_forked_child_listens_by_itself(server: RedisServer) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKED, server.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, "old", 1, 0, 0]
