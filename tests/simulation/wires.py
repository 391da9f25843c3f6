"""The bad network between the processes and the server, and an event loop's part in it.

A batch is on its way for a while, and so are its replies, in pieces; either may be lost, and then the sender hears
nothing until its patience ends. What was sent arrives even if the sender is gone by then. Commands of other senders may
come between those of a batch. The server may close a connection behind a batch, and one that fails takes all of its
connections with it; who stands between may close one, and let what was sent arrive all the same. The link before all
this is the real one, and so are its lanes, the breaker, and the rounds of the prober.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from queue import SimpleQueue
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis.exceptions import ResponseError

from fast_cache.backends.redis.batch import Packet
from fast_cache.backends.redis.breaker import Breaker, Prober
from fast_cache.backends.redis.deadlines import ServerClock, time_left
from fast_cache.backends.redis.fleet import Fleet, Where
from fast_cache.backends.redis.invalidations import Invalidations
from fast_cache.backends.redis.lane import Connected, TaskLane, _TaskWire
from fast_cache.backends.redis.lanes import Lanes
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.link import Link
from fast_cache.backends.redis.resp import Command, Parser, Reply
from fast_cache.backends.redis.watch import Watch
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import Port
from tests.simulation.history import History
from tests.simulation.redis_model import Server, read_commands, shown, written
from tests.simulation.scheduler import Scheduler, Task, park, sleep

if TYPE_CHECKING:
    from tests.simulation.channel import Feed

PATIENCE: Final = 0.5
"""For how many seconds a client waits for the server."""

_SETS: Final = 4
"""Sets of lanes that a process has, for its loops and its threads; each packet goes by any of them."""


_MOST: Final = 2
"""Connections that a set has, and one more to wait on: so few that some have to look again and again."""


class Owner(Protocol):
    """A process."""

    name: str
    alive: bool


class Network:
    """The way to the server, and what goes wrong on it."""

    def __init__(
        self, scheduler: Scheduler, history: History, server: Server, rng: Random, loss: float, *, slow: bool
    ) -> None:
        self.scheduler = scheduler
        self.history = history
        self.server = server
        self.random = rng.random
        self.loss = loss
        """How likely a batch is to be lost; replies are as likely, and so is a connection that is closed behind it."""
        self._promptly = 0.5 if slow else 0.8
        self.connections: list[Connection] = []
        self.feeds: list[Feed] = []
        self.deaf: set[str] = set()
        """The processes whose channels nothing comes through."""

    def delay(self) -> float:
        """Often none; now and then longer than anybody waits."""
        drawn = self.random()
        if drawn < self._promptly:
            return 0.0
        return 0.01 if drawn < 0.88 else 0.1 if drawn < 0.96 else 0.3 if drawn < 0.99 else 0.8

    def fail_over(self, rng: Random) -> None:
        """Another server takes the place of this one; whoever was connected finds out now, or when he sends."""
        self.server.fail_over(rng)
        connections, self.connections = self.connections, []
        for connection in connections:
            connection.end(at_once=self.random() < 0.5)
        for feed in self.feeds:
            feed.ended()

    def release(self) -> None:
        """What was held up comes through."""
        for feed in list(self.feeds):
            feed.release()


class Connection:
    """What the driver has made: its own side, and the transport of which a lane takes possession."""

    def __init__(self, network: Network, owner: Owner) -> None:
        self.network = network
        self.owner = owner
        self.server = network.server.number
        self.open = True
        """As far as the server goes."""
        self.abandoned = False
        """Whether nobody listens here any more."""
        self.proven = False
        self.cut: int | None = None
        """When the server ended it."""
        self._writer: Any = SimpleNamespace(transport=self)
        self._reader: Any = None
        self._protocol: Any = None
        self._parser = Parser()
        self._replies: list[Reply] = []
        self._heard: Callable[[], None] = _nothing
        network.connections.append(self)

    async def send_packed_command(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    async def read_response(self, *, disable_decoding: bool) -> Reply:
        scheduler = self.network.scheduler
        if not self._replies and not self.abandoned:
            self._heard = scheduler.waker()
            scheduler.wake_after(PATIENCE)
            await park()
        if not self._replies:
            raise TimeoutError
        reply = self._replies.pop(0)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def disconnect(self, *, nowait: bool) -> None:
        self.abort()

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self.abandoned

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.abandoned = True
        if self in self.network.connections:
            self.network.connections.remove(self)

    def write(self, data: bytes) -> None:
        if self.open:
            _Exchange(self, read_commands(data)).send()
        else:
            self.find_ended()

    def receive(self, data: bytes) -> None:
        """Something has come, of which there may be more."""
        if self.abandoned or not self.owner.alive:
            return
        if self._protocol is not None:
            self._protocol.data_received(data)
            return
        self._parser.feed(data)
        if not self._parser.begun:
            self._replies += self._parser.take()
            self._heard()

    def find_ended(self) -> None:
        """Whoever sends something finds that it has ended."""
        self.network.scheduler.later(self.network.delay(), self._ended)

    def end(self, *, at_once: bool) -> None:
        """The server closes it; if not ``at_once``, that is noticed by whoever sends something."""
        self.open = False
        self.cut = self.network.history.next()
        if at_once:
            self.find_ended()

    def _ended(self) -> None:
        if self.abandoned or not self.owner.alive:
            return
        self.abandoned = True
        if self._protocol is not None:
            self._protocol.connection_lost(None)
        else:
            self._heard()


class _Exchange:
    """A batch on its way there, and its replies on their way back."""

    __slots__ = ("_connection", "_waited", "closes", "commands", "network", "replies")

    def __init__(self, connection: Connection, commands: list[Command]) -> None:
        self.network = connection.network
        self.commands = commands
        self.replies: list[Reply] = []
        self.closes = False
        self._connection = connection
        self._waited = False

    def send(self) -> None:
        network = self.network
        if network.loss and network.random() < network.loss:
            self.tell("is lost")
            return
        if network.loss and self._connection.proven and network.random() < network.loss:
            self.closes = True
        way = network.delay()
        if way or network.random() < 0.7:
            if way and network.loss and network.random() < network.loss:
                self.tell("goes on, and finds its connection closed")
                self._connection.end(at_once=True)
            network.scheduler.later(way, partial(self.arrive, 0))
        else:
            self.arrive(0)

    def tell(self, what: str) -> None:
        history = self.network.history
        if history.told:
            history.tell(
                f"network: {' '.join(shown(command) for command in self.commands)} of {self._connection.owner.name} "
                f"{what}"
            )

    def arrive(self, first: int) -> None:
        """Carry out the commands from the ``first`` on, or only some before others come in between."""
        network, replies = self.network, self.replies
        if network.server.silent:
            self.tell("meets a silent server")
            return
        if network.server.number != self._connection.server:
            return  # it went to one that is no more
        count = len(self.commands)
        pauses = network.random() < 0.2
        for index in range(first, count):
            if self.commands[index][0] == "XREAD" and not self._waited:
                self._wait(index, _blocks(self.commands[index]))
                return
            replies.append(network.server.execute(self.commands[index], self._connection.owner.name))
            if pauses and index + 1 < count:
                network.scheduler.later(0.0, partial(self.arrive, index + 1))
                return
        if self.closes:
            self.tell("gets no reply, and finds its connection closed")
            self._connection.end(at_once=True)
            return
        if network.loss and network.random() < network.loss:
            self.tell("gets a reply that is lost")
            return
        self._connection.proven = True
        network.server.tell()
        data = b"".join(map(written, replies))
        delay = network.delay()
        if delay or network.random() < 0.5:
            cut = int(network.random() * 4 * len(data))
            network.scheduler.later(delay, partial(self._reply, data, cut))
        else:
            self._connection.receive(data)

    def _reply(self, data: bytes, cut: int) -> None:
        if 0 < cut < len(data):
            self._connection.receive(data[:cut])
            self.network.scheduler.later(self.network.delay(), partial(self._connection.receive, data[cut:]))
        else:
            self._connection.receive(data)

    def _wait(self, index: int, seconds: float) -> None:
        """Keep the sender waiting, unless there is something already."""
        network, name = self.network, self.commands[index][4]
        assert isinstance(name, bytes)

        def go_on() -> None:
            if not self._waited:
                self._waited = True
                self.arrive(index)

        if network.server.holds(name):
            go_on()
            return
        self.tell("waits")
        network.server.wait(name, go_on)
        network.scheduler.later(seconds, go_on)


class SimulatedTarget:
    """Connects to the server, if there is one that answers."""

    def __init__(self, network: Network, owner: Owner) -> None:
        self._network = network
        self._owner = owner

    def unavailable(self, error: Exception) -> BackendUnavailable:
        return error if isinstance(error, BackendUnavailable) else BackendUnavailable("Redis did not answer")

    async def connect(self, _: Port, where: Where = None) -> Connection:
        network = self._network
        way = network.delay()
        if way:
            await sleep(way)
        if network.server.silent:
            await sleep(PATIENCE)
            raise BackendUnavailable("Redis did not answer")
        return Connection(network, self._owner)


class SimulatedFuture:
    """What a task of the scheduler waits for."""

    __slots__ = ("_done", "_error", "_result", "_scheduler", "_wake")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._done = False
        self._error: Exception | None = None
        self._result: Any = None
        self._wake: Callable[[], None] = _nothing

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any) -> None:
        assert not self._done
        self._done, self._result = True, result
        self._wake()

    def set_exception(self, error: Exception) -> None:
        assert not self._done
        self._done, self._error = True, error
        self._wake()

    def __await__(self) -> Generator[None, None, Any]:
        if not self._done:
            self._wake = self._scheduler.waker()
            try:
                yield None
            except CancelledError:
                self._done = True
                raise
        assert self._done
        if self._error is not None:
            raise self._error
        return self._result


class SimulatedHeld(SimulatedFuture):
    """What the sender of deadlines waits for: see the lane's."""

    __slots__ = ("_packet",)

    def __init__(self, packet: Packet, loop: SimulatedLoop) -> None:
        super().__init__(loop._scheduler)
        self._packet = packet

    def __await__(self) -> Generator[None, None, Any]:
        cancelled: CancelledError | None = None
        while not self._done:
            self._wake = self._scheduler.waker()
            try:
                yield None
            except CancelledError as error:
                if not time_left(self._packet):
                    self._done = True
                    raise
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return (yield from super().__await__())


