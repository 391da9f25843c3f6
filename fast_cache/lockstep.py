"""Many calls at once, each through the one flow, their steps carried out together.

Every call is a coroutine over a port that carries nothing out: it hands each step to the driver. The driver lets all
calls go on until each has asked for something, and then does for all of them what they ask: one packet for what is to
be read or written, one run of the loader for what is to be loaded, one wait for what others load. So what happens to
each call is decided where it always is, and a batch of a hundred costs as many round trips as a single call.

What a call leads is loaded before anything is waited for: two batches that overlap never wait for each other in a ring.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from typing import Any, ClassVar, Final, Generic, ParamSpec, TypeVar

from fast_cache.background import AtEnd, Background, Job
from fast_cache.outcome import Outcome
from fast_cache.ports import BatchPort, Exchange, Place, Places, Port
from fast_cache.single_flight import Flight, Flights, Gone, Mark, Signal, leading_all, led

P = ParamSpec("P")
T = TypeVar("T")

LoadAll = Callable[[BatchPort, list[Any]], Awaitable[list[Outcome]]]
"""Loads several elements: an outcome for each. Only a cancellation is raised."""

_COMMANDS: Final = 4096
_BYTES: Final = 8 * 2**20
"""How much is sent in one packet; what is more travels in several."""


class Lockstep:
    """The port of calls that go in step; :meth:`run` drives them, over the port of their common caller."""

    def __init__(self, port: BatchPort, load: LoadAll, most: int | None = None) -> None:
        self._port = port
        self._load = load
        self._most = most
        self._starting: deque[_Start] = deque()
        self._full = False

    # What the flow asks of a port. The function of a call is its element, which only the loader knows to load.

    @property
    def behind(self) -> Port:
        return self

    async def do(
        self, blocking: Callable[P, T], suspending: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result: T = await _Do(lambda port: port.do(blocking, suspending, *args, **kwargs))
        return result

    async def send(self, exchange: Exchange, packet: Sequence[Any]) -> list[Any]:
        replies: list[Any] = await _Send(exchange, packet)
        return replies

    async def later(self, step: Callable[[Port], Awaitable[T | None]]) -> T | None:
        result: T | None = await _Later(step)
        return result

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        outcome: Outcome = await _Load(fn, led())
        return outcome

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        signal: Signal = await _Wait(flights, flight, None if timeout is None else self.now() + timeout)
        return signal

    async def finish(self, step: Coroutine[Any, Any, T], at_end: Callable[[], None]) -> T:
        result: T = await _Finish(step, at_end)
        return result

    def start(self, background: Background, job: Job, name: str, at_end: AtEnd, *, urgent: bool) -> bool:
        if self._full:
            return False
        self._starting.append(_Start(background, job, name, at_end, urgent))
        return True

    def can_wait(self) -> bool:
        return self._port.can_wait()

    def now(self) -> float:
        return self._port.now()

    def gone(self) -> Gone | None:
        return self._port.gone()

    # What drives them.

    async def run(self, calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Carry ``calls``, made over this port, to their ends, and return what they return, in order.

        If the caller is cancelled, each call learns of it as if it were alone.
        """
        places = Places(self.gone())
        strands = [_Strand(call, copy_context(), places) for call in calls]
        await self._drive(strands, places)
        return [strand.take() for strand in strands]

    async def _drive(self, strands: Sequence[_Strand[Any]], places: Places) -> None:
        try:
            for strand in strands:
                strand.go()
            while asking := [strand for strand in strands if strand.asks is not None]:
                self._launch()
                kind = min({type(strand.asks) for strand in asking}, key=lambda kind: kind.rank)
                await self._serve(kind, [strand for strand in asking if type(strand.asks) is kind], asking, places)
        except BaseException as error:
            _stop(strands, error)
            raise
        finally:
            places.leave_all()
            self._launch()

    async def _serve(
        self, kind: type[_Step], asking: list[_Strand[Any]], all_: list[_Strand[Any]], places: Places
    ) -> None:
        if kind is _Send:
            await self._send(asking)
        elif kind is _Do:
            for strand in asking:
                await self._do(strand)
        elif kind is _Later:
            # One waits for all: whatever ends that, the others look again together, and never one after the other.
            waiting, *others = asking
            await self._do(waiting)
            for strand in others:
                strand.go()
        elif kind is _Finish:
            await self._finish(asking)
        elif kind is _Load:
            await self._load_all(asking[: self._most], all_)
        else:
            await self._wait(asking, places)

    async def _send(self, asking: list[_Strand[Any]]) -> None:
        for exchange, strands in _packets(asking):
            packet = [command for strand in strands for command in strand.asks.packet]
            try:
                replies = await exchange(self._port, packet)
            except Exception as error:
                for strand in strands:
                    strand.go(error=error)
            else:
                end = 0
                for strand in strands:
                    begin, end = end, end + len(strand.asks.packet)
                    strand.go(replies[begin:end])

    async def _do(self, strand: _Strand[Any]) -> None:
        try:
            result = await strand.asks.step(self._port)
        except Exception as error:
            strand.go(error=error)
        else:
            strand.go(result)

    async def _finish(self, asking: list[_Strand[Any]]) -> None:
        steps = [strand.asks for strand in asking]
        # In contexts of their own, because they go on where their calls are cancelled.
        places = Places(self.gone())
        inner = [_Strand(step.step, strand.context.copy(), places) for step, strand in zip(steps, asking, strict=True)]
        for step in steps:
            step.begun = True

        def at_end() -> None:
            for strand, step in zip(inner, steps, strict=True):
                strand.close()
                step.at_end()

        await self._port.finish(self._drive(inner, places), at_end)
        for strand, ended in zip(asking, inner, strict=True):
            strand.go(ended.result, ended.error)

    async def _load_all(self, asking: list[_Strand[Any]], all_: list[_Strand[Any]]) -> None:
        around = led()
        marks = [mark for strand in asking for mark in strand.asks.led if mark not in around]
        # What the other calls lead goes on when this run has ended: it waits for it as well.
        known = {*around, *marks}
        others = [mark for strand in all_ for mark in strand.context.run(led) if mark not in known]
        with leading_all(marks, others):
            outcomes = await self._load(self._port, [strand.asks.element for strand in asking])
        outcomes.reverse()
        for strand in asking:
            strand.go(outcomes.pop())  # without a name: the traceback of an error may refer to this frame

    async def _wait(self, asking: list[_Strand[Any]], places: Places) -> None:
        if not self.can_wait():
            for strand in asking:
                strand.go(places.leave(strand.asks.place) or Signal.ALONE)
            return
        untils = [strand.asks.until for strand in asking if strand.asks.until is not None]
        await self._port.wait_in(places, max(0.0, min(untils) - self.now()) if untils else None)
        now = self.now()
        for strand in asking:
            step = strand.asks
            if step.place.signal is not None or (step.until is not None and step.until <= now):
                strand.go(places.leave(step.place) or Signal.LATE)

    def _launch(self) -> None:
        """Start what calls want to run behind their callers: as one job."""
        starts: list[_Start] = []
        with suppress(IndexError):  # it is empty; a job behind the caller may empty it too
            while True:
                starts.append(self._starting.popleft())
        if not starts:
            return

        async def job() -> None:
            await self.run([start.job() for start in starts])

        def at_end() -> None:
            for start in starts:
                start.at_end()

        first = starts[0]
        urgent = any(start.urgent for start in starts)
        try:
            started = self._port.start(first.background, job, first.name, at_end, urgent=urgent)
        except BaseException:
            at_end()
            raise
        if not started:
            self._full = True
            at_end()


