"""The calls beyond the ten on a real Redis: what goes wrong on the way, between processes, and with hostile names."""

from __future__ import annotations

import asyncio
import contextlib
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

from fast_cache import Cache, CounterError, LockLost, LockTimeout, RedisBackend
from fast_cache.backends.redis.changes import Changes
from fast_cache.backends.redis.layout import Layout, new_token
from fast_cache.errors import BackendError, BackendUnavailable, EncodeError
from fast_cache.serializers import codec_for, encode_stored
from fast_cache.testing import PATIENCE, Flavour, in_both_flavours, only_suspending
from tests.support.redis_server import RedisServer
from tests.support.way import Way

ROOT = Path(__file__).resolve().parents[2]

NAMESPACE = "calls"

LAYOUT = Layout(NAMESPACE, 60_000)


@pytest.fixture
def way(own_redis: RedisServer) -> Iterator[Way]:
    made = Way(own_redis.port)
    yield made
    made.through.set()
    made.close()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


@pytest.fixture
def backend(redis_url: str) -> Iterator[RedisBackend]:
    with contextlib.closing(RedisBackend(redis_url, namespace=NAMESPACE)) as made:
        yield made


def over(way: Way, **options: Any) -> RedisBackend:
    return RedisBackend(f"redis://127.0.0.1:{way.port}/0", namespace=NAMESPACE, **options)


def failures(backend: RedisBackend) -> int:
    return backend.engine_store().health.failures


