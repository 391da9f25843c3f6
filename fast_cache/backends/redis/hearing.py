"""Hearing of changes that other processes make in a namespace: by client tracking, or by published messages.

A thread has a connection of its own to each server. With tracking (``CLIENT TRACKING … BCAST``) the server tells of
every change to a name that begins as those do which matter here, whoever made it, ours too. Where that is forbidden,
whoever changes something publishes it. It does so in the packet of the change, so that it can't end in between.
Either way what is said comes in the order in which it happened, so that the
answer to a ``PING`` behind it means that everything was heard which had happened when it was asked.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Final
from weakref import ref

from fast_cache.backends.channel import ALL_NEWS, Channel, Listener, News
from fast_cache.backends.redis.aside import aside
from fast_cache.backends.redis.batch import has_error
from fast_cache.backends.redis.driver import refused
from fast_cache.backends.redis.fleet import Where
from fast_cache.backends.redis.layout import Layout, new_token
from fast_cache.backends.redis.link import AWAY, Leaving, Link
from fast_cache.backends.redis.resp import Command, Parser, ProtocolError, Renewed, Reply, pack
from fast_cache.errors import BackendError
from fast_cache.once import warn_once
from fast_cache.ports import BLOCKING, Port, run_blocking
from redis.exceptions import ResponseError

_CHUNK: Final = 2**16
"""Bytes that are read at once."""

_MOST_OFTEN: Final = 1.0
"""Seconds between two questions whether all was heard, at most."""

_CAUTION: Final = 0.9
"""After this part of the silence that may be, copies are no longer believed: hiding them takes time too."""

_SHORTEST_WAIT: Final = 1.0
"""For how many seconds an answer is waited for at least, before the connection is given up."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two attempts to connect."""

_PUSHED: Final = b"invalidate"


class Refused(Exception):
    """The server does not let us hear in this way."""


def interval(staleness: float) -> float:
    """Seconds between two questions, where copies may be stale for so many."""
    return min(staleness / 4, _MOST_OFTEN)


class Pulse:
    """When to ask whether all was heard, and when silence has lasted too long. Times are those of one clock."""

    def __init__(self, staleness: float, now: float) -> None:
        self._interval = interval(staleness)
        self._trusted = staleness * _CAUTION
        self._given_up = max(staleness, _SHORTEST_WAIT)
        self._asked: float | None = None
        self._next = now
        self.heard = now

    def asks(self, now: float) -> bool:
        """Whether it is time to ask; if so, that is noted."""
        if self._asked is not None or now < self._next:
            return False
        self._asked = now
        self._next = now + self._interval
        return True

    def answered(self) -> None:
        """The question was answered: everything is known that happened before it was asked."""
        if self._asked is not None:
            self.heard, self._asked = self._asked, None

    def is_silent(self, now: float) -> bool:
        """Whether nothing was heard for so long that copies are not to be believed."""
        return now >= self.heard + self._trusted

    def is_dead(self, now: float) -> bool:
        """Whether no answer is to be hoped for."""
        return self._asked is not None and now >= self._asked + self._given_up

    def wait(self, now: float) -> float:
        """For how many seconds there is nothing to do."""
        times = [self._next] if self._asked is None else [self._asked + self._given_up]
        if not self.is_silent(now):
            times.append(self.heard + self._trusted)
        return max(0.0, min(times) - now)