class _Step:
    """What a call asks for, by awaiting it. Those of the lowest rank are carried out first."""

    __slots__ = ()
    rank: ClassVar[int]

    def __await__(self) -> Generator[_Step, Any, Any]:
        return (yield self)


class _Send(_Step):
    __slots__ = ("exchange", "packet")
    rank = 0

    def __init__(self, exchange: Exchange, packet: Sequence[Any]) -> None:
        self.exchange = exchange
        self.packet = packet


class _Do(_Step):
    __slots__ = ("step",)
    rank = 1

    def __init__(self, step: Callable[[Port], Awaitable[Any]]) -> None:
        self.step = step


class _Finish(_Step):
    __slots__ = ("at_end", "begun", "step")
    rank = 2

    def __init__(self, step: Coroutine[Any, Any, Any], at_end: Callable[[], None]) -> None:
        self.step = step
        self.at_end = at_end
        self.begun = False

    def give_up(self) -> None:
        """The call goes no further. What was begun goes on without it; else it ends here."""
        if not self.begun:
            self.step.close()
            self.at_end()


class _Load(_Step):
    __slots__ = ("element", "led")
    rank = 3

    def __init__(self, element: Any, led: tuple[Mark, ...]) -> None:
        self.element = element
        self.led = led


class _Later(_Do):
    __slots__ = ()
    rank = 4


