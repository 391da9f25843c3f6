"""Redis behind slow ways, in bursts, after forks and with closed loops: what a hostile reader tried in vain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.sentinel

from fast_cache import RedisBackend
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.link import new_token
from fast_cache.backends.redis.pool import Pool
from fast_cache.errors import BackendError, BackendUnavailable, EncodeError
from fast_cache.ports import ASYNCIO, BLOCKING, run_blocking
from tests.support.redis_server import RedisServer
from tests.support.way import Way

PATIENCE = 20
"""Seconds until a test that waits for something has failed."""


@pytest.fixture
def way(own_redis: RedisServer) -> Iterator[Way]:
    made = Way(own_redis.port)
    yield made
    made.through.set()
    made.close()


def raw_client(url: str) -> Any:
    return redis.Redis.from_url(url)


def link_of(backend: RedisBackend) -> Any:
    return backend._link


def is_open(backend: RedisBackend) -> bool:
    return bool(backend._link._breaker.is_open)


def failures(backend: RedisBackend) -> int:
    return backend.engine_store().health.failures


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks


@pytest.mark.parametrize("step", ["announce", "put"])
@pytest.mark.parametrize("after", ["delete", "set"])
def test_a_set_that_arrives_late_undoes_nothing(
    way: Way, step: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{way.port}/0", namespace="late", timeout=0.3)
    backend.set("warm", 1)
    real = getattr(Layout, step)

    def cut(self: Layout, *args: Any) -> Any:
        way.hold(0)
        return real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Layout, step, cut)
        backend.set("price", "old")
    assert failures(backend) == 1
    assert is_open(backend)
    monkeypatch.setattr(link_of(backend)._breaker, "_clock", lambda: time.monotonic() + 60)  # time to ask again
    backend.delete("price")
    if after == "set":
        backend.set("price", "new")
    expected = "new" if after == "set" else None
    assert backend.get("price") == expected
    way.through.set()
    assert way.answered.wait(PATIENCE)
    assert backend.get("price") == expected
    backend.close()


def test_a_load_that_begins_while_a_value_is_put_does_not_overwrite_it(redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="put")
    layout = Layout("put", 60_000)
    with contextlib.closing(raw_client(redis_url)) as raw:
        token, load = b"p" * 16, b"l" * 16
        raw.execute_command(*layout.announce("k", token, b"g" * 16)[0])
        raw.set(layout.fence_key("k"), load, nx=True)
        captured = raw.get(layout.fence_key("k"))
        assert raw.execute_command(*layout.put("k", token, b"value", 60_000)[0]) == 1
        assert isinstance(captured, bytes)
        assert raw.execute_command(*layout.write("k", captured, b"loaded", 60_000)[0]) == 0
        assert raw.get(layout.value_key("k")) == b"value"
        assert not raw.exists(layout.fence_key("k"))
    backend.close()


def test_of_two_values_put_at_once_the_one_announced_last_stays(redis_url: str) -> None:
    layout = Layout("put", 60_000)
    with contextlib.closing(raw_client(redis_url)) as raw:
        first, second = new_token(), new_token()
        for order in ((first, second), (second, first)):
            raw.flushall()
            for token in (first, second):
                raw.execute_command(*layout.announce("k", token, b"g" * 16)[0])
            replies = [raw.execute_command(*layout.put("k", token, token, 60_000)[0]) for token in order]
            assert raw.get(layout.value_key("k")) == second
            assert replies == ([1, 1] if order[0] is first else [1, -1])


def test_a_value_whose_announcement_is_lost_is_announced_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = RedisBackend(redis_url, namespace="lost")
    backend.set("k", "old")
    layout = Layout("lost", 60_000)
    real = Layout.put
    evicted: list[None] = []
    with contextlib.closing(raw_client(redis_url)) as raw:

        def evict(self: Layout, *args: Any) -> Any:
            if not evicted:
                evicted.append(None)
                assert raw.delete(layout.fence_key("k")) == 1
            return real(self, *args)

        monkeypatch.setattr(Layout, "put", evict)
        backend.set("k", "new")
    assert backend.get("k") == "new"
    assert failures(backend) == 0
    backend.close()


@pytest.mark.parametrize("url", ["{}/99", "{}/0?client_name=a%20b", "redis://" + "a" * 70 + "/0"])
def test_what_the_driver_raises_while_it_connects_reaches_no_caller(redis_url: str, url: str) -> None:
    backend = RedisBackend(url.format(redis_url.removesuffix("/0")), namespace="raises")
    assert backend.get("k", "absent") == "absent"
    backend.set("k", 1)
    assert asyncio.run(backend.aget("k", "absent")) == "absent"
    assert failures(backend) == 3


@pytest.mark.parametrize("rubbish", [b"$x\r\n", b"*1\r\n" * 5000, b"!\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_rubbish_instead_of_replies_reaches_no_caller(rubbish: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                near.recv(100)
                near.sendall(rubbish)
                near.close()

    threading.Thread(target=serve, daemon=True).start()
    backend = RedisBackend(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", timeout=0.3)
    assert backend.get("k", "absent") == "absent"
    assert asyncio.run(backend.aget("k", "absent")) == "absent"
    listener.close()


def test_a_defect_of_our_own_is_no_outage(redis_url: str) -> None:
    backend = RedisBackend(redis_url)
    command: Any = ("GET", object())
    with pytest.raises(redis.exceptions.DataError):
        run_blocking(link_of(backend).exchange(BLOCKING, [command]))
    assert not is_open(backend)
    backend.close()


@pytest.mark.parametrize("connections", [1, 2, 20])
def test_a_burst_of_callers_is_no_outage(redis_url: str, connections: int) -> None:
    backend = RedisBackend(redis_url, namespace="burst", pool_size=1, max_connections=connections)

    async def main() -> list[Any]:
        await backend.aset("k", "v")
        values = await asyncio.gather(*(backend.aget("k") for _ in range(3000)))
        await backend.aclose()
        return values

    assert set(asyncio.run(main())) == {"v"}
    assert failures(backend) == 0


@pytest.mark.parametrize("kind", ["blocking", "suspending"])
def test_waiting_for_a_connection_in_vain_is_charged_to_nobody(redis_url: str, kind: str) -> None:
    backend = RedisBackend(redis_url, max_connections=1, timeout=0.1, connect_timeout=0.1)
    link = link_of(backend)

    if kind == "blocking":
        held, _ = run_blocking(_take_blocking(link))
        with pytest.raises(BackendError) as caught:
            run_blocking(link.exchange(BLOCKING, [("PING",)]))
        run_blocking(link._pool_of_threads().give_back(BLOCKING, held, usable=False))
        assert backend.get("k", "absent") == "absent"
    else:

        async def main() -> pytest.ExceptionInfo[BackendError]:
            pool = await link._pool_of_loop()
            held, _ = await pool.take(ASYNCIO)
            with pytest.raises(BackendError) as caught:
                await link.exchange(ASYNCIO, [("PING",)])
            await pool.give_back(ASYNCIO, held, usable=False)
            assert await link.exchange(ASYNCIO, [("PING",)]) == [b"PONG"]
            return caught

        caught = asyncio.run(main())
    assert not isinstance(caught.value, BackendUnavailable)
    assert "max_connections" in str(caught.value)
    assert not is_open(backend)
    backend.close()


async def _take_blocking(link: Any) -> Any:
    return await link._pool_of_threads().take(BLOCKING)


def test_a_cancelled_waiter_passes_its_place_on() -> None:
    async def main() -> None:
        pool = Pool(object, keep=1, most=1, patience=5)
        held, _ = await pool.take(ASYNCIO)
        waiters = [asyncio.create_task(pool.take(ASYNCIO)) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()  # while it waits
        await pool.give_back(ASYNCIO, held, usable=True)  # the second's turn
        waiters[1].cancel()  # after it was given, before it could run
        assert await waiters[2] == (held, True)
        assert all(
            isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*waiters[:2], return_exceptions=True)
        )

    asyncio.run(main())


def test_a_value_that_is_too_large_is_not_sent(redis_url: str) -> None:
    backend = RedisBackend(redis_url, max_value_size=1000)
    backend.set("k", b"x" * 500)
    with pytest.raises(EncodeError, match="max_value_size"):
        backend.set("k", b"x" * 1001)
    assert backend.get("k") is None, "what was to be replaced would be stale"
    assert not is_open(backend)
    backend.close()


def test_an_invalidation_cut_short_closes_nobody_out(redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="cut")
    backend.set("a", 1)
    backend.set("k", 1)

    async def main() -> None:
        deletion = asyncio.create_task(backend.adelete("k"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not deletion.done()  # ``asyncio.run`` cancels what is left, also what carries it out

    asyncio.run(main())
    assert not is_open(backend)
    assert backend.get("a") == 1
    assert backend.get("k") is None
    assert failures(backend) == 0
    backend.close()


def test_the_backend_works_also_while_an_event_loop_shuts_down(redis_url: str, own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url)
    backend.set("k", "v")
    seen: list[Any] = []

    async def rows() -> Any:
        try:
            yield 1
        finally:
            deadline = time.monotonic() + PATIENCE
            while asyncio.get_running_loop() not in link_of(backend)._ending:
                assert time.monotonic() < deadline
                await asyncio.sleep(0)
            seen.append(await backend.aget("k"))

    kept: list[Any] = []

    async def main() -> None:
        await backend.aget("k")
        kept.append(rows())
        await anext(kept[0])

    asyncio.run(main())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(backend.aget("k"))
    loop.run_until_complete(loop.shutdown_asyncgens())
    seen += [loop.run_until_complete(backend.aget("k")) for _ in range(2)]
    loop.close()
    assert seen == ["v"] * 3
    backend.close()
    with contextlib.closing(own_redis.client()) as admin:
        until(lambda: admin.info("clients")["connected_clients"] == 1)


def test_event_loops_that_ended_are_let_go(redis_url: str) -> None:
    backend = RedisBackend(redis_url)
    loops: list[weakref.ref[Any]] = []

    async def use() -> None:
        await backend.aget("k")
        loops.append(weakref.ref(asyncio.get_running_loop()))

    for _ in range(3):
        asyncio.run(use())
    gc.collect()
    assert [ref() for ref in loops] == [None] * 3


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_event_loops_closed_without_shutting_down_are_let_go_when_another_comes(own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.wait_for(backend.aget("k"), 5))
        loop.close()
    del loop
    asyncio.run(backend.aget("k"))
    assert len(link_of(backend)._loops) == 0
    with contextlib.closing(own_redis.client()) as admin:
        until(lambda: admin.info("clients")["connected_clients"] == 1)
    gc.collect()


@pytest.mark.parametrize("max_load_time", [0.0004, 1e-6])
def test_a_very_short_load_time_is_a_millisecond(max_load_time: float) -> None:
    store: Any = RedisBackend(max_load_time=max_load_time).engine_store()
    assert store._layout.repair_fence("k", b"t")[0][-1] == 1


@pytest.mark.parametrize("kind", ["blocking", "suspending"])
def test_a_restart_between_two_calls_is_no_outage(own_redis: RedisServer, kind: str) -> None:
    backend = RedisBackend(own_redis.url)
    if kind == "blocking":
        backend.set("k", 1)
        own_redis.restart()
        backend.set("k", 2)
        assert backend.get("k") == 2
        backend.close()
    else:

        async def main() -> None:
            await asyncio.gather(*(backend.aset("k", 1) for _ in range(5)))  # several connections
            own_redis.restart()  # without a moment for the loop to notice
            assert await asyncio.gather(*(backend.aget("k") for _ in range(5))) == [None] * 5
            await backend.aclose()

        asyncio.run(main())
    assert failures(backend) == 0
    assert not is_open(backend)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url)
    backend.set("k", "v")
    link = link_of(backend)
    with link._lock:  # as a thread of the parent might hold it at that moment
        pid = os.fork()
        if pid == 0:
            os._exit(0 if [backend.get("k") for _ in range(50)] == ["v"] * 50 else 1)
    assert [backend.get("k") for _ in range(50)] == ["v"] * 50
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert backend.get("k") == "v"
    backend.close()


@pytest.mark.parametrize("forbidden", ["get", "pexpire"])
def test_a_server_that_forbids_a_command_keeps_the_generation_of_others(own_redis: RedisServer, forbidden: str) -> None:
    others = RedisBackend(own_redis.url, namespace="acl")
    others.set("k", "v")
    with contextlib.closing(own_redis.client()) as admin:
        admin.acl_setuser(
            "ours", enabled=True, passwords=["+secret"], categories=["+@all"], commands=[f"-{forbidden}"], keys=["*"]
        )
    ours = RedisBackend(own_redis.url.replace("redis://", "redis://ours:secret@"), namespace="acl")
    ours.set("own", 1)
    ours.get("own")
    assert others.get("k") == "v"
    ours.close()
    others.close()


def test_an_event_loop_that_was_busy_is_no_outage(own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url, timeout=0.3)

    async def main() -> Any:
        await backend.aset("k", "v")
        (connection,) = link_of(backend)._loops[asyncio.get_running_loop()].pool._idle
        own_redis.freeze()
        read = asyncio.create_task(backend.aget("k"))
        while connection._reader._waiter is None:
            assert not read.done()
            await asyncio.sleep(0)
        own_redis.thaw()
        # Somebody's code holds up the loop for longer than the timeout; the server has answered.
        answered, _, _ = select.select([connection._writer.get_extra_info("socket")], [], [], PATIENCE)
        assert answered
        time.sleep(0.4)  # noqa: ASYNC251
        value = await read
        await backend.aclose()
        return value

    assert asyncio.run(main()) == "v"
    assert failures(backend) == 0


def test_a_silent_server_is_an_outage_and_no_empty_reply(own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url, timeout=0.1)

    async def main() -> None:
        await backend.aset("k", "v")
        own_redis.freeze()
        with pytest.raises(BackendUnavailable):
            await link_of(backend).exchange(ASYNCIO, [("GET", "nothing")])
        own_redis.thaw()
        await backend.aclose()

    asyncio.run(main())
    assert is_open(backend)
