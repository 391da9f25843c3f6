"""How the steps of the flow are carried out: by awaiting, or by blocking.

The flow is written once, as coroutines over a port. The asyncio port awaits. The blocking port's methods are
coroutines that block and never suspend, so a blocking call runs the same flow to its end with one ``send(None)``;
a step that suspends all the same is a defect of the package and fails loudly instead of hanging.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from fast_cache.background import AtEnd, Background, Job
from fast_cache.outcome import Outcome
from fast_cache.single_flight import Flight, Flights, Gone, Signal, Waiter

P = ParamSpec("P")
T = TypeVar("T")

Exchange = Callable[["Port", Sequence[Any]], Awaitable[list[Any]]]
"""Carries a packet to a store, over a port: a reply for each command in it."""


class Port(Protocol):
    """What the flow asks of the world."""

    def do(
        self, blocking: Callable[P, T], suspending: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """Carry out a step that exists in both flavours."""

    @property
    def behind(self) -> Port:
        """The port of what runs behind the caller's back."""

    def send(self, exchange: Exchange, packet: Sequence[Any]) -> Awaitable[list[Any]]:
        """Carry out ``exchange``; packets of several callers may travel as one."""

    async def later(self, step: Callable[[Port], Awaitable[T | None]]) -> T | None:
        """Carry out a step that waits for others, once the caller has done what others wait for.

        ``None`` may also mean that another step of the same caller waited, and this one was left out.
        """

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        """Call the user's function. Its exceptions are an outcome; a cancellation passes through."""

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        """Follow ``flight`` until woken, ``timeout`` seconds at most. Leaving early harms nobody."""

    def can_wait(self) -> bool:
        """Whether the caller may be kept waiting for somebody else's work here."""

    def now(self) -> float:
        """A time in seconds that only differences of mean something."""

    def start(self, background: Background, job: Job, name: str, at_end: AtEnd, *, urgent: bool) -> bool:
        """Let ``job`` run on its own, and call ``at_end`` when it has ended; False if there is no room for it."""

    def gone(self) -> Gone | None:
        """What tells others, later, whether the caller will never come back."""

    async def finish(self, step: Coroutine[Any, Any, T], at_end: Callable[[], None]) -> T:
        """Carry ``step`` to its end even if the caller is cancelled meanwhile; then ``at_end``, come what may."""


class BatchPort(Port, Protocol):
    """What a batch of calls asks of the world besides."""

    async def wait_in(self, places: Places, timeout: float | None = None) -> None:
        """Wait until all flights that ``places`` are taken for have ended, or one is to be led, so long at most."""