class _Wait(_Step):
    __slots__ = ("flight", "flights", "place", "until")
    rank = 5

    def __init__(self, flights: Flights, flight: Flight, until: float | None) -> None:
        self.place: Place
        self.flights = flights
        self.flight = flight
        self.until = until


class _Start:
    """What a call wants to run behind its caller."""

    __slots__ = ("at_end", "background", "job", "name", "urgent")

    def __init__(self, background: Background, job: Job, name: str, at_end: AtEnd, urgent: bool) -> None:
        self.background = background
        self.job = job
        self.name = name
        self.at_end = at_end
        self.urgent = urgent


class _Strand(Generic[T]):
    """One call on its way: what it asks for, until it has a result or an error.

    It has a context of its own, as a task has: what it leads is nothing that the others lead.
    """

    __slots__ = ("_call", "_places", "asks", "context", "error", "result")

    def __init__(self, call: Coroutine[Any, Any, T], context: Context, places: Places) -> None:
        self._call = call
        self._places = places
        self.context = context
        self.asks: Any = None
        self.result: Any = None
        self.error: Exception | None = None

    def go(self, reply: Any = None, error: BaseException | None = None) -> None:
        """Go on with what was asked for, to the next step."""
        self.asks = None
        try:
            if error is None:
                self.asks = self.context.run(self._call.send, reply)
            else:
                self.asks = self.context.run(self._call.throw, error)
        except StopIteration as end:
            self.result = end.value
        except Exception as failure:
            self.error = failure
        # At once: whoever loads must know that it is followed, and by whom, before it has its result.
        if type(self.asks) is _Wait:
            self.asks.place = self._places.join(self.asks.flights, self.asks.flight)

    def take(self) -> T:
        """What the call returned, or raised; nothing is kept of it, because its traceback may lead back here."""
        result, self.result = self.result, None
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
            taken: T = result
            return taken
        finally:
            del error

    def stop(self, error: BaseException) -> None:
        """Go no further: the call is told, and may put things in order, but not ask for anything."""
        asked = self.asks
        try:
            if asked is not None:
                self.go(error=error)
        except BaseException as raised:
            if raised is not error:
                raise
        finally:
            if type(asked) is _Finish:
                asked.give_up()
            self.close()

    def close(self) -> None:
        asked, self.asks = self.asks, None
        if type(asked) is _Finish:
            asked.give_up()
        self.context.run(self._call.close)


def _stop(strands: Sequence[_Strand[Any]], error: BaseException) -> None:
    """Stop them all, whatever one of them raises."""
    with ExitStack() as stopping:
        for strand in reversed(strands):
            stopping.callback(strand.stop, error)


def _packets(asking: list[_Strand[Any]]) -> list[tuple[Exchange, list[_Strand[Any]]]]:
    """Who travels together: those with the same way, as many as a packet may hold."""
    packets: list[tuple[Exchange, list[_Strand[Any]]]] = []
    open_: dict[Exchange, tuple[list[_Strand[Any]], int, int]] = {}
    for strand in asking:
        exchange, packet = strand.asks.exchange, strand.asks.packet
        size = sum(len(part) for command in packet for part in command if isinstance(part, (bytes, str)))
        strands, commands, total = open_.get(exchange, ([], 0, 0))
        if not strands or commands + len(packet) > _COMMANDS or total + size > _BYTES:
            strands, commands, total = [], 0, 0
            packets.append((exchange, strands))
        strands.append(strand)
        open_[exchange] = strands, commands + len(packet), total + size
    return packets
