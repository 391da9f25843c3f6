"""An application that caches in Redis or in two tiers, the source that it asks, and callers who keep asking and judge.

Callers ask for as long as the shop is open, in three ways: an endpoint over HTTP, a cached function, and one whose
results have tags. Somebody changes items all the while, and invalidates what is cached of them. When the shop closes,
every request must have succeeded, none may have brought anything older than what had been invalidated before it began,
nobody may have waited for longer than Redis may be silent, and nobody twice for the same outage: wherever Redis was
meanwhile.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from fast_cache import Cache
from fast_cache.testing import PATIENCE
from tests.faults.tiers import Tiers
from tests.faults.truth import Truth

Mode = Literal["sync", "async"]
Way = Literal["endpoint", "function", "tagged"]

MODES: Final[tuple[Mode, ...]] = ("sync", "async")
WAYS: Final[tuple[Way, ...]] = ("endpoint", "function", "tagged")

in_both_modes = pytest.mark.parametrize("mode", MODES)
"""Functions and endpoints are ``def``, called by threads, or ``async def``, called by tasks."""

CHANGING: Final = range(8)
"""Items that are changed while callers ask for them."""

STEADY: Final = range(8, 12)
"""Items that never change: whether they are served from the cache tells whether there is one."""

EACH: Final = 3
"""Callers for each way."""

_PAUSE: Final = 0.004
"""Seconds between two requests of a caller: enough to leave the machine room for the servers."""

_BETWEEN_CHANGES: Final = 0.02

TIMEOUT: Final = 0.25
"""Seconds: how long Redis may be silent, as is the default."""

LENIENT: Final = 20.0
"""Seconds, where nothing may be taken for an outage, however busy the machine."""

BACK: Final = 1.0
"""Seconds from the return of Redis to normal service, at most."""

SLACK: Final = 12.0
"""Seconds more for a machine on which tests compete for processors: what hangs takes longer, and how long it takes on a
quiet one is for ``make bench ARGS=faults`` to say."""

_OTHERS: Final = 4
"""Who asks Redis beside the callers: who changes items, the test, the watch, and who reclaims."""


@dataclass
class Judgement:
    """What callers saw."""

    requests: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    """When each request began, and how long it took: seconds."""
    changes: list[float] = field(default_factory=list)
    """How long each change took, with its invalidations."""
    losses: Counter[int] = field(default_factory=Counter)
    """How many batches Redis did not answer, by the number of its turns before they were sent."""
    failed: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def slowest(self) -> float:
        """The longest wait, of requests and of changes."""
        return max([*(took for _, took in self.waits), *self.changes], default=0.0)


class Shop(Tiers):
    """An application over one backend. Use it as a context manager: callers ask while it is open.

    Args:
        url: where Redis is, or where it should be.
        mode: whether its functions block or suspend.
        truth: what the source says; shared with other processes where that is given.
        tiers: how many it caches in.
        callers: for each way.
        changes: whether items are changed all the while.
        timeout: how long Redis may be silent, and anybody wait for it; where it is ``LENIENT``, Redis always answers,
            and nobody may wait for that.
        **options: more for the backend.
    """

    def __init__(
        self,
        url: str,
        mode: Mode,
        *,
        truth: Truth | None = None,
        tiers: int = 1,
        callers: int = EACH,
        changes: bool = True,
        timeout: float = TIMEOUT,
        **options: Any,
    ) -> None:
        super().__init__(url, tiers, namespace="faults", timeout=timeout, **options)
        self.truth = truth if truth is not None else Truth()
        self.asked: Counter[tuple[Way, int]] = Counter()
        """How often the source was asked, by way and item."""
        self.seen = Judgement()
        self.cache = Cache()
        self.app = FastAPI()
        self.cache.init_app(self.app, backend=self.backend)
        self._longest = (timeout if timeout < LENIENT else 0.0) + SLACK
        nodes = 3 if "cluster" in url else 1
        self._most_losses = nodes * (len(WAYS) * callers + _OTHERS)
        self._count_losses()
        self._mode = mode
        self._floors = dict.fromkeys([*CHANGING, *STEADY], 0)
        self._lock = threading.Lock()
        self._progress: Counter[int] = Counter()
        self._callers = callers
        self._changes = changes
        self._closing = threading.Event()
        self._working: list[concurrent.futures.Future[None]] = []
        self._loop = asyncio.new_event_loop()
        self._loop_runs = threading.Thread(target=self._loop.run_forever, name="shop", daemon=True)
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://shop")
        self.functions: dict[Way, Any] = self._blocking() if mode == "sync" else self._suspending()

    def _count_losses(self) -> None:
        breaker = self.redis._link._breaker
        lost = breaker.lost

        def counted(epoch: int) -> bool:
            with self._lock:
                self.seen.losses[epoch] += 1
            return lost(epoch)

        breaker.lost = counted  # type: ignore[method-assign]

    def _blocking(self) -> dict[Way, Any]:
        @self.app.get("/items/{item}")
        @self.cache.cached(expire=300)
        def endpoint(item: int) -> int:
            return self._read("endpoint", item)

        @self.cache.cached(expire=300)
        def function(item: int) -> int:
            return self._read("function", item)

        @self.cache.cached(expire=300, tags=("item:{item}",))
        def tagged(item: int) -> int:
            return self._read("tagged", item)

        return {"endpoint": endpoint, "function": function, "tagged": tagged}

    def _suspending(self) -> dict[Way, Any]:
        @self.app.get("/items/{item}")
        @self.cache.cached(expire=300)
        async def endpoint(item: int) -> int:
            return self._read("endpoint", item)

        @self.cache.cached(expire=300)
        async def function(item: int) -> int:
            return self._read("function", item)

        @self.cache.cached(expire=300, tags=("item:{item}",))
        async def tagged(item: int) -> int:
            return self._read("tagged", item)

        return {"endpoint": endpoint, "function": function, "tagged": tagged}

    def _read(self, way: Way, item: int) -> int:
        with self._lock:
            self.asked[way, item] += 1
        return self.truth.version(item)

    @property
    def turns(self) -> int:
        """How often Redis was found to be away or back: twice for each outage that is over."""
        return self.redis._link._breaker.epoch

    @property
    def trouble(self) -> int:
        """How often Redis could not do what it was asked, or was not asked because it is away."""
        return self.backend.engine_store().health.failures

    def ask(self, way: Way, item: int) -> int:
        """Ask for one item as callers do, from the thread of the test."""
        if self._mode == "sync" and way != "endpoint":
            return self._judged(way, item)
        return int(self._on_loop(self._asked_by_task(way, item)))

    def change(self, item: int) -> None:
        """Let the source say something new, and invalidate what is cached of the item, in every way."""
        if self._mode == "sync":
            self.change_by_thread(item)
        else:
            self._on_loop(self.change_by_task(item))

    def change_all(self) -> None:
        """Change each item that changes."""
        for item in CHANGING:
            self.change(item)

    def clear(self) -> None:
        """Change every item, and clear the whole cache."""
        began = time.monotonic()
        versions = {item: self.truth.advance(item) for item in CHANGING}
        if self._mode == "sync":
            self.backend.clear()
        else:
            self._on_loop(self.backend.aclear())
        for item, version in versions.items():
            self._completed(began, item, version)

    def delete_others(self, number: int) -> None:
        """Invalidate so many keys under which there is nothing."""

        async def each() -> None:
            for other in range(number):
                await self.backend.adelete(f"other:{other}")

        if self._mode == "async":
            self._on_loop(each())
            return
        for other in range(number):
            self.backend.delete(f"other:{other}")

    def recovered(self, way: Way) -> bool:
        """Whether Redis is asked again; that is found out behind somebody who asks for what was not cached."""
        self.ask(way, CHANGING[-1])
        return not self.away

    def is_cached(self, way: Way, item: int) -> bool:
        """Whether one request more, and another one, cost no question to the source."""
        self.ask(way, item)
        before = self.asked[way, item]
        self.ask(way, item)
        return self.asked[way, item] == before

    def until_cached(self) -> None:
        """Wait until what does not change is served from the cache, in every way."""
        for way, item in itertools.product(WAYS, STEADY):
            until(partial(self.is_cached, way, item), f"{way} {item} is served from the cache")

    def until_back(self) -> None:
        """Wait until what does not change is served from the cache again; from now on Redis is there.

        Raises:
            AssertionError: that took too long.
        """
        began = time.monotonic()
        self.until_cached()
        took = time.monotonic() - began
        assert took <= BACK + SLACK, f"normal service began after {took:.1f} s"

    def until_away(self) -> None:
        """Wait until Redis is found to be away."""
        until(lambda: self.away, "Redis is found to be away")

    def go_on(self, requests: int = 20) -> None:
        """Wait until every caller has asked so often more, from now on."""
        goals = {caller: count + requests + 1 for caller, count in enumerate(self._counts())}
        until(lambda: all(self._progress[caller] >= goal for caller, goal in goals.items()), "every caller has gone on")

    def _counts(self) -> list[int]:
        return [self._progress[caller] for caller in range(len(WAYS) * self._callers)]

    def __enter__(self) -> Self:
        self._loop_runs.start()
        numbers = itertools.count()
        for way in WAYS:
            for _ in range(self._callers):
                number = next(numbers)
                if self._mode == "sync" and way != "endpoint":
                    self._begin_thread(partial(self._asking_thread, way, number))
                else:
                    self._begin_task(self._asking_task(way, number))
        if self._changes and self._mode == "sync":
            self._begin_thread(self._changing_thread)
        elif self._changes:
            self._begin_task(self._changing_task())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for work in self._working:
            with contextlib.suppress(Exception) if kind is not None else contextlib.nullcontext():
                work.result(PATIENCE)
        self._on_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_runs.join(PATIENCE)
        self._loop.close()
        self.backend.close()
        if kind is None:
            assert not self.seen.failed, f"{len(self.seen.failed)} requests failed: {self.seen.failed[:5]}"
            assert not self.seen.stale, f"{len(self.seen.stale)} were stale: {self.seen.stale[:5]}"
            assert self.seen.slowest() <= self._longest, f"somebody waited for {self.seen.slowest():.1f} s"
            losses = max(self.seen.losses.values(), default=0)
            assert losses <= self._most_losses, f"{losses} were not answered in one outage: somebody twice"

    async def _close(self) -> None:
        await self._http.aclose()
        await self.cache._binding.background.drain(PATIENCE)
        await self.backend.aclose()
        await self._loop.shutdown_default_executor()
        await self._loop.shutdown_asyncgens()

    def _on_loop(self, step: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(2 * PATIENCE)

    def _begin_task(self, step: Coroutine[Any, Any, None]) -> None:
        self._working.append(asyncio.run_coroutine_threadsafe(step, self._loop))

    def _begin_thread(self, work: Callable[[], None]) -> None:
        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            try:
                work()
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="caller", daemon=True).start()
        self._working.append(future)

    def _asking_thread(self, way: Way, number: int) -> None:
        for item in self._wishes(number):
            self._judged(way, item)
            self._progress[number] += 1
            time.sleep(_PAUSE)

    async def _asking_task(self, way: Way, number: int) -> None:
        for item in self._wishes(number):
            await self._asked_by_task(way, item)
            self._progress[number] += 1
            await asyncio.sleep(_PAUSE)

    def _wishes(self, number: int) -> Iterator[int]:
        """Which items a caller asks for, until the shop closes."""
        dice = random.Random(number)
        while not self._closing.is_set():
            yield dice.choice(CHANGING)

    def _changing_thread(self) -> None:
        for item in self._wishes(-1):
            self.change_by_thread(item)
            time.sleep(_BETWEEN_CHANGES)

    async def _changing_task(self) -> None:
        for item in self._wishes(-1):
            await self.change_by_task(item)
            await asyncio.sleep(_BETWEEN_CHANGES)

    def _judged(self, way: Way, item: int) -> int:
        floor, began = self._floors[item], time.monotonic()
        try:
            value: int | Exception = int(self.functions[way](item))
        except Exception as error:
            value = error
        return self._judge(way, item, floor, began, value)

    async def _asked_by_task(self, way: Way, item: int) -> int:
        floor, began = self._floors[item], time.monotonic()
        try:
            value: int | Exception = await self._answer(way, item)
        except Exception as error:
            value = error
        return self._judge(way, item, floor, began, value)

    async def _answer(self, way: Way, item: int) -> int:
        if way == "endpoint":
            response = await self._http.get(f"/items/{item}")
            response.raise_for_status()
            return int(response.json())
        return int(await self.functions[way](item))

    def _judge(self, way: Way, item: int, floor: int, began: float, value: int | Exception) -> int:
        with self._lock:
            self.seen.requests += 1
            self.seen.waits.append((began, time.monotonic() - began))
            if isinstance(value, Exception):
                self.seen.failed.append(f"{way} {item}: {value!r}")
                return -1
            if value < floor:
                self.seen.stale.append(f"{way} {item}: {value} after {floor} at {began:.3f}")
            return value

    def change_by_thread(self, item: int) -> int:
        """Change ``item``, and return the version that it now has."""
        began, version = time.monotonic(), self.truth.advance(item)
        for way in ("endpoint", "function"):
            self.functions[way].invalidate(item)
        self.cache.invalidate_tags(f"item:{item}")
        self._completed(began, item, version)
        return version

    async def change_by_task(self, item: int) -> int:
        """The same, awaiting."""
        began, version = time.monotonic(), self.truth.advance(item)
        for way in ("endpoint", "function"):
            await self.functions[way].invalidate(item)
        await self.cache.ainvalidate_tags(f"item:{item}")
        self._completed(began, item, version)
        return version

    def _completed(self, began: float, item: int, version: int) -> None:
        with self._lock:
            self.seen.changes.append(time.monotonic() - began)
            self._floors[item] = max(self._floors[item], version)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition`` holds.

    Raises:
        AssertionError: it did not within ``PATIENCE``; the message is ``what``.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"after {PATIENCE:g} s this has not happened: {what}"
        time.sleep(0.002)  # between two looks
