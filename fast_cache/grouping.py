"""Single calls that come within a short time of each other become one batch: the idea of Facebook's DataLoader (2010,
published 2015).

Calls are grouped only where they agree in everything but the element. The first of a group waits for the window to
pass, or for the group to be full; each caller gets the outcome of its own element, and one that goes away harms nobody.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from fast_cache.batches import Outcomes
from fast_cache.outcome import Outcome

Run = Callable[[list[Hashable]], Coroutine[Any, Any, Outcomes]]
"""Answers for several elements at once."""

Again = Callable[[Outcome], Outcome]
"""Makes the outcome anew for one more caller of the same element, so that none sees what another does to it."""


class AsyncGroups:
    """Groups of tasks. Each belongs to the event loop of its callers."""

    def __init__(self, window: float, most: int | None) -> None:
        self._window = window
        self._most = most
        self._open: dict[Hashable, _TaskGroup] = {}
        self._running: set[asyncio.Task[None]] = set()  # the loop holds its tasks weakly only

    async def answer(self, alike: Hashable, element: Hashable, run: Run, again: Again) -> Outcome:
        """The outcome of ``element``, in a batch with those whose calls are ``alike``."""
        loop = asyncio.get_running_loop()
        name = (id(loop), alike)
        group = self._open.get(name)
        if group is None or group.loop is not loop:
            group = self._open[name] = _TaskGroup(loop, run, again)
            group.timer = loop.call_later(self._window, self._close, name, group)
        future = group.add(element)
        if self._most is not None and len(group.waiting) >= self._most:
            self._close(name, group)
        return await future

    def _close(self, name: Hashable, group: _TaskGroup) -> None:
        if self._open.get(name) is not group:
            return
        del self._open[name]
        if group.timer is not None:
            group.timer.cancel()
        if not group.drop_those_who_left():
            return
        task = group.loop.create_task(group.answer())
        self._running.add(task)
        task.add_done_callback(self._running.discard)


class _TaskGroup:
    def __init__(self, loop: asyncio.AbstractEventLoop, run: Run, again: Again) -> None:
        self.loop = loop
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: dict[Hashable, list[asyncio.Future[Outcome]]] = {}
        self._run = run
        self._again = again

    def add(self, element: Hashable) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = self.loop.create_future()
        self.waiting.setdefault(element, []).append(future)
        return future

    def drop_those_who_left(self) -> bool:
        """Whether anybody is left."""
        here = {element: [one for one in futures if not one.done()] for element, futures in self.waiting.items()}
        self.waiting = {element: futures for element, futures in here.items() if futures}
        return bool(self.waiting)

    async def answer(self) -> None:
        try:
            outcomes = await self._run(list(self.waiting))
        except BaseException as error:
            for future in self._left():
                if isinstance(error, asyncio.CancelledError):
                    future.cancel()
                else:
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for element, futures in self.waiting.items():
            outcome = outcomes[element]
            for place, future in enumerate(futures):
                if not future.done():
                    future.set_result(self._again(outcome) if place else outcome)

    def _left(self) -> list[asyncio.Future[Outcome]]:
        return [future for futures in self.waiting.values() for future in futures if not future.done()]


class ThreadGroups:
    """Groups of threads: the first one answers for all."""

    def __init__(self, window: float, most: int | None) -> None:
        self._window = window
        self._most = most
        self._lock = threading.Lock()
        self._open: dict[Hashable, _ThreadGroup] = {}

    def answer(
        self, alike: Hashable, element: Hashable, run: Callable[[list[Hashable]], Outcomes], again: Again
    ) -> Outcome:
        """The outcome of ``element``, in a batch with those whose calls are ``alike``."""
        with self._lock:
            group = self._open.get(alike)
            leads = group is None
            if group is None:
                group = self._open[alike] = _ThreadGroup()
            shares = element in group.elements
            group.elements[element] = None
            if self._most is not None and len(group.elements) >= self._most:
                self._close(alike, group)
        if leads:
            try:
                group.full.wait(self._window)
                with self._lock:
                    self._close(alike, group)
                group.outcomes = run(list(group.elements))
            finally:
                with self._lock:
                    self._close(alike, group)
                group.done.set()
        else:
            group.done.wait()
        if group.outcomes is None:  # whoever led was interrupted
            return run([element])[element]
        outcome = group.outcomes[element]
        return again(outcome) if shares else outcome

    def _close(self, alike: Hashable, group: _ThreadGroup) -> None:
        if self._open.get(alike) is group:
            del self._open[alike]
        group.full.set()


class _ThreadGroup:
    def __init__(self) -> None:
        self.elements: dict[Hashable, None] = {}
        self.full = threading.Event()
        self.done = threading.Event()
        self.outcomes: Outcomes | None = None
