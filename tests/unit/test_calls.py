"""The calls beyond the ten where nothing helps: backends of ten methods, what they know and what they say they don't.

And local memory, where an entry has more to it than a value.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import BackendError, Cache, CacheBackend, EncodeError, InMemoryBackend, LockTimeout, NotSupportedError
from fast_cache.backends.locks import LocalLocks
from fast_cache.durations import Duration, optional_seconds
from fast_cache.entry import Entry
from fast_cache.ports import BLOCKING, run_blocking
from fast_cache.testing import PATIENCE, BackendContract


class DictBackend(CacheBackend):
    """Ten methods, which tell a test when they are called."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Any, float]] = {}
        self.before: Callable[[str], None] = lambda name: None

    def get(self, key: str, default: Any = None) -> Any:
        self.before("get")
        value, expires = self.entries.get(key, (default, float("inf")))
        return value if time.monotonic() < expires else default

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        self.before("set")
        lifetime = optional_seconds(expire, option="expire")
        self.entries[key] = (value, float("inf") if lifetime is None else time.monotonic() + lifetime)

    def delete(self, key: str) -> bool:
        found = self.has(key)
        self.entries.pop(key, None)
        return found

    def clear(self) -> None:
        self.entries.clear()

    def has(self, key: str) -> bool:
        self.before("has")
        return key in self.entries and time.monotonic() < self.entries[key][1]

    async def aget(self, key: str, default: Any = None) -> Any:
        await asyncio.sleep(0)
        return self.get(key, default)

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        await asyncio.sleep(0)
        self.set(key, value, expire)

    async def adelete(self, key: str) -> bool:
        return self.delete(key)

    async def aclear(self) -> None:
        self.clear()

    async def ahas(self, key: str) -> bool:
        return self.has(key)


class ListingBackend(DictBackend):
    """Tells more than ten methods can: its keys, and how long they live."""

    def scan(self, prefix: str = "") -> Iterator[str]:
        return iter([key for key in list(self.entries) if key.startswith(prefix) and self.has(key)])

    def ascan(self, prefix: str = "") -> AsyncIterator[str]:
        async def listed() -> AsyncIterator[str]:
            for key in self.scan(prefix):
                yield key

        return listed()

    def ttl(self, key: str) -> float | None:
        return self.entries[key][1] - time.monotonic() if self.has(key) else None

    async def attl(self, key: str) -> float | None:
        return self.ttl(key)


class TestListingBackend(BackendContract):
    def make_backend(self) -> CacheBackend:
        return ListingBackend()


def test_what_another_process_stored_is_not_known_and_not_guessed(tmp_path: Path) -> None:
    ours, theirs = (SQLiteBackend(tmp_path / "cache.sqlite3") for _ in range(2))
    theirs.set("n", 5, "1h")
    assert ours.ttl("absent") is None
    for call, method in ((ours.ttl, "ttl"), (ours.incr, "ttl"), (ours.touch, "touch")):
        with pytest.raises(NotSupportedError, match=f"define {method} and a{method} in SQLiteBackend"):
            call("n")
    assert ours.get("n") == 5
    assert not ours.add("n", 1)
    assert ours.expire("n", "2h")
    left = ours.ttl("n")
    assert left is not None
    assert 6000 < left <= 7200
    assert ours.incr("n") == 6
    assert theirs.get("n") == 6
    ours.close()
    theirs.close()


def test_a_backend_that_tells_lifetimes_is_asked() -> None:
    backend = ListingBackend()
    backend.entries["n"] = (5, time.monotonic() + 60)
    assert backend.incr("n") == 6
    assert 50 < backend.entries["n"][1] - time.monotonic() <= 60
    backend.entries["m"] = (5, float("inf"))
    assert asyncio.run(backend.aincr("m")) == 6
    assert backend.entries["m"] == (6, float("inf"))


def test_of_two_who_store_at_once_nobody_knows_the_lifetime() -> None:
    backend = DictBackend()
    inside = threading.Event()
    go = threading.Event()

    def hold(name: str) -> None:
        if name == "set" and threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go.wait(PATIENCE)

    backend.before = hold
    thread = threading.Thread(target=backend.set, args=("key", 1, 60))
    thread.start()
    assert inside.wait(PATIENCE)
    backend.set("key", 2, 5)
    go.set()
    thread.join(PATIENCE)
    with pytest.raises(NotSupportedError):
        backend.ttl("key")
    backend.set("key", 3, 60)
    assert backend.ttl("key") is not None