class AsyncioPort:
    """Steps that await, on whichever event loop is running."""

    def __init__(self) -> None:
        self._finishing: set[asyncio.Task[Any]] = set()  # the loop holds its tasks weakly only

    @property
    def behind(self) -> Port:
        return self

    # These two hand on what is to be awaited: a coroutine more for each would be a fifth of a read from Redis.

    def do(
        self, blocking: Callable[P, T], suspending: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        return suspending(*args, **kwargs)

    def send(self, exchange: Exchange, packet: Sequence[Any]) -> Awaitable[list[Any]]:
        return exchange(self, packet)

    async def later(self, step: Callable[[Port], Awaitable[T | None]]) -> T | None:
        return await step(self)

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        began = monotonic()
        try:
            result = fn(*args, **kwargs)
            value = await result if inspect.isawaitable(result) else result
        except Exception as error:
            return Outcome(error=error, seconds=monotonic() - began)
        return Outcome(value, seconds=monotonic() - began)

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        waiter = _TaskWaiter(self.gone())
        signal = flights.enqueue(flight, waiter)
        if signal is not None:
            return signal
        timer = waiter.give_up_after(timeout) if timeout is not None else None
        try:
            await waiter.future
        except BaseException:
            flights.leave(flight, waiter)
            _pass_on(flights, flight, waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        flights.leave(flight, waiter)
        return waiter.signal or Signal.LATE

    async def wait_in(self, places: Places, timeout: float | None = None) -> None:
        waker = _TaskWaiter()
        with places.woken_by(waker) as waits:
            if not waits:
                return
            timer = waker.give_up_after(timeout) if timeout is not None else None
            try:
                await waker.future
            finally:
                if timer is not None:
                    timer.cancel()

    def can_wait(self) -> bool:
        return True

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def start(self, background: Background, job: Job, name: str, at_end: AtEnd, *, urgent: bool) -> bool:
        return background.start_task(job, name, at_end, urgent=urgent)

    def gone(self) -> Gone:
        loop = asyncio.get_running_loop()
        return lambda: not loop.is_running()  # closed, or standing still for who knows how long

    async def finish(self, step: Coroutine[Any, Any, T], at_end: Callable[[], None]) -> T:
        task = asyncio.get_running_loop().create_task(step)
        for left in [task for task in list(self._finishing) if task.get_loop().is_closed()]:
            self._finishing.discard(left)  # never to be finished
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        # A callback, because a task that is cancelled before its first step never enters its own ``finally``.
        task.add_done_callback(lambda _: at_end())
        return await asyncio.shield(task)


class BlockingPort:
    """Steps that block the calling thread."""

    @property
    def behind(self) -> Port:
        return self

    async def do(
        self, blocking: Callable[P, T], suspending: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return blocking(*args, **kwargs)

    def send(self, exchange: Exchange, packet: Sequence[Any]) -> Awaitable[list[Any]]:
        return exchange(self, packet)

    async def later(self, step: Callable[[Port], Awaitable[T | None]]) -> T | None:
        return await step(self)

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        began = monotonic()
        try:
            value = fn(*args, **kwargs)
        except Exception as error:
            return Outcome(error=error, seconds=monotonic() - began)
        return Outcome(value, seconds=monotonic() - began)

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        if not self.can_wait():
            return Signal.ALONE
        waiter = _ThreadWaiter()
        signal = flights.enqueue(flight, waiter)
        if signal is not None:
            return signal
        try:
            waiter.wait(timeout)
        except BaseException:  # KeyboardInterrupt in the main thread
            flights.leave(flight, waiter)
            _pass_on(flights, flight, waiter)
            raise
        flights.leave(flight, waiter)
        return waiter.signal or Signal.LATE

    async def wait_in(self, places: Places, timeout: float | None = None) -> None:
        waker = _ThreadWaiter()
        with places.woken_by(waker) as waits:
            if waits:
                waker.wait(timeout)

    def can_wait(self) -> bool:
        # The work may need the loop that this thread runs: blocking here could last for ever.
        return asyncio._get_running_loop() is None

    def now(self) -> float:
        return monotonic()

    def start(self, background: Background, job: Job, name: str, at_end: AtEnd, *, urgent: bool) -> bool:
        return background.start_thread(job, name, run_blocking, at_end, urgent=urgent)

    def gone(self) -> None:
        return None

    async def finish(self, step: Coroutine[Any, Any, T], at_end: Callable[[], None]) -> T:
        try:
            return await step
        finally:
            at_end()


def _pass_on(flights: Flights, flight: Flight, waiter: Waiter) -> None:
    """A follower goes away: if it was just chosen to lead, the next one is."""
    if waiter.signal is Signal.LEAD:
        flights.abandon(flight)


class _TaskWaiter:
    """A task of some loop, waiting on a future of that loop."""

    __slots__ = ("_loop", "future", "gone", "signal")

    def __init__(self, gone: Gone | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.gone: Gone | None = gone
        self.future: asyncio.Future[None] = self._loop.create_future()
        self.signal: Signal | None = None

    def wake(self) -> bool:
        if asyncio._get_running_loop() is self._loop:
            self._deliver()
            return True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed, and its tasks with it
            return False
        return True

    def give_up_after(self, timeout: float) -> asyncio.TimerHandle:
        """Wake up without a signal, unless one comes first."""
        return self._loop.call_later(timeout, self._deliver)

    def _deliver(self) -> None:
        if not self.future.done():  # else the follower is being cancelled, and will find the signal by itself
            self.future.set_result(None)


class _ThreadWaiter:
    """A thread, waiting on an event of its own."""

    __slots__ = ("_event", "gone", "signal")

    def __init__(self) -> None:
        self.gone: Gone | None = None
        self._event = threading.Event()
        self.signal: Signal | None = None

    def wake(self) -> bool:
        self._event.set()
        return True

    def wait(self, timeout: float | None) -> None:
        self._event.wait(timeout)


class Places:
    """One caller's places in the queues of several flights.

    While it waits it may be chosen to lead one of them. While it does something else it declines, and looks again
    later: nobody is to wait for what it does.
    """

    def __init__(self, gone: Gone | None) -> None:
        self._gone = gone
        self._lock = threading.RLock()  # garbage collected in here may be a leader, whose lead is handed to us
        self._taken: dict[Place, None] = {}
        self._awaited: set[Place] = set()
        self._waker: _TaskWaiter | _ThreadWaiter | None = None

    def join(self, flights: Flights, flight: Flight) -> Place:
        """Take a place in the queue of ``flight``, if there is still something to wait for."""
        place = Place(self, flights, flight, self._gone)
        signal = flights.enqueue(flight, place)
        if signal is None:
            self._taken[place] = None
        else:
            place.signal = signal
        return place

    def leave(self, place: Place) -> Signal | None:
        """Give up a place: the signal that came, and which is now to be followed, if one did."""
        if place in self._taken:
            del self._taken[place]
            place.flights.leave(place.flight, place)
        with self._lock:
            place.accepted = place.signal is Signal.LEAD
            return place.signal

    def leave_all(self) -> None:
        """The caller goes away: leads that it was chosen for are passed on."""
        for place in list(self._taken):
            if self.leave(place) is Signal.LEAD:
                place.flights.abandon(place.flight)

    @contextmanager
    def woken_by(self, waker: _TaskWaiter | _ThreadWaiter) -> Iterator[bool]:
        """In here the caller waits; false if there is nothing to wait for."""
        with self._lock:
            self._waker = waker
            self._awaited = {place for place in self._taken if place.signal is None}
            leads = any(place.signal is Signal.LEAD for place in self._taken)
        try:
            yield bool(self._awaited) and not leads
        finally:
            with self._lock:
                self._waker = None

    def wake(self, place: Place) -> bool:
        """``place`` has a signal; false if it is a lead that is declined."""
        with self._lock:
            if self._waker is not None:
                self._awaited.discard(place)
                return (place.signal is not Signal.LEAD and bool(self._awaited)) or self._waker.wake()
            if place.signal is Signal.LEAD and not place.accepted:
                place.signal = Signal.OVERTAKEN
                return False
            return True


class Place:
    """A place in the queue of one flight."""

    __slots__ = ("_places", "accepted", "flight", "flights", "gone", "signal")

    def __init__(self, places: Places, flights: Flights, flight: Flight, gone: Gone | None) -> None:
        self._places = places
        self.flights = flights
        self.flight = flight
        self.gone = gone
        self.signal: Signal | None = None
        self.accepted = False

    def wake(self) -> bool:
        return self._places.wake(self)


ASYNCIO = AsyncioPort()
BLOCKING = BlockingPort()


def run_blocking(step: Coroutine[Any, Any, T]) -> T:
    """Run a flow over the blocking port to its end, on this thread.

    Raises:
        RuntimeError: a step suspended, which the blocking port never does.
    """
    try:
        step.send(None)
    except StopIteration as end:
        return cast(T, end.value)  # without a name: the traceback of an error may refer to this frame
    raise suspended(step)


def suspended(step: Coroutine[Any, Any, Any]) -> RuntimeError:
    """The error for a step of the blocking port that suspended; the step is closed."""
    step.close()
    return RuntimeError("a blocking step suspended; this is a defect in fast_cache, please report it")
