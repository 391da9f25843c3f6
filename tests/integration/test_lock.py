"""`lock=`: who shares a load, in one process and across processes.

Two caches with a backend each, over one server, are two processes as far as locking goes: they share nothing else.
Where it matters that processes are processes, real ones are started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.backends.redis.layout import Layout, new_token
from fast_cache.backends.redis.resp import Command
from fast_cache.errors import ConfigurationError, InvalidTypeError, LoadTimeout
from fast_cache.testing import PATIENCE, Blocking, Flavour, Gate, Store, in_both_flavours, only_suspending
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]

SOON = 0.05
LONG = 60
LEASE = 1.0


class Node:
    """What stands for a process: a cache with a backend of its own, and a function whose loads are counted."""

    def __init__(self, flavour: Flavour, url: str, name: str, **options: Any) -> None:
        self.flavour = flavour
        self.backend = RedisBackend(url, namespace="lock", timeout=2, lease=options.pop("lease", LEASE), **options)
        self.store = flavour.use(self.backend)
        self.name = name
        self.loads = 0
        self.gate: Gate | None = None
        self.fails: BaseException | None = None

    def cached(self, **options: Any) -> Any:
        async def load() -> str:
            self.loads += 1
            result, gate, fails = f"{self.name}{self.loads}", self.gate, self.fails
            if gate is not None:
                await gate.passed()
            if fails is not None:
                raise fails
            return result

        load.__qualname__ = "load"  # one function, as a deployment has it: its key is the same everywhere
        return self.store.cached(**{"lock": "distributed", **options})(load)

    async def loading(self, times: int = 1) -> None:
        """Wait until the function has begun so many times here."""

        async def begun() -> bool:
            return self.loads >= times

        await self.flavour.until(begun, f"{self.name} loads for the {times}th time")

    async def waiting(self, key: str) -> None:
        """Wait until a load of this node waits for another one's."""
        await self.waiting_for(lambda: blocked(self.backend), f"{self.name} waits")
        assert self.backend.engine_store().flights.loads(key)

    async def waiting_for(self, condition: Callable[[], object], what: str) -> None:
        async def holds() -> bool:
            return bool(condition())

        await self.flavour.until(holds, what)


async def idle(flavour: Flavour, store: Store) -> None:
    """Wait until nothing runs behind the callers."""

    async def nothing() -> bool:
        return len(store._cache._binding.background) == 0

    await flavour.until(nothing, "nothing runs in the background")


def link_of(backend: RedisBackend) -> Any:
    return backend._link


def blocked(backend: RedisBackend) -> int:
    """How many callers wait on a lane for a lease."""
    link = link_of(backend)
    found = [*link._fleet._loops.values(), link._fleet._threads]
    return sum(taken for held in found for lanes in held._lanes.values() for taken in lanes._waiting.values())


def held(backend: RedisBackend) -> int:
    return len(backend._keeper)


def names(url: str, kind: str) -> list[bytes]:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        found: Any = client.keys(f"lock:{kind}:*")
    return list(found)


@pytest.fixture
def two(redis_url: str) -> Callable[..., list[Node]]:
    """Makes nodes; each may have one caller that waits on a connection, so that it shows when one does."""

    def made(flavour: Flavour, count: int = 2, **options: Any) -> list[Node]:
        options = {"max_connections": 4, "pool_size": 4, **options}
        return [Node(flavour, redis_url, name, **options) for name in "abcdefgh"[:count]]

    return made


Nodes = Callable[..., list[Node]]


@in_both_flavours
async def test_of_two_processes_one_loads_and_the_other_waits(flavour: Flavour, two: Nodes, redis_url: str) -> None:
    a, b = two(flavour)
    first, second = a.cached(), b.cached()
    assert first.key() == second.key()
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    waiting = flavour.start(second)
    await b.waiting(second.key())
    a.gate.open()
    assert [await loading.result(), await waiting.result()] == ["a1", "a1"]
    assert (a.loads, b.loads) == (1, 0)
    assert names(redis_url, "l") == []
    assert held(a.backend) == held(b.backend) == 0
    assert second.stats().loads == 0


