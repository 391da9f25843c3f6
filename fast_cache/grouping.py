"""Single calls that come within a short time of each other become one batch: the idea of Facebook's DataLoader (2010,
published 2015).

Calls are grouped only where they agree in everything but the element. The first of a group waits for the window to
pass, or for the group to be full; each caller gets the outcome of its own element, and one that goes away harms nobody.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Hashable
from contextvars import copy_context
from typing import Any
from weakref import WeakSet

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
        _all.add(self)

    async def answer(self, alike: Hashable, element: Hashable, run: Run, again: Again) -> Outcome:
        """The outcome of ``element``, in a batch with those whose calls are ``alike``."""
        loop = asyncio.get_running_loop()
        name = (id(loop), alike)
        group = self._open.get(name)
        if group is None or group.loop is not loop:
            group = self._open[name] = _TaskGroup(loop)
            group.timer = loop.call_later(self._window, self._close, name, group)
        caller = _Caller(loop, run, again)
        group.waiting.setdefault(element, []).append(caller)
        if self._most is not None and len(group.waiting) >= self._most:
            self._close(name, group)
        try:
            outcome = await caller.future
        except BaseException:
            self._leave(name, group, element, caller)
            raise
        finally:
            del caller, group  # the traceback of an error may refer to this frame
        try:
            return (await run([element]))[element] if outcome is None else outcome
        finally:
            del outcome

    def forget(self) -> None:
        """After a fork: loops are the parent's."""
        self._open = {}
        self._running = set()

    def _close(self, name: Hashable, group: _TaskGroup) -> None:
        if self._open.get(name) is not group:
            return
        del self._open[name]
        if group.timer is not None:
            group.timer.cancel()
        first = group.drop_those_who_left()
        if first is None:
            return
        # For the first who is still here: what it brought with it is in use as long as it waits.
        task = group.task = group.loop.create_task(group.answer(first.run, first.again), context=first.context)
        for left in [task for task in list(self._running) if task.get_loop().is_closed()]:
            self._running.discard(left)  # never to be finished
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _leave(self, name: Hashable, group: _TaskGroup, element: Hashable, caller: _Caller) -> None:
        """A caller goes away. Where nobody waits nothing is loaded: what the callers brought with them ends."""
        caller.left = True
        if any(not one.left for callers in group.waiting.values() for one in callers):
            return
        if self._open.get(name) is group:
            del self._open[name]
        if group.timer is not None:
            group.timer.cancel()
        if group.task is not None and not group.loop.is_closed():
            group.task.cancel()


class _Caller:
    """One who waits, with what would be done for it alone. ``None`` in its future: it is to be done."""

    __slots__ = ("again", "context", "future", "left", "run")

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Run, again: Again) -> None:
        self.future: asyncio.Future[Outcome | None] = loop.create_future()
        self.run = run
        self.again = again
        self.context = copy_context()
        self.left = False


class _TaskGroup:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.waiting: dict[Hashable, list[_Caller]] = {}

    def drop_those_who_left(self) -> _Caller | None:
        """The first of those who are left."""
        here = {element: [one for one in some if not one.future.done()] for element, some in self.waiting.items()}
        self.waiting = {element: some for element, some in here.items() if some}
        return next((one for some in self.waiting.values() for one in some), None)

    async def answer(self, run: Run, again: Again) -> None:
        try:
            outcomes = await run(list(self.waiting))
            answers = [
                answer
                for element, some in self.waiting.items()
                for answer in zip(some, _for_each(outcomes[element], len(some), again), strict=True)
            ]
            del outcomes
        except BaseException as error:
            left = [one for some in self.waiting.values() for one in some if not one.future.done()]
            for one in left:
                if isinstance(error, Exception):
                    one.future.set_exception(error)
                elif one is not left[0]:
                    one.future.set_result(None)
                elif isinstance(error, asyncio.CancelledError):
                    one.future.cancel()
                else:
                    one.future.set_exception(error)
        else:
            for one, outcome in answers:
                if not one.future.done():
                    one.future.set_result(outcome)
            del answers, one, outcome  # the traceback of an error may refer to this frame
        self.waiting = {}


class ThreadGroups:
    """Groups of threads: the first one answers for all."""

    def __init__(self, window: float, most: int | None) -> None:
        self._window = window
        self._most = most
        self._lock = threading.RLock()  # an element is compared in here, by code of the user's
        self._open: dict[Hashable, _ThreadGroup] = {}
        _all.add(self)

    def answer(
        self, alike: Hashable, element: Hashable, run: Callable[[list[Hashable]], Outcomes], again: Again
    ) -> Outcome:
        """The outcome of ``element``, in a batch with those whose calls are ``alike``."""
        with self._lock:
            group = self._open.get(alike)
            leads = group is None
            if group is None:
                group = _ThreadGroup()
            place = group.callers.get(element, 0)
            group.callers[element] = place + 1
            if leads:
                self._open[alike] = group
            if self._most is not None and len(group.callers) >= self._most:
                self._close(alike, group)
        try:
            if leads:
                self._answer_all(alike, group, run, again)
            else:
                group.done.wait()
            if group.outcomes is None:  # whoever led was interrupted
                return run([element])[element]
            return group.outcomes[element][place]
        finally:
            del group  # the traceback of an error may refer to this frame

    def _answer_all(
        self, alike: Hashable, group: _ThreadGroup, run: Callable[[list[Hashable]], Outcomes], again: Again
    ) -> None:
        try:
            group.full.wait(self._window)
            with self._lock:
                self._close(alike, group)
            outcomes = run(list(group.callers))
            # All of them now: who has its own may change it before another wakes.
            group.outcomes = {
                element: _for_each(outcomes[element], callers, again) for element, callers in group.callers.items()
            }
        finally:
            outcomes = {}
            with self._lock:
                self._close(alike, group)
            group.done.set()
            del group

    def forget(self) -> None:
        """After a fork: who leads a group is a thread of the parent, and one of them may hold the lock."""
        self._lock = threading.RLock()
        self._open = {}

    def _close(self, alike: Hashable, group: _ThreadGroup) -> None:
        if self._open.get(alike) is group:
            del self._open[alike]
        group.full.set()


class _ThreadGroup:
    def __init__(self) -> None:
        self.callers: dict[Hashable, int] = {}
        """How many ask for each element."""
        self.full = threading.Event()
        self.done = threading.Event()
        self.outcomes: dict[Hashable, list[Outcome]] | None = None


def _for_each(outcome: Outcome, callers: int, again: Again) -> list[Outcome]:
    """The outcome of an element for each of those who asked for it."""
    outcomes = [outcome]
    for _ in range(callers - 1):
        try:
            outcomes.append(again(outcome))
        except Exception as error:  # it can't be copied once more
            outcomes.append(Outcome(error=error))
    return outcomes


_all: WeakSet[AsyncGroups | ThreadGroups] = WeakSet()


def _after_fork() -> None:
    for groups in list(_all):
        groups.forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
