"""What a process hears of changes: the real channel, over a connection on which everything comes in order, late or not.

A connection may break, and what was on its way is lost; or nothing comes through for a while, longer than a channel has
patience, and then all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from fast_cache.backends.channel import Listener
from fast_cache.backends.redis.hearing import Ear, Hearing, _Round
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.link import Link
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.ports import Port
from tests.simulation.history import Attachment, Hearsay, Told
from tests.simulation.redis_model import read_commands, written
from tests.simulation.scheduler import park, sleep
from tests.simulation.wires import Connection, Network, Owner

_GREETING: Final = [b"server", b"redis", b"proto", 3]


class _Pipe:
    """One direction of a connection: what is sent first comes first."""

    def __init__(self, network: Network, feed: Feed, deliver: Callable[[Any], None]) -> None:
        self._network = network
        self._feed = feed
        self._deliver = deliver
        self._items: deque[Any] = deque()
        self._due = 0
        self._last = 0.0

    def send(self, item: Any) -> None:
        scheduler = self._network.scheduler
        self._items.append(item)
        self._last = max(self._last, scheduler.now + self._network.delay())
        scheduler.later(self._last - scheduler.now, self._arrive, quiet=True)

    def release(self) -> None:
        """Hand over what would have come by now."""
        while self._due and not self._feed.held:
            self._due -= 1
            self._deliver(self._items.popleft())

    def _arrive(self) -> None:
        self._due += 1
        self.release()


class Feed:
    """A connection by which a server tells of changes: to the channel a line, to the server one who follows it."""

    def __init__(self, connection: Connection, attachment: Attachment) -> None:
        self.attachment = attachment
        self._connection = connection
        self._network = network = connection.network
        self._there = _Pipe(network, self, self._carry_out)
        self._back = _Pipe(network, self, self._receive)
        self._come: list[tuple[bytes, Told | None]] = []
        self._taken: list[Told] = []
        self._prefixes: tuple[bytes, ...] = ()
        self._closed = False
        self._wake: Callable[[], None] = _nothing
        connection.set_protocol(self)
        network.feeds.append(self)

    @property
    def owner(self) -> Owner:
        return self._connection.owner

    @property
    def held(self) -> bool:
        """Whether nothing comes through."""
        return self._network.server.silent or self.owner.name in self._network.deaf

    @property
    def has_something(self) -> bool:
        """Whether there is something to be heard, were it that the connection has ended."""
        return bool(self._come) or self._closed

    # What the channel asks of a line.

    def fileno(self) -> int:
        raise NotImplementedError

    def say(self, data: bytes) -> None:
        if not self._connection.open:
            self._connection.find_ended()
            return
        self._there.send((read_commands(data), self._network.server.executed))

    async def wait(self, seconds: float) -> bytes:
        if not self.has_something:
            self.wake_in(seconds)
            await park()
        if not self.has_something:
            raise TimeoutError
        return self.take() or b""

    def take(self) -> bytes | None:
        if self._come:
            data, told = self._come.pop(0)
            if told is not None:
                self._taken.append(told)
            return data
        return b"" if self._closed else None

    def close(self) -> None:
        if self.attachment.cut is None:
            self.attachment.cut = self._network.history.next()
        self._closed = True
        self._connection.abort()
        if self in self._network.feeds:
            self._network.feeds.remove(self)
        if self in self._network.server.followers:
            self._network.server.followers.remove(self)

    def interrupt(self) -> None:
        self._closed = True
        self._wake()

    def wake_in(self, seconds: float) -> None:
        """Wake the running task when something comes, or after so many seconds."""
        scheduler = self._network.scheduler
        self._wake = scheduler.waker()
        scheduler.wake_after(seconds)

    def learned(self) -> None:
        """What was taken is known now."""
        for told in self._taken:
            told.learned = self._network.history.next()
        self._taken.clear()

    # What the network does.

    def release(self) -> None:
        self._there.release()
        self._back.release()

    def cut(self, *, at_once: bool) -> None:
        """The server ends it, or somebody in between."""
        if self in self._network.server.followers:
            self._network.server.followers.remove(self)
        self._connection.end(at_once=at_once)
        self.ended()

    def ended(self) -> None:
        """The server sends no more."""
        if self.attachment.cut is None:
            self.attachment.cut = self._connection.cut

    def connection_lost(self, _: Exception | None) -> None:
        self._closed = True
        self._wake()

    # What the server does.

    def tell(self, names: list[bytes] | None) -> None:
        history = self._network.history
        groups = [None] if names is None else [self._begin_so(prefix, names) for prefix in self._prefixes]
        for group in groups:
            if group is None or group:
                told = Told(history.next(), None if group is None else frozenset(group))
                self.attachment.told.append(told)
                self._send([b"invalidate", group], told)

    def _begin_so(self, prefix: bytes, names: list[bytes]) -> list[bytes]:
        return [name for name in names if name.startswith(prefix)]

    def _carry_out(self, sent: tuple[list[Command], int]) -> None:
        commands, at = sent
        server, history = self._network.server, self._network.history
        for command in commands:
            if not self._connection.open:
                return
            # What was changed in the same turn of the server's loop is told behind the answer.
            if server.has_untold(at) or self._network.random() < 0.5:
                server.tell()
            if history.told and command[0] != "PUBSUB":
                history.tell(f"channel of {self.owner.name}: {command[0]!s}")
            self._send(self._answer(command), None)

    def _answer(self, command: Command) -> Reply:
        match command[0]:
            case "HELLO":
                return _GREETING
            case "CLIENT":
                self._prefixes = tuple(word for word in command[5::2] if isinstance(word, bytes))
                self._network.server.followers.append(self)
                return b"OK"
            case "PUBSUB":
                return [command[2], 0]
            case _:
                return b"PONG"

    def _send(self, reply: Reply, told: Told | None) -> None:
        data = written(reply)
        if told is not None:
            data = b">" + data[1:]
        cut = int(self._network.random() * 4 * len(data))
        if 0 < cut < len(data):
            self._back.send((data[:cut], None))
            data = data[cut:]
        self._back.send((data, told))

    def _receive(self, item: tuple[bytes, Told | None]) -> None:
        _, told = item
        if self._closed or not self.owner.alive:
            return
        self._come.append(item)
        if told is not None:
            history = self._network.history
            if history.told:
                what = "everything" if told.names is None else ", ".join(sorted(name.decode() for name in told.names))
                history.tell(f"channel of {self.owner.name}: {what} has changed")
        self._wake()


class SimulatedHearing(Hearing):
    """Listens from a task of the scheduler, in the place of a thread."""

    def __init__(
        self, port: Port, owner: Owner, network: Network, link: Link, layout: Layout, listener: Listener, **how: Any
    ) -> None:
        super().__init__(link, layout, listener, **how)
        self._port = port
        self._owner = owner
        self._network = network
        self.hearsay: Hearsay = network.history.hearsay[owner.name]
        self._feed: Feed | None = None

    def _start(self, mine: _Round) -> bool:
        self._network.scheduler.spawn(self._owner.name, self._work(mine), "channel", fixed=True, quiet=True)
        return True

    def _tell_again(self, mine: _Round) -> None:
        """Nobody here hears what is published."""

    def _line(self, connection: Any) -> Any:
        self._feed = Feed(connection, Attachment())
        return self._feed

    async def _work(self, mine: _Round) -> None:
        history = self._network.history
        while self.is_mine(mine):
            if not await self.attach(self._port, mine):
                await sleep(self.rest())
                continue
            feed = self._feed
            assert feed is not None
            feed.attachment.number = history.next()
            self.hearsay.attachments.append(feed.attachment)
            if history.told:
                history.tell(f"channel of {self._owner.name} is attached")
            await self._hear(mine, list(mine.ears.values()), feed)
            feed.attachment.lost = history.next()
            if history.told:
                history.tell(f"channel of {self._owner.name} is lost")

    async def _hear(self, mine: _Round, ears: list[Ear], feed: Feed) -> None:
        feed.learned()
        ready: list[Ear] = []
        while (wait := self.step(mine, ready)) is not None:
            feed.learned()
            if not feed.has_something:
                feed.wake_in(wait)
                await park()
            ready = list(ears) if feed.has_something else []


def _nothing() -> None:
    pass
