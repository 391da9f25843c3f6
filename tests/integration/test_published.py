"""Where changes are published, that travels with them: whoever knows that one was made can rely on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from fast_cache import LayeredBackend, RedisBackend
from fast_cache.backends.redis.hearing import Hearing
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.slot_map import slot_of
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer
from tests.support.tiers import Served, Worker, all_told, coherence, forbid, layered, store_of, sure, wait_for, warm

NAMESPACE = "tiers"
LAYOUT = Layout(NAMESPACE, fence_ms=600_000)

PLACES = ["one server", "without scripts", "a cluster"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, redis_server: RedisServer) -> dict[str, Any]:
    """Where both processes are, and that what changes there is published."""
    redis_server.flush()
    told = {"url": redis_server.url, "truth_url": redis_server.url, "coherence": "pubsub", "max_staleness": 1}
    if request.param == "without scripts":
        return {**told, "user": forbid(redis_server, "scriptless", "-eval", "-evalsha")}
    if request.param == "one server":
        return told
    cluster: RedisCluster = request.getfixturevalue("redis_cluster")
    cluster.flush()
    return {**told, "url": cluster.url}


@pytest.fixture
def here(place: dict[str, Any]) -> Iterator[Served]:
    with sure(**place) as served:
        yield served


CHANGES = [
    "invalidate",
    "refresh",
    "tags",
    "clear",
    "delete",
    "set",
    "set_many",
    "delete_many",
    "delete_match",
    "expire",
]


@pytest.mark.parametrize("change", CHANGES)
def test_who_ends_as_soon_as_it_is_made_has_told_the_others(place: dict[str, Any], here: Served, change: str) -> None:
    with Worker(**place) as there:
        here.change(1, "old")
        wait_for(all_told(here.backend), "it has heard of what it did itself")
        warm(here)
        key = here.cached.key(1)
        there("item", 0)
        there("end_when_told")
        match change:
            case "invalidate":
                there.begin("invalidate", 1)
            case "refresh":
                there.begin("refresh", 1)
            case "tags":
                there.begin("tag", "another", "item:1", "one more")
            case "clear":
                there.begin("by_hand", "clear")
            case "set_many":
                there.begin("by_hand", "set_many", {key: 2})
            case "delete_many":
                there.begin("by_hand", "delete_many", ["other", key])
            case "delete" | "delete_match":
                there.begin("by_hand", change, key)
            case _:
                there.begin("by_hand", change, key, 60)
        wait_for(lambda: there.process.poll() is not None, "it has ended")
        wait_for(lambda: not here.held(1), "the copy is dropped")
    assert coherence(here.backend).losses == 0


def test_who_ends_as_soon_as_it_has_counted_has_told_the_others(place: dict[str, Any], here: Served) -> None:
    with Worker(**place) as there:
        assert there("by_hand", "incr", "hits") == 1
        held = store_of(here.backend).by_hand.table
        wait_for(lambda: here.by_hand("get", "hits") == 1 and "hits" in held, "there is a copy")
        there("end_when_told")
        there.begin("by_hand", "incr", "hits")
        wait_for(lambda: there.process.poll() is not None, "it has ended")
        wait_for(lambda: here.by_hand("get", "hits") == 2, "the copy is dropped")


def test_what_is_told_of_a_slot_that_moved_comes_behind_the_change(own_cluster: RedisCluster) -> None:
    """The node that is asked by mistake would tell of it before the right one makes it."""
    with (
        contextlib.closing(layered(own_cluster.url, coherence="pubsub")) as backend,
        contextlib.closing(layered(own_cluster.url, coherence="pubsub")) as elsewhere,
    ):
        backend.set("k", 1)
        wait_for(lambda: backend.get("k") and coherence(backend).sure, "changes are heard of")
        assert elsewhere.get("k") == 1
        slot = slot_of(LAYOUT.value_key("k"))
        old = own_cluster.serving(LAYOUT.value_key("k"))
        new = next(node for node in own_cluster.masters if node is not old)
        backend.delete("k")
        own_cluster.move_slot(slot, new)
        new.command("CONFIG", "RESETSTAT")
        assert elsewhere.delete("k") is False
        assert _calls(new, "publish") == 1
        backend.set("k", 2)
        held = store_of(backend).by_hand.table
        wait_for(lambda: backend.get("k") == 2 and coherence(backend).sure and "k" in held, "there is a copy")
        elsewhere.delete("k")
        wait_for(lambda: "k" not in held, "the copy is dropped")


def _calls(server: RedisServer, name: str) -> int:
    lines = server.command("INFO", "commandstats").decode().splitlines()
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith(f"cmdstat_{name}:"))


@pytest.mark.parametrize("rights", [[], ["-eval", "-evalsha"]], ids=["scripts", "no scripts"])
@in_both_flavours
async def test_where_it_may_not_be_published_nothing_is_confirmed(
    flavour: Flavour, redis_server: RedisServer, rights: list[str]
) -> None:
    """The change is made all the same."""
    redis_server.flush()
    user = forbid(redis_server, "silent", "resetchannels", *rights)
    store = flavour.use(backend := layered(redis_server.url, user=user, coherence="pubsub"))

    @store.cached(expire=60, tags=("all",))
    async def item() -> int:
        return 1

    await flavour.call(item)
    assert await flavour.call(item.invalidate) is False
    assert not await store.has(item.key())
    await flavour.call(item)
    await flavour.do(store._cache, "invalidate_tags", "all")
    assert not await store.has(item.key())
    await store.set("k", 1)
    assert await store.get("k") == 1
    assert await store.ask("incr", "hits") == 1
    assert await store.delete("k") is False
    assert await store.get("k") is None
    assert backend.stats().queued == 0, "Redis has been told of everything"


@in_both_flavours
async def test_who_is_told_again_what_it_may_have_forgotten_tells_the_others(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    """As when another server takes the place of the one that had confirmed it."""
    redis_server.flush()
    there = flavour.use(changing := layered(redis_server.url, coherence="pubsub"))
    here = flavour.use(backend := layered(redis_server.url, coherence="pubsub"))
    assert isinstance(changing.l2, RedisBackend)

    async def held() -> bool:
        return bool(await here.get("k") == 1 and coherence(backend).sure and "k" in store_of(backend).by_hand.table)

    await there.set("k", 1)
    assert await there.delete("k")
    with contextlib.closing(RedisBackend(redis_server.url, namespace=NAMESPACE)) as older:
        older.set("k", 1)
    await flavour.until(held, "there is a copy")
    changing.l2._link._invalidations.repeat()
    await there.get("another")

    async def dropped() -> bool:
        return await here.get("k") is None

    await flavour.until(dropped, "the copy is dropped")


def test_two_over_one_backend_tell_both_of_their_changes(redis_server: RedisServer) -> None:
    redis_server.flush()
    with contextlib.closing(RedisBackend(redis_server.url, namespace=NAMESPACE)) as far:
        both = [LayeredBackend(l2=far, coherence="pubsub") for _ in range(2)]
        for backend in both:
            backend.set("k", 1)
        for changing in both:
            for backend in both:
                held = store_of(backend).by_hand.table
                wait_for(lambda b=backend: b.get("k") == 1 and coherence(b).sure, "changes are heard of")
                wait_for(lambda b=backend: b.get("k") and "k" in store_of(b).by_hand.table, "there is a copy")
            changing.delete("k")
            for backend in both:
                held = store_of(backend).by_hand.table
                wait_for(lambda h=held: "k" not in h, "the copy is dropped")
            changing.set("k", 1)
        for backend in both:
            channel = store_of(backend)._channel
            assert isinstance(channel, Hearing)
            backend.close()
