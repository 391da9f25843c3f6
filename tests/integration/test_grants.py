"""The commands that the README names for a user of an access control list are all that are used, and will do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fast_cache import InMemoryBackend, LayeredBackend, RedisBackend
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.deployments import NAMESPACE, use_everything
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer, wait_until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

SCRIPTS = ("+eval", "+evalsha")


def named() -> list[str]:
    """The rights that the README names for everybody."""
    grant = re.search(r"^ACL SETUSER shop on >secret ([^`]+)^```$", README, re.MULTILINE)
    assert grant is not None
    return grant[1].split()


def further(purpose: str) -> list[str]:
    """And those for some purpose."""
    (rights,) = re.findall(rf"^- {re.escape(purpose)}: `([^`]+)`$", README, re.MULTILINE)
    return str(rights).split()


def grant(servers: Sequence[RedisServer], *rights: str) -> None:
    for server in servers:
        server.command("ACL", "SETUSER", "shop", "reset", "on", ">secret", "resetchannels", *rights)
        server.command("CONFIG", "RESETSTAT")


def rejected(*servers: RedisServer) -> set[str]:
    """The commands that were refused."""
    names = set()
    for server in servers:
        with contextlib.closing(server.client()) as client:
            counts = client.info("commandstats")
        names |= {name.removeprefix("cmdstat_") for name, count in counts.items() if count["rejected_calls"]}
    return names


def user_of(url: str) -> str:
    return url.replace("://", "://shop:secret@")


async def use_it(flavour: Flavour, url: str, *servers: RedisServer, **options: Any) -> None:
    """Use everything, and what is used rarely: counted hits, tags that turn stale, a lock that is waited for."""
    await use_everything(flavour, {"redis_url": url, **options})
    options |= {"namespace": NAMESPACE, "timeout": 10, "connect_timeout": 10}
    store, other = (flavour.use(RedisBackend(url, **options)) for _ in range(2))
    loads: list[int] = []

    @store.cached(expire=60, hits=2, tags=["counted"])
    async def counted(item: int) -> int:
        loads.append(item)
        return item

    for _ in range(4):
        assert await flavour.call(counted, 1) == 1
    assert loads == [1, 1]
    assert await flavour.call(counted.refresh, 1) == 1
    await flavour.do(store._cache, "invalidate_tags", "counted", soft=True)
    assert await flavour.call(counted, 1) == 1
    assert loads == [1, 1, 1, 1]
    loads.clear()

    @store.cached_many(expire=60)
    async def many(items: list[int]) -> dict[int, int]:
        loads.extend(items)
        return {item: item for item in items}

    for _ in range(2):
        assert await flavour.call(many, [1, 2]) == {1: 1, 2: 2}
    assert loads == [1, 2]
    held, wanted = store.backend.lock("waited for"), other.backend.lock("waited for")

    async def take() -> None:
        await flavour.do(wanted, "acquire")

    await flavour.do(held, "acquire")
    waiting = flavour.start(flavour.function(take))

    async def waits() -> bool:
        return any(client.info("clients")["blocked_clients"] for client in clients)

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(server.client())) for server in servers]
        await flavour.until(waits, "it waits for the lock")
    await flavour.do(held, "release")
    await waiting.result()
    await flavour.do(wanted, "release")
    await store.clear()
    for one in (store, other):
        assert one.backend.engine_store().health.failures == 0


def test_what_scripts_call_is_named() -> None:
    """Some of it they call only where an answer was lost."""
    sources = [path.read_text() for path in (ROOT / "fast_cache" / "backends" / "redis").glob("*.py")]
    called = {name for source in sources for name in re.findall(r"redis\.p?call\('([A-Z]+)'", source)}
    assert called
    assert {f"+{name.lower()}" for name in called} <= {*named()}


@in_both_flavours
async def test_these_will_do(flavour: Flavour, own_redis: RedisServer) -> None:
    grant([own_redis], *named())
    await use_it(flavour, user_of(own_redis.url), own_redis)
    assert rejected(own_redis) == set()


@in_both_flavours
async def test_another_database(flavour: Flavour, own_redis: RedisServer) -> None:
    grant([own_redis], *named(), *further("a database other than 0"))
    await use_it(flavour, user_of(own_redis.url).removesuffix("/0") + "/3", own_redis)
    assert rejected(own_redis) == set()


@in_both_flavours
async def test_info_may_be_missing(flavour: Flavour, own_redis: RedisServer) -> None:
    grant([own_redis], *named(), "-info")
    await use_it(flavour, user_of(own_redis.url), own_redis)
    assert rejected(own_redis) == {"info"}


@in_both_flavours
async def test_without_scripts(flavour: Flavour, own_redis: RedisServer) -> None:
    instead = further("transactions instead of scripts")
    grant([own_redis], *(right for right in named() if right not in SCRIPTS), *instead)
    await use_it(flavour, user_of(own_redis.url), own_redis)
    assert rejected(own_redis) <= {"eval", "evalsha"}


@in_both_flavours
async def test_in_a_cluster(flavour: Flavour, redis_cluster: RedisCluster) -> None:
    redis_cluster.flush()
    grant(redis_cluster.nodes, *named(), *further("a Cluster"), *further("`wait_for_replicas`"))
    await use_it(flavour, user_of(redis_cluster.url), *redis_cluster.masters, wait_for_replicas=1)
    assert rejected(*redis_cluster.nodes) == set()


@pytest.mark.parametrize(
    ("coherence", "purpose"),
    [(None, "two tiers that track changes"), ("pubsub", 'two tiers with `coherence="pubsub"`')],
)
def test_two_tiers(own_redis: RedisServer, coherence: str | None, purpose: str) -> None:
    grant([own_redis], *named(), *further(purpose))
    with contextlib.ExitStack() as stack:
        here, there = (
            stack.enter_context(contextlib.closing(two_tiers(user_of(own_redis.url), coherence))) for _ in range(2)
        )
        for backend in (here, there):
            backend.get("k")
            wait_until(partial(sure, backend), "changes are heard of")
        there.set("k", "old", 60)
        wait_until(lambda: here.get("k") == "old", "it holds a copy")
        there.set("k", "new", 60)
        wait_until(lambda: here.get("k") == "new", "the change was heard of")
        assert sure(here)
        assert sure(there)
    assert rejected(own_redis) == set()


def two_tiers(url: str, coherence: str | None) -> LayeredBackend:
    far = RedisBackend(url, namespace=NAMESPACE, timeout=10, connect_timeout=10)
    return LayeredBackend(InMemoryBackend(), far, coherence=coherence)


def sure(backend: LayeredBackend) -> bool:
    """Whether it hears of changes, so that copies are served without asking."""
    found = backend.stats().coherence
    return found is not None and found.sure
