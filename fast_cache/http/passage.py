"""A flow whose load is the rest of a request.

What makes a page is not a call that returns it: the endpoint returns to FastAPI, which serialises and sends. So the
flow runs until it would call the function, and is left standing there; it goes on, in the same task, when the response
has gone by. Nothing of the flow is written twice for that: only its port is another one.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from typing import Any, Final, TypeVar

import anyio.from_thread

from fast_cache.background import AtEnd, Background, Job
from fast_cache.outcome import Outcome
from fast_cache.ports import ASYNCIO, BLOCKING, AsyncioPort, Port
from fast_cache.single_flight import Flight, Flights, Gone, Signal

T = TypeVar("T")

Flow = Coroutine[Any, Any, Outcome]


class Stop:
    """Where a flow was left standing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


LOAD: Final = Stop("load")
"""It would call the function now: whoever drives it makes the page, and tells it the outcome."""

WAIT: Final = Stop("wait")
"""It would wait for the load of somebody else, on a thread that others need."""


@types.coroutine
def _leave(stop: Stop) -> Generator[Any, Any, Any]:
    return (yield stop)


@types.coroutine
def advance(flow: Flow, told: Any = None, error: BaseException | None = None) -> Generator[Any, Any, Outcome | Stop]:
    """Let ``flow`` go on, awaiting what it awaits, until it ends or stops. A cancellation reaches it."""
    while True:
        try:
            awaited = flow.send(told) if error is None else flow.throw(error)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        finally:
            error = None  # its traceback refers to this frame
        if type(awaited) is Stop:
            return awaited
        told = None
        try:
            told = yield awaited
        except BaseException as thrown:
            error = thrown


def advance_on_thread(flow: Flow) -> Outcome | Stop:
    """Begin ``flow`` over a :class:`ThreadPort`, which never awaits, and run it until it ends or stops."""
    try:
        stop = flow.send(None)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    assert type(stop) is Stop, "a blocking step suspended; this is a defect in fast_cache, please report it"
    return stop


class PagePort(AsyncioPort):
    """The port of an async endpoint: a load is the rest of the request. What runs behind it replays the request."""

    @property
    def behind(self) -> Port:
        return ASYNCIO

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        return await _load()


PAGES: Final = PagePort()


async def _load() -> Outcome:
    began = monotonic()
    outcome: Outcome = await _leave(LOAD)
    outcome.seconds = monotonic() - began
    return outcome


class ThreadPort:
    """The port of a sync endpoint: it begins on a thread, and goes on wherever it is taken after a stop.

    It reads on the thread, and leaves it to wait: threads are few, and those whose load it waits for need one.
    """

    def __init__(self, *, waits: bool) -> None:
        self._port: Port = BLOCKING
        self._waits = waits

    def move(self) -> None:
        """From now on it runs on the event loop."""
        self._port = PAGES

    @property
    def behind(self) -> Port:
        return ASYNCIO

    def do(self, blocking: Any, suspending: Any, *args: Any, **kwargs: Any) -> Any:
        return self._port.do(blocking, suspending, *args, **kwargs)

    def send(self, exchange: Any, packet: Any) -> Any:
        return exchange(self, packet)

    async def later(self, step: Any) -> Any:
        return await step(self)

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        return await _load()

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        if self._port is BLOCKING:
            if not self._waits:
                return Signal.ALONE
            await _leave(WAIT)
        return await self._port.wait(flights, flight, timeout)

    def can_wait(self) -> bool:
        return self._waits

    def now(self) -> float:
        return monotonic()

    def start(self, background: Background, job: Job, name: str, at_end: AtEnd, *, urgent: bool) -> bool:
        if self._port is not BLOCKING:
            return self._port.start(background, job, name, at_end, urgent=urgent)

        def start() -> bool:
            return background.start_task(job, name, at_end, urgent=urgent)

        try:
            return anyio.from_thread.run_sync(start)
        except RuntimeError:  # no thread of an event loop's, or one that is closing
            return False

    def gone(self) -> Gone | None:
        return self._port.gone()

    async def finish(self, step: Coroutine[Any, Any, T], at_end: Callable[[], None]) -> T:
        return await self._port.finish(step, at_end)
