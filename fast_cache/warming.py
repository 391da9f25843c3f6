"""Loading many keys before anybody asks: concurrently, bounded, with a report of what failed."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import anyio

from fast_cache.counts import count
from fast_cache.errors import InvalidTypeError

Progress = Callable[[int, int], object]
"""Called with how many keys are done, and how many there are."""


@dataclass(frozen=True)
class WarmupReport:
    """What became of a warm-up.

    Attributes:
        loaded: the keys whose loader ran.
        present: the keys that were there already.
        failed: the keys whose loader raised, each with the exception; a loader that was cancelled is here with a
            ``concurrent.futures.CancelledError``.
    """

    loaded: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)

    def note(self, key: str, *, ran: bool, error: Exception | None) -> None:
        """Enter what became of one key."""
        if error is not None:
            self.failed[key] = error
        else:
            (self.loaded if ran else self.present).append(key)


def warm(
    get_or_set: Callable[[str, Callable[[], Any]], Any],
    loaders: Mapping[str, Callable[[], Any]],
    concurrency: int,
    progress: Progress | None,
) -> WarmupReport:
    """Load on threads, each in a copy of the caller's context. What ``progress`` raises ends it."""
    _check(loaders, concurrency)
    report = WarmupReport()
    if not loaders:
        return report

    errors: dict[str, Exception] = {}  # not in the futures, which their tracebacks lead to

    def load(key: str) -> tuple[str, bool]:
        loader = _Once(loaders[key])
        try:
            get_or_set(key, loader.call)
        except asyncio.CancelledError as error:
            errors[key] = _cancelled(error)
        except Exception as error:
            errors[key] = error
        return key, loader.ran

    with ThreadPoolExecutor(min(concurrency, len(loaders)), "fast_cache warm-up") as pool:
        try:
            futures = [pool.submit(copy_context().run, load, key) for key in loaders]
            for done, future in enumerate(as_completed(futures), start=1):
                key, ran = future.result()
                report.note(key, ran=ran, error=errors.pop(key, None))
                if progress is not None:
                    progress(done, len(loaders))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return report


async def awarm(
    aget_or_set: Callable[[str, Callable[[], Any]], Awaitable[Any]],
    loaders: Mapping[str, Callable[[], Any]],
    concurrency: int,
    progress: Progress | None,
) -> WarmupReport:
    """Load in tasks. If it is cancelled, or ``progress`` raises, so are they."""
    _check(loaders, concurrency)
    report = WarmupReport()
    waiting: Iterator[str] = iter(loaders)  # shared by the workers: each takes the next one
    # The traceback of an error leads to the frames below, and these to the lists: they are emptied in the end.
    done: deque[tuple[str, bool, Exception | None]] = deque()
    ended: list[Exception] = []  # what progress raised

    async def work() -> None:
        for key in waiting:
            done.append(await _attempt(aget_or_set, key, loaders[key]))
            try:
                if progress is not None:
                    progress(len(done), len(loaders))
            except Exception as error:
                ended.append(error)
                group.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as group:
        for _ in range(min(concurrency, len(loaders))):
            group.start_soon(work)
    while done:
        key, ran, error = done.popleft()
        report.note(key, ran=ran, error=error)
    if ended:
        raise ended.pop()
    return report


async def _attempt(
    aget_or_set: Callable[[str, Callable[[], Any]], Awaitable[Any]], key: str, load: Callable[[], Any]
) -> tuple[str, bool, Exception | None]:
    """Load one key: whether its loader ran, and what it raised."""
    loader = _Once(load)
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        await aget_or_set(key, loader.acall)
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        return key, loader.ran, _cancelled(error)  # of something that the loader awaits
    except Exception as error:
        return key, loader.ran, error
    return key, loader.ran, None


def _cancelled(error: asyncio.CancelledError) -> Exception:
    failure = CancelledError("the loader was cancelled")
    failure.__cause__ = error
    return failure


class _Once:
    """A loader that knows whether it was called."""

    def __init__(self, loader: Callable[[], Any]) -> None:
        self._loader = loader
        self.ran = False

    def call(self) -> Any:
        self.ran = True
        return self._loader()

    async def acall(self) -> Any:
        self.ran = True
        result = self._loader()
        return await result if inspect.isawaitable(result) else result


def _check(loaders: object, concurrency: object) -> None:
    if not isinstance(loaders, Mapping):
        raise InvalidTypeError("warmup takes a dict of keys and their loaders")
    count(concurrency, option="concurrency")
    for loader in loaders.values():
        if not callable(loader):
            raise InvalidTypeError(f"a loader must be a function without arguments, not a {type(loader).__name__}")
