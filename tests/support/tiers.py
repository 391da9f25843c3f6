"""Two tiers for tests to attack: a backend whose channel goes a way of its own, and processes that have one each.

A :class:`Worker` is such a process. It is given orders by lines of JSON, answers each with a line, and ends with its
input. Whoever calls there is a thread, or a task of an event loop: that is its mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from fast_cache import Cache, InMemoryBackend, LayeredBackend, RedisBackend
from fast_cache.backends.channel import Channel, Listener
from fast_cache.backends.layered.store import LayeredStore
from fast_cache.backends.redis.hearing import Hearing
from fast_cache.entry import Entry
from fast_cache.keys import address_of
from fast_cache.ports import run_blocking
from fast_cache.stats import Coherence
from fast_cache.testing import Flavour
from fast_cache.testing.contract import Mode
from tests.support.redis_server import RedisServer

ROOT: Final = Path(__file__).resolve().parents[2]

WITHIN: Final = 30.0
"""Seconds until something that must happen has failed: generous, since machines that run tests are busy."""

_BEGIN: Final = "import sys; from tests.support.tiers import main; main(sys.argv[1])"
"""Not as ``__main__``: its functions are to have the same names as ours."""


class TwoWays(RedisBackend):
    """A RedisBackend that hears of changes by way of another URL than it asks by."""

    def __init__(self, url: str, channel_url: str, channel_timeout: float | None = None, **options: Any) -> None:
        super().__init__(url, **options)
        if channel_timeout is not None:
            options["timeout"] = channel_timeout
        self.hears = RedisBackend(channel_url, **options)

    def engine_channel(self, listener: Listener, *, how: str | None, staleness: float) -> Channel:
        return self.hears.engine_channel(listener, how=how, staleness=staleness)

    def close(self) -> None:
        super().close()
        self.hears.close()

    async def aclose(self) -> None:
        await super().aclose()
        await self.hears.aclose()


def layered(
    url: str,
    channel_url: str | None = None,
    *,
    channel_timeout: float | None = None,
    namespace: str = "tiers",
    timeout: float = 10.0,
    copy: bool = False,
    user: str | None = None,
    **options: Any,
) -> LayeredBackend:
    """Two tiers, whose Redis may be silent for long: nothing is taken for an outage here, unless a test wants that."""
    if user is not None:
        url = url.replace("//", f"//{user}@")
    there: dict[str, Any] = {"namespace": namespace, "timeout": timeout}
    far = RedisBackend(url, **there) if channel_url is None else TwoWays(url, channel_url, channel_timeout, **there)
    return LayeredBackend(InMemoryBackend(copy=copy), far, **options)


def store_of(backend: LayeredBackend) -> LayeredStore:
    store = backend.engine_store()
    assert isinstance(store, LayeredStore)
    return store


def coherence(backend: LayeredBackend) -> Coherence:
    found = backend.stats().coherence
    assert found is not None
    return found


def copy_of(backend: LayeredBackend, key: str) -> Entry | None:
    """What local memory holds, and has not ended, of what a function stored under ``key``."""
    entry = store_of(backend)._near.entry(address_of(key))
    return None if entry is None or entry.is_over(time.monotonic()) else entry


def wait_for(condition: Callable[..., object], what: str) -> None:
    """Wait until ``condition`` holds. It is called without arguments."""
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, f"after {WITHIN:g} s this has not happened: {what}"
        time.sleep(0.001)  # between two looks


def all_told(backend: LayeredBackend) -> Callable[[], bool]:
    """Whether all was told that has happened until now: then no news of it is still to come, and drops a copy."""
    now = time.monotonic()
    return lambda: (store_of(backend)._watch._heard or 0.0) > now


def reads(server: RedisServer) -> int:
    """How often values were read, whole or in part."""
    lines = server.command("INFO", "commandstats").decode().splitlines()
    names = ("cmdstat_get:", "cmdstat_mget:")
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith(names))


class Worker:
    """Another process with two tiers; use it as a context manager.

    Args:
        url: of Redis.
        **options: of :class:`Served`, as far as JSON knows them.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._options = {"url": url, **options}

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, json.dumps(self._options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(WITHIN)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise

    def __call__(self, order: str, *args: Any, **kwargs: Any) -> Any:
        """Give an order, and wait for the answer."""
        self.begin(order, *args, **kwargs)
        return self.end()

    def begin(self, order: str, *args: Any, **kwargs: Any) -> None:
        """Give an order, and do not wait: :meth:`end` does."""
        assert self.process.stdin is not None
        print(json.dumps([order, args, kwargs]), file=self.process.stdin, flush=True)

    def end(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def is_sure(self) -> bool:
        """Whether it believes its copies at a glance."""
        return bool(self("coherence")["sure"])

    def until_sure(self) -> None:
        self("item", 0)  # by which it begins to listen
        wait_for(self.is_sure, "the process hears of changes")


class Served:
    """What such a process can be told to do; to be closed.

    ``item`` is a cached function with the tags ``item:{number}`` and ``all``, and ``named`` one of the namespace
    ``own`` with a key template and the tag ``late``, which it adds while it runs. What they return lies in Redis, under
    ``truth:{number}``, and its runs are counted.

    Args:
        url: of Redis.
        expire: for how long items live.
        truth_url: where what it returns lies, if not there.
        mode: what ``item`` is, and how everything else is called: ``def``, by the thread that calls a method here, or
            ``async def``, on an event loop of its own, while that thread waits.
        **options: of :func:`layered`.
    """

    def __init__(
        self, url: str, expire: float = 3600, *, truth_url: str | None = None, mode: Mode = "sync", **options: Any
    ) -> None:
        self.backend = layered(url, **options)
        self.cache = Cache()
        self.cache.init_app(FastAPI(), backend=self.backend)
        self.runs = 0
        self._url = url if truth_url is None else truth_url
        self._flavour = Flavour.of(mode)

        async def item(number: int) -> str:
            self.runs += 1
            # As over a client of asyncio, others have their turn while a task loads.
            return self.truth(number) if mode == "sync" else await asyncio.to_thread(self.truth, number)

        async def named(number: int) -> str:
            self.cache.current.tags.add("late")
            return self.truth(number)

        self.cached: Any = self.cache.cached(expire=expire, tags=("item:{number}", "all"))(self._flavour.function(item))
        keyed = self.cache.cached(expire=expire, key="named:{number}", namespace="own")
        self._functions: dict[str, Any] = {"item": self.cached, "named": keyed(self._flavour.function(named))}
        self._stop = threading.Event()
        self._busy: list[threading.Thread] = []
        self._loop = contextlib.ExitStack()
        self._portal = self._loop.enter_context(start_blocking_portal()) if mode == "async" else None

    def close(self) -> None:
        self.by_hand("close")
        self._loop.close()
        if "raw" in vars(self):
            self.raw.close()

    def _do(self, step: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        """Let the callers of this mode do something."""
        do = partial(step, *args, **kwargs)
        return run_blocking(do()) if self._portal is None else self._portal.call(do)

    @cached_property
    def raw(self) -> Any:
        import redis

        return redis.Redis.from_url(self._url)

    def truth(self, number: int) -> str:
        found: bytes | None = self.raw.get(f"truth:{number}")
        return "" if found is None else found.decode()

    def item(self, number: int) -> str:
        returned: str = self._do(self._flavour.call, self.cached, number)
        return returned

    def loads(self) -> int:
        return self.runs

    def change(self, number: int, value: str) -> float:
        """Let ``item`` be another value, and invalidate it: when that was completed, by the clock of all processes."""
        self.raw.set(f"truth:{number}", value)
        self.invalidate(number)
        return time.monotonic()

    def invalidate(self, number: int) -> bool:
        """Invalidate ``item``: whether that is confirmed, and something was there."""
        removed: bool = self._do(self._flavour.call, self.cached.invalidate, number)
        return removed

    def end_when_told(self) -> None:
        """Let this process end in the moment in which it knows that a change was made, and before it tells of it."""

        def end(*_: Any) -> None:
            os._exit(0)

        Hearing.tell = Hearing.answered = end  # type: ignore[assignment, method-assign]

    def raw_set(self, number: int, value: str) -> None:
        """Let ``item`` be another value, and tell nobody."""
        self.raw.set(f"truth:{number}", value)

    def refresh(self, number: int) -> str:
        refreshed: str = self._do(self._flavour.call, self.cached.refresh, number)
        return refreshed

    def tag(self, *tags: str, soft: bool = False) -> None:
        self._do(self._flavour.do, self.cache, "invalidate_tags", *tags, soft=soft)

    def by_hand(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._do(self._flavour.do, self.backend, method, *args, **kwargs)

    def get(self, key: str) -> Any:
        return self.by_hand("get", key)

    def set(self, key: str, value: Any) -> None:
        self.by_hand("set", key, value)

    def coherence(self) -> dict[str, Any]:
        return coherence(self.backend)._asdict()

    def held(self, number: int, of: str = "item") -> bool:
        """Whether there is a copy of what a function returned."""
        return copy_of(self.backend, self._functions[of].key(number)) is not None

    def named(self, number: int) -> str:
        returned: str = self._do(self._flavour.call, self._functions["named"], number)
        return returned

    def invalidate_all(self) -> None:
        self._do(self._flavour.call, self.cached.invalidate_all)

    def clear(self, namespace: str | None) -> None:
        self._do(self._flavour.do, self.cache, "clear", namespace)

    def template(self, template: str, **values: Any) -> None:
        self._do(self._flavour.do, self.cache, "invalidate", template, **values)

    def be_busy(self, threads: int, loops: int) -> None:
        """Let so many threads, and loops on threads of their own, use the cache; returns when all have, and go on."""
        ready = threading.Barrier(threads + loops + 1, timeout=WITHIN)

        def blocking(number: int) -> None:
            self.item(number)
            ready.wait()
            self._stop.wait()

        async def suspending(number: int) -> None:
            await self.backend.aset(f"by loop {number}", number)
            await self.backend.aget(f"by loop {number}")
            await asyncio.to_thread(blocking, number)

        self._busy = [threading.Thread(target=blocking, args=(number,)) for number in range(threads)]
        self._busy += [
            threading.Thread(target=lambda number=number: asyncio.run(suspending(number))) for number in range(loops)
        ]
        for thread in self._busy:
            thread.start()
        ready.wait()

    def rest(self) -> None:
        self._stop.set()
        for thread in self._busy:
            thread.join()

    def watch(self, seconds: float, number: int = 0) -> dict[str, float]:
        """Ask for an item all the time: of each value that was served, when a call for it began last."""
        last: dict[str, float] = {}
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            last[self.item(number)] = now
        return last

    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate()]


@contextlib.contextmanager
def sure(url: str, **options: Any) -> Iterator[Served]:
    """This process, with two tiers whose copies are believed."""
    with contextlib.closing(Served(url, **options)) as served:
        until_sure(served)
        yield served


def until_sure(served: Served) -> None:
    served.item(0)
    wait_for(lambda: coherence(served.backend).sure, "changes are heard of")


def warm(*processes: Any, number: int = 1) -> None:
    """Let each hold a copy."""
    for process in processes:
        call = process if isinstance(process, Worker) else lambda order, *args, p=process: getattr(p, order)(*args)
        wait_for(lambda call=call: call("item", number) is not None and call("held", number), "it holds a copy")


def forbid(server: RedisServer, name: str, *rights: str) -> str:
    """A user without these rights: what to write before the host in a URL."""
    server.command("ACL", "SETUSER", name, "reset", "on", ">secret", "~*", "&*", "+@all", *rights)
    return f"{name}:secret"


def main(options: str) -> None:
    served = Served(**json.loads(options))
    for line in sys.stdin:
        order, args, kwargs = json.loads(line)
        try:
            answer = {"result": getattr(served, order)(*args, **kwargs)}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)
    served.close()