@pytest.mark.parametrize("removed", ["delete", "clear", "adelete"])
@pytest.mark.parametrize("at", ["get", "set"])
@pytest.mark.parametrize("call", ["incr", "aincr", "expire", "add"])
def test_what_is_removed_while_it_is_changed_does_not_come_back(removed: str, at: str, call: str) -> None:
    backend = DictBackend()
    if call != "add":
        backend.set("key", 5)
    once = [at]

    def remove(name: str) -> None:
        if once == [name]:
            once.clear()

            def removal() -> None:
                if removed == "clear":
                    backend.clear()
                elif removed == "delete":
                    backend.delete("key")
                else:
                    asyncio.run(backend.adelete("key"))

            thread = threading.Thread(target=removal)
            thread.start()
            thread.join(PATIENCE)

    backend.before = remove
    if call == "expire":
        expected: Any = False if at == "set" else None
        assert backend.expire("key", 60) in (False, expected)
        assert not backend.has("key")
    elif call == "add":
        assert backend.add("key", 1)
        assert backend.get("key") == 1
    else:
        number = backend.incr("key") if call == "incr" else asyncio.run(backend.aincr("key"))
        assert number == 1, "the counter began anew"
        assert backend.get("key") == 1


def test_tasks_and_threads_take_turns_and_no_loop_is_blocked() -> None:
    backend = DictBackend()
    sums: list[int] = []

    def in_threads() -> None:
        sums.extend([backend.incr("n") for _ in range(50)])

    async def in_tasks() -> None:
        async def count() -> None:
            sums.extend([await backend.aincr("n") for _ in range(10)])

        await asyncio.wait_for(asyncio.gather(*[count() for _ in range(5)]), PATIENCE)

    threads = [threading.Thread(target=in_threads) for _ in range(2)]
    threads += [threading.Thread(target=lambda: asyncio.run(in_tasks())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(sums) == list(range(1, 201))


def test_a_blocking_call_that_would_wait_for_its_own_loop_says_so() -> None:
    backend = DictBackend()

    async def both() -> int:
        task = asyncio.create_task(backend.aincr("n"))
        await asyncio.sleep(0)  # it has its turn, and waits for its value
        with pytest.raises(BackendError, match="asynchronous"):
            backend.incr("n")
        return await task

    assert asyncio.run(both()) == 1
    assert backend.incr("n") == 2


def test_a_call_that_is_cancelled_gives_its_turn_to_the_next() -> None:
    backend = DictBackend()

    async def some() -> list[Any]:
        tasks = [asyncio.create_task(backend.aincr("n")) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[1].cancel()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)

    cancelled, also, number = asyncio.run(some())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(also, asyncio.CancelledError)
    assert number == 1


def test_what_a_backend_raises_is_raised_by_its_calls_and_ping_says_no() -> None:
    backend = DictBackend()

    def fail(name: str) -> None:
        raise OSError("away")

    backend.before = fail
    for call in (lambda: backend.incr("n"), lambda: backend.get_many("n"), lambda: backend.add("n", 1)):
        with pytest.raises(OSError, match="away"):
            call()
    assert backend.ping() is False
    assert asyncio.run(backend.aping()) is False
    backend.before = lambda name: None
    assert backend.ping() is True
    assert backend.incr("n") == 1


class CountingBackend(DictBackend):
    """Has some of the calls of its own."""

    def incr(self, key: str, by: int = 1, expire: Duration | None = None) -> int:
        number = int(self.entries.get(key, (0, 0))[0]) + by
        self.entries[key] = (number, float("inf"))
        return number

    def set_many(self, values: Any, expire: Duration | None = None) -> None:
        self.entries.update({key: (value, float("inf")) for key, value in values.items()})

    def delete_many(self, *keys: Any) -> int:
        return sum(self.entries.pop(key, None) is not None for key in keys)

    def delete_match(self, prefix: str) -> int:
        matching = [key for key in self.entries if key.startswith(prefix)]
        return self.delete_many(*matching)


@pytest.mark.parametrize("call", ["incr", "decr", "set_many", "set_many by name", "delete_many", "delete_match"])
def test_calls_of_a_backends_own_fence_off_loads(call: str) -> None:
    backend = CountingBackend()
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)
    begun, go = threading.Event(), threading.Event()

    def load() -> str:
        begun.set()
        assert go.wait(PATIENCE)
        return "old"

    thread = threading.Thread(target=lambda: cache.get_or_set("key", load))
    thread.start()
    assert begun.wait(PATIENCE)
    if call == "set_many by name":
        backend.set_many(values={"key": 1})
    elif call == "set_many":
        backend.set_many({"key": 1})
    else:
        getattr(backend, call)("key")
    left = dict(backend.entries)
    go.set()
    thread.join(PATIENCE)
    assert backend.entries == left


class OddBackend(DictBackend):
    """Had methods of these names before they meant anything."""

    def touch(self) -> str:  # type: ignore[override]
        return "touched"

    def delete_many(self, keys: Any) -> list[Any]:  # type: ignore[override]
        return list(keys)


def test_methods_that_a_backend_had_for_itself_are_left_as_they_are() -> None:
    backend = OddBackend()
    assert backend.touch() == "touched"
    assert backend.delete_many(iter(["a", "b"])) == ["a", "b"]
    assert backend.delete_many(keys=[1, 2]) == [1, 2]


def test_memory_weighs_what_is_counted() -> None:
    backend = InMemoryBackend(max_weight=100, weigher=lambda value: 40 if type(value) is int and value < 8 else 90)
    backend.set_many({"n": 6, "m": 6})
    assert backend.incr("n") == 7
    assert backend.get_many("n", "m") == (7, 6)
    assert backend.incr("n") == 8
    assert backend.get_many("n", "m") in ((8, None), (None, 6)), "there is no room for both"
    refusing = InMemoryBackend(max_weight=100, weigher=lambda value: 10 if value == 5 else "no")  # type: ignore[arg-type,return-value]
    refusing.set("n", 5)
    with pytest.raises(EncodeError):
        refusing.incr("n")
    assert refusing.get("n") == 5


def test_memory_keeps_what_a_function_said_of_a_value() -> None:
    backend = InMemoryBackend()
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)

    @cache.cached(expire=60, tags=("visits",), stale_if_error=60)
    def visits(page: int) -> int:
        return 40

    @cache.cached(expire=60, hits=2)
    def counted() -> int:
        return 40

    @cache.cached(expire=60, refresh_ahead=10)
    def ahead() -> int:
        return 40

    keys = (visits.key(1), counted.key(), ahead.key())
    assert visits(1) == counted() == ahead() == 40
    for key in keys:
        assert backend.incr(key) == 41
        assert backend.expire(key, 100)
        left = backend.ttl(key)
        assert left is not None
        assert 90 < left <= 100
        assert backend.touch(key)
        left = backend.ttl(key)
        assert left is not None
        assert 50 < left <= 60
    assert visits(1) == 41
    assert ahead() == 41
    assert [counted() for _ in range(3)] == [41, 41, 40], "served twice, and then loaded"
    assert set(backend.scan()) == set(keys)
    cache.invalidate_tags("visits")
    assert backend.ttl(keys[0]) is None
    assert set(backend.scan()) == set(keys[1:])
    assert backend.incr(keys[0]) == 1


