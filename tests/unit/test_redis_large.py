"""Which keys are remembered as large, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.large import _REMEMBERED, LARGE, LargeKeys
from fast_cache.backends.redis.resp import Command

BIG = b"x" * (LARGE + 1)


def read(*names: bytes) -> list[Command]:
    return [("GET", name) for name in names]


def test_a_key_is_large_from_the_reply_that_was_to_the_one_that_is_not() -> None:
    large = LargeKeys()
    assert not large.any
    large.note(read(b"a", b"b"), [BIG, b"x"])
    assert large.any
    assert large.concern(read(b"b", b"a"))
    assert not large.concern(read(b"b"))
    large.note(read(b"a"), [BIG[:-1]])
    assert not large.concern(read(b"a"))
    large.note(read(b"a"), [BIG])
    large.note(read(b"a"), [None])
    assert not large.any


def test_only_what_is_read_is_remembered_and_only_text_is_large() -> None:
    large = LargeKeys()
    large.note([("GETRANGE", b"a", 0, 1), ("EVAL", "s", 1, b"b"), ("GET", b"c")], [BIG, BIG, [BIG]])
    assert not large.any


def test_a_packet_that_brings_something_large_is_large() -> None:
    large = LargeKeys()
    assert large.concern([("EVAL", "script", 1, b"name", BIG)])
    assert not large.concern([("EVAL", "script", 1, b"name", BIG[:-1])])
    assert not large.concern([("EVAL", "x" * len(BIG), 1, b"name", b"value")]), "a script is known by its digest"


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    large = LargeKeys()
    for number in range(_REMEMBERED + 10):
        large.note(read(b"%d" % number), [BIG])
    assert not large.concern(read(b"9"))
    assert large.concern(read(b"10"))
    assert large.concern(read(b"%d" % (_REMEMBERED + 9)))


@pytest.mark.parametrize("kind", ["blocking", "suspending"])
def test_what_is_large_has_a_connection_of_its_own_until_it_is_small_again(redis_url: str, kind: str) -> None:
    backend = RedisBackend(redis_url, namespace="large", compress_above=None)

    def lanes_used(link: Any) -> int:
        fleet = link._fleet
        lanes = fleet._threads if kind == "blocking" else fleet._loops[asyncio.get_running_loop()]
        return len(lanes.all())

    async def main() -> None:
        async def call(name: str, *args: Any) -> Any:
            return getattr(backend, name)(*args) if kind == "blocking" else await getattr(backend, "a" + name)(*args)

        link: Any = backend._link
        await call("set", "small", "x")
        assert lanes_used(link) == 1
        assert not link._fleet._large.any
        await call("set", "k", BIG.decode())
        assert lanes_used(link) == 2, "what is sent and large travels apart"
        assert await call("get", "k") == BIG.decode()
        assert link._fleet._large.any
        await call("set", "k", "small now")
        assert await call("get", "k") == "small now"
        assert not link._fleet._large.any, "the next reader goes with the others again"
        await backend.aclose()

    asyncio.run(main())
    backend.close()


def test_one_connection_at_most_is_one_for_large_values_too(redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="large", compress_above=None, max_connections=1)
    with contextlib.closing(backend):
        backend.set("k", BIG.decode())
        assert backend.get("k") == BIG.decode()
        lanes: Any = backend._link._fleet._threads
        assert len(lanes.all()) == 1