class SimulatedLoop:
    """What a lane asks of its event loop. Nothing happens here any more when the process is dead."""

    def __init__(self, scheduler: Scheduler, owner: Owner) -> None:
        self._scheduler = scheduler
        self._owner = owner

    def time(self) -> float:
        return self._scheduler.now

    def create_future(self) -> SimulatedFuture:
        return SimulatedFuture(self._scheduler)

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        return self._scheduler.spawn(self._owner.name, coroutine, "connects", fixed=True)

    def call_soon(self, action: Callable[..., object], *args: Any) -> None:
        self.call_later(0.0, action, *args)

    def call_later(self, seconds: float, action: Callable[..., object], *args: Any) -> object:
        self._scheduler.later(seconds, lambda: action(*args) if self._owner.alive else None)
        return self


class SimulatedProber(Prober):
    """Probes from a task of the scheduler, in the place of a thread."""

    def __init__(self, link: SimulatedLink, breaker: Breaker, port: Port) -> None:
        super().__init__(breaker, link._probe)
        self._link = link
        self._port = port

    def _start(self, bell: SimpleQueue[None], around: object) -> None:
        self._link.network.scheduler.spawn(self._link.owner.name, self._go_on(bell), "prober", fixed=True)

    async def _go_on(self, bell: SimpleQueue[None]) -> None:
        while self._breaker.is_open:
            await sleep(self.pause)
            await self.round(self._port)
        self._ended(bell)


