"""What is removed or replaced while it is being loaded stays so, whoever removes it: this process or another."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.ports import run_blocking
from fast_cache.testing import PATIENCE, Flavour, Store, in_both_flavours

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = pytest.mark.parametrize("kind", ["memory", "redis"])


def make_backend(kind: str, redis_url: str, **options: Any) -> CacheBackend:
    return RedisBackend(redis_url, namespace="traps", **options) if kind == "redis" else InMemoryBackend()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


IN_ANOTHER_PROCESS = """
import sys
from fast_cache import RedisBackend

url, step, key = sys.argv[1:]
backend = RedisBackend(url, namespace="traps")
if step == "delete":
    backend.delete(key)
elif step == "clear":
    backend.clear()
else:
    backend.set(key, "set elsewhere")
assert backend.engine_store().health.failures == 0
"""

Elsewhere = Callable[[str, str], Awaitable[None]]
"""Carries out a step (delete, clear, set) on a key of the namespace, away from the backend of the test."""


def elsewhere(where: str, flavour: Flavour, url: str) -> Elsewhere:
    async def in_another_process(step: str, key: str) -> None:
        command = [sys.executable, "-W", "error", "-c", IN_ANOTHER_PROCESS, url, step, key]
        done = subprocess.run(  # noqa: ASYNC221  # nothing else is to happen meanwhile
            command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr

    other = flavour.use(RedisBackend(url, namespace="traps"))

    async def in_another_object(step: str, key: str) -> None:
        if step == "delete":
            await other.delete(key)
        elif step == "clear":
            await other.clear()
        else:
            await other.set(key, "set elsewhere")

    return in_another_process if where == "another process" else in_another_object


ELSEWHERE = pytest.mark.parametrize("where", ["another object", "another process"])


class Held:
    """A cached function of an item and its caller, keyed by the item; its loads end when they are let go."""

    def __init__(self, flavour: Flavour, store: Store) -> None:
        self.loads: list[str] = []
        self.gate = flavour.gate()
        self._flavour = flavour

        @store.cached(key="item:{item}")
        async def load(item: str, caller: str) -> str:
            self.loads.append(caller)
            await self.gate.passed()
            return caller

        self.load: Any = load
        self.key: str = load.key("item", "")

    def start(self, caller: str) -> Any:
        return self._flavour.start(self.load, "item", caller)

    async def call(self, caller: str) -> Any:
        return await self._flavour.call(self.load, "item", caller)

    async def begun(self, count: int) -> None:
        async def have_begun() -> bool:
            return len(self.loads) >= count

        await self._flavour.until(have_begun, f"{count} loads have begun")


@BACKENDS
@pytest.mark.parametrize("step", ["invalidate", "delete", "clear"])
@in_both_flavours
async def test_what_is_removed_during_its_load_is_not_stored_by_it(
    flavour: Flavour, redis_url: str, kind: str, step: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    held = Held(flavour, store)
    early = held.start("early")
    await held.begun(1)
    if step == "invalidate":
        await flavour.call(held.load.invalidate, "item", "")
    elif step == "delete":
        await store.delete(held.key)
    else:
        await store.clear()
    held.gate.open()
    assert await early.result() == "early"
    assert await store.get(held.key, "absent") == "absent"
    assert await held.call("late") == "late"
    assert await held.call("later") == "late"


@ELSEWHERE
@pytest.mark.parametrize("step", ["delete", "clear"])
@in_both_flavours
async def test_what_is_removed_elsewhere_during_its_load_is_not_stored_by_it(
    flavour: Flavour, redis_url: str, where: str, step: str
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    held = Held(flavour, store)
    early = held.start("early")
    await held.begun(1)
    await elsewhere(where, flavour, redis_url)(step, held.key)
    held.gate.open()
    assert await early.result() == "early"
    assert await store.get(held.key, "absent") == "absent"
    assert await held.call("late") == "late"
    assert await held.call("later") == "late"


@ELSEWHERE
@in_both_flavours
async def test_what_is_set_elsewhere_during_a_load_is_not_overwritten_by_it(
    flavour: Flavour, redis_url: str, where: str
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    held = Held(flavour, store)
    early = held.start("early")
    await held.begun(1)
    await elsewhere(where, flavour, redis_url)("set", held.key)
    held.gate.open()
    assert await early.result() == "early"
    assert await store.get(held.key) == "set elsewhere"


@ELSEWHERE
@pytest.mark.parametrize("step", ["delete", "clear"])
@in_both_flavours
async def test_who_came_after_a_removal_elsewhere_never_gets_what_was_loaded_before_it(
    flavour: Flavour, redis_url: str, where: str, step: str
) -> None:
    """Nobody here can know of the removal when they join; they learn of it when the store refuses the write."""
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    held = Held(flavour, store)
    early = held.start("early")
    await held.begun(1)
    await elsewhere(where, flavour, redis_url)(step, held.key)
    late = [held.start(f"late {number}") for number in range(5)]
    await store.followed(held.key, 5)
    held.gate.open()
    assert await early.result() == "early"
    results = {await caller.result() for caller in late}
    assert "early" not in results
    assert len(results) == 1
    assert await held.call("later") in results


@ELSEWHERE
@in_both_flavours
async def test_a_value_removed_elsewhere_is_gone_here(flavour: Flavour, redis_url: str, where: str) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    held = Held(flavour, store)
    held.gate.open()
    for step, caller in (("delete", "second"), ("clear", "third")):
        before = await held.call("first")
        assert await held.call("a hit") == before
        await elsewhere(where, flavour, redis_url)(step, held.key)
        assert await held.call(caller) == caller


@in_both_flavours
async def test_a_load_during_which_the_server_was_flushed_is_not_stored(
    flavour: Flavour, redis_url: str, raw: Any
) -> None:
    """Its fence is gone, and with it the only proof that nothing was invalidated."""
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    held = Held(flavour, store)
    early = held.start("early")
    await held.begun(1)
    raw.flushall()
    held.gate.open()
    assert await early.result() == "early"
    assert not await store.has(held.key)


@in_both_flavours
async def test_a_load_that_outlasts_its_fence_is_not_stored(flavour: Flavour, redis_url: str, raw: Any) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps", max_load_time=0.1))
    held = Held(flavour, store)
    early = held.start("early")
    await held.begun(1)

    async def the_fence_is_gone() -> bool:
        return not list(raw.scan_iter("traps:f:*"))

    await flavour.until(the_fence_is_gone, "the fence has expired")
    held.gate.open()
    assert await early.result() == "early"
    assert not await store.has(held.key)


@in_both_flavours
async def test_of_two_processes_that_load_at_once_none_overwrites_what_a_removal_made_old(
    flavour: Flavour, redis_url: str
) -> None:
    ours, theirs = (flavour.use(RedisBackend(redis_url, namespace="traps")) for _ in range(2))
    one, two = Held(flavour, ours), Held(flavour, theirs)
    assert one.key == two.key
    early = [one.start("early here"), two.start("early there")]
    await one.begun(1)
    await two.begun(1)
    await ours.delete(one.key)
    one.gate.open()
    two.gate.open()
    assert [await caller.result() for caller in early] == ["early here", "early there"]
    assert not await ours.has(one.key)
    assert await two.call("late") == "late"
    assert await one.call("later") == "late"


@in_both_flavours
async def test_a_refresh_elsewhere_is_not_overwritten_by_an_older_load(flavour: Flavour, redis_url: str) -> None:
    ours, theirs = (flavour.use(RedisBackend(redis_url, namespace="traps")) for _ in range(2))
    one, two = Held(flavour, ours), Held(flavour, theirs)
    early = one.start("early")
    await one.begun(1)
    two.gate.open()
    assert await flavour.call(two.load.refresh, "item", "refreshed") == "refreshed"
    one.gate.open()
    assert await early.result() == "early"
    assert await one.call("late") == "refreshed"


class SlowWrites(CacheBackend):
    """Ten methods over a dict; a write takes until it is let go, and acts at its end."""

    def __init__(self, flavour: Flavour) -> None:
        self.entries: dict[str, Any] = {}
        self.writing = flavour.gate()
        self.go = flavour.gate()

    def get(self, key: str, default: Any = None) -> Any:
        return self.entries.get(key, default)

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        self.writing.open()
        run_blocking(self.go.passed())
        self.entries[key] = value

    def delete(self, key: str) -> bool:
        return self.entries.pop(key, None) is not None

    def clear(self) -> None:
        self.entries.clear()

    def has(self, key: str) -> bool:
        return key in self.entries

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.entries.get(key, default)

    async def aset(self, key: str, value: Any, expire: Any = None) -> None:
        self.writing.open()
        await self.go.passed()
        self.entries[key] = value

    async def adelete(self, key: str) -> bool:
        return self.entries.pop(key, None) is not None

    async def aclear(self) -> None:
        self.entries.clear()

    async def ahas(self, key: str) -> bool:
        return key in self.entries


@pytest.mark.parametrize("step", ["invalidate", "delete", "clear"])
@in_both_flavours
async def test_what_is_removed_while_it_is_being_written_is_gone_over_ten_methods_too(
    flavour: Flavour, step: str
) -> None:
    backend = SlowWrites(flavour)
    store = flavour.use(backend)
    held = Held(flavour, store)
    held.gate.open()
    early = held.start("early")
    await backend.writing.passed()
    if step == "invalidate":
        await flavour.call(held.load.invalidate, "item", "")
    elif step == "delete":
        await store.delete(held.key)
    else:
        await store.clear()
    backend.go.open()
    assert await early.result() == "early"
    assert await store.get(held.key, "absent") == "absent"
    assert not await store.has(held.key)
    assert backend.entries == {}
    assert await held.call("late") == "late"
    assert await held.call("later") == "late"


def test_a_write_that_was_fenced_off_is_never_seen_not_even_until_it_is_undone() -> None:
    """Between the write's end and its removal the backend holds the old value: readers are told there is none."""
    cache = Cache()
    undoing, go, wrote = threading.Event(), threading.Event(), threading.Event()
    invalidated = threading.Event()

    class Backend(SlowWrites):
        def __init__(self) -> None:
            self.entries = {}

        def set(self, key: str, value: Any, expire: Any = None) -> None:
            wrote.set()
            assert invalidated.wait(PATIENCE)
            self.entries[key] = value

        def delete(self, key: str) -> bool:
            if self.entries:  # the removal of what was written too late
                undoing.set()
                assert go.wait(PATIENCE)
            return self.entries.pop(key, None) is not None

    backend = Backend()
    cache.init_app(FastAPI(), backend=backend)

    @cache.cached
    def load() -> str:
        return "old"

    loading = threading.Thread(target=load, daemon=True)
    loading.start()
    assert wrote.wait(PATIENCE)
    load.invalidate()
    invalidated.set()
    assert undoing.wait(PATIENCE)
    assert backend.entries != {}
    assert backend.get(load.key(), "absent") == "absent"
    assert not backend.has(load.key())
    go.set()
    loading.join(PATIENCE)
    assert backend.entries == {}


@in_both_flavours
async def test_a_removal_of_one_key_leaves_loads_of_others_alone(flavour: Flavour, redis_url: str) -> None:
    for kind in ("memory", "redis"):
        store = flavour.use(make_backend(kind, redis_url))
        held = Held(flavour, store)
        early = held.start("early")
        await held.begun(1)
        await flavour.call(held.load.invalidate, "another item", "")
        await store.delete("another key")
        await store.set("a third key", 1)
        held.gate.open()
        assert await early.result() == "early"
        assert await held.call("late") == "early"