def test_what_was_stored_by_hand_before_its_function_was_decorated_is_changed_too() -> None:
    backend = InMemoryBackend()
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)
    made = [0]

    def decorated() -> Any:
        @cache.cached(version=made[0])
        def load(number: int) -> int:
            return number

        return load

    key = decorated().key(5)
    made[0] = 1
    later = key.replace(":0:", ":1:")
    assert later != key
    backend.set(later, 7)
    function = decorated()
    assert function.key(5) == later
    assert backend.incr(later) == 8
    assert backend.expire(later, 60)
    assert backend.get(later) == 8
    assert backend.delete_match(later[:10]) == 1
    assert backend.get(later) is None


def test_memory_lists_while_others_change_it() -> None:
    backend = InMemoryBackend()
    backend.set_many(dict.fromkeys(map(str, range(5000)), 1))
    listed: list[str] = []
    for key in backend.scan():
        if not listed:
            backend.delete_many(map(str, range(2500)))
            backend.set_many(dict.fromkeys(map(str, range(5000, 6000)), 1))
        listed.append(key)
    assert set(map(str, range(2500, 5000))) <= set(listed)
    assert len(listed) == len(set(listed))
    assert backend.delete_match("") == 3500
    assert len(backend) == 0


def test_locks_that_nobody_released_do_not_add_up() -> None:
    locks = LocalLocks()
    for number in range(1000):
        run_blocking(locks.take(BLOCKING, str(number), b"holder", 1e-6))
    assert len(locks._held) <= 128


def test_a_lock_of_another_process_is_not_its_childs() -> None:
    backend = InMemoryBackend()
    with backend.lock("key", wait=0):
        pid = os.fork()
        if not pid:
            code = 1
            with contextlib.suppress(BaseException), backend.lock("key", wait=0):
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pytest.raises(LockTimeout):
            backend.lock("key", wait=0).acquire()


def test_entries_of_the_usual_lifetime_cost_no_more_for_it() -> None:
    backend = InMemoryBackend()
    entries = backend._texts.table
    backend.set("first", 1, 3600)
    backend.set("usual", 1, 3600)
    backend.set("unusual", 1, 60)
    backend.set("endless", 1)
    backend.incr("usual")
    assert [type(entries[key]) is Entry for key in entries] == [True, True, False, True]
    for key in ("usual", "unusual", "endless"):
        assert backend.expire(key, 100)
    backend.incr("endless")
    assert [round(backend.ttl(key) or 0) for key in ("usual", "unusual", "endless")] == [100] * 3
    assert all(backend.touch(str(key)) for key in entries)
    assert [backend.ttl(key) for key in ("endless",)] == [math.inf]
    assert [round(backend.ttl(key) or 0) for key in ("usual", "unusual")] == [3600, 60]
    assert backend.get_many("usual", "unusual", "endless") == (2, 1, 2)
