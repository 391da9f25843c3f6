"""The contract of two tiers: nothing is served for longer than ``max_staleness`` after it was invalidated, whatever
happens to the channel, to Redis and to those who serve it; and what is served in doubt was confirmed by its version.
Threads and tasks call.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.layout import Layout
from fast_cache.testing import PATIENCE
from tests.faults.shop import Mode, in_both_modes
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster, await_all
from tests.support.redis_sentinel import RedisSentinel
from tests.support.redis_server import RedisServer, wait_until
from tests.support.tiers import Served, Worker, all_told, coherence, store_of, wait_for

LAYOUT = Layout("tiers", fence_ms=600_000)

SILENT_FOR = 2.0
"""Seconds that whoever tells of a change waits for a channel that is silent on purpose."""

both_ways = pytest.mark.parametrize("how", ["tracking", "pubsub"])


@contextlib.contextmanager
def believing(url: str, mode: Mode, **options: Any) -> Iterator[Served]:
    """This process, with two tiers whose copies are believed."""
    with contextlib.closing(Served(url, mode=mode, **options)) as served:
        served.item(0)
        wait_for(lambda: coherence(served.backend).sure, "changes are heard of")
        yield served


class Writer:
    """Changes an item again and again, and notes when each change was completed."""

    def __init__(self, url: str, mode: Mode) -> None:
        self.completed: dict[str, float] = {}
        self._there = Worker(url, mode=mode)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def _write(self) -> None:
        with self._there as there:
            version = 0
            while not self._stop.wait(0.01):
                version += 1
                self.completed[str(version)] = there("change", 1, str(version))

    def staleness(self, last: dict[str, float]) -> float:
        """By how many seconds a call came at most that was given something older than what had been completed."""
        late = [
            asked - self.completed[following]
            for value, asked in last.items()
            if (following := str(int(value or 0) + 1)) in self.completed
        ]
        return max(late, default=0.0)


@both_ways
@in_both_modes
@pytest.mark.parametrize("bound", [0.5, 1.0, 2.0])
def test_nothing_is_served_beyond_the_bound_while_the_channel_is_swallowed(
    own_redis: RedisServer, bound: float, mode: Mode, how: str
) -> None:
    """Its connection stands, and nothing comes through; all else works."""
    url = own_redis.url
    with (
        Proxy(own_redis.port) as channel,
        Worker(
            url, mode=mode, channel_url=channel.url, channel_timeout=SILENT_FOR, max_staleness=bound, coherence=how
        ) as one,
    ):
        one.until_sure()
        with Writer(url, mode) as writer:
            wait_for(lambda: len(writer.completed) > 10, "it is changed again and again")
            one.begin("watch", 3 * bound, 1)
            wait_for(lambda: len(writer.completed) > 20, "it is changed again and again")
            channel.silence("to_client")
            last = one.end()
        told = one("coherence")
        assert told["lapses"] + told["losses"] >= 1
        assert not told["sure"]
        assert len(last) > 3
        assert writer.staleness(last) <= bound
        channel.cut()
        channel.resume()
        one.until_sure()
        wait_for(lambda: one("item", 1) == max(writer.completed, key=int), "the last value is served")


@both_ways
@in_both_modes
def test_in_doubt_a_copy_is_confirmed_and_not_fetched(own_redis: RedisServer, mode: Mode, how: str) -> None:
    with (
        Proxy(own_redis.port) as channel,
        believing(
            own_redis.url,
            mode,
            channel_url=channel.url,
            channel_timeout=SILENT_FOR,
            max_staleness=0.5,
            coherence=how,
        ) as here,
    ):
        large = "x" * 100_000
        here.change(1, large)
        here.item(1)
        wait_for(all_told(here.backend), "all is told")
        here.item(1)
        channel.silence("to_client")
        wait_for(lambda: not coherence(here.backend).sure, "silence is noticed")
        before, confirmed = sent(own_redis), coherence(here.backend).confirmed
        for _ in range(20):
            assert here.item(1) == large
        assert coherence(here.backend).confirmed == confirmed + 20
        assert sent(own_redis) - before < len(large)
        with contextlib.closing(RedisBackend(own_redis.url, namespace="tiers")) as behind:
            here.raw.set("truth:1", "new")
            behind.delete(here.cached.key(1))
        assert here.item(1) == "new"


def sent(server: RedisServer) -> int:
    lines = server.command("INFO", "stats").decode().splitlines()
    return int(next(line for line in lines if line.startswith("total_net_output_bytes:")).split(":")[1])


@in_both_modes
def test_a_frozen_redis(own_redis: RedisServer, mode: Mode) -> None:
    """Nothing can be completed meanwhile; who is served is so at once, and from its own loads."""
    with believing(own_redis.url, mode, max_staleness=0.5, timeout=0.25) as here:
        here.change(1, "old")
        here.item(1)
        wait_for(all_told(here.backend), "all is told")
        runs = here.runs
        here.truth = lambda number: "loaded here"  # type: ignore[method-assign]
        own_redis.freeze()
        wait_for(lambda: not coherence(here.backend).sure, "silence is noticed")
        wait_for(lambda: here.item(1) == "loaded here", "what can't be confirmed is loaded")
        assert here.runs > runs
        runs, began = here.runs, monotonic()

        def is_loaded_again() -> bool:
            assert here.item(1) == "loaded here"
            return here.runs >= runs + 3

        wait_for(is_loaded_again, "it is held for no longer than it may be stale")
        assert monotonic() - began >= 2 * 0.5 * 0.9, "what is loaded meanwhile is held for a while"
        del here.truth
        own_redis.thaw()
        wait_for(lambda: coherence(here.backend).sure, "changes are heard of again")
        wait_for(lambda: here.item(1) == "old", "what was held meanwhile is let go")


@in_both_modes
def test_what_was_loaded_while_redis_was_away_is_let_go_on_return(own_redis: RedisServer, mode: Mode) -> None:
    with believing(own_redis.url, mode, max_staleness=30, timeout=0.25) as here:
        here.truth = lambda number: "loaded here"  # type: ignore[method-assign]
        own_redis.kill()
        wait_for(lambda: here.item(1) == "loaded here" and here.held(1), "it is held without Redis")
        runs = here.runs
        assert [here.item(1) for _ in range(100)] == ["loaded here"] * 100
        assert here.runs == runs
        assert here.invalidate(1) is False
        here.truth = lambda number: "loaded again"  # type: ignore[method-assign]
        assert here.item(1) == "loaded again", "its own invalidation is honoured at once"
        own_redis.start()
        here.truth = lambda number: "after"  # type: ignore[method-assign]
        wait_for(lambda: here.item(1) == "after", "what was held meanwhile is let go")


@in_both_modes
def test_what_could_not_be_published_is_told_later(own_redis: RedisServer, mode: Mode) -> None:
    """One process loses Redis for a while, and others do not: once it is back, they are told of what it owed."""
    with (
        Proxy(own_redis.port) as way,
        believing(own_redis.url, mode, coherence="pubsub") as here,
        believing(way.url, mode, coherence="pubsub", timeout=0.25, namespace="tiers") as cut_off,
    ):
        here.change(1, "old")
        here.item(1)
        wait_for(all_told(here.backend), "all is told")
        here.item(1)
        assert here.held(1)
        way.refuse()
        way.cut()
        here.raw.set("truth:1", "new")
        cut_off.invalidate(1)
        assert here.item(1) == "old"
        way.accept()
        wait_for(lambda: here.item(1) == "new", "it is told")


@in_both_modes
@pytest.mark.parametrize("lossy", [False, True], ids=["killed", "cut off and killed"])
def test_the_master_of_a_sentinel_set_dies_behind_two_tiers(lossy: bool, mode: Mode) -> None:
    with (
        RedisSentinel(down_after=1.0) as sentinel,
        contextlib.closing(Served(sentinel.url, mode=mode, max_staleness=1, timeout=0.25)) as here,
        contextlib.closing(Served(sentinel.url, mode=mode, max_staleness=1, timeout=0.25)) as other,
    ):
        here.set("k", "old")
        wait_for(lambda: here.get("k") == "old" and coherence(here.backend).sure, "changes are heard of")
        if lossy:
            sentinel.master().cut_replicas()
        other.set("k", "new")
        wait_for(lambda: here.get("k") == "new", "the change is heard")
        sentinel.fail_over(lossy=lossy)
        wait_for(lambda: here.get("k") != "old" and coherence(here.backend).sure, "changes are heard of again")
        assert coherence(here.backend).losses >= 1

        def is_heard() -> bool:
            other.set("k", "newer")
            return bool(here.get("k") == "newer")

        wait_for(is_heard, "changes are heard of")


# A Cluster whose nodes change.


def key_on(cluster: RedisCluster, node: RedisServer) -> str:
    return next(key for key in map(str, range(1000)) if cluster.serving(LAYOUT.value_key(key)) is node)


@in_both_modes
@pytest.mark.parametrize("dies", [True, False], ids=["killed", "demoted"])
def test_a_master_of_a_cluster_is_replaced(own_cluster: RedisCluster, dies: bool, mode: Mode) -> None:
    """Also where nobody asks for a key of it, and where it goes on as a replica, which hears what its master tells."""
    master = own_cluster.masters[2]
    key, other = key_on(own_cluster, master), key_on(own_cluster, own_cluster.masters[0])
    replica = own_cluster.replica_of(master)
    with (
        contextlib.closing(Served(own_cluster.url, mode=mode, timeout=0.5)) as here,
        contextlib.closing(Served(own_cluster.url, mode=mode, timeout=0.5)) as elsewhere,
    ):
        elsewhere.by_hand("set_many", {key: "old", other: 1})
        wait_for(lambda: here.get(key) == "old" and coherence(here.backend).sure, "changes are heard of")
        wait_for(all_told(here.backend), "all is told")
        if dies:
            own_cluster.fail_over(master)
        else:
            replica.command("CLUSTER", "FAILOVER")
            wait_until(lambda: replica.command("ROLE")[0] == b"master", "the replica takes over")
            await_all(
                own_cluster.running(), lambda n: own_cluster.serving(LAYOUT.value_key(key), n) is replica, "known"
            )
        wait_for(lambda: coherence(here.backend).losses > 0, "that is noticed")
        wait_for(lambda: coherence(here.backend).sure, "changes are heard of again")
        channel = store_of(here.backend)._channel
        assert {place[1] for place in channel._round.ears} == {  # type: ignore[union-attr]
            replica.port, *(node.port for node in own_cluster.masters[:2])
        }  # fmt: skip

        def is_changed() -> bool:
            elsewhere.set(key, "new")
            return bool(elsewhere.get(key) == "new")

        wait_for(is_changed, "it is changed")
        wait_for(lambda: here.get(key) == "new", "the change is heard")


@in_both_modes
def test_a_slot_moves_to_a_node_to_which_nobody_listens(own_cluster: RedisCluster, mode: Mode) -> None:
    """While it moves, and when it has: who fetches from there listens there."""
    giving, taking = own_cluster.masters[0], own_cluster.nodes[5]
    slot_key = key_on(own_cluster, giving)
    name = LAYOUT.value_key(slot_key)
    slot = giving.command("CLUSTER", "KEYSLOT", name)
    # A master without slots: what was a replica.
    taking.command("CLUSTER", "RESET", "HARD")
    taking.command("CLUSTER", "MEET", "127.0.0.1", giving.port)
    ids = {node: node.command("CLUSTER", "MYID").decode() for node in (giving, taking)}
    await_all(
        own_cluster.masters, lambda node: ids[taking] in node.command("CLUSTER", "NODES").decode(), "they don't know it"
    )
    await_all([taking], lambda node: b"cluster_state:ok" in node.command("CLUSTER", "INFO").split(), "it is not ready")
    with (
        contextlib.closing(Served(own_cluster.url, mode=mode, timeout=2)) as here,
        contextlib.closing(Served(own_cluster.url, mode=mode, timeout=2)) as elsewhere,
    ):
        elsewhere.set(slot_key, "old")
        wait_for(lambda: here.get(slot_key) == "old" and coherence(here.backend).sure, "changes are heard of")
        taking.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[giving])
        giving.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[taking])
        for held in giving.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            giving.command("MIGRATE", "127.0.0.1", taking.port, held, 0, 5000)
        wait_for(lambda: here.get(slot_key) == "old" and reattached(here, taking), "it listens there too")
        wait_for(lambda: here.get(slot_key) == "old" and slot_key in store_of(here.backend).by_hand.table, "a copy")
        elsewhere.by_hand("delete", slot_key)
        wait_for(lambda: here.get(slot_key) is None, "the change is heard")
        for node in (taking, giving, *own_cluster.masters[1:]):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", ids[taking])
        await_all(
            [*own_cluster.masters, taking], lambda node: own_cluster.serving(name, node) is taking, "they don't know"
        )
        elsewhere.set(slot_key, "new")
        wait_for(lambda: here.get(slot_key) == "new" and slot_key in store_of(here.backend).by_hand.table, "a copy")
        elsewhere.set(slot_key, "newer")
        wait_for(lambda: here.get(slot_key) == "newer", "the change is heard")
        assert reattached(here, taking)


def reattached(here: Served, node: RedisServer) -> bool:
    """Whether its channel listens to ``node``."""
    channel = store_of(here.backend)._channel
    listening = channel._round  # type: ignore[union-attr]
    return listening is not None and any(place is not None and place[1] == node.port for place in list(listening.ears))
