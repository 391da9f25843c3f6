"""Lanes: one connection, over which the packets of many callers travel together.

While a batch is on its way the next one gathers, so that the more there is to do, the fewer round trips each caller
costs. Callers wait for a result and never touch the connection: one who is cancelled leaves, and its reply is thrown
away when it comes. So no reply can reach another caller, and no cancellation can leave a connection in the middle of an
exchange.

A lane has no time-out but that of silence: a batch is lost if the server says nothing for so long, however long the
queue is. What is lost is not repeated, but for one case: a connection that had answered before, and was closed before
anything of the batch was. That is how a server that restarted meanwhile looks, or one that closes idle connections.
Everything that is sent here may be repeated; what has a deadline, when that has passed, and its callers wait as long.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, Protocol

from fast_cache.backends.redis.aside import aside
from fast_cache.backends.redis.batch import MOST, Batch, Packet, first_lacking, has_error
from fast_cache.backends.redis.deadlines import Dated, ServerClock, alike, time_left
from fast_cache.backends.redis.large import LARGE, LargeKeys
from fast_cache.backends.redis.resp import Command, Parser, ProtocolError, Reply, pack
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import ASYNCIO, BLOCKING, Port, run_blocking

_TURNS: Final = 3
"""So often an event loop looks at its connections before the silence of a server is believed: the loop may have been
held up itself, and what the server said lies waiting. Without it, 20 of 20 loops that were held up accused the server.
"""

_EXCUSES: Final = 2
"""So often a loop may be held up while it connects, before that looks like a server that is away."""

_CHUNK: Final = 2**18
"""Bytes that a thread reads at once."""

STAY: Final = 1.0
"""For how many seconds a connection to a server that takes no writes is kept at least."""


class Connected(NamedTuple):
    """A connection of the driver's, ready for commands, and what is known of the clock of its server."""

    connection: Any
    clock: ServerClock


Open = Callable[[Port], Awaitable[Connected]]
"""Connects; raises :class:`BackendUnavailable`."""


class Guard(Protocol):
    """Who has to know when a server is lost."""

    @property
    def epoch(self) -> int:
        """Changes whenever the server is found to be away, or back."""

    def away(self) -> bool:
        """Whether nothing is to be sent at this moment."""

    def lost(self, epoch: int) -> None:
        """Something that was sent in ``epoch`` was not answered."""

    def useless(self, replies: Sequence[Reply]) -> bool:
        """Whether the server says that it can't serve anybody, or is no longer the one to ask."""


def unavailable(cause: BaseException | None = None) -> BackendUnavailable:
    """The error for one caller of many: each gets one of its own, since tracebacks grow."""
    if isinstance(cause, BackendUnavailable):
        error = BackendUnavailable(str(cause), setting=cause.setting)
        error.__cause__ = cause.__cause__
        return error
    error = BackendUnavailable("Redis did not answer" if cause is not None else AWAY)
    error.__cause__ = cause
    return error


AWAY: Final = "Redis is taken to be away; it is asked again shortly"


class Silence(Exception):
    """The server said nothing for too long."""


class Useless(Exception):
    """The server says that it can't serve anybody."""


_Waiting = tuple[Packet, "asyncio.Future[list[Reply]]", list[Reply]]
"""What is to be sent for a caller, who waits for the replies to it, behind those that there are already."""


