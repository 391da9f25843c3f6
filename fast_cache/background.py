"""Work that goes on after its caller has been answered: refreshes, and loads that nobody waits for any more.

It is owned by the cache, bounded, named, and ends with the application: drained for a while, then cancelled. A job of
an event loop is a task of that loop; a job of a thread is a daemon thread, because a pool would keep the interpreter
from leaving while a load hangs.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final
from weakref import WeakSet

from fast_cache.once import logger

MOST_TASKS: Final = 1000
MOST_THREADS: Final = 32

URGENT: Final = 16
"""So many times as many of each may run where somebody waits for them."""

_BETWEEN_LOOKS: Final = 0.01

_TO_CANCEL: Final = 1.0
"""Seconds that cancelled tasks are given to end."""

Job = Callable[[], Coroutine[Any, Any, None]]
AtEnd = Callable[[], None]


def _nothing() -> None:
    """Nothing has to happen."""


class Background:
    """The jobs of one cache.

    A job is given with what has to happen when it has ended, come what may: also if it never took its first step.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads: set[threading.Thread] = set()
        _all.add(self)

    def __len__(self) -> int:
        """How many jobs are running."""
        return len(self._tasks) + len(self._threads)

    def forget(self) -> None:
        """After a fork: threads and loops are the parent's."""
        self._lock = threading.Lock()
        self._tasks = set()
        self._threads = set()

    def start_task(self, job: Job, name: str, at_end: AtEnd = _nothing, *, urgent: bool = False) -> bool:
        """Run ``job`` as a task of the running loop; False if there are too many already."""
        with self._lock:
            gone = {task for task in self._tasks if task.get_loop().is_closed()}
            self._tasks -= gone
            if len(self._tasks) >= MOST_TASKS * (URGENT if urgent else 1):
                return False
        # Without the lock: an eager task runs the user's code at once.
        task = asyncio.get_running_loop().create_task(job(), name=name)
        with self._lock:
            self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            with self._lock:
                self._tasks.discard(task)
            at_end()
            if not task.cancelled() and (error := task.exception()) is not None:
                _report(name, error)

        task.add_done_callback(ended)
        return True

    def start_thread(
        self,
        job: Job,
        name: str,
        run: Callable[[Coroutine[Any, Any, None]], None],
        at_end: AtEnd = _nothing,
        *,
        urgent: bool = False,
    ) -> bool:
        """Run ``job`` by ``run`` on a thread of its own; False if there are too many, or none can be had."""
        context = contextvars.copy_context()
        jobs = [job]  # taken out, because the traceback of an error would lead back to it

        def work() -> None:
            try:
                context.run(run, jobs.pop()())
            except asyncio.CancelledError:
                pass  # it ended as a task of that kind would
            except Exception as error:
                _report(name, error)
            finally:
                at_end()
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=work, name=name, daemon=True)
        with self._lock:
            if len(self._threads) >= MOST_THREADS * (URGENT if urgent else 1):
                return False
            self._threads.add(thread)
        try:
            thread.start()  # without the lock, because it waits for the thread
        except RuntimeError:  # the system has no more, or the interpreter is about to end
            with self._lock:
                self._threads.discard(thread)
            return False
        return True

    async def drain(self, within: float) -> None:
        """Wait ``within`` seconds at most for the jobs of this loop and of threads; then cancel those that can be."""
        deadline = monotonic() + within
        loop = asyncio.get_running_loop()
        mine = [task for task in list(self._tasks) if task.get_loop() is loop]
        if mine:
            _, late = await asyncio.wait(mine, timeout=within)
            for task in late:
                task.cancel()
            if late:
                logger.warning(f"{len(late)} refreshes are cancelled, because the application stops")
                await asyncio.wait(late, timeout=_TO_CANCEL)
        # Looking now and then, because joining takes a thread, and the hanging ones may have taken them all.
        while any(thread.is_alive() for thread in list(self._threads)) and monotonic() < deadline:
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(_BETWEEN_LOOKS)


_all: WeakSet[Background] = WeakSet()


def _after_fork() -> None:
    for background in list(_all):
        background.forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _report(name: str, error: BaseException) -> None:
    """A job that raises is a defect: what a load raises is an outcome, and was seen to."""
    logger.error(f"{name} failed with {type(error).__name__}; this is a defect in fast_cache, please report it")
