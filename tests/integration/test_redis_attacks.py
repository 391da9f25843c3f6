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
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.sentinel
from fastapi import FastAPI

from fast_cache import Cache, RedisBackend
from fast_cache.backends.redis.layout import Layout, new_token
from fast_cache.errors import BackendUnavailable, EncodeError
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


@pytest.mark.parametrize("after", ["delete", "set"])
def test_a_set_that_arrives_late_undoes_nothing(way: Way, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{way.port}/0", namespace="late", timeout=0.3)
    backend.set("warm", 1)
    real = Layout.put

    def cut(self: Layout, *args: Any) -> Any:
        way.hold(0)
        return real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Layout, "put", cut)
        backend.set("price", "old")
    assert failures(backend) == 1
    assert is_open(backend)
    until(lambda: not is_open(backend))  # other connections are not held up
    backend.delete("price")
    if after == "set":
        backend.set("price", "new")
    expected = "new" if after == "set" else None
    assert backend.get("price") == expected
    way.through.set()
    assert way.answered.wait(PATIENCE)
    assert backend.get("price") == expected
    backend.close()


def test_a_set_that_is_cancelled_on_its_way_ends_when_it_is_decided_what_became_of_it(way: Way) -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{way.port}/0", namespace="cancelled", timeout=PATIENCE)

    async def main() -> None:
        await backend.aset("price", "first")
        way.hold(0)
        sent = asyncio.create_task(backend.aset("price", "second"))
        for _ in range(10):
            await asyncio.sleep(0)
        sent.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
            assert not sent.done()
        behind = asyncio.create_task(backend.aset("price", "third"))
        for _ in range(10):
            await asyncio.sleep(0)
        behind.cancel()  # it has not been sent
        with pytest.raises(asyncio.CancelledError):
            await behind
        assert not sent.done()
        way.through.set()
        with pytest.raises(asyncio.CancelledError):
            await sent
        assert way.answered.is_set()
        assert await backend.aget("price") == "second"
        await backend.aclose()

    asyncio.run(main())
    assert failures(backend) == 0


def test_a_load_that_begins_before_a_value_is_put_does_not_overwrite_it(redis_url: str) -> None:
    layout = Layout("put", 60_000)
    with contextlib.closing(raw_client(redis_url)) as raw:
        captured = new_token()
        raw.set(layout.fence_key("k"), captured)
        seconds, microseconds = raw.time()
        now = seconds * 1_000_000 + microseconds
        assert raw.execute_command(*layout.put("k", b"value", 60_000, now + 60_000_000)[0]) >= now
        assert raw.execute_command(*layout.write("k", captured, b"loaded", 60_000)[0]) == 0
        assert raw.get(layout.value_key("k")) == b"value"
        raw.set(layout.fence_key("k"), captured)
        assert raw.execute_command(*layout.put("k", b"late", 60_000, now)[0]) < -now
        assert raw.get(layout.value_key("k")) == b"value"
        assert raw.get(layout.fence_key("k")) == captured