class NoWatch(Watch):
    """Nobody is idle here for long."""

    def awake(self) -> None:
        pass


class SimulatedFleet(Fleet):
    """The real lanes, in several sets. Everybody awaits, also those who stand for threads."""

    def __init__(self, link: SimulatedLink, loop: Any) -> None:
        super().__init__(link._open, link, silence=PATIENCE, keep=_MOST, most=_MOST, merges=True)
        self._random = link.network.random
        self.sets: list[Lanes[TaskLane]] = [self._task_lanes(loop, True, None) for _ in range(_SETS)]

    def by_task(self, packet: Any, where: Where = None) -> Any:
        return self._any().lane_for(packet).exchange(packet)

    async def wait_by_task(self, packet: Any, where: Where = None) -> list[Reply] | None:
        with self._any().waiting() as lane:
            return None if lane is None else await lane.exchange(packet)

    def _any(self) -> Lanes[TaskLane]:
        return self.sets[int(self._random() * _SETS)]


class SimulatedLink(Link):
    """The real link, over connections of the simulated network."""

    def __init__(
        self, network: Network, layout: Layout, invalidations: Invalidations, owner: Owner, port: Port
    ) -> None:
        target: Any = SimulatedTarget(network, owner)
        super().__init__(target, layout, invalidations, silence=PATIENCE, keep=10, most=20)
        self.network = network
        self.owner = owner
        self._prober = SimulatedProber(self, self._breaker, port)
        self._watch = NoWatch(invalidations, self._look)
        self.lanes = SimulatedFleet(self, SimulatedLoop(network.scheduler, owner))
        self._fleet = self.lanes

    def warm_up(self) -> None:
        """Have all connections made already, as a process has that does not begin just now."""
        self._identities[None] = self.network.server.identity
        for lanes in self.lanes.sets:
            lane = lanes.lane_for([("PING",)])
            connection = Connection(self.network, self.owner)
            connection.proven = True
            lane._wire = _TaskWire(lane, Connected(connection, ServerClock()))
            lane._wire.proven = True

    def busy(self) -> int:
        """Lanes on which somebody waits."""
        return sum(not lane.idle for lanes in self.lanes.sets for lane in lanes.all())

    async def pause(self, port: Port, seconds: float) -> None:
        await port.do(_never, sleep, min(seconds, 0.1))


def _never(_: object) -> None:
    raise AssertionError("everything here awaits")


def _nothing() -> None:
    pass


def _blocks(command: Command) -> float:
    """For how many seconds a command that waits may keep its sender waiting."""
    milliseconds = command[2]
    assert isinstance(milliseconds, bytes)
    return int(milliseconds) / 1000
