"""Processes with two tiers each over one Redis: one changes things, the others note when their copies are dropped.

Each is asked over a pipe and answers there. ``time.monotonic_ns`` is one clock for all processes of a machine, so that
the moment of an acknowledged write in one can be compared with that of a drop in another.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from fastapi import FastAPI

from fast_cache import Cache, LayeredBackend, RedisBackend
from fast_cache.backends.channel import News
from fast_cache.serializers import name_digest
from tests.benchmarks.placement import pin

Name = str | bytes
"""What is told of a change: a key, or the digest of a tag."""

BY_FUNCTION, BY_HAND, BY_TAG = "invalidate", "set", "invalidate_tags"
KINDS = (BY_FUNCTION, BY_HAND, BY_TAG)

LIFETIME = 600
WITHIN = 30.0
"""Seconds for whatever has to happen."""

PAUSE = (0.001, 0.004)
"""Seconds, of random length, before each change."""

BURST = (0.0005, 0.005)
"""Seconds, of random length, for which a busy processor works without a rest."""


PRELOADED = ["tests.benchmarks.__main__", "redis.asyncio"]
"""What every process needs, imported once."""


class MemberFailed(RuntimeError):
    """A process did not do what it was asked; the message holds what is known."""


class Member:
    """One process of several."""

    def __init__(self, url: str) -> None:
        self._backend = LayeredBackend(l2=RedisBackend(url, namespace="coherence", timeout=5))
        self._cache = cache = Cache()
        cache.init_app(FastAPI(), backend=self._backend)

        @cache.cached(expire=LIFETIME)
        def item(number: int) -> int:
            return number

        @cache.cached(expire=LIFETIME, tags=("item:{number}",))
        def tagged(number: int) -> int:
            return number

        self._item, self._tagged = item, tagged
        self._asked = 0
        self._dropped: dict[Name, int] = {}
        self._load = Load()
        self._hook()

    def hold(self, kind: str, numbers: Sequence[int]) -> None:
        """Have a copy of each in local memory."""
        for number in numbers:
            self._read(kind, number)
        _await(lambda: self._asks(kind, numbers) == 0, "copies are not held")
        self._dropped.clear()

    def change(self, kind: str, numbers: Sequence[int], seed: int) -> dict[Name, int]:
        """Change each; returns when that was acknowledged."""
        pauses = random.Random(seed)
        acknowledged: dict[Name, int] = {}
        for number in numbers:
            name = self._name(kind, number)
            time.sleep(pauses.uniform(*PAUSE))
            if kind == BY_FUNCTION:
                self._item.invalidate(number)
            elif kind == BY_HAND:
                self._backend.set(f"by hand {number}", -number, LIFETIME)
            else:
                self._cache.invalidate_tags(f"item:{number}")
            acknowledged[name] = time.monotonic_ns()
        return acknowledged

    def dropped(self, kind: str, numbers: Sequence[int]) -> dict[Name, int]:
        """When the copy of each was dropped; each is found to be gone."""
        names = {self._name(kind, number) for number in numbers}
        _await(lambda: names <= self._dropped.keys(), "changes are not heard of")
        seen = {name: self._dropped[name] for name in names}
        asks = self._asks(kind, numbers)
        if asks != len(numbers):
            raise MemberFailed(f"{len(numbers) - asks} of {len(numbers)} copies were still served")
        return seen

    def busy(self, share: float) -> None:
        """Keep the interpreter of this process busy for a ``share`` of the time, from now on; 0 ends that."""
        self._load.busy(share)

    def close(self) -> None:
        self._load.close()
        self._backend.close()

    def _read(self, kind: str, number: int) -> None:
        if kind == BY_FUNCTION:
            self._item(number)
        elif kind == BY_TAG:
            self._tagged(number)
        elif self._backend.get(f"by hand {number}") is None:
            self._backend.set(f"by hand {number}", number, LIFETIME)

    def _asks(self, kind: str, numbers: Sequence[int]) -> int:
        """Read each; returns for how many Redis was asked."""
        before = self._asked
        for number in numbers:
            self._read(kind, number)
        return self._asked - before

    def _name(self, kind: str, number: int) -> Name:
        if kind == BY_FUNCTION:
            return self._item.key(number)
        return f"by hand {number}" if kind == BY_HAND else name_digest(f"item:{number}")

    def _hook(self) -> None:
        """Note the time whenever something was dropped, and count what is read from Redis."""
        store: Any = self._backend.engine_store()
        far: Any = self._backend.l2.engine_store()
        learn, read = store.learn, far.read

        def learned(news: News) -> None:
            learn(news)
            now = time.monotonic_ns()
            names: list[Name] = [*news.keys, *news.tags]
            for name in names:
                self._dropped.setdefault(name, now)

        def counted(*arguments: Any, **options: Any) -> Any:
            self._asked += 1
            return read(*arguments, **options)

        store.learn, far.read = learned, counted


class Load:
    """A thread that works for a part of the time.

    Args:
        cpu: the one to pin this process to.
    """

    def __init__(self, cpu: int | None = None) -> None:
        if cpu is not None:
            pin(os.getpid(), cpu)
        self._over: threading.Event | None = None

    def busy(self, share: float) -> None:
        """Work for a ``share`` of the time, from now on; 0 ends that."""
        self.close()
        if share:
            self._over = threading.Event()
            self._thread = threading.Thread(target=work, args=(share, self._over.wait), daemon=True)
            self._thread.start()

    def close(self) -> None:
        if self._over is not None:
            self._over.set()
            self._thread.join()
            self._over = None


def work(share: float, rest: Callable[[float], bool]) -> None:
    """Work in bursts, until ``rest``, which waits for so many seconds, says that it is over."""
    lengths = random.Random(1)
    while True:
        burst = lengths.uniform(*BURST)
        end = time.monotonic() + burst
        while time.monotonic() < end:
            sum(range(100))
        if rest(burst * (1 / share - 1)):
            return


class Process:
    """A member in a process of its own.

    Args:
        make: makes it there, of ``arguments``.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
        self._process.start()
        there.close()

    def ask(self, what: str, *arguments: Any) -> None:
        self._pipe.send((what, arguments))

    def answer(self) -> Any:
        """What it answered to what was asked first.

        Raises:
            MemberFailed: it raised, or ended.
        """
        try:
            if not self._pipe.poll(2 * WITHIN):
                raise MemberFailed("a process does not answer")
            succeeded, result = self._pipe.recv()
        except EOFError:
            raise MemberFailed("a process ended") from None
        if not succeeded:
            raise MemberFailed(result)
        return result

    def end(self) -> None:
        with suppress(OSError):
            self._pipe.send(("close", ()))
        self._pipe.close()
        self._process.join(WITHIN)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def ask_all(processes: Sequence[Process], what: str, *arguments: Any) -> list[Any]:
    """What each answers; all work at the same time."""
    for process in processes:
        process.ask(what, *arguments)
    return [process.answer() for process in processes]


def delays(acknowledged: Mapping[Name, int], dropped: Mapping[Name, int]) -> list[int]:
    """Nanoseconds from each acknowledged change to the drop; 0 where the copy was gone before."""
    return [max(0, dropped[name] - at) for name, at in acknowledged.items()]


def _serve(pipe: Connection, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
    member = make(*arguments)
    with suppress(EOFError, OSError):
        while True:
            what, given = pipe.recv()
            try:
                answer = True, getattr(member, what)(*given)
            except Exception:
                answer = False, traceback.format_exc()
            if what == "close":
                return
            pipe.send(answer)


def _await(condition: Callable[[], bool], trouble: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise MemberFailed(f"{trouble} after {WITHIN:g} s")
        time.sleep(0.01)  # between two looks