class Way:
    """How a server is asked to tell of changes, and what it says then means. ``questions`` end in an answer each."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    greeting: Sequence[Command]
    questions: Sequence[Command]

    def news(self, said: Reply) -> News | None:
        """What was told; ``None`` if this is an answer."""
        raise NotImplementedError


class Tracking(Way):
    """The server remembers what names we care for, and tells of each change."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        prefixes = [word for prefix in layout.tracked for word in ("PREFIX", prefix)]
        self.greeting = [("HELLO", 3), ("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)]
        # The second is whether it still is a master: what a replica has not heard of yet, it can't tell.
        self.questions = [("PUBSUB", "NUMSUB", layout.channel), ("HELLO", 3), ("PING",)]

    def news(self, said: Reply) -> News | None:
        if not isinstance(said, list) or said[:1] != [_PUSHED]:
            return None
        names = said[1] if len(said) > 1 else None
        return self._layout.news_of(names) if isinstance(names, list) else ALL_NEWS  # it was flushed


class Subscription(Way):
    """Whoever changes something says so."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.greeting = [("SUBSCRIBE", layout.channel)]
        self.questions = [("PING",)]

    def news(self, said: Reply) -> News | None:
        return news_in(said[2]) if isinstance(said, list) and said[:1] == [b"message"] and len(said) == 3 else None


def message_of(news: News) -> list[bytes]:
    """What is published of ``news``."""
    if news.everything:
        return [b"*"]
    told = [b"k" + key.encode("utf-8", "surrogatepass") for key in news.keys]
    told += [b"t" + tag for tag in news.tags]
    return told + [b"p" + prefix.encode("utf-8", "surrogatepass") for prefix in news.prefixes]


def news_in(message: Reply) -> News:
    """What a message says; one that says nothing we know may be about anything."""
    if isinstance(message, bytes):
        with suppress(UnicodeDecodeError):
            match message[:1]:
                case b"k":
                    return News(keys=(message[1:].decode("utf-8", "surrogatepass"),))
                case b"p":
                    return News(prefixes=(message[1:].decode("utf-8", "surrogatepass"),))
                case b"t":
                    return News(tags=(message[1:],))
    return ALL_NEWS


class Line:
    """A connection of the driver's, of which we use the socket ourselves. Only :meth:`wait` blocks."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket: socket.socket = connection._sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def say(self, data: bytes) -> None:
        """Send all of ``data``, or give up."""
        if self._socket.send(data) < len(data):
            raise EOFError("the server takes nothing more")

    def wait(self, seconds: float) -> bytes:
        """What comes next, if it comes in time."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(_CHUNK)
        finally:
            self._socket.setblocking(False)

    def take(self) -> bytes | None:
        """What has come; ``None`` if nothing has."""
        try:
            return self._socket.recv(_CHUNK)  # more than TLS decrypts at once, so nothing stays behind there
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def close(self) -> None:
        with suppress(Exception):
            self._connection.disconnect()

    def interrupt(self) -> None:
        """Let whoever listens find that it is over; from any thread."""
        with suppress(OSError):
            # Of TLS nothing is told: else whoever reads at this moment is given what is not decrypted.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Ear:
    """What hears over one line."""

    def __init__(self, line: Line, way: Way, staleness: float) -> None:
        self._line = line
        self._way = way
        self._parser = Parser()
        self._pending = 0
        self._subscribers = 0
        self.pulse = Pulse(staleness, monotonic())

    def fileno(self) -> int:
        return self._line.fileno()

    @property
    def subscribers(self) -> int:
        """How many hear only what is published, as far as is known."""
        return self._subscribers

    async def greet(self, port: Port, patience: float) -> list[News]:
        """Ask to be told of changes, and wait until that is so; returns what was told meanwhile.

        Raises:
            Refused: it may not be.
            OSError, EOFError, ProtocolError: the connection is no longer one.
        """
        wait: Any = self._line.wait
        news: list[News] = []
        answers: list[Reply] = []
        self.pulse.asks(monotonic())
        self._line.say(pack([*self._way.greeting, *self._way.questions]))
        while len(answers) < len(self._way.greeting) + len(self._way.questions):
            for said in self._received(await port.do(wait, wait, patience)):
                told = self._way.news(said)
                if told is None:
                    answers.append(said)
                else:
                    news.append(told)
        greeted = answers[: len(self._way.greeting)]
        if isinstance(answers[-1], ResponseError) or has_error(greeted, AWAY):
            raise EOFError("the server can't serve anybody yet")
        errors = [answer for answer in greeted if isinstance(answer, ResponseError)]
        if errors:
            raise Refused(str(errors[0]))
        self.pulse.answered()
        self._note(answers[len(self._way.greeting) :])
        return news

    def ask(self, now: float) -> None:
        """Ask whether all was heard, if it is time to."""
        if self.pulse.asks(now):
            self._pending = len(self._way.questions)
            self._line.say(pack(self._way.questions))

    def listen(self) -> list[News]:
        """Some of what was told since; nothing if that is so.

        Not all of it, which might never end: who is told faster than it can listen has to notice that.

        Raises:
            OSError, EOFError, ProtocolError: the connection is no longer one.
        """
        data = self._line.take()
        if data is None:
            return []
        news: list[News] = []
        answers: list[Reply] = []
        for said in self._received(data):
            told = self._way.news(said)
            if told is not None:
                news.append(told)
                continue
            answers.append(said)
            self._pending -= 1
            if self._pending == 0:
                self.pulse.answered()
        self._note(answers)
        return news

    def close(self) -> None:
        self._line.close()

    def interrupt(self) -> None:
        """Let whoever listens find that it is over; from any thread."""
        self._line.interrupt()

    def _received(self, data: bytes) -> list[Reply]:
        if not data:
            raise EOFError("the server closed the connection")
        self._parser.feed(data)
        return self._parser.drain()

    def _note(self, answers: Iterable[Reply]) -> None:
        for answer in answers:
            if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], int):
                self._subscribers = answer[1]
            elif isinstance(answer, list) and b"role" in answer[:-1]:
                role = answer[answer.index(b"role") + 1]
                if role in (b"replica", b"slave"):
                    raise EOFError("the server is no longer a master")


class _Round:
    """What one thread works on. It begins when the thread of the round before, if that still runs, has ended."""

    def __init__(self, before: threading.Thread | None, leaving: Leaving) -> None:
        self.before = before
        self.leaving = leaving
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.ears: dict[Where, Ear] = {}
        self.topology = 0
        self.generation: Reply = None
        """The one that there was last."""
        self.looking: Future[Reply] | None = None
        self.looks_at = 0.0


class Hearing(Channel):
    """The channel of one namespace.

    Args:
        link: to the servers.
        listener: whom to tell.
        how: ``"tracking"``, ``"pubsub"``, or ``None`` for the first that is allowed.
        staleness: for how many seconds silence may last.
    """

    def __init__(self, link: Link, layout: Layout, listener: Listener, *, how: str | None, staleness: float) -> None:
        self._link = link
        self._layout = layout
        self._listener = ref(listener)
        self._how = how
        self._staleness = staleness
        self._ways: list[Way] = [Tracking(layout)] if how != "pubsub" else []
        if how != "tracking":
            self._ways.append(Subscription(layout))
        self._subscribed: bool | None = None if how is None else how == "pubsub"
        """Whether there are some who hear only what is published; ``None`` as long as that is not known."""
        self._owes = False
        """Whether there is something that could not be published."""
        self._telling: Future[None] | None = None
        self.is_of_store = False
        """Whether what is copied lies where this listens."""
        self.pause = _FIRST_PAUSE
        self._lock = threading.Lock()
        self._round: _Round | None = None
        self._thread: threading.Thread | None = None

    @property
    def tells(self) -> bool:
        return self._subscribed is not False

    @property
    def owes(self) -> bool:
        return self._owes

    async def tell(self, port: Port, news: News) -> None:
        try:
            replies = await self._link.exchange(port, self._spelt(news))
        except BackendError:
            self.unanswered()
            raise
        self.answered(replies)

    def beside(self, news: News) -> list[Command]:
        """What is sent behind a change, so that no end of this process can come between; nothing, if nobody need hear.

        Whoever sends it says what became of it, by :meth:`answered` or :meth:`unanswered`.
        """
        return self._spelt(news) if self.tells else []

    def answered(self, replies: Iterable[Reply]) -> None:
        """The server said this to what it was to tell.

        Raises:
            BackendError: it does not tell others of it.
        """
        self._owes = False
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        if errors and self._subscribed:
            raise refused(errors[0])

    def unanswered(self) -> None:
        """Nobody knows whether others were told; they are told later that anything has changed."""
        self._owes = True

    def _spelt(self, news: News) -> list[Command]:
        told = ALL_NEWS if self._owes and any(news) else news
        return [("PUBLISH", self._layout.channel, message) for message in message_of(told)]

    def awake(self) -> None:
        if self._round is not None:
            return
        leaving = self._link.leaving_nothing()
        with self._lock:
            if self._round is not None:
                return
            mine = self._round = _Round(self._thread, leaving)
            self.pause = _FIRST_PAUSE
            started = self._start(mine)
        if not started:
            self.ended(mine)

    def _start(self, mine: _Round) -> bool:
        """Let a thread work on ``mine``; false if there is none to be had."""
        thread = threading.Thread(target=_work, args=(ref(self), mine), name="fast_cache news", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more, or the interpreter is about to end: the next caller tries again
            return False
        self._thread = thread
        return True

    def close(self) -> None:
        with self._lock:
            mine, self._round = self._round, None
        if mine is not None:
            mine.bell.put(None)
            for ear in list(mine.ears.values()):
                ear.interrupt()

    @property
    def link(self) -> Link:
        return self._link

    def forked(self) -> None:
        self._lock = threading.Lock()
        self._round = self._thread = self._telling = None

    def ended(self, mine: _Round) -> None:
        """The thread of ``mine`` ends, and hears no more."""
        with self._lock:
            if self._round is mine:
                self._round = None
        if self._how is None and isinstance(self._ways[0], Tracking):
            self._subscribed = None
        listener = self._listener()
        if listener is not None:
            listener.lost()

    def is_mine(self, mine: _Round) -> bool:
        return self._round is mine

    async def attach(self, port: Port, mine: _Round) -> bool:
        """Connect to every server, and begin to be told; whether that worked."""
        listener = self._listener()
        if listener is None:
            return False
        news: list[News] = []
        try:
            places = await self._link.servers(port, anew=True)
            mine.topology = self._link.topology
            if self._looks:  # before anything is believed
                with mine.leaving:
                    generation = self._layout.read_generation(Renewed(new_token))
                    *_, mine.generation = await self._link.exchange(port, generation)
            for where in places:
                line = self._line(await self._link.connect(port, where))
                ear = mine.ears[where] = Ear(line, self._ways[0], self._staleness)
                news += await ear.greet(port, self._staleness + _SHORTEST_WAIT)
        except Refused as refusal:
            _hang_up(mine)
            self._refused(refusal)
            return False
        except (BackendError, OSError, EOFError, ProtocolError):
            _hang_up(mine)
            return False
        if self.is_mine(mine):
            listener.attached()
            for one in news:
                listener.learn(one)
            self._told(mine, listener)
            self.pause = _FIRST_PAUSE
        return True

    def step(self, mine: _Round, ready: Iterable[Ear]) -> float | None:
        """Hear what there is to be heard; for how many seconds there is nothing to do, ``None`` if it is over."""
        listener = self._listener()
        if listener is None:
            return None
        try:
            if not self.is_mine(mine):
                raise EOFError("the channel was closed")
            if _is_silent(mine):
                listener.lapsed()  # before others have their turn, as they do while something is received
            for ear in ready:
                for one in ear.listen():
                    listener.learn(one)
            now = monotonic()
            for ear in mine.ears.values():
                ear.ask(now)
                if ear.pulse.is_dead(now):
                    raise EOFError("the server does not answer")
            self._look_round(mine)
        except (OSError, EOFError, ProtocolError):
            _hang_up(mine)
            listener.lost()
            return None
        self._told(mine, listener)
        self._look(mine, listener, now)
        return min(ear.pulse.wait(now) for ear in mine.ears.values())

    def rest(self) -> float:
        """For how many seconds to wait before the next attempt."""
        pause, self.pause = self.pause, min(self.pause * 2, _LONGEST_PAUSE)
        return pause

    def _told(self, mine: _Round, listener: Listener) -> None:
        """Everything is known that was told."""
        if _is_silent(mine):
            listener.lapsed()
        else:
            listener.heard(min(ear.pulse.heard for ear in mine.ears.values()))
        if self._how is None and isinstance(self._ways[0], Tracking):
            before, self._subscribed = self._subscribed, any(ear.subscribers for ear in mine.ears.values())
            if before is False and self._subscribed:
                self._owes = True  # they may have begun to listen before the last changes, of which nobody told them
        if self._owes and (self._telling is None or self._telling.done()):
            self._tell_again(mine)

    def _tell_again(self, mine: _Round) -> None:
        """Publish what could not be; nobody waits for it."""

        def tell() -> None:
            with mine.leaving:
                run_blocking(self.tell(BLOCKING, ALL_NEWS))

        self._telling = aside(tell, "news")

    @property
    def _looks(self) -> bool:
        return self.is_of_store and isinstance(self._ways[0], Subscription) and self._link.recognises()

    def _look(self, mine: _Round, listener: Listener, now: float) -> None:
        """See whether everything is still there: of what is flushed nobody tells those who do not track.

        Over another connection, because one that subscribes may ask nothing, and aside: whatever it takes, what is told
        is heard meanwhile.
        """
        if mine.looking is not None and mine.looking.done():
            looking, mine.looking = mine.looking, None
            generation = mine.generation if looking.exception() is not None else looking.result()
            if generation != mine.generation and not isinstance(generation, Exception):
                mine.generation = generation
                listener.learn(ALL_NEWS)
        if mine.looking is None and now >= mine.looks_at and self._looks:
            mine.looks_at = now + interval(self._staleness)
            link, packet, leaving = self._link, self._layout.generation(), mine.leaving

            def look() -> Reply:
                with leaving:
                    return run_blocking(_only_reply(link, packet))

            mine.looking = aside(look, "news")

    def _look_round(self, mine: _Round) -> None:
        """See whether there are servers to which nobody listens.

        Raises:
            EOFError: there are, or some are gone.
        """
        topology = self._link.topology
        if topology != mine.topology:
            if set(run_blocking(self._link.servers(BLOCKING))) != mine.ears.keys():
                raise EOFError("other servers have the keys now")
            mine.topology = topology

    def _refused(self, refusal: Refused) -> None:
        if len(self._ways) > 1:
            warn_once(
                f"Redis does not let us track changes ({refusal}): they are published instead, which all processes "
                'must do; say so by coherence="pubsub"',
                "tracking",
            )
            del self._ways[0]
            self._subscribed = True
            return
        warn_once(
            f"Redis does not let us hear of changes ({refusal}): each copy in local memory is confirmed before it is "
            "served; allow the commands CLIENT, HELLO and PING, or SUBSCRIBE and PUBLISH with their channel",
            "hearing",
        )

    def _line(self, connection: Any) -> Line:
        return Line(connection)


def _is_silent(mine: _Round) -> bool:
    """Whether one of them has said nothing for as long as may be."""
    now = monotonic()
    return any(ear.pulse.is_silent(now) for ear in mine.ears.values())


async def _only_reply(link: Link, packet: Sequence[Command]) -> Reply:
    (reply,) = await link.exchange(BLOCKING, packet)
    return reply


def _hang_up(mine: _Round) -> None:
    for ear in mine.ears.values():
        ear.close()
    mine.ears.clear()


def _work(held: ref[Hearing], mine: _Round) -> None:
    """Listen until nobody wants to hear, or nobody has the channel any more: it is not for this thread to keep it."""
    try:
        if mine.before is not None:
            mine.before.join()  # so that it is always one who tells
            mine.before = None
        while (pause := _attach(held, mine)) is not None:
            if not pause:
                _hear(held, mine)
                continue
            with suppress(Empty):
                mine.bell.get(timeout=pause)
                break
    finally:
        _hang_up(mine)
        hearing = held()
        if hearing is not None:
            hearing.ended(mine)


def _attach(held: ref[Hearing], mine: _Round) -> float | None:
    """Begin to hear: 0 if that worked, else for how many seconds to rest; ``None`` if it is over."""
    hearing = held()
    if hearing is None or not hearing.is_mine(mine):
        return None
    return 0.0 if run_blocking(hearing.attach(BLOCKING, mine)) else hearing.rest()


def _hear(held: ref[Hearing], mine: _Round) -> None:
    """Hear until a connection is lost."""
    with selectors.DefaultSelector() as selector:
        for ear in mine.ears.values():
            selector.register(ear, selectors.EVENT_READ)
        ready: list[Ear] = []
        while True:
            hearing = held()
            wait = None if hearing is None else hearing.step(mine, ready)
            del hearing
            if wait is None:
                return
            ready = [key.fileobj for key, _ in selector.select(wait) if isinstance(key.fileobj, Ear)]
