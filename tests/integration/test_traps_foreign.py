"""Redis is shared: what others keep there is left alone, and what they left under our keys is a miss."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from fast_cache import RedisBackend
from fast_cache.testing import Flavour, Store, in_both_flavours


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def everything(raw: Any) -> dict[bytes, bytes]:
    return {key: raw.dump(key) for key in raw.scan_iter("*")}


@in_both_flavours
async def test_clear_leaves_the_keys_of_others_alone(flavour: Flavour, redis_url: str, raw: Any) -> None:
    raw.set("shop", "theirs")
    raw.set("shop:", "theirs")
    raw.set("sho", "theirs")
    raw.set("shop2:v:{key}", "theirs")
    raw.set("shop:theirs", "theirs", ex=1000)
    raw.set("theirs:shop:v:{key}", "theirs")
    raw.rpush("queue", "a", "b")
    raw.hset("hash", "field", "value")
    raw.set("celery-task-meta-1", "theirs")
    theirs = everything(raw)
    ours = flavour.use(RedisBackend(redis_url, namespace="shop"))

    @ours.cached()
    async def load(number: int) -> int:
        return number

    for number in range(10):
        await ours.set(f"key {number}", number)
        await flavour.call(load, number)
    await ours.clear()
    assert not any([await ours.has(f"key {number}") for number in range(10)])
    left = everything(raw)
    assert {key: left.get(key) for key in theirs} == theirs


PREFIXES = ["shop", "sho", "shops", "shop:", "shop:v", "shop:v:", "shop:eu", "shop:eu:v", "SHOP", "shop*", "s?op", "*"]
PREFIXES += ["[s]hop", "{shop}", "shop%3A", "shop%3Aeu", "shop eu", " shop", "shop ", "sh\u00f6p"]
"""Namespaces of which many are a beginning, a pattern or an escaped form of another."""


@in_both_flavours
async def test_namespaces_that_begin_or_match_each_other_are_apart(flavour: Flavour, redis_url: str) -> None:
    stores = {namespace: flavour.use(RedisBackend(redis_url, namespace=namespace)) for namespace in PREFIXES}
    keys = ["key", "v:{key}", "eu:v:{key}", "{key}", "eu", ":", "*"]
    for namespace, store in stores.items():
        for key in keys:
            await store.set(key, f"{namespace} {key}")
    alive = dict(stores)
    for namespace, store in stores.items():
        await store.clear()
        del alive[namespace]
        assert not any([await store.has(key) for key in keys])
        for other, remaining in alive.items():
            assert [await remaining.get(key) for key in keys] == [f"{other} {key}" for key in keys]


@in_both_flavours
async def test_clear_is_no_flush_and_no_walk_through_all_keys(flavour: Flavour, redis_url: str, raw: Any) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    await store.set("key", 1)
    raw.config_resetstat()
    await store.clear()
    used = {name.removeprefix("cmdstat_") for name in raw.info("commandstats")}
    assert used.isdisjoint({"flushdb", "flushall", "keys"})


CAN_NOT_BE_READ: dict[str, Callable[[Any, str, bytes], Any]] = {
    "nothing": lambda raw, key, data: raw.set(key, b""),
    "text": lambda raw, key, data: raw.set(key, "somebody else's"),
    "a number": lambda raw, key, data: raw.set(key, 7),
    "JSON": lambda raw, key, data: raw.set(key, b'{"value": "first"}'),
    "a pickle": lambda raw, key, data: raw.set(key, b"\x80\x04\x8c\x05first\x94."),
    "random bytes": lambda raw, key, data: raw.set(key, bytes(range(256))),
    "zeros": lambda raw, key, data: raw.set(key, bytes(len(data))),
    "a list": lambda raw, key, data: (raw.delete(key), raw.rpush(key, "a", "b")),
    "a hash": lambda raw, key, data: (raw.delete(key), raw.hset(key, "field", "value")),
    "a set": lambda raw, key, data: (raw.delete(key), raw.sadd(key, "member")),
    "a stream": lambda raw, key, data: (raw.delete(key), raw.xadd(key, {"field": "value"})),
    "one byte less": lambda raw, key, data: raw.set(key, data[:-1]),
    "one byte more": lambda raw, key, data: raw.set(key, data + b"\x00"),
    "half": lambda raw, key, data: raw.set(key, data[: len(data) // 2]),
    "twice": lambda raw, key, data: raw.set(key, data * 2),
    "a flipped bit": lambda raw, key, data: raw.setbit(
        key, 8 * len(data) - 60, 1 - raw.getbit(key, 8 * len(data) - 60)
    ),
}
"""What may happen to an entry, or lie in its place."""


def value_key(raw: Any) -> str:
    """The one key in Redis under which there is a value."""
    (key,) = raw.scan_iter("traps:v:*")
    return str(key, "utf-8")


@pytest.mark.parametrize("damage", CAN_NOT_BE_READ)
@in_both_flavours
async def test_what_is_damaged_or_foreign_is_a_miss_and_is_replaced(
    flavour: Flavour, redis_url: str, raw: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    loads: list[None] = []

    @store.cached()
    async def load() -> str:
        loads.append(None)
        return "first" if len(loads) == 1 else "second"

    await flavour.call(load)
    key = value_key(raw)
    CAN_NOT_BE_READ[damage](raw, key, raw.get(key))
    assert await store.get(load.key(), "absent") == "absent"
    assert not await store.has(load.key())
    assert await flavour.call(load) == "second"
    assert await flavour.call(load) == "second"
    assert len(loads) == 2
    assert warnings(caplog) == []


@pytest.mark.parametrize("damage", CAN_NOT_BE_READ)
@in_both_flavours
async def test_what_is_damaged_or_foreign_can_be_deleted_and_set(
    flavour: Flavour, redis_url: str, raw: Any, damage: str
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    await store.set("key", "first")
    key = value_key(raw)
    CAN_NOT_BE_READ[damage](raw, key, raw.get(key))
    await store.set("key", "second")
    assert await store.get("key") == "second"
    CAN_NOT_BE_READ[damage](raw, key, raw.get(key))
    await store.delete("key")
    assert not raw.exists(key)


@in_both_flavours
async def test_an_entry_that_is_torn_anywhere_is_a_miss(flavour: Flavour, redis_url: str, raw: Any) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    await store.set("key", ["a", "value", 1])
    key = value_key(raw)
    data = raw.get(key)
    for length in range(len(data)):
        raw.set(key, data[:length])
        assert await store.get("key", "absent") == "absent", f"the first {length} of {len(data)} bytes"
    raw.set(key, data)
    assert await store.get("key") == ["a", "value", 1]


@in_both_flavours
async def test_an_entry_with_any_bit_flipped_is_a_miss(flavour: Flavour, redis_url: str, raw: Any) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    await store.set("key", "value")
    key = value_key(raw)
    data = raw.get(key)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        raw.set(key, bytes(flipped))
        assert await store.get("key", "absent") == "absent", f"byte {place} of {len(data)}"


@in_both_flavours
async def test_the_bytes_of_another_key_are_a_miss(flavour: Flavour, redis_url: str, raw: Any) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))

    @store.cached()
    async def balance(user: str) -> str:
        return f"the balance of {user}"

    await flavour.call(balance, "ada")
    adas = value_key(raw)
    await flavour.call(balance, "bob")
    (bobs,) = {str(key, "utf-8") for key in raw.scan_iter("traps:v:*")} - {adas}
    raw.copy(adas, bobs, replace=True)
    assert await store.get(balance.key("bob"), "absent") == "absent"
    assert await flavour.call(balance, "bob") == "the balance of bob"
    raw.copy(bobs, adas, replace=True)
    assert await flavour.call(balance, "ada") == "the balance of ada"


@in_both_flavours
async def test_an_entry_of_a_function_with_another_return_type_is_a_miss(
    flavour: Flavour, redis_url: str, raw: Any
) -> None:
    """A deploy changed the annotation: what the old code stored is not handed out as the new type."""
    old, new = (flavour.use(RedisBackend(redis_url, namespace="traps")) for _ in range(2))

    def before(store: Store) -> Any:
        @store.cached(namespace="deployed", key="load")
        async def load() -> list[int]:
            return [1]

        return load

    def after(store: Store) -> Any:
        @store.cached(namespace="deployed", key="load")
        async def load() -> tuple[int, ...]:
            return (2,)

        return load

    stored, reading = before(old), after(new)
    await flavour.call(stored)
    theirs = value_key(raw)
    await flavour.call(reading)
    (ours,) = {str(key, "utf-8") for key in raw.scan_iter("traps:v:*")} - {theirs} or {theirs}
    assert ours != theirs, "two functions, two keys: what follows swaps their bytes"
    raw.copy(theirs, ours, replace=True)
    assert await flavour.call(reading) == (2,)


@pytest.mark.parametrize("rubbish", [b"", b"x" * 15, b"x" * 17, b"rubbish", None])
@pytest.mark.parametrize("which", ["traps:g:", "traps:f:"])
@in_both_flavours
async def test_rubbish_in_place_of_a_token_heals(
    flavour: Flavour, redis_url: str, raw: Any, which: str, rubbish: bytes | None
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    loads: list[None] = []

    @store.cached()
    async def load() -> int:
        loads.append(None)
        return len(loads)

    await flavour.call(load)
    key = value_key(raw)
    name = which if which == "traps:g:" else key.replace("traps:v:", "traps:f:")

    def spoil() -> None:
        raw.delete(name)
        if rubbish is None:
            raw.rpush(name, "a list")
        else:
            raw.set(name, rubbish)

    raw.delete(key)
    spoil()
    assert await flavour.call(load) == 2
    assert await flavour.call(load) == 2
    await store.delete(load.key())
    spoil()
    await store.set("key", "value")
    assert await store.get("key") == "value"
    spoil()
    await store.clear()
    assert not await store.has("key")
    assert await flavour.call(load) == 3
    assert await flavour.call(load) == 3


@in_both_flavours
async def test_without_the_token_of_its_generation_nothing_is_believed(
    flavour: Flavour, redis_url: str, raw: Any
) -> None:
    """Evicted, or lost with a failed master: an entry that a clear has made old must not come back to life."""
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    await store.set("key", "before the clear")
    await store.clear()
    raw.delete("traps:g:")
    assert not await store.has("key")
    await store.set("another", 1)
    assert not await store.has("key")
    assert await store.get("another") == 1


CLIENTS: dict[str, dict[str, Any]] = {
    "that decodes": {"decode_responses": True},
    "that decodes as Latin-1": {"decode_responses": True, "encoding": "latin-1"},
    "of protocol 3": {"protocol": 3},
    "of protocol 3 that decodes": {"protocol": 3, "decode_responses": True},
    "with one connection": {"max_connections": 1},
    "that checks its connections": {"health_check_interval": 1},
}


@pytest.mark.parametrize("options", CLIENTS)
@pytest.mark.parametrize("given", ["first", "by name"])
@in_both_flavours
async def test_any_client_of_the_users_will_do(
    flavour: Flavour, redis_url: str, options: str, given: str, caplog: pytest.LogCaptureFixture
) -> None:
    blocking = redis.Redis.from_url(redis_url, **CLIENTS[options])
    suspending = redis.asyncio.Redis.from_url(redis_url, **CLIENTS[options])
    clients: list[RedisBackend] = (
        [RedisBackend(blocking, namespace="a"), RedisBackend(suspending, namespace="b")]
        if given == "first"
        else [RedisBackend(None, namespace="c", client=blocking, async_client=suspending)]
    )
    try:
        for backend in clients:
            store = flavour.use(backend)
            loads: list[None] = []

            @store.cached()
            async def load(text: str) -> dict[str, Any]:
                loads.append(None)  # noqa: B023
                return {"text": text, "bytes": bytes(range(256))}

            for _ in range(2):
                assert await flavour.call(load, "caf\u00e9") == {"text": "caf\u00e9", "bytes": bytes(range(256))}
            assert len(loads) == 1
            await store.set("caf\u00e9 \u9375", b"\xff\x00")
            assert await store.get("caf\u00e9 \u9375") == b"\xff\x00"
            assert await store.delete("caf\u00e9 \u9375")
            assert await flavour.call(load.invalidate, "caf\u00e9")
            await store.clear()
        if isinstance(clients[0], RedisBackend):
            plain = flavour.use(RedisBackend(redis_url, namespace=clients[0].namespace))
            same = flavour.use(clients[0])
            await same.set("key \u00e9", 1)
            assert await plain.get("key \u00e9") == 1, "one namespace, two kinds of client"
        assert blocking.ping() is True, "the user's client still works"
    finally:
        blocking.close()
        with contextlib.suppress(RuntimeError):  # in the blocking flavour there is no loop, and nothing to close
            import asyncio

            asyncio.get_running_loop()
            await suspending.aclose()
    assert warnings(caplog) == []


@in_both_flavours
async def test_closing_the_backend_leaves_the_users_client_open(flavour: Flavour, redis_url: str) -> None:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        store = flavour.use(RedisBackend(client, namespace="traps"))
        pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]
        pubsub.subscribe("channel")
        await store.set("key", 1)
        await flavour.do(store.backend, "close")
        client.publish("channel", "message")
        assert any(pubsub.get_message(timeout=10) for _ in range(2))
        assert client.ping() is True
        assert await store.get("key") == 1
        pubsub.close()
