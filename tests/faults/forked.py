"""``python -m tests.faults.forked URL MODE TIERS``: a process that is forked while Redis is away.

It prints a line for each thing it has done, waits for a line after ``warm`` and after ``changed``, and ends with what
parent and child were served when Redis was back, in order: the child's, then its own. With two tiers, its own counts
from when it may serve nothing of what the child invalidated.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any

from fastapi import FastAPI

from fast_cache import Cache
from tests.faults.shop import until
from tests.faults.tiers import Tiers, lag

ITEMS = range(5)
PARENTS, CHILDS = ITEMS[:2], ITEMS[2:]
"""What each of them changes."""

LONGEST = 30.0
"""Seconds that it waits for Redis to be back."""


class Process(Tiers):
    """One side of the fork: functions over a backend, in one of the modes."""

    def __init__(self, url: str, mode: str, tiers: int) -> None:
        super().__init__(url, tiers, namespace="forked", timeout=0.25)
        self.lag = lag(tiers)
        self.value = "old"
        self.asked = 0
        cache = Cache()
        cache.init_app(FastAPI(), backend=self.backend)
        self.sync = mode == "sync"

        @cache.cached(expire=300)
        def blocking(item: int) -> str:
            self.asked += 1
            return self.value

        @cache.cached(expire=300)
        async def suspending(item: int) -> str:
            self.asked += 1
            return self.value

        self._blocking, self._suspending = blocking, suspending

    def read(self, items: range = ITEMS) -> set[str]:
        """What is served for these items."""
        if self.sync:
            return {self._blocking(item) for item in items}

        async def each() -> set[str]:
            return {await self._suspending(item) for item in items}

        return asyncio.run(each())

    def change(self, items: range) -> None:
        """Let the source say something new, and invalidate these."""
        self.value = "new"
        if self.sync:
            for item in items:
                self._blocking.invalidate(item)
            return

        async def each() -> None:
            for item in items:
                await self._suspending.invalidate(item)

        asyncio.run(each())

    def served_when_back(self) -> dict[str, Any]:
        """What is served until it comes from the cache again: of two tiers, from one that keeps up with Redis."""
        seen: set[str] = set()
        until = time.monotonic() + LONGEST
        while time.monotonic() < until:
            before = self.asked
            seen |= self.read()
            if self.asked == before and (not self.lag or (self.sure and not self.owes)):
                break
            time.sleep(0.005)
        return {"served": sorted(seen), "cached": self.asked == before and self.sure, "owes": self.owes}


def in_child(process: Process, told: Connection) -> None:
    """What the child does: some of the items are its own to change."""
    first = process.read(PARENTS)
    process.change(CHILDS)
    told.send("changed")
    told.send({**process.served_when_back(), "first": sorted(first)})


def main(url: str, mode: str, tiers: str) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # threads are what this is about
    process = Process(url, mode, int(tiers))
    process.served_when_back()
    say("warm")
    until(lambda: process.read() and process.away, "Redis is found to be away")
    process.change(PARENTS)
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=in_child, args=(process, theirs))
    child.start()
    assert ours.recv() == "changed"
    say("changed")
    process.value = "new"
    results = [ours.recv()]
    over = time.monotonic() + process.lag
    while time.monotonic() < over:
        process.read()
    results.append(process.served_when_back())
    child.join(LONGEST)
    print(json.dumps(results), flush=True)


def say(word: str) -> None:
    """Tell who started us, and wait until that one says go on."""
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