def test_a_server_whose_clock_is_not_known_well_is_asked_twice(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = RedisBackend(redis_url, namespace="clock")
    backend.set("k", 0)
    clock = link_of(backend)._fleet._threads.to(None)._small._wire.clock
    sent: list[None] = []
    real = Layout.put

    def put(self: Layout, *args: Any) -> Any:
        sent.append(None)
        return real(self, *args)

    monkeypatch.setattr(Layout, "put", put)
    ahead, at = clock._known
    for value, known in enumerate([None, (ahead - 3600, at), (ahead + 3600, at)], 1):
        clock._known = known
        backend.set("k", value)
        assert backend.get("k") == value
    assert len(sent) == 2 + 2 + 1, "not known; set forward since; set back since"
    backend.set("k", 4)
    assert len(sent) == 6
    assert abs(clock.ahead(time.monotonic()) - ahead) < 1
    backend.close()


def test_a_set_after_another_process_has_cleared_is_found(redis_url: str) -> None:
    backend, other = (RedisBackend(redis_url, namespace="cleared") for _ in range(2))
    backend.set("k", "old")
    other.clear()
    backend.set("k", "new")
    assert (backend.get("k"), other.get("k")) == ("new", "new")
    with contextlib.closing(raw_client(redis_url)) as raw:
        raw.delete(Layout("cleared", 1).read_generation(b"")[0][1])
        backend.set("k", "newer")
    assert (backend.get("k"), other.get("k")) == ("newer", "newer")
    backend.close()
    other.close()


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


@pytest.mark.parametrize("kind", ["blocking", "suspending"])
def test_a_defect_of_our_own_is_no_outage(redis_url: str, kind: str) -> None:
    backend = RedisBackend(redis_url)
    link, packet = link_of(backend), [("GET", "\ud800")]

    async def suspending() -> None:
        await asyncio.wait_for(link.exchange(ASYNCIO, packet), PATIENCE)

    calls: dict[str, Callable[[], object]] = {
        "blocking": lambda: run_blocking(link.exchange(BLOCKING, packet)),
        "suspending": lambda: asyncio.run(suspending()),
    }
    with pytest.raises(UnicodeEncodeError):
        calls[kind]()
    assert not is_open(backend)
    backend.set("k", "v")
    assert asyncio.run(backend.aget("k")) == backend.get("k") == "v"
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


@pytest.mark.parametrize("tasks", [500, 5000])
def test_a_crowd_of_tasks_needs_no_more_connections_than_one_does(own_redis: RedisServer, tasks: int) -> None:
    """With the options as they are by default: each load, and each hit, of a key of its own."""
    cache, loads = Cache(), []

    @cache.cached(expire=60)
    async def doubled(number: int) -> int:
        loads.append(number)
        return 2 * number

    async def main(backend: RedisBackend) -> None:
        for _ in range(2):
            assert await asyncio.gather(*map(doubled, range(tasks))) == [2 * number for number in range(tasks)]
        await backend.aclose()

    with contextlib.closing(RedisBackend(own_redis.url)) as backend, contextlib.closing(own_redis.client()) as admin:
        cache.init_app(FastAPI(), backend=backend)
        before = admin.info("stats")["total_connections_received"]
        asyncio.run(main(backend))
        assert sorted(loads) == list(range(tasks)), "each was loaded once, and stored"
        assert failures(backend) == 0
        assert admin.info("stats")["total_connections_received"] - before == 1


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
            while asyncio.get_running_loop() not in link_of(backend)._fleet._ending:
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
    assert len(link_of(backend)._fleet._loops) == 0
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
    with link._fleet._lock:  # as a thread of the parent might hold it at that moment
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
        (lane,) = link_of(backend)._fleet._loops[asyncio.get_running_loop()].all()
        own_redis.freeze()
        read = asyncio.create_task(backend.aget("k"))
        while lane._batch is None:
            assert not read.done()
            await asyncio.sleep(0)
        own_redis.thaw()
        # Somebody's code holds up the loop for longer than the timeout; the server has answered.
        answered, _, _ = select.select([lane._wire._transport.get_extra_info("socket")], [], [], PATIENCE)
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


class OwnConnection(redis.connection.Connection):
    """A connection of a user's own kind, as Sentinel's is."""


class OwnAsyncConnection(redis.asyncio.connection.Connection):
    """The same for tasks."""


@pytest.mark.parametrize("protocol", [{}, {"protocol": 3}, {"protocol": 2}])
def test_clients_with_connections_of_their_own_kind_work_whatever_protocol_they_speak(
    redis_url: str, protocol: dict[str, int]
) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    options: dict[str, Any] = {"host": "127.0.0.1", "port": port, **protocol}
    backend = RedisBackend(
        client=redis.Redis(connection_pool=redis.ConnectionPool(OwnConnection, **options)),
        async_client=redis.asyncio.Redis(connection_pool=redis.asyncio.ConnectionPool(OwnAsyncConnection, **options)),
    )
    assert backend.get("k", "absent") == "absent"
    backend.set("k", "v")
    assert backend.get("k") == asyncio.run(backend.aget("k")) == "v"
    assert failures(backend) == 0
    backend.close()


@pytest.mark.parametrize("step", ["exchange", "wait"])
@pytest.mark.parametrize("kind", ["blocking", "suspending"])
def test_what_is_owed_is_told_before_anything_else_and_closes_nobody_out(redis_url: str, kind: str, step: str) -> None:
    backend = RedisBackend(redis_url, namespace="owed")
    backend.set("a", 1)
    backend.set("k", "old")
    link, layout = link_of(backend), Layout("owed", 1000)
    packet = [("GET", layout.value_key("k")), ("GET", layout.value_key("a"))]
    port: Any = BLOCKING if kind == "blocking" else ASYNCIO

    async def asked() -> Any:
        ask = link.exchange if step == "exchange" else partial(link.wait, seconds=1.0)
        await ask(port, [("PING",)])  # so that it has a connection already: each new one is told at once
        link.owe("k")
        return await ask(port, packet)

    value, other = run_blocking(asked()) if kind == "blocking" else asyncio.run(asked())
    assert value is None
    assert other is not None
    assert not is_open(backend)
    assert not link._invalidations.pending
    assert failures(backend) == 0
    backend.close()


@pytest.mark.parametrize("kind", ["blocking", "suspending"])
def test_another_server_is_told_what_the_last_one_confirmed(own_redis: RedisServer, kind: str) -> None:
    """The next server lacks what the last one confirmed a moment ago: replication is asynchronous."""
    backend = RedisBackend(own_redis.url, namespace="next")

    async def main() -> None:
        async def call(name: str, *args: Any) -> Any:
            return getattr(backend, name)(*args) if kind == "blocking" else await getattr(backend, "a" + name)(*args)

        for key in ("deleted", "put"):
            await call("set", key, "old")
        with contextlib.closing(RedisBackend(own_redis.url, namespace="next")) as others:
            others.set("kept", "old")
        with contextlib.closing(raw_client(own_redis.url)) as raw:
            replica = {name: raw.dump(name) for name in raw.scan_iter()}
            await call("delete", "deleted")
            await call("set", "put", "new")
            own_redis.kill()
            own_redis.start()
            for name, data in replica.items():
                raw.restore(name, 0, data)
        found = [await call("get", key) for key in ("deleted", "put", "kept")]
        assert found == [None, None, "old"], "of what was put only the value before it was left"
        await backend.aclose()

    asyncio.run(main())
    assert failures(backend) == 0
    backend.close()