def trips(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each exchange with Redis had, as they are sent."""
    sent: list[int] = []
    link: Any = backend._link
    real = link._exchange

    async def exchange(port: Any, packet: Any) -> Any:
        sent.append(len(packet))
        return await real(port, packet)

    monkeypatch.setattr(link, "_exchange", exchange)
    return sent


def warm(backend: RedisBackend) -> None:
    """See to it that the server knows the scripts: one that it does not know is sent twice."""
    backend.set("warm", 1)
    for key in ("warm", "cold"):
        backend.incr(key)
        backend.incr(key)
    backend.add("added", 1)
    backend.expire("added", 100)
    with backend.lock("warm"):
        pass
    backend.delete_many("warm", "cold", "added")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


@in_both_flavours
async def test_many_keys_travel_in_as_few_packets_as_one(
    flavour: Flavour, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace=NAMESPACE))
    assert isinstance(store.backend, RedisBackend)
    await store.set("the first", "makes the generation")
    sent = trips(store.backend, monkeypatch)
    keys = [str(number) for number in range(100)]
    await store.ask("set_many", dict.fromkeys(keys, 1), "1h")
    assert len(sent) == 1
    assert await store.ask("get_many", keys) == (1,) * 100
    assert len(sent) == 2
    assert await store.ask("delete_many", keys) == 100
    assert len(sent) == 3
    await store.ask("incr", "n")
    assert len(sent) == 5, "nothing is there; it is stored"
    await store.ask("incr", "n")
    await store.ask("decr", "n")
    assert len(sent) == 7
    await store.ask("ttl", "n")
    await store.ask("ping")
    assert len(sent) == 9
    lock = store.backend.lock("key")
    await flavour.do(lock, "acquire")
    await flavour.do(lock, "extend")
    await flavour.do(lock, "release")
    assert len(sent) == 12


def test_a_counter_in_redis_is_the_entry_that_set_would_write(
    backend: RedisBackend, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.incr("other")
    sent = trips(backend, monkeypatch)
    for start, by in ((0, 1), (-1, 1), (1, -1), (9, 1), (-5, -5), (99_999, 1), (10**15 - 2, 1), (-(10**13), -1)):
        backend.set("n", start, "1h")
        generation = raw.get(b"calls:g:")
        before = raw.get(LAYOUT.value_key("n"))
        assert before == encode_stored("n", start, codec_for(), 3600, generation)
        sent.clear()
        assert backend.incr("n", by) == start + by
        assert len(sent) == 1, "by the script, not by what else knows entries"
        assert raw.get(LAYOUT.value_key("n")) == encode_stored("n", start + by, codec_for(), 3600, generation)
        assert raw.exists(LAYOUT.fence_key("n")) == 0
        assert 0 < raw.pttl(LAYOUT.changes_key("n")) <= 15_000


def test_what_became_of_increments_is_remembered_for_a_bounded_number_of_them(backend: RedisBackend, raw: Any) -> None:
    for _ in range(300):
        backend.incr("n")
    assert raw.llen(LAYOUT.changes_key("n")) == 128
    assert backend.get("n") == 300


STEPS: dict[str, tuple[Callable[[RedisBackend], Any], Callable[[RedisBackend], Any], Any, Any, int]] = {
    "a counter": (lambda b: b.set("k", 5), lambda b: b.incr("k"), 6, 6, 1),
    "a new counter": (lambda b: None, lambda b: b.incr("k", 3), 3, 3, 2),
    "a large counter": (lambda b: b.set("k", 10**17), lambda b: b.incr("k"), 10**17 + 1, 10**17 + 1, 2),
    "a value to be added": (lambda b: None, lambda b: b.add("k", "v"), True, "v", 2),
    "a value to be renewed": (lambda b: b.set("k", "v", 60), lambda b: b.expire("k", "2h"), True, "v", 2),
}
"""By what is changed: what is there before, the change, its answer, what is there then, and how many packets."""


@pytest.mark.parametrize("what", STEPS)
def test_a_change_whose_answer_is_lost_is_made_once(way: Way, what: str) -> None:
    before, change, answer, value, packets = STEPS[what]
    for packet in range(packets):
        backend = over(way)
        backend.clear()
        backend.incr("other")  # the generation is known, and a connection is open
        backend.delete("k")
        before(backend)
        way.cut_in, lost = packet, way.cut
        assert change(backend) == answer
        assert way.cut == lost + 1
        assert backend.get("k") == value
        assert failures(backend) == 0
        backend.close()


def test_of_many_increments_whose_answers_are_lost_each_counts_once(way: Way) -> None:
    backend = over(way)
    sums = [backend.incr("n")]
    for number in range(60):
        if number % 3 == 0:
            way.cut_in = 0
        sums.append(backend.incr("n"))
    assert sums == list(range(1, 62))
    assert way.cut == 20
    backend.close()


@pytest.mark.parametrize("call", ["incr, there", "incr", "incr, then", "add", "add, then", "expire"])
def test_a_change_that_arrives_late_brings_nothing_back(
    way: Way, call: str, monkeypatch: pytest.MonkeyPatch, own_redis: RedisServer
) -> None:
    backend = over(way, timeout=0.3)
    warm(backend)
    if call in ("incr, there", "expire"):
        backend.set("k", 5)
    step = {"incr, there": "increment", "incr": "increment", "add": "look", "expire": "renew"}.get(call, "change")
    real = getattr(Changes, step)

    def cut(self: Changes, *args: Any) -> Any:
        way.hold(0)
        return real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Changes, step, cut)
        if call == "expire":
            assert backend.expire("k", 100) is False
        else:
            with pytest.raises(BackendUnavailable):
                backend.add("k", "late") if call.startswith("add") else backend.incr("k")
    assert failures(backend) == 1
    until(lambda: backend.ping())
    backend.delete("k")
    if call == "expire":
        backend.set("k", 6, "1h")
    way.through.set()
    assert way.answered.wait(PATIENCE)
    left = backend.ttl("k")
    assert left is None if call != "expire" else left is not None and left > 3000
    with contextlib.closing(own_redis.client()) as raw:
        assert raw.exists(LAYOUT.value_key("k")) == (call == "expire")
    backend.close()


def test_increments_fence_off_loads_and_leave_one_mark(backend: RedisBackend, raw: Any) -> None:
    backend.set("n", 1)
    raw.set(LAYOUT.fence_key("n"), new_token())
    captured = raw.get(LAYOUT.fence_key("n"))
    for _ in range(100):  # more than a fence has room for
        backend.incr("n")
    assert len(raw.get(LAYOUT.fence_key("n"))) == 32
    assert raw.execute_command(*LAYOUT.write("n", captured, b"loaded", 60_000)[0]) == 0


@pytest.mark.parametrize(("call", "there"), [("incr", False), ("incr", True), ("add", False), ("expire", True)])
def test_loads_of_other_processes_are_fenced_off(backend: RedisBackend, raw: Any, call: str, there: bool) -> None:
    if there:
        backend.set("n", 1)
    raw.set(LAYOUT.fence_key("n"), new_token())
    captured = raw.get(LAYOUT.fence_key("n"))
    assert getattr(backend, call)("n", 5)
    assert raw.execute_command(*LAYOUT.write("n", captured, b"loaded", 60_000)[0]) == 0
    fence = raw.get(LAYOUT.fence_key("n"))
    assert raw.execute_command(*LAYOUT.write("n", fence, b"loaded", 60_000)[0]) == 1, "later ones are not"


def test_a_clear_by_another_process_is_noticed_by_counters(redis_url: str) -> None:
    ours, theirs = (RedisBackend(redis_url, namespace=NAMESPACE) for _ in range(2))
    assert [ours.incr("n"), theirs.incr("n"), ours.incr("n")] == [1, 2, 3]
    theirs.clear()
    assert [ours.incr("n"), theirs.incr("n")] == [1, 2]
    theirs.clear()
    theirs.set("n", 10)
    assert ours.incr("n") == 11, "what is alive is not taken for dead"
    theirs.clear()
    assert ours.add("n", "ours")
    assert not theirs.add("n", "theirs")
    theirs.clear()
    assert not ours.expire("n", 60)
    assert ours.ttl("n") is None
    ours.close()
    theirs.close()


def rubbish_of_another_type(raw: Any, name: bytes) -> None:
    raw.rpush(name, "rubbish")


def nothing_at_all(raw: Any, name: bytes) -> None:
    raw.set(name, b"")


def a_torn_entry(raw: Any, name: bytes) -> None:
    raw.setrange(name, 73, b"7")


def another_keys_entry(raw: Any, name: bytes) -> None:
    raw.set(name, raw.get(LAYOUT.value_key("other")))


@pytest.mark.parametrize("rubbish", [rubbish_of_another_type, nothing_at_all, a_torn_entry, another_keys_entry])
def test_rubbish_is_no_counter_and_nothing_that_is_there(
    backend: RedisBackend, raw: Any, rubbish: Callable[[Any, bytes], None]
) -> None:
    changes: list[tuple[Callable[[], Any], Any]] = [
        (lambda: backend.incr("k", 5), 5),
        (lambda: backend.add("k", "v"), "v"),
    ]
    for change, value in changes:
        backend.set_many({"k": 1, "other": 2})
        if rubbish is rubbish_of_another_type:
            raw.delete(LAYOUT.value_key("k"))
        rubbish(raw, LAYOUT.value_key("k"))
        assert backend.ttl("k") is None
        assert not backend.expire("k", 60)
        assert change() in (value, True)
        assert backend.get("k") == value
    raw.rpush(LAYOUT.lock_keys("k")[0], "rubbish")
    raw.set(LAYOUT.lock_keys("k")[2], "99999999999999999999")
    raw.rpush(LAYOUT.changes_key("n"), "rubbish")
    raw.set(LAYOUT.changes_key("m"), "rubbish")
    with backend.lock("k", wait=0) as lock:
        assert lock.token < 2**53
    assert [backend.incr("n"), backend.incr("n"), backend.incr("m"), backend.incr("m")] == [1, 2, 1, 2]


def test_a_functions_counter_keeps_its_tags_and_its_lifetime(backend: RedisBackend) -> None:
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)
    loads: list[None] = []

    @cache.cached(expire="1h", stale_while_revalidate="1h", tags=("visits",))
    def visits() -> int:
        loads.append(None)
        return 40

    assert visits() == 40
    assert backend.incr(visits.key()) == 41
    assert backend.incr(visits.key()) == 42
    assert backend.get(visits.key()) == 42
    left = backend.ttl(visits.key())
    assert left is not None
    assert 3000 < left <= 3600
    assert backend.expire(visits.key(), "2h")
    left = backend.ttl(visits.key())
    assert left is not None
    assert 6000 < left <= 7200
    cache.invalidate_tags("visits")
    assert backend.get(visits.key()) is None
    assert backend.ttl(visits.key()) is None
    assert backend.incr(visits.key()) == 1


def test_a_value_that_is_stale_is_not_there(backend: RedisBackend) -> None:
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)

    @cache.cached(expire=0.05, stale_if_error="1h")
    def number() -> Any:  # as what is stored by hand
        return 40

    number()
    deadline = time.monotonic() + PATIENCE
    while backend.has(number.key()):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between two looks
    assert backend.ttl(number.key()) is None
    assert list(backend.scan()) == []
    assert not backend.expire(number.key(), 60)
    assert backend.incr(number.key(), 2, expire=60) == 2
    assert list(backend.scan()) == [number.key()]


def test_an_exception_that_is_stored_is_no_value(backend: RedisBackend) -> None:
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)

    @cache.cached(expire="1h", cache_errors={LookupError: "1h"})
    def number(found: bool) -> int:
        if not found:
            raise LookupError
        return 1

    with pytest.raises(LookupError):
        number(False)
    number(True)
    assert list(backend.scan()) == [number.key(True)]
    assert backend.ttl(number.key(False)) is None
    assert backend.add(number.key(False), 7)
    assert backend.get(number.key(False)) == 7


def test_what_can_not_be_stored_is_not_added_and_touches_nothing(backend: RedisBackend) -> None:
    backend.set("k", 1)
    with pytest.raises(EncodeError):
        backend.add("k", threading.Lock())
    assert backend.get("k") == 1
    with pytest.raises(EncodeError):
        backend.set_many({"a": 1, "b": threading.Lock(), "c": 3})
    assert backend.get_many("a", "b", "c") == (1, None, 3)


@pytest.mark.parametrize("trouble", ["freeze", "kill"])
@in_both_flavours
async def test_without_a_server_no_answer_is_made_up(flavour: Flavour, own_redis: RedisServer, trouble: str) -> None:
    store = flavour.use(RedisBackend(own_redis.url, namespace=NAMESPACE, timeout=0.2, connect_timeout=0.2))
    await store.ask("set_many", {"n": 5, "n2": 5, "m": 5})
    await store.ask("incr", "n")
    held = store.backend.lock("held", expire="1h")
    await flavour.do(held, "acquire")
    if trouble == "freeze":
        own_redis.freeze()
    else:
        own_redis.kill()
    for call, args in (("incr", ("n",)), ("decr", ("n",)), ("add", ("new", 1))):
        with pytest.raises(BackendUnavailable):
            await store.ask(call, *args)
    lock = store.backend.lock("free", wait=0)
    with pytest.raises(BackendUnavailable):
        await flavour.do(lock, "acquire")
    assert lock.remaining == 0
    with pytest.raises(LockLost):
        _ = lock.token
    with pytest.raises(BackendUnavailable):
        await flavour.do(held, "extend")
    with pytest.raises(BackendUnavailable):
        await store.keys()
    assert await store.ask("ping") is False
    assert await store.ask("get_many", "n", "m", default="absent") == ("absent", "absent")
    assert await store.ask("ttl", "n") is None
    assert await store.ask("expire", "n", 60) is False
    assert await store.ask("touch", "n") is False
    await store.ask("set_many", {"m": 6})
    assert await store.ask("delete_many", "m", "n") == 0
    assert not await flavour.do(held, "release")
    if trouble == "freeze":
        own_redis.thaw()
    else:
        own_redis.start()

    async def answers() -> bool:
        return bool(await store.ask("ping"))

    await flavour.until(answers, "it is noticed that Redis is back")
    assert await store.ask("get_many", "n", "m", default="absent") == ("absent", "absent"), "they were deleted"
    assert await store.ask("incr", "n") == 1


@in_both_flavours
async def test_a_prefix_removed_without_a_server_is_removed_when_it_is_back(
    flavour: Flavour, own_redis: RedisServer
) -> None:
    store = flavour.use(RedisBackend(own_redis.url, namespace=NAMESPACE, timeout=0.2))
    await store.ask("set_many", {"user:1": 1, "user:2": 2})
    own_redis.freeze()
    assert await store.ask("delete_match", "user:") == 0
    own_redis.thaw()

    async def answers() -> bool:
        return bool(await store.ask("ping"))

    await flavour.until(answers, "it is noticed that Redis is back")
    assert await store.ask("get_many", "user:1", "user:2") == (None, None)


def test_a_server_that_takes_no_writes_gives_no_counters_and_no_locks(own_redis: RedisServer) -> None:
    backend = RedisBackend(own_redis.url, namespace=NAMESPACE)
    backend.set("n", 5)
    with contextlib.closing(own_redis.client()) as raw:
        raw.config_set("maxmemory", 1)
        for change in (lambda: backend.incr("n"), lambda: backend.add("m", 1), backend.lock("k", wait=0).acquire):
            with pytest.raises(BackendError):
                change()
        raw.config_set("maxmemory", 0)
    assert backend.incr("n") == 6
    with backend.lock("k", wait=0):
        pass
    backend.close()


COUNT = """
    import sys
    from fast_cache import RedisBackend

    backend = RedisBackend(sys.argv[1], namespace="calls")
    print("ready", flush=True)
    input()
    print(backend.add("once", sys.argv[2]), *[backend.incr("n", expire=60) for _ in range(100)])
"""


def test_processes_count_together(redis_url: str, backend: RedisBackend) -> None:
    processes = [python(COUNT, redis_url, str(number)) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    sums = [int(number) for words in said for number in words[1:]]
    assert sorted(sums) == list(range(1, 401))
    assert backend.get("n") == 400
    added = [words[0] for words in said]
    assert sorted(added) == ["False"] * 3 + ["True"]
    assert backend.get("once") == str(added.index("True"))


@pytest.mark.parametrize("other", ["set", "delete", "clear", "large"])
def test_increments_among_other_changes_are_whole(redis_url: str, other: str) -> None:
    backends = [RedisBackend(redis_url, namespace=NAMESPACE) for _ in range(2)]
    start = 10**16 if other == "large" else 0
    backends[0].set("n", start)
    sums: list[list[int]] = [[] for _ in range(4)]

    def count(number: int) -> None:
        for _ in range(100):
            sums[number].append(backends[number % 2].incr("n"))

    def disturb() -> None:
        for _ in range(40):
            if other in ("set", "large"):
                backends[0].set("n", start)
            elif other == "delete":
                backends[0].delete("n")
            else:
                backends[0].clear()

    threads = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    if other != "large":
        threads.append(threading.Thread(target=disturb))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [number - start for each in sums for number in each]
    assert len(every) == 400
    assert all(1 <= number <= 400 for number in every)
    if other == "large":
        assert sorted(every) == list(range(1, 401)), "those that are too large for the script"
    left = backends[1].get("n", 0)
    assert backends[0].incr("n") == left + 1
    assert [failures(backend) for backend in backends] == [0, 0]
    for backend in backends:
        backend.close()


HOLD = """
    import sys
    from fast_cache import RedisBackend

    lock = RedisBackend(sys.argv[1], namespace="calls").lock("k", expire=sys.argv[2])
    with lock:
        print(lock.token, flush=True)
        input()
"""


def test_the_lock_of_a_process_that_is_killed_ends_by_itself(redis_url: str, backend: RedisBackend) -> None:
    process = python(HOLD, redis_url, "2s")
    assert process.stdout is not None
    token = int(process.stdout.readline())
    process.kill()
    process.communicate()
    with pytest.raises(LockTimeout):
        backend.lock("k", wait=0).acquire()
    with backend.lock("k", wait=PATIENCE) as lock:
        assert lock.token > token


def test_processes_hold_a_lock_in_turn(redis_url: str, backend: RedisBackend) -> None:
    with backend.lock("k", expire=60) as lock:
        token = lock.token
        process = python(HOLD, redis_url, "60s")
        assert process.stdin is not None
        process.stdin.write("done\n")
        process.stdin.flush()
    said, _ = process.communicate(timeout=PATIENCE)
    assert int(said) > token
    with backend.lock("k", wait=0) as lock:
        assert lock.token > int(said)


def test_tokens_rise_whatever_is_lost_in_redis(backend: RedisBackend, raw: Any) -> None:
    lock_key, _, last = LAYOUT.lock_keys("k")
    tokens = []
    for lost in ((), (lock_key,), (last,), (lock_key, last), None):
        lock = backend.lock("k", wait=0).acquire()
        tokens.append(lock.token)
        if lost is None:
            raw.flushall()
        elif lost:
            raw.delete(*lost)
        if lost is None or lock_key in lost:
            with pytest.raises(LockLost):
                lock.extend()
        lock.release()
    seconds, micros = raw.time()
    ahead = seconds * 1_000_000 + micros + 3_600_000_000
    raw.set(last, ahead)
    for number in range(3):  # the clock of the server was set back by an hour
        with backend.lock("k", wait=0) as lock:
            tokens.append(lock.token)
            assert lock.token == ahead + 1 + number
    assert tokens == sorted(set(tokens))


def test_who_lost_a_lock_neither_releases_nor_extends_the_next_ones(backend: RedisBackend, raw: Any) -> None:
    lock_key, wake, _ = LAYOUT.lock_keys("k")
    lost = backend.lock("k", expire=60).acquire()
    raw.delete(lock_key)
    next_ = backend.lock("k", expire=1000, wait=0).acquire()
    with pytest.raises(LockLost):
        lost.extend(1)
    assert raw.pttl(lock_key) > 60_000
    assert not lost.release()
    assert raw.exists(lock_key)
    assert not raw.exists(wake), "nobody is woken in vain"
    next_.extend(100)
    assert next_.release()


def test_who_waits_for_a_lock_is_woken_and_does_not_ask_all_the_time(
    redis_url: str, backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RedisBackend(redis_url, namespace=NAMESPACE)
    held = backend.lock("k", expire=60).acquire()
    sent = trips(other, monkeypatch)
    link: Any = other._link
    real = link.wait
    waits: list[Any] = []
    waiting = threading.Event()

    async def wait(*args: Any) -> Any:
        waiting.set()
        replies = await real(*args)
        waits.append(replies)
        return replies

    monkeypatch.setattr(link, "wait", wait)
    taken: list[int] = []

    def take() -> None:
        with other.lock("k", wait=PATIENCE) as lock:
            taken.append(lock.token)

    thread = threading.Thread(target=take)
    thread.start()
    assert waiting.wait(PATIENCE)
    token = held.token
    held.release()
    thread.join(PATIENCE)
    assert taken[0] > token
    assert waits[-1][0] is not None, "by the stream"
    assert len(sent) <= len(waits) + 2
    other.close()


def test_a_lock_whose_answers_are_lost_is_held_once_and_released(way: Way) -> None:
    backend = over(way)
    backend.ping()
    way.cut_in = 0
    lock = backend.lock("k", wait=0).acquire()
    token = lock.token
    way.cut_in = 0
    lock.extend()
    way.cut_in = 0
    lock.release()
    assert way.cut == 3
    with backend.lock("k", wait=0) as lock:
        assert lock.token > token
    backend.close()


@only_suspending
async def test_who_is_cancelled_while_taking_a_lock_leaves_none(flavour: Flavour, own_redis: RedisServer) -> None:
    way = Way(own_redis.port)
    backend = over(way)
    store = flavour.use(backend)
    await asyncio.to_thread(warm, backend)
    assert await store.ask("ping")
    way.mute.add(way.connections - 1)
    taking = flavour.start(backend.lock("k", expire="1h", wait=0).aacquire)
    with contextlib.closing(own_redis.client()) as raw:

        async def taken() -> bool:
            return bool(raw.exists(LAYOUT.lock_keys("k")[0]))

        await flavour.until(taken, "the lock is taken, and nobody knows it yet")
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking.result()

        async def free() -> bool:
            return not await taken()

        await flavour.until(free, "the lock is released, over another connection")
    way.close()


HOSTILE = ["{}", "}}{{", "%7D{}", "*{}*", "[{}]", "?{}", "\\{}", "{}\n", "ключ {}", "\U0001f511{}", "^{}$", "{}%25"]


@in_both_flavours
async def test_ten_thousand_hostile_names_are_listed_once_each(flavour: Flavour, redis_url: str) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="ca*l[s]"))
    others = [
        flavour.use(RedisBackend(redis_url, namespace=name)) for name in ("ca*l[s]x", "caXls", "ca*l[s]:v", "cas")
    ]
    keys = {HOSTILE[number % len(HOSTILE)].replace("{}", f"{{{number}}}") for number in range(10_000)}
    assert len(keys) == 10_000 - 10_000 // len(HOSTILE)  # one of the patterns names a single key
    await store.ask("set_many", dict.fromkeys(keys, 1))
    for other in others:
        await other.ask("set_many", dict.fromkeys(list(keys)[:20], 2))
        await other.ask("incr", "n")
    lock = store.backend.lock("not a value", expire=60)
    await flavour.do(lock, "acquire")
    listed = await store.keys()
    assert len(listed) == len(keys)
    assert set(listed) == keys
    stars = {key for key in keys if key.startswith("*")}
    assert set(await store.keys("*")) == stars
    assert await store.ask("delete_match", "*") == len(stars)
    assert set(await store.keys()) == keys - stars
    for other in others:
        assert len(await other.keys()) == 21
    await flavour.do(lock, "extend")
    assert await store.ask("delete_match", "") == len(keys - stars)
    for other in others:
        assert len(await other.keys()) == 21


def test_entries_of_cleared_generations_do_not_count(backend: RedisBackend, raw: Any) -> None:
    backend.set_many(dict.fromkeys("abc", 1))
    backend.clear()
    backend.set("a", 2)
    raw.set(b"calls:v:{rubbish}", b"rubbish")
    raw.set(b"calls:v:{b\xff}", b"rubbish")
    assert list(backend.scan()) == ["a"]
    assert backend.delete_match("") == 1
    assert raw.keys("calls:v:*") == [b"calls:v:{b\xff}"], "their memory is given back all the same"


def test_a_prefix_that_is_removed_fences_off_the_loads_of_other_processes(redis_url: str) -> None:
    ours, theirs = (RedisBackend(redis_url, namespace=NAMESPACE) for _ in range(2))
    cache = Cache()
    cache.init_app(FastAPI(), backend=theirs)
    begun, go = threading.Event(), threading.Event()

    def load() -> str:
        begun.set()
        assert go.wait(PATIENCE)
        return "old"

    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(cache.get_or_set("user:1", load)))
    thread.start()
    assert begun.wait(PATIENCE)
    assert ours.delete_match("user:") == 0
    go.set()
    thread.join(PATIENCE)
    assert results == ["old"]
    assert ours.get("user:1") is None
    ours.close()
    theirs.close()


def test_a_counter_error_names_no_value(backend: RedisBackend) -> None:
    backend.set("k", "secret")
    with pytest.raises(CounterError) as caught:
        backend.incr("k")
    assert "secret" not in str(caught.value)
    assert failures(backend) == 0