class Held(asyncio.Future[list[Reply]]):
    """What the sender of deadlines awaits: while they are on their way, a cancellation takes effect at the end of it.

    Whoever is cancelled may begin something else at once, in another process even, which must come later.
    """

    def __init__(self, packet: Packet, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._packet = packet

    def cancel(self, msg: Any | None = None) -> bool:
        return not time_left(self._packet) and super().cancel(msg)


class TaskLane:
    """A lane of one event loop.

    Args:
        silence: for how many seconds the server may say nothing.
        merges: whether reads of several callers may become one command.
        keeps: whether the connection stays open while nobody uses it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect: Open,
        guard: Guard,
        large: LargeKeys,
        *,
        silence: float,
        merges: bool = True,
        keeps: bool = True,
    ) -> None:
        self._loop = loop
        self._connect = connect
        self._guard = guard
        self._large = large
        self._silence = silence
        self._merges = merges
        self._keeps = keeps
        self._queue: list[_Waiting] = []
        self._shared: dict[Command, asyncio.Future[list[Reply]]] = {}
        self._unloaded: list[_Waiting] = []
        self._flying: list[_Waiting] = []
        self._batch: Batch | None = None
        self._with_texts = False
        self._alone = False
        self._busy = False
        self._wire: _TaskWire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._held_up = False
        self._excuses = 0
        self._born = 0
        self._epoch = 0
        self._heard = 0.0
        self._unsent = 0
        self._connected_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer, or did and was cancelled before it came."""
        return not self._busy

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None or self._connecting is not None

    def used_within(self, seconds: float) -> bool:
        """Whether something was sent or heard so lately. Any thread may ask."""
        return self._loop.time() < self._heard + seconds

    def exchange(self, packet: Packet) -> asyncio.Future[list[Reply]]:
        """Send ``packet`` with what others send in this turn of the loop. The future may be cancelled.

        Who was alone the last time is taken to be so again, and not kept waiting for others to the end of the turn: of
        one caller's reads, that is a seventh.

        Its error is :class:`BackendUnavailable`.
        """
        future = Held(packet, self._loop) if type(packet) is Dated else self._loop.create_future()
        self._queue.append((packet, future, []))
        if not self._busy:
            self._busy = True
            if self._alone:
                self._flush()
            else:
                self._loop.call_soon(self._flush)
        return future

    def shared(self, command: Command) -> asyncio.Future[list[Reply]]:
        """The reply to a command that others may have asked for already, without its having been sent.

        The future is theirs too: not to be cancelled, nor awaited but behind a shield.
        """
        future = self._shared.get(command)
        if future is None:
            future = self._shared[command] = self.exchange([command])
            future.add_done_callback(_retrieved)
        return future

    def close(self, *, at_once: bool = False) -> None:
        """Close the connection when the last answer has come, or without waiting for it."""
        self._keeps = False
        if at_once:
            if self._connecting is not None:
                self._connecting.cancel()
            self._fail(unavailable, at_once=True)
            self._part()
            return
        if self._connecting is not None and all(future.done() for _, future, _ in self._queue):
            self._connecting.cancel()  # for those who are gone, and nobody else
        if not self._busy:
            self._part()

    @property
    def leaving(self) -> asyncio.Task[None] | None:
        """What has still to end before the loop may, after :meth:`close`."""
        task = self._connecting
        return task if task is not None and task.cancelling() else None

    def cut_off(self) -> None:
        """Part from the server where the loop is closed, and nothing can be awaited any more."""
        if self._wire is not None:
            self._wire.cut_off()
            self._wire = None

    def answered(self, parser: Parser) -> None:
        """The wire has a reply to each command of the batch.

        Raises:
            ProtocolError: they are none to what was asked.
        """
        batch, calls = self._batch, self._flying
        replies = parser.take()
        assert batch is not None
        batch.check(replies)
        self._batch, self._flying = None, []
        if batch.refused(replies):
            self._merges = False
            self._queue[:0] = calls
        else:
            self._share_out(calls, batch.shared_out(replies), parser)
        if self._queue or self._unloaded:
            # Behind those who are woken by now: what they ask for next travels with it.
            self._loop.call_soon(self._flush)
        else:
            self._rest()

    def broken(self, wire: _TaskWire, cause: BaseException) -> None:
        """The wire is no longer one."""
        if wire is not self._wire:
            return
        self._part()
        if self._batch is None:
            return
        if wire.proven and not wire.heard and isinstance(cause, (OSError, EOFError)):
            left = time_left(self._batch.commands)
            self._batch = None
            self._queue[:0], self._flying = self._flying, []
            if left:
                self._loop.call_later(left, self._flush)
            else:
                self._flush()
        else:
            self._lost(cause)

    def listened(self) -> None:
        """Something was heard."""
        self._heard = self._loop.time()

    def _share_out(self, calls: list[_Waiting], answers: list[list[Reply]], parser: Parser) -> None:
        # Of most batches a look at the replies would cost more than the rest of this loop.
        errs, heavy = parser.errs, parser.size > LARGE or self._large.any
        for (packet, future, before), replies in zip(calls, answers, strict=True):
            if heavy:
                self._large.note(packet, replies)
            if future.done():
                continue
            lacking = first_lacking(replies) if errs and not self._with_texts else None
            if lacking is not None:
                self._unloaded.append((alike(packet, packet[lacking:]), future, [*before, *replies[:lacking]]))
            elif errs and self._guard.useless(replies):
                self._guard.lost(self._epoch)
                future.set_exception(unavailable(Useless()))
            else:
                future.set_result([*before, *replies] if before else replies)
        demoted = errs and any(has_error(replies, "READONLY") for replies in answers)
        if demoted and self._connected_at + STAY < self._heard:
            self._part()  # whoever is the master now is found anew

    def _flush(self) -> None:
        """Send what has gathered, connecting first where need be."""
        if self._batch is not None:
            return
        if self._guard.away():
            self._fail(unavailable)
            return
        with_texts = bool(self._unloaded)
        queue = self._unloaded if with_texts else self._queue
        calls = [call for call in queue[:MOST] if not call[1].done()]
        queue[:MOST] = calls
        if not calls:
            if self._queue or self._unloaded:
                self._loop.call_soon(self._flush)
            elif self._connecting is None:
                self._rest()
            return
        self._heard = self._loop.time()
        self._epoch = self._guard.epoch
        if self._wire is not None and self._born != self._epoch:
            self._part()  # from before an outage, in which another server may have taken this one's place
        if self._wire is None:
            if self._connecting is None:
                self._born = self._epoch
                self._held_up, self._excuses = False, _EXCUSES
                self._connecting = self._loop.create_task(self._connected())
        else:
            try:
                batch = Batch([packet for packet, _, _ in calls], merges=self._merges)
                data = pack(batch.commands, scripts=with_texts, clock=self._wire.clock)
            except Exception as defect:  # of ours
                self._fail(partial(_itself, defect))
                return
            del queue[: len(calls)]
            self._shared.clear()
            self._flying, self._batch, self._with_texts = calls, batch, with_texts
            self._alone = len(calls) == 1
            self._unsent = 0
            self._wire.send(data, len(batch.commands))
        if self._watch is None:
            self._watch = self._loop.call_later(self._silence, self._look)

    async def _connected(self) -> None:
        failed: Callable[[], Exception] | None = None
        try:
            self._wire = _TaskWire(self, await self._connect(ASYNCIO))
            self._connected_at = self._loop.time()
        except (BackendUnavailable, ConnectionError) as error:
            if self._held_up:  # the driver's time-outs know nothing of that
                self._held_up = False
                self._connecting = self._loop.create_task(self._connected())
                return
            self._guard.lost(self._epoch)
            failed = partial(unavailable, error)
        except asyncio.CancelledError:
            self._connecting = None
            self._fail(unavailable)
            raise
        except Exception as defect:  # of ours: no fault of the server's
            failed = partial(_itself, defect)
        self._connecting = None
        if failed is not None:
            self._fail(failed)
        else:
            self._flush()

    def _look(self) -> None:
        """Look whether the server has been silent for too long."""
        self._watch = None
        if self._batch is None and self._connecting is None:
            return
        left = self._heard + self._silence - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        elif self._connecting is not None and left < -self._silence / 2 and self._excuses:
            # The loop was held up. Of a connection that is being made there is more to say than lies waiting now.
            self._excuses -= 1
            self._held_up = True
            self._heard = self._loop.time()
            self._look()
        else:
            self._doubt(self._heard, _TURNS)

    def _doubt(self, heard: float, turns: int) -> None:
        if (self._batch is None and self._connecting is None) or self._heard != heard:
            self._look()
        elif turns:
            self._loop.call_soon(self._doubt, heard, turns - 1)
        elif self._wire is not None and self._wire.unsent() != self._unsent:
            self._unsent = self._wire.unsent()  # it still takes what we send
            self._heard = self._loop.time()
            self._look()
        else:
            # A connection that is being made may yet come to be: it is only that nobody waits for it any longer.
            self._part()
            self._lost(Silence("the server was silent for too long"))

    def _lost(self, cause: BaseException) -> None:
        """Nobody gets an answer, because of what happened to the server."""
        self._guard.lost(self._epoch)
        self._fail(partial(unavailable, cause))

    def _fail(self, error: Callable[[], Exception], *, at_once: bool = False) -> None:
        """Nobody gets an answer; ``error`` makes the error for one caller."""
        calls = self._flying + self._unloaded + self._queue
        self._batch, self._flying, self._unloaded = None, [], []
        self._queue.clear()
        self._shared.clear()
        for packet, future, _ in calls:
            left = time_left(packet) if type(packet) is Dated and not at_once else 0.0
            if left:
                self._loop.call_later(left, _failed, future, error())
            elif not future.done():
                future.set_exception(error())
        self._rest()

    def _rest(self) -> None:
        self._busy = False
        if not self._keeps:
            self._part()

    def _part(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


class _TaskWire(asyncio.Protocol):
    """A connection that the driver has made, read without its streams.

    The driver has no other way to its transport than its private writer; every version that this package takes has it.

    Raises:
        ConnectionError: it was closed meanwhile.
    """

    def __init__(self, lane: TaskLane, connected: Connected) -> None:
        connection, self.clock = connected
        self._lane: TaskLane | None = lane
        self._connection = connection
        self._transport: Any = connection._writer.transport
        self._parser = Parser()
        self._expected = 0
        self.proven = False
        """Whether it has answered before."""
        self.heard = False
        """Whether anything was heard of the answer that is awaited."""
        if self._transport.is_closing():
            connection._reader = connection._writer = None
            raise ConnectionError("the server closed the connection")
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    def send(self, data: bytes, expected: int) -> None:
        self._expected = expected
        self.heard = False
        self._transport.write(data)

    def unsent(self) -> int:
        size: int = self._transport.get_write_buffer_size()
        return size

    def data_received(self, data: bytes) -> None:
        lane, parser = self._lane, self._parser
        if lane is None:
            return
        self.heard = True
        lane.listened()
        try:
            parser.feed(data)
        except ProtocolError as error:
            lane.broken(self, error)
            return
        if parser.count < self._expected:
            return
        if parser.count > self._expected or parser.begun:
            lane.broken(self, ProtocolError("there are more replies than commands"))
            return
        self._expected = 0
        self.proven = True
        try:
            lane.answered(parser)
        except ProtocolError as error:
            lane.broken(self, error)

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lane is not None:
            self._lane.broken(self, exc or EOFError("the server closed the connection"))

    def close(self) -> None:
        self._lane = None
        self._transport.abort()
        self._connection._reader = self._connection._writer = None

    def cut_off(self) -> None:
        """The descriptor itself is closed when the transport is collected."""
        self._lane = None
        with suppress(Exception):
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class _Call:
    """A packet of one thread, and what becomes of it."""

    __slots__ = ("_bell", "error", "leads", "packet", "replies")

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self.replies: list[Reply] | None = None
        self.error: BaseException | None = None
        self.leads = False
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self) -> None:
        """Until there are replies or an error, or the caller is to lead."""
        self._bell.acquire()

    def wake(self) -> None:
        self._bell.release()


class ThreadLane:
    """A lane of all threads: one of those that wait sends for the others, and reads for them.

    Takes what :class:`TaskLane` takes.
    """

    def __init__(
        self,
        connect: Open,
        guard: Guard,
        large: LargeKeys,
        *,
        silence: float,
        merges: bool = True,
        keeps: bool = True,
    ) -> None:
        self._guard = guard
        self._large = large
        self._silence = silence
        self._merges = merges
        self._keeps = keeps
        self._lock = threading.Lock()
        self._queue: list[_Call] = []
        self._led = False
        self._heard = 0.0
        self._wire: ThreadWire | None = None
        self._connecting = Connecting(connect, silence)
        self._born = 0
        self._epoch = 0
        self._connected_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._led

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None

    def used_within(self, seconds: float) -> bool:
        """Whether something was heard so lately. Any thread may ask."""
        return monotonic() < self._heard + seconds

    def exchange(self, packet: Packet) -> list[Reply]:
        """Send ``packet`` with what other threads have to send.

        Raises:
            BackendUnavailable: the server is away, or was silent for too long.
        """
        call = _Call(packet)
        try:
            with self._lock:
                self._queue.append(call)
                call.leads, self._led = not self._led, True
            if not call.leads:
                call.wait()
            if call.leads:
                self._lead()
        except BaseException:  # KeyboardInterrupt in the main thread
            self._leave(call)
            raise
        if call.error is not None:
            if type(packet) is Dated:
                sleep(time_left(packet))
            raise call.error
        assert call.replies is not None
        return call.replies

    def close(self) -> None:
        """Close the connection, when the last answer has come."""
        with self._lock:
            self._keeps = False
            if not self._led:
                self._leave_off()

    def _lead(self) -> None:
        """Send what has gathered, one's own first, and let one of those who came meanwhile do the same."""
        calls: list[_Call] = []
        try:
            with self._lock:
                calls = self._queue[:MOST]
                del self._queue[:MOST]
            if self._guard.away():
                raise unavailable()
            self._carry(calls)
        except BackendUnavailable as error:
            for call in calls:
                call.error = unavailable(error)
        except Exception as defect:  # of ours
            self._part()
            for call in calls:
                call.error = defect
        except BaseException:  # KeyboardInterrupt in the main thread: the others' packets are sent again
            self._part()
            sleep(time_left(command for call in calls for command in call.packet))
            with self._lock:
                self._queue[:0] = calls[1:]
            calls = []
            raise
        finally:
            with self._lock:
                following = self._next()
            for call in calls[1:]:
                call.wake()
            if following is not None:
                following.wake()

    def _next(self) -> _Call | None:
        """Who is to lead now; the lock is held."""
        if self._queue:
            self._queue[0].leads = True
            return self._queue[0]
        self._led = False
        if not self._keeps:
            self._leave_off()
        return None

    def _leave(self, call: _Call) -> None:
        """The caller waits no longer."""
        following = None
        with self._lock:
            if call in self._queue:  # else it is on its way, and its replies are thrown away
                self._queue.remove(call)
                if call.leads:
                    following = self._next()
        if following is not None:
            following.wake()

    def _carry(self, calls: Sequence[_Call]) -> None:
        answers, errs, heavy = self._answers([call.packet for call in calls])
        lacking = []
        for call, replies in zip(calls, answers, strict=True):
            call.replies = replies
            if heavy or self._large.any:
                self._large.note(call.packet, replies)
            first = first_lacking(replies) if errs else None
            if first is not None:
                lacking.append((call, first, replies))
        if lacking:
            again, _, _ = self._answers([call.packet[first:] for call, first, _ in lacking], scripts=True)
            for (_, first, before), replies in zip(lacking, again, strict=True):
                before[first:] = replies
        if errs:
            self._look_at_errors(calls)

    def _look_at_errors(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            if call.replies is not None and self._guard.useless(call.replies):
                self._guard.lost(self._epoch)
                call.error = unavailable(Useless())
        demoted = any(call.replies is not None and has_error(call.replies, "READONLY") for call in calls)
        if demoted and self._connected_at + STAY < monotonic():
            self._part()  # whoever is the master now is found anew

    def _answers(self, packets: Sequence[Packet], *, scripts: bool = False) -> tuple[list[list[Reply]], bool, bool]:
        """The replies to each packet; whether some are errors, and whether they are large."""
        while True:
            batch = Batch(packets, merges=self._merges)
            replies, errs, heavy = self._sent(batch, scripts=scripts)
            if not batch.refused(replies):
                return batch.shared_out(replies), errs, heavy
            self._merges = False

    def _sent(self, batch: Batch, *, scripts: bool) -> tuple[list[Reply], bool, bool]:
        self._epoch = self._guard.epoch
        if self._wire is not None and self._born != self._epoch:
            self._part()  # from before an outage, in which another server may have taken this one's place
        try:
            while True:
                if self._wire is None:
                    self._born = self._epoch
                    self._wire = self._connecting.wire()
                    self._connected_at = monotonic()
                wire = self._wire
                # Each time: some words must not be sent twice.
                data = pack(batch.commands, scripts=scripts, clock=wire.clock)
                try:
                    parser = wire.talk(data, len(batch.commands), self._silence)
                    replies = parser.take()
                    batch.check(replies)
                except (OSError, EOFError, ProtocolError) as error:
                    self._part()
                    if not wire.proven or wire.heard or isinstance(error, (TimeoutError, ProtocolError)):
                        raise unavailable(error) from error
                    sleep(time_left(batch.commands))
                else:
                    self._heard = monotonic()
                    return replies, parser.errs, parser.size > LARGE
        except BackendUnavailable:
            self._guard.lost(self._epoch)
            raise

    def _leave_off(self) -> None:
        self._part()
        self._connecting.give_up()

    def _part(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


class Connecting:
    """Connects aside, because nobody is to wait for that longer than for an answer: ``silence`` seconds."""

    def __init__(self, connect: Open, silence: float) -> None:
        self._connect = connect
        self._silence = silence
        self._under_way: Future[Any] | None = None

    def wire(self) -> ThreadWire:
        """A connection, also one that was begun for somebody who did not wait for it to the end.

        Raises:
            BackendUnavailable: there is none, or none yet.
        """
        if self._under_way is None:
            self._under_way = aside(lambda: run_blocking(_opened(self._connect)), "connect")
        under_way = self._under_way
        try:
            connected = under_way.result(self._silence)
        except Exception as error:
            if under_way.done() and under_way.exception() is error:
                self._under_way = None
                raise
            raise unavailable(error) from error  # it may yet come to be, or just has: then the next one has it
        self._under_way = None
        return ThreadWire(connected)

    def give_up(self) -> None:
        """Nobody waits for it any longer."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.add_done_callback(_dispose)


class ThreadWire:
    """A connection that the driver has made, read by whichever thread has its turn.

    Past the driver's parser, which takes one reply at a time: see the wire of tasks.
    """

    def __init__(self, connected: Connected) -> None:
        connection, self.clock = connected
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self.proven = False
        """Whether it has answered before."""
        self.heard = False
        """Whether anything was heard of the answer that is awaited."""

    def talk(self, data: bytes, expected: int, silence: float) -> Parser:
        """Send, and read so many replies; ``silence`` is how long (seconds) the server may say nothing.

        Raises:
            OSError, EOFError, ProtocolError: the connection is no longer one. A TimeoutError is silence.
        """
        parser = Parser()
        self.heard = False
        channel = self._socket
        channel.settimeout(silence)
        sent = channel.send(data)
        if sent < len(data):
            rest = memoryview(data)
            while sent < len(data):  # not sendall, whose time-out is for all of it
                sent += channel.send(rest[sent:])
        while parser.count < expected:
            received = channel.recv(_CHUNK)
            if not received:
                raise EOFError("the server closed the connection")
            self.heard = True
            parser.feed(received)
        if parser.count > expected or parser.begun:
            raise ProtocolError("there are more replies than commands")
        self.proven = True
        return parser

    def close(self) -> None:
        with suppress(Exception):
            self._connection.disconnect()


async def _opened(connect: Open) -> Connected:
    return await connect(BLOCKING)


def _dispose(made: Future[Connected]) -> None:
    if made.exception() is None:
        with suppress(Exception):
            made.result().connection.disconnect()


def _failed(future: asyncio.Future[list[Reply]], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _retrieved(future: asyncio.Future[list[Reply]]) -> None:
    """Nobody need look at its error."""
    if not future.cancelled():
        future.exception()


def _itself(error: Exception) -> Exception:
    return error
