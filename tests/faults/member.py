"""One of several processes that cache what a common source says, and change it.

It changes items of its own all the while and invalidates them, and asks for those of everybody. What it is comes from
the environment: ``MEMBER_REDIS``, ``MEMBER_FOLDER``, ``MEMBER_NUMBER`` of ``MEMBER_COUNT``, and ``MEMBER_WAITS`` where
replicas are to acknowledge. It is told by lines what to do, and answers each by one.

What others need to know if it is killed lies in the folder: what the source says, what was acknowledged, and when.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI

from fast_cache import Cache, RedisBackend
from fast_cache.errors import BackendError
from fast_cache.ports import BLOCKING, run_blocking
from tests.faults.shop import TIMEOUT
from tests.faults.truth import Truth

ITEMS: Final = 120
"""Of all members together."""

_BETWEEN_READS: Final = 0.002
_BETWEEN_CHANGES: Final = 0.01
_BETWEEN_LOOKS: Final = 0.002
"""Seconds, of each member."""

cache = Cache()
source = Truth(items=ITEMS)
"""In a member, this is what it shares with the others."""


@cache.cached(expire=3600)
def load(item: int) -> Any:  # which by its key alone can be read, too
    return source.version(item)


@dataclass(frozen=True)
class Folder:
    """What members share, and leave behind."""

    path: Path

    @property
    def truth(self) -> Truth:
        """What the source says."""
        return Truth(self.path / "truth", ITEMS)

    @property
    def floors(self) -> Truth:
        """What was invalidated, as far as that was acknowledged: nothing older may be served."""
        return Truth(self.path / "floors", ITEMS)

    def acknowledged(self, number: int) -> Path:
        """A line for each invalidation of a member: when, the item, its version."""
        return self.path / f"acknowledged-{number}"

    def all_acknowledged(self) -> Iterator[tuple[float, int, int]]:
        """Those of all members."""
        for path in self.path.glob("acknowledged-*"):
            for line in path.read_text().splitlines():
                at, item, version = line.split()
                yield float(at), int(item), int(version)


def backend_at(url: str, **options: Any) -> RedisBackend:
    """A backend that finds what the others store."""
    return RedisBackend(url, namespace="residue", timeout=TIMEOUT, **options)


class Member:
    """What one process does, by a thread that changes and one that reads."""

    def __init__(self, url: str, folder: Folder, number: int, count: int, waits: int | None) -> None:
        self.backend = backend_at(url, wait_for_replicas=waits)
        cache.init_app(FastAPI(), backend=self.backend)
        own = range(number, ITEMS, count)
        self._once = own[: len(own) // 2]
        self._often = own[len(own) // 2 :]
        self._truth, self._floors = folder.truth, folder.floors
        globals()["source"] = self._truth
        self._acknowledged = folder.acknowledged(number).open("w", buffering=1)
        self._dice = random.Random(number)
        self._ending = threading.Event()
        self._changing = threading.Lock()
        self.stale: list[tuple[float, float, int]] = []
        """When such a read began and ended, and the item."""
        self.failed: list[str] = []
        self.unacknowledged = 0
        self.turns: list[tuple[float, bool]] = []
        """When Redis was found to be away, or back."""
        self.reads = 0

    def change(self, item: int) -> None:
        """Let the source say something new of an item, and invalidate it."""
        with self._changing:
            version = self._truth.advance(item)
            try:
                run_blocking(self.backend._store.delete(BLOCKING, load.key(item)))
            except BackendError:  # its caller would learn nothing: it is owed
                self.unacknowledged += 1
                return
            self._floors.note(item, version)
            print(time.monotonic(), item, version, file=self._acknowledged)

    def change_once(self) -> None:
        """Change what is not changed all the while."""
        for item in self._once:
            self.change(item)

    def read(self, item: int) -> None:
        """Ask for an item, and judge the answer."""
        floor, began = self._floors.version(item), time.monotonic()
        value = load(item)
        self.reads += 1
        if value < floor:
            self.stale.append((began, time.monotonic(), item))

    def state(self) -> dict[str, Any]:
        """How things are now."""
        link = self.backend._link
        return {"away": link._breaker.is_open, "owes": link._invalidations.pending, "failed": self.failed}

    def report(self) -> dict[str, Any]:
        """What has been seen."""
        return {
            "stale": self.stale,
            "failed": self.failed,
            "unacknowledged": self.unacknowledged,
            "turns": self.turns,
            "reads": self.reads,
        }

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """In here it goes on."""
        steps = {
            self._change_on: _BETWEEN_CHANGES,
            self._read_on: _BETWEEN_READS,
            self._watch_on: _BETWEEN_LOOKS,
        }
        threads = [threading.Thread(target=self._until_end, args=work) for work in steps.items()]
        for thread in threads:
            thread.start()
        yield
        self._ending.set()
        for thread in threads:
            thread.join()
        self.backend.close()

    def _until_end(self, step: Callable[[], None], pause: float) -> None:
        while not self._ending.is_set():
            try:
                step()
            except Exception as error:
                self.failed.append(repr(error))
            time.sleep(pause)

    def _change_on(self) -> None:
        self.change(self._dice.choice(self._often))

    def _read_on(self) -> None:
        self.read(self._dice.randrange(ITEMS))

    def _watch_on(self) -> None:
        away = self.backend._link._breaker.is_open
        if not self.turns or self.turns[-1][1] != away:
            self.turns.append((time.monotonic(), away))


def main() -> None:
    """Do what lines on the standard input say, until one says ``end``."""
    folder = Folder(Path(os.environ["MEMBER_FOLDER"]))
    number, count, waits = (int(os.environ[f"MEMBER_{name}"]) for name in ("NUMBER", "COUNT", "WAITS"))
    member = Member(os.environ["MEMBER_REDIS"], folder, number, count, waits or None)
    with member.at_work():
        for line in map(str.strip, sys.stdin):
            if line == "end":
                break
            if line == "change once":
                member.change_once()
            print(json.dumps(member.state()), flush=True)
    print(json.dumps(member.report()), flush=True)
