"""Coroutines stepped by hand: virtual time, and an order of steps that a generator of random numbers picks.

There is no event loop. A coroutine that awaits :func:`sleep` or :func:`park` stands still until the scheduler
resumes it; of all that could go on, any may be next. Time passes only when nothing can go on without it. Everything
is decided by the one generator, so that a seed always gives the same run.
"""

from __future__ import annotations

import types
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

BEGINNING: Final = 1000.0
"""What the clock shows first: as on a machine that has been up for a while."""

_ENDLESS: Final = 20_000
"""Steps after which a run is taken to go round in circles; the longest that is in order takes a tenth of them."""


class Endless(Exception):
    """A run that does not come to its end."""


class Task:
    """A coroutine that belongs to ``owner``, and how far it is.

    ``turn`` counts its steps: a wake-up is meant for the turn in which it was arranged, and comes too late for others.
    """

    __slots__ = (
        "behalf",
        "cancelled",
        "cancelling",
        "context",
        "coroutine",
        "ended",
        "error",
        "fixed",
        "idle",
        "name",
        "operation",
        "owner",
        "port",
        "quiet",
        "result",
        "then",
        "turn",
    )

    def __init__(
        self, owner: object, coroutine: Coroutine[Any, Any, Any], name: str, *, fixed: bool, quiet: bool
    ) -> None:
        self.owner = owner
        self.coroutine = coroutine
        self.name = name
        self.fixed = fixed
        """Whether nobody can cancel it, as if it were a thread."""
        self.quiet = quiet
        """Whether it goes on as long as anything happens, and nobody waits for its end."""
        self.context: Context = copy_context()
        self.turn = 0
        self.idle = False
        self.cancelling = False
        self.ended = False
        self.cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.then: list[Callable[[], object]] = []
        self.operation: Any = None
        """What the task is at, for whoever writes the history."""
        self.behalf: Any = None
        """What another task is at that waits for this one."""
        self.port: Any = None
        """What it takes its steps over, for those who are not told."""


@types.coroutine
def sleep(seconds: float) -> Generator[float, None, None]:
    """Let others go on, and come back no sooner than after so many seconds."""
    yield seconds


@types.coroutine
def park() -> Generator[None, None, None]:
    """Stand still until woken."""
    yield None


class Scheduler:
    """Runs tasks, one step at a time."""

    def __init__(self, rng: Random) -> None:
        self.random = rng.random
        self.now = BEGINNING
        self.current: Task | None = None
        self.tasks: list[Task] = []
        self.steps = 0
        self._ready: list[Task | Callable[[], object]] = []
        self._timers: list[tuple[float, int, Task | Callable[[], object], int, bool]] = []
        self._order = 0
        self._quiet = False

    def spawn(
        self,
        owner: object,
        coroutine: Coroutine[Any, Any, Any],
        name: str,
        *,
        fixed: bool = False,
        quiet: bool = False,
    ) -> Task:
        """Start a task. It sees the context variables of whoever starts it."""
        task = Task(owner, coroutine, name, fixed=fixed, quiet=quiet)
        self._quiet = self._quiet or quiet
        self.tasks.append(task)
        self._ready.append(task)
        return task

    def waker(self) -> Callable[[], None]:
        """What wakes the running task from its next standstill, and from no later one."""
        task = self.current
        assert task is not None
        turn = task.turn
        return lambda: self._wake(task, turn)

    def wake_after(self, seconds: float) -> None:
        """Wake the running task from its next standstill when so much time has passed, if it still stands then."""
        assert self.current is not None
        self._set_timer(seconds, self.current, self.current.turn, self.current.quiet)

    def later(self, seconds: float, action: Callable[[], object], *, quiet: bool = False) -> None:
        """Do something that is nobody's task: what is on its way arrives, though its sender be gone.

        What is ``quiet`` matters only as long as something else happens.
        """
        if seconds > 0:
            self._set_timer(seconds, action, 0, quiet)
        else:
            self._ready.append(action)

    def cancel(self, task: Task) -> None:
        """Cancel ``task`` where it stands; it finds out at its next step, whatever it was woken for."""
        if not task.ended and not task.fixed:
            task.cancelling = True
            self._wake(task, task.turn)

    def kill(self, owner: object) -> None:
        """The tasks of ``owner`` are no more: they never take another step."""
        for task in self.tasks:
            if task.owner is owner and not task.ended:
                task.ended = task.cancelled = True

    def run(self) -> None:
        """Go on until nothing is left that could happen."""
        ready, timers, random = self._ready, self._timers, self.random
        while ready or timers:
            if not ready:
                if self._quiet and not self._awaits_anything():
                    return
                self._pass_time()
                continue
            count = len(ready)
            if count > 1:
                chosen = int(random() * count)
                ready[chosen], ready[-1] = ready[-1], ready[chosen]
            item = ready.pop()
            if type(item) is Task:
                if not item.ended:
                    self._step(item)
            else:
                item()  # type: ignore[operator]  # not a task
            self.steps += 1
            if self.steps > _ENDLESS:
                raise Endless

    def unfinished(self) -> list[Task]:
        """The tasks that will wait for ever, when nothing is left that could happen."""
        return [task for task in self.tasks if not (task.ended or task.quiet)]

    def close(self) -> None:
        """Let go of whatever has not come to its end."""
        self._ready.clear()
        self._timers.clear()
        for task in self.tasks:
            task.ended = True
            task.context.run(task.coroutine.close)

    def _step(self, task: Task) -> None:
        task.turn += 1
        self.current = task
        try:
            if task.cancelling:
                task.cancelling = False
                request = task.context.run(task.coroutine.throw, CancelledError())
            else:
                request = task.context.run(task.coroutine.send, None)
        except StopIteration as end:
            task.result = end.value
        except CancelledError:
            task.cancelled = True
        except Exception as error:
            task.error = error
        else:
            if request is None:
                task.idle = True
            elif request > 0:
                task.idle = True
                self._set_timer(request, task, task.turn, task.quiet)
            else:
                self._ready.append(task)
            return
        finally:
            self.current = None
        task.ended = True
        for action in task.then:
            action()

    def _wake(self, task: Task, turn: int) -> None:
        if task.idle and task.turn == turn:
            task.idle = False
            self._ready.append(task)

    def _set_timer(self, seconds: float, item: Task | Callable[[], object], turn: int, quiet: bool) -> None:
        self._order += 1
        heappush(self._timers, (self.now + seconds, self._order, item, turn, quiet))

    def _awaits_anything(self) -> bool:
        """Whether something is to happen that is not quiet."""
        return any(
            not quiet and (type(item) is not Task or (item.idle and item.turn == turn and not item.ended))
            for _, _, item, turn, quiet in self._timers
        )

    def _pass_time(self) -> None:
        """Go to the next moment at which something happens."""
        timers = self._timers
        when, _, item, turn, _ = heappop(timers)
        if type(item) is Task and (item.ended or not item.idle or item.turn != turn):
            return  # it was woken by something else
        self.now = when
        if type(item) is Task:
            self._wake(item, turn)
        else:
            self._ready.append(item)
        while timers and timers[0][0] <= when:
            _, _, item, turn, _ = heappop(timers)
            if type(item) is Task:
                self._wake(item, turn)
            else:
                self._ready.append(item)