@in_both_flavours
async def test_a_script_that_the_server_sees_for_the_first_time_does_not_undo_the_write_before_it(
    flavour: Flavour, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, other = (Node(flavour, own_redis.url, name, lease=LONG) for name in "ab")
    done = trips(a, monkeypatch)
    await flavour.call(other.cached(lock="local", version=2))  # it knows how to write now, and not how to release
    cached = a.cached()
    a.gate = flavour.gate()
    leading = flavour.start(cached)
    await a.loading()
    following = flavour.start(cached)
    flights: Any = a.backend.engine_store().flights

    async def followed() -> bool:
        return bool(flights.is_followed(flights._table[cached.key()]))

    await flavour.until(followed, "somebody follows")
    a.gate.open()
    assert [await leading.result(), await following.result()] == ["a1", "a1"]
    assert a.loads == 1
    assert done == ["exchange"] * 4, "read, capture and write; and a read of the follower, who need not look again"


def trips(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The exchanges of a node with Redis, as they come to their end."""
    link, done = link_of(node.backend), list[str]()

    def told(step: str) -> None:
        real = getattr(link, step)

        async def exchange(*args: Any) -> Any:
            replies = await real(*args)
            done.append("woken" if step == "wait" and replies and isinstance(replies[0], list) else step)
            return replies

        monkeypatch.setattr(link, step, exchange)

    told("exchange")
    told("wait")
    return done


@in_both_flavours
async def test_a_lease_costs_the_winner_no_round_trip_and_the_others_one(
    flavour: Flavour, two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = two(flavour, 3)
    winner, loser, alone = trips(a, monkeypatch), trips(b, monkeypatch), trips(c, monkeypatch)
    await flavour.call(c.cached(lock="local", version=2))
    assert alone == ["exchange"] * 3, "read, capture, write"
    first, second = a.cached(), b.cached()
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    waiting = flavour.start(second)
    await b.waiting(second.key())
    a.gate.open()
    assert [await loading.result(), await waiting.result()] == ["a1", "a1"]
    assert winner == ["exchange"] * 3
    assert loser == ["exchange", "exchange", "woken"], "and what it looks for comes with that"


@in_both_flavours
async def test_who_may_not_wait_on_a_connection_looks_now_and_then(
    flavour: Flavour, two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two(flavour)
    layout = b.backend.engine_store()._layout  # type: ignore[attr-defined]
    monkeypatch.setattr(layout, "wait", lambda key, milliseconds: [("XREAD", "forbidden")])
    done = trips(b, monkeypatch)
    first, second = a.cached(), b.cached()
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    waiting = flavour.start(second)
    await b.waiting_for(lambda: done.count("wait") == 2, "it looks again")
    assert done.count("exchange") <= 4
    a.gate.open()
    assert [await loading.result(), await waiting.result()] == ["a1", "a1"]
    assert b.loads == 0


@in_both_flavours
async def test_a_load_that_outlasts_its_lease_keeps_it(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour, lease=0.3)
    first, second = a.cached(), b.cached()
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    waiting = flavour.start(second)
    began = time.monotonic()
    await a.waiting_for(lambda: time.monotonic() > began + 1.0, "three leases have passed")
    assert (a.loads, b.loads) == (1, 0)
    a.gate.open()
    assert [await loading.result(), await waiting.result()] == ["a1", "a1"]
    assert b.loads == 0


@in_both_flavours
async def test_the_lease_of_a_holder_that_is_gone_runs_out(
    flavour: Flavour, two: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two(flavour, lease=0.3)
    monkeypatch.setattr(a.backend._keeper, "hold", lambda lease: None)  # as if its process were no more
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    assert await flavour.call(b.cached()) == "b1"
    a.gate.open()
    assert await loading.result() == "a1"
    assert await flavour.call(a.cached()) == "b1", "what the old holder loaded is fenced off"


@in_both_flavours
async def test_after_an_invalidation_nobody_waits_for_the_old_load(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    first, second = a.cached(), b.cached()
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    await flavour.call(second.invalidate)
    assert await flavour.call(second) == "b1", "it loads while the old load is under way"
    a.gate.open()
    a.gate = None
    assert await loading.result() == "a1", "who asked before the invalidation may have what was loaded for it"
    assert await flavour.call(first) == "b1"
    assert (a.loads, b.loads) == (1, 1)


@in_both_flavours
async def test_an_old_holder_does_not_release_the_lease_of_the_next(
    flavour: Flavour, two: Nodes, redis_url: str
) -> None:
    a, b, c = two(flavour, 3)
    a.gate, b.gate = flavour.gate(), flavour.gate()
    old = flavour.start(a.cached())
    await a.loading()
    await flavour.call(b.cached().invalidate)
    new = flavour.start(b.cached())
    await b.loading()
    a.gate.open()
    await old.result()
    assert len(names(redis_url, "l")) == 1
    third = flavour.start(c.cached())
    await c.waiting(c.cached().key())
    b.gate.open()
    assert [await new.result(), await third.result()] == ["b1", "b1"]
    assert c.loads == 0


@in_both_flavours
async def test_when_a_load_fails_those_elsewhere_try_one_at_a_time(flavour: Flavour, two: Nodes) -> None:
    nodes = two(flavour, 3)
    running: list[str] = []
    most = [0]

    async def attempt(node: Node) -> str:
        running.append(node.name)
        most[0] = max(most[0], len(running))
        node.loads += 1
        await flavour.pause()
        running.remove(node.name)
        if sum(each.loads for each in nodes) < 3:
            raise OSError
        return node.name

    def cached(node: Node) -> Any:
        async def load() -> str:
            return await attempt(node)

        load.__qualname__ = "load"
        return node.store.cached(lock="distributed")(load)

    callers = [flavour.start(cached(node)) for node in nodes]
    results: list[object] = []
    for caller in callers:
        try:
            results.append(await caller.result())
        except OSError:
            results.append(OSError)
    assert results.count(OSError) == 2
    assert sum(node.loads for node in nodes) == 3
    assert most == [1]


@in_both_flavours
@pytest.mark.parametrize("unstored", ["condition", "skip", "error", "unencodable", "read once"])
async def test_what_is_not_stored_releases_the_lease(
    flavour: Flavour, two: Nodes, redis_url: str, unstored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a,) = two(flavour, 1, lease=LONG)
    given_up: list[object] = []
    if unstored != "read once":
        monkeypatch.setattr(a.backend._keeper, "give_up", given_up.append)

    async def load() -> Any:
        if unstored == "error":
            raise LookupError
        if unstored == "skip":
            a.store._cache.current.skip()
        return {"read once": iter([1]), "unencodable": object()}.get(unstored, 1)

    options = {"condition": lambda value: False} if unstored == "condition" else {}
    cached = a.store.cached(lock="distributed", **options)(load)
    with contextlib.suppress(LookupError):
        await flavour.call(cached)
    if unstored == "read once":  # it belongs to its caller alone, who does not wait for the rest
        await a.waiting_for(lambda: not names(redis_url, "l"), "the lease is released")
    assert names(redis_url, "l") == []
    assert given_up == [], "whoever calls next need not wait for a thread to release it"
    assert held(a.backend) == 0


@only_suspending
async def test_a_leader_that_is_cancelled_releases_the_lease(flavour: Flavour, two: Nodes, redis_url: str) -> None:
    a, b = two(flavour, lease=LONG)
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    waiting = flavour.start(b.cached())
    await b.waiting(b.cached().key())
    loading.cancel()
    assert await waiting.result() == "b1"
    assert names(redis_url, "l") == []


@only_suspending
async def test_an_heir_in_the_process_keeps_the_lease(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour, lease=LONG)
    first = a.cached()
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    heir = flavour.start(first)
    await a.store.followed(first.key(), 1)
    waiting = flavour.start(b.cached())
    await b.waiting(first.key())
    loading.cancel()
    await a.loading(2)
    a.gate.open()
    assert [await heir.result(), await waiting.result()] == ["a2", "a2"]
    assert (a.loads, b.loads) == (2, 0)


@only_suspending
async def test_one_who_waits_may_be_cancelled(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    waiting = flavour.start(b.cached())
    await b.waiting(b.cached().key())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.result()
    assert blocked(b.backend) == 0
    assert len(b.backend.engine_store().flights) == 0
    a.gate.open()
    await loading.result()
    assert b.backend.engine_store().health.failures == 0


@in_both_flavours
async def test_what_is_stale_is_served_while_another_process_refreshes(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    options = {"expire": SOON, "stale_while_revalidate": LONG}
    first, second = a.cached(**options), b.cached(**options)
    assert await flavour.call(first) == "a1"
    deadline = time.monotonic() + SOON + 0.01
    await a.waiting_for(lambda: time.monotonic() > deadline, "the value is stale")
    a.gate = flavour.gate()
    assert await flavour.call(first) == "a1"
    await a.loading(2)
    for _ in range(20):
        assert await flavour.call(second) == "a1"
        await flavour.pause()
    await idle(flavour, b.store)
    assert (a.loads, b.loads) == (2, 0)
    assert len(b.backend.engine_store().flights) == 0
    a.gate.open()

    async def refreshed() -> bool:
        return bool(await flavour.call(second) != "a1")

    await flavour.until(refreshed, "the refreshed value is served")


@in_both_flavours
async def test_an_explicit_refresh_waits_for_nobody(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    first, second = a.cached(), b.cached()
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    assert await flavour.call(second.refresh) == "b1"
    a.gate.open()
    await loading.result()
    assert await flavour.call(first) == "b1", "what is older is not stored"


@in_both_flavours
async def test_who_has_waited_long_enough_loads(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    assert await flavour.call(b.cached(lock_timeout=0.2)) == "b1"
    a.gate.open()
    await loading.result()


@in_both_flavours
async def test_patience_holds_while_another_process_loads(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    with pytest.raises(LoadTimeout):
        await flavour.call(b.cached(hard_timeout=0.2))
    a.gate.open()
    await loading.result()
    await idle(flavour, b.store)
    assert b.loads == 0


@in_both_flavours
async def test_more_callers_wait_than_connections(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    gate = flavour.gate()

    def cached(node: Node) -> Any:
        async def load(number: int) -> str:
            node.loads += 1
            await gate.passed()
            return f"{node.name}{number}"

        load.__qualname__ = "load"
        return node.store.cached(lock="distributed")(load)

    first, second = cached(a), cached(b)
    holders = [flavour.start(first, number) for number in range(6)]
    await a.loading(6)
    waiting = [flavour.start(second, number) for number in range(6)]

    async def all_wait() -> bool:
        return len(b.backend.engine_store().flights) == 6 and blocked(b.backend) == 1

    await flavour.until(all_wait, "all of them wait")
    await b.store.set("other", 1)
    assert await b.store.get("other") == 1, "whoever does not wait finds a connection"
    gate.open()
    expected = [f"a{number}" for number in range(6)]
    assert [await caller.result() for caller in holders] == expected
    assert [await caller.result() for caller in waiting] == expected
    assert b.loads == 0


@in_both_flavours
async def test_redis_goes_away_while_one_waits(flavour: Flavour, own_redis: RedisServer) -> None:
    a, b = (Node(flavour, own_redis.url, name, max_connections=4, pool_size=4) for name in "ab")
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    waiting = flavour.start(b.cached())
    await b.waiting(b.cached().key())
    own_redis.kill()
    assert await waiting.result() == "b1"
    a.gate.open()
    assert await loading.result() == "a1"


@in_both_flavours
async def test_without_redis_the_function_runs(flavour: Flavour, own_redis: RedisServer) -> None:
    node = Node(flavour, own_redis.url, "a")
    own_redis.kill()
    cached = node.cached()
    assert [await flavour.call(cached) for _ in range(3)] == ["a1", "a2", "a3"]
    assert held(node.backend) == 0


@in_both_flavours
async def test_a_server_that_takes_no_writes_gives_no_leases_and_keeps_nobody(
    flavour: Flavour, own_redis: RedisServer
) -> None:
    node = Node(flavour, own_redis.url, "a")
    with contextlib.closing(own_redis.client()) as client:
        client.replicaof("127.0.0.1", 1)
    cached = node.cached()
    assert [await flavour.call(cached) for _ in range(2)] == ["a1", "a2"]
    assert held(node.backend) == 0


@in_both_flavours
async def test_rubbish_in_the_place_of_a_lease_is_no_lease(flavour: Flavour, two: Nodes, redis_url: str) -> None:
    (a,) = two(flavour, 1)
    layout = a.backend.engine_store()._layout  # type: ignore[attr-defined]
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        for put in (
            lambda name: client.set(name, "x" * 16),
            lambda name: client.lpush(name, 1),
        ):
            cached = a.cached(version=str(put))
            put(layout.lease_key(cached.key()))
            client.lpush(layout.wake_key(cached.key()), 1)
            assert await flavour.call(cached) == f"a{a.loads}"
            assert await flavour.call(cached) == f"a{a.loads}"
    assert a.loads == 2


def test_only_the_holder_extends_and_releases_a_lease(redis_url: str) -> None:
    layout, mine, yours = Layout("lock", 1000, lease_ms=60_000), new_token(), new_token()
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:

        def run(commands: list[Command]) -> Any:
            (command,) = commands
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

        assert run(layout.take_lease("k", mine)) == 0
        client.pexpire(layout.lease_key("k"), 30_000)
        assert 0 < run(layout.take_lease("k", yours)) <= 30_000
        assert run(layout.extend("k", yours)) == 0
        assert 0 < run(layout.lease_left("k")) <= 30_000
        assert run(layout.extend("k", mine)) == 1
        assert run(layout.lease_left("k")) > 30_000
        client.pexpire(layout.lease_key("k"), 30_000)
        assert run(layout.take_lease("k", mine)) == 0, "one's own is extended"
        assert run(layout.lease_left("k")) > 30_000
        assert run(layout.release("k", yours)) == 0
        assert not run(layout.wait("k", 1))
        assert run(layout.release("k", mine)) == 1
        assert run(layout.wait("k", 1)), "a release is not missed by who comes to wait a moment later"
        assert run(layout.take_lease("k", yours)) == 0
        assert not run(layout.wait("k", 1)), "nor taken for one of the next holder"
    assert len(names(redis_url, "*")) == 1, "nothing else stays"


@in_both_flavours
async def test_get_or_set_shares_loads_across_processes(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    gate, loads = flavour.gate(), list[str]()

    def caller(node: Node) -> Any:
        async def load() -> str:
            loads.append(node.name)
            await gate.passed()
            return node.name

        cache = node.store._cache
        options: dict[str, Any] = {"lock": "distributed", "lock_timeout": LONG}
        ask = cache.get_or_set if isinstance(flavour, Blocking) else cache.aget_or_set
        return flavour.start(ask, "a key", flavour.function(load), **options)

    first = caller(a)
    await a.waiting_for(lambda: loads, "a loads")
    second = caller(b)
    await b.waiting("a key")
    gate.open()
    assert [await first.result(), await second.result()] == ["a", "a"]
    assert loads == ["a"]


@in_both_flavours
async def test_the_lease_is_explained(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    first, second = a.cached(lock_timeout=5), b.cached(lock_timeout=5)
    assert (await flavour.call(second.explain)).lease is None
    a.gate = flavour.gate()
    loading = flavour.start(first)
    await a.loading()
    explanation = await flavour.call(second.explain)
    assert explanation.lease is not None
    assert 0 < explanation.lease <= LEASE
    assert f"lease: {explanation.lease:.3f} s" in str(explanation)
    assert explanation.options == {"lock": "distributed", "lock_timeout": 5}
    assert explanation.loading is False, "not in this process"
    a.gate.open()
    await loading.result()
    assert (await flavour.call(second.explain)).lease is None


@in_both_flavours
async def test_one_who_got_the_value_of_another_process_is_told_so(flavour: Flavour, two: Nodes) -> None:
    a, b = two(flavour)
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    with b.store._cache.detect() as calls:
        waiting = flavour.start(b.cached())
        await b.waiting(b.cached().key())
        a.gate.open()
        await waiting.result()
    await loading.result()
    threaded = isinstance(flavour, Blocking)  # a thread has a context of its own
    assert [call.source for call in calls] == ([] if threaded else ["redis"])


# lock=False


@pytest.fixture(params=["memory", "ten methods", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="lock")
    return SQLiteBackend(tmp_path / "cache.db")


def gated(store: Store, gate: Gate, loads: list[int], **options: Any) -> Any:
    @store.cached(lock=False, **options)
    async def load() -> int:
        loads.append(1)
        number = len(loads)
        await gate.passed()
        return number

    return load


@in_both_flavours
async def test_without_a_lock_each_caller_loads(flavour: Flavour, backend: CacheBackend) -> None:
    store, gate, loads = flavour.use(backend), flavour.gate(), list[int]()
    load = gated(store, gate, loads)
    callers = [flavour.start(load) for _ in range(4)]

    async def all_load() -> bool:
        return len(loads) == 4

    await flavour.until(all_load, "all four load at once")
    assert len(backend.engine_store().flights) == 1, "one key"
    gate.open()
    assert sorted([await caller.result() for caller in callers]) == [1, 2, 3, 4]
    assert await flavour.call(load) in (1, 2, 3, 4)
    assert len(loads) == 4
    assert len(backend.engine_store().flights) == 0


@in_both_flavours
@pytest.mark.parametrize("how", ["invalidate", "clear", "refresh"])
async def test_an_invalidation_during_them_is_not_undone(flavour: Flavour, backend: CacheBackend, how: str) -> None:
    store, gate, loads = flavour.use(backend), flavour.gate(), list[int]()
    load = gated(store, gate, loads)
    callers = [flavour.start(load) for _ in range(3)]

    async def all_load() -> bool:
        return len(loads) == 3

    await flavour.until(all_load, "all three load at once")
    if how == "clear":
        await store.clear()
    elif how == "invalidate":
        await flavour.call(load.invalidate)
    else:
        refreshing = flavour.start(load.refresh)

        async def refreshes() -> bool:
            return len(loads) == 4

        await flavour.until(refreshes, "the refresh runs")
    gate.open()
    for caller in callers:
        await caller.result()
    if how == "refresh":
        assert await refreshing.result() == 4
    assert await flavour.call(load) == 4
    assert len(backend.engine_store().flights) == 0


@in_both_flavours
async def test_without_a_lock_patience_holds(flavour: Flavour, backend: CacheBackend) -> None:
    store, gate, loads = flavour.use(backend), flavour.gate(), list[int]()
    load = gated(store, gate, loads, hard_timeout=0.1)
    with pytest.raises(LoadTimeout):
        await flavour.call(load)
    gate.open()
    await idle(flavour, store)
    assert await flavour.call(load) == 1


@in_both_flavours
async def test_without_a_lock_one_refresh_runs_behind_the_callers(flavour: Flavour, backend: CacheBackend) -> None:
    store, gates, loads = flavour.use(backend), [flavour.gate(), flavour.gate()], list[int]()

    @store.cached(lock=False, expire=SOON, stale_while_revalidate=LONG)
    async def load() -> int:
        loads.append(1)
        number = len(loads)
        await gates[number - 1].passed()
        return number

    gates[0].open()
    await flavour.call(load)
    deadline = time.monotonic() + SOON + 0.01

    async def over() -> bool:
        return time.monotonic() > deadline

    await flavour.until(over, "the value is stale")
    assert [await flavour.call(load) for _ in range(5)] == [1] * 5

    async def refreshes() -> bool:
        return len(loads) == 2

    await flavour.until(refreshes, "a refresh runs")
    assert [await flavour.call(load) for _ in range(5)] == [1] * 5
    gates[1].open()
    await idle(flavour, store)
    assert len(loads) == 2


# What is refused


@pytest.mark.parametrize("backend", ["memory", "ten methods"], indirect=True)
class TestRefusals:
    def test_at_decoration_where_a_backend_is_bound(self, backend: CacheBackend) -> None:
        cache = Cache()
        cache.init_app(FastAPI(), backend)
        kind = type(backend).__name__
        with pytest.raises(ConfigurationError, match=rf'price has lock="distributed", and {kind} can.t lock') as caught:

            @cache.locked("1m")
            def price() -> int:
                return 1

        assert "RedisBackend" in str(caught.value)
        assert 'lock="local"' in str(caught.value)

    def test_at_init_app_and_nothing_is_half_bound(self, backend: CacheBackend, redis_url: str) -> None:
        cache = Cache()
        bound = RedisBackend(redis_url, namespace="lock")
        cache.init_app(FastAPI(), bound, default_expire=5)

        @cache.cached
        def other() -> int:
            return 1

        @cache.cached(lock="distributed")
        def price() -> int:
            return 1

        app = FastAPI()
        with pytest.raises(ConfigurationError, match=r"price has lock="):
            cache.init_app(app, backend)
        assert cache.get_cache() is bound
        assert not hasattr(app.state, "cache_handler")
        assert cache._binding.default_expire == 5
        assert other.explain().backend == "redis"
        assert price() == 1
        bound.close()

    def test_before_init_app_the_function_runs(self, backend: CacheBackend) -> None:
        cache = Cache()

        @cache.cached(lock="distributed")
        def price() -> int:
            return 1

        assert price() == 1
        assert cache.get_or_set("a key", lambda: 1, lock="distributed") == 1
        with pytest.raises(ConfigurationError, match=r"price has lock="):
            cache.init_app(FastAPI(), backend)

    def test_get_or_set_at_the_call(self, backend: CacheBackend) -> None:
        cache = Cache()
        cache.init_app(FastAPI(), backend)
        with pytest.raises(ConfigurationError, match=r'has lock="distributed"'):
            cache.get_or_set("a key", lambda: 1, lock="distributed")
        with pytest.raises(ConfigurationError, match=r'has lock="distributed"'):
            asyncio.run(cache.aget_or_set("a key", lambda: 1, lock="distributed"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lock": "remote"}, r"lock must be .* got 'remote'"),
        ({"lock": True}, r"lock must be .* got True"),
        ({"lock_timeout": 5}, r"lock_timeout needs lock=.distributed., and lock is 'local'"),
        ({"lock_timeout": 5, "lock": False}, r"lock_timeout needs lock=.distributed., and lock is False"),
        ({"lock_timeout": 0, "lock": "distributed"}, r"lock_timeout must be longer than 0"),
    ],
)
def test_options_that_can_not_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Cache().cached(**options)


@pytest.mark.parametrize("lock", [None, 0, 1.5, ["local"]])
def test_a_lock_of_another_type_is_refused(lock: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"lock must be"):
        Cache().cached(lock=lock)


def test_a_lease_that_can_not_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"lease must be longer than 0"):
        RedisBackend(lease=0)
    with pytest.raises(ConfigurationError, match=r"lease must be at least 0.1 s, got 0.05 s"):
        RedisBackend(lease="50ms")


# Real processes

PROGRAM = """
import os, sys, threading, time
import redis
from fastapi import FastAPI
from fast_cache import Cache, RedisBackend

url, lease, seconds, mode = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
cache = Cache()
cache.init_app(FastAPI(), RedisBackend(url, namespace="lock", lease=lease, timeout=5))
counter = redis.Redis.from_url(url)

@cache.cached(expire=600, lock="distributed", key="price:{number}")
def price(number: int) -> int:
    loads = counter.incr(f"loads:{number}")
    counter.lpush("loaders", os.getpid())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (mode == "gate" and counter.exists("go")):
        time.sleep(0.01)
    return loads

counter.incr("ready")
while not counter.exists("start"):
    time.sleep(0.002)
print([price(number) for number in range(int(sys.argv[5]))], flush=True)
cache.get_cache().close()
"""


class Workers:
    def __init__(self, folder: Path, url: str) -> None:
        self.program = folder / "program.py"
        self.program.write_text(textwrap.dedent(PROGRAM))
        self.url = url
        self.client: Any = redis.Redis.from_url(url)
        self.running: list[subprocess.Popen[str]] = []

    def start(self, count: int, *, lease: float, seconds: float, mode: str = "", keys: int = 1) -> None:
        for _ in range(count):
            command = [sys.executable, str(self.program), self.url, str(lease), str(seconds), mode, str(keys)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.running.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            )
        self.until(lambda: int(self.client.get("ready") or 0) >= count)
        self.client.set("start", 1)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 3 * PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)  # between two looks

    def output(self, worker: subprocess.Popen[str]) -> str:
        out, error = worker.communicate(timeout=3 * PATIENCE)
        assert worker.returncode == 0, error
        return out.strip()

    def close(self) -> None:
        for worker in self.running:
            if worker.poll() is None:
                worker.kill()
            worker.communicate()
        self.client.close()


@pytest.fixture
def workers(tmp_path: Path, redis_url: str) -> Iterator[Workers]:
    made = Workers(tmp_path, redis_url)
    yield made
    made.close()


def test_eight_processes_load_each_key_once(workers: Workers) -> None:
    workers.start(8, lease=5, seconds=0.1, keys=5)
    outputs = [workers.output(worker) for worker in workers.running]
    assert outputs == ["[1, 1, 1, 1, 1]"] * 8
    assert [int(workers.client.get(f"loads:{number}")) for number in range(5)] == [1] * 5


def test_a_holder_that_is_killed_is_replaced_by_one(workers: Workers) -> None:
    workers.start(3, lease=1, seconds=3 * PATIENCE, mode="gate")
    workers.until(lambda: workers.client.llen("loaders") == 1)
    holder = int(workers.client.lindex("loaders", 0))
    began = time.monotonic()
    os.kill(holder, signal.SIGKILL)
    workers.until(lambda: workers.client.llen("loaders") == 2)
    assert time.monotonic() - began < PATIENCE, "not by the timeout of the lock, which is 30 s"
    workers.client.set("go", 1)
    outputs = [workers.output(worker) for worker in workers.running if worker.pid != holder]
    assert outputs == ["[2]"] * 2
    assert int(workers.client.get("loads:0")) == 2


# The keeper


def keeper_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fast_cache leases"]


@in_both_flavours
async def test_the_thread_ends_when_there_is_nothing_to_keep(flavour: Flavour, two: Nodes) -> None:
    (a,) = two(flavour, 1, lease=0.15)
    await flavour.call(a.cached())
    await a.waiting_for(lambda: not keeper_threads(), "the thread has ended")


@in_both_flavours
async def test_closing_ends_the_thread_and_does_not_wait(flavour: Flavour, two: Nodes) -> None:
    (a,) = two(flavour, 1, lease=LONG)
    a.gate = flavour.gate()
    loading = flavour.start(a.cached())
    await a.loading()
    assert len(keeper_threads()) == 1
    if isinstance(flavour, Blocking):
        a.backend.close()
    else:
        await a.backend.aclose()
    await a.waiting_for(lambda: not keeper_threads(), "the thread has ended")
    a.gate.open()
    assert await loading.result() == "a1", "the backend may be used again"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_leases_to_its_parent(redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="lock", lease=LONG)
    cache, inside = Cache(), list[int]()
    cache.init_app(FastAPI(), backend)

    @cache.cached(lock="distributed")
    def load() -> int:
        child = os.fork()
        if child == 0:
            os._exit(10 + held(backend) + (backend._keeper._bell is not None))
        _, status = os.waitpid(child, 0)
        inside.append(os.waitstatus_to_exitcode(status))
        inside.append(held(backend))
        return 1

    assert load() == 1
    assert inside == [10, 1]
    backend.close()


def test_a_lease_is_extended_while_the_event_loop_is_blocked(redis_url: str) -> None:
    a = RedisBackend(redis_url, namespace="lock", lease=0.3)
    cache = Cache()
    cache.init_app(FastAPI(), a)
    seen: list[int] = []

    @cache.cached(lock="distributed")
    async def load() -> int:
        with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
            deadline = time.monotonic() + 0.9
            while time.monotonic() < deadline:
                time.sleep(0.05)  # noqa: ASYNC251  # it blocks the loop: that is the point
                found: Any = client.keys("lock:l:*")
                seen.append(len(found))
        return 1

    async def main() -> None:
        assert await load() == 1
        await a.aclose()

    asyncio.run(main())
    assert set(seen) == {1}
