"""A Redis of the few commands that the layout uses, and the bad network before it.

A packet is on its way for a while, and so is its reply; either may be lost, and then the sender hears nothing until
its patience ends. What was sent arrives even if the sender is cancelled or dead by then. Commands of other senders may
come between those of a packet; a script is one command. The server may be silent, may refuse to change anything, and
may forget. The link and the breaker before all this are the real ones, and so is the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from redis.exceptions import ResponseError

from fast_cache.backends.redis import layout
from fast_cache.backends.redis.breaker import Breaker
from fast_cache.backends.redis.layout import EPOCH_LENGTH, TOKEN_LENGTH, Command, Layout
from fast_cache.backends.redis.link import Link, Reply
from fast_cache.backends.redis.pool import Pool
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import Port
from fast_cache.serializers import name_digest
from tests.simulation.history import History
from tests.simulation.plan import TAGS
from tests.simulation.scheduler import Scheduler, park, sleep

PATIENCE: Final = 0.5
"""For how many seconds a client waits for the server."""

_LISTED: Final = 3
"""How many of the tags that were invalidated last the server knows: fewer than a real one, so that it matters."""

_EPOCH: Final = b"\xfe"
"""What the first half of a numbered token begins with."""

_CONNECTIONS: Final = 100
"""More than a schedule has use for: queueing is not what is examined here."""


class Server:
    """The data, with lifetimes in whole milliseconds of the virtual clock."""

    def __init__(self, scheduler: Scheduler, history: History) -> None:
        self._scheduler = scheduler
        self._history = history
        self._data: dict[bytes, tuple[bytes, int | None]] = {}
        self._waiting: dict[bytes, list[Callable[[], None]]] = {}
        self.silent = False
        self.read_only = False
        self._commands: dict[Any, Callable[..., Reply]] = {
            "GET": self._get,
            "GETRANGE": self._getrange,
            "SET": self._set,
            "DEL": self._del,
            "PTTL": self._pttl,
            "PEXPIRE": self._pexpire,
            "EVAL": self._eval,
            "XREAD": self._xread,
        }
        self._scripts: dict[Any, Callable[..., Reply]] = {
            layout._WRITE_IF_FENCED: self._write_if_fenced,
            layout._ANNOUNCE: self._announce,
            layout._PUT_IF_ANNOUNCED: self._put_if_announced,
            layout._TAKE_LEASE: self._take_lease,
            layout._EXTEND_LEASE: self._extend_lease,
            layout._RELEASE_LEASE: self._release_lease,
            layout._NEXT: self._next_number,
            layout._SET_TAG: self._set_tag,
        }

    def wait(self, name: bytes, woken: Callable[[], None]) -> None:
        """Call ``woken`` when something is added to the stream."""
        self._waiting.setdefault(name, []).append(woken)

    def execute(self, command: Command, sender: object) -> Reply:
        """Carry out one command; an error is a reply like any other."""
        name, *arguments = command
        if self.read_only and name not in ("GET", "GETRANGE", "PTTL", "XREAD"):
            reply: Reply = ResponseError("READONLY You can't write against a read only replica.")
        else:
            reply = self._commands[name](*arguments)
        if self._history.told:
            self._history.tell(f"redis: {_shown(command)} for {sender} -> {_brief(reply)}")
        return reply

    def names(self) -> list[bytes]:
        """What is there."""
        return [name for name in list(self._data) if self._get(name) is not None]

    def holds(self, name: bytes) -> bool:
        """Whether a key is there."""
        return self._get(name) is not None

    def forget(self, name: bytes) -> None:
        """Evict a key, as a full server does."""
        self._data.pop(name, None)
        if self._history.told:
            self._history.tell(f"redis: {_brief(name)} is evicted")

    def _milliseconds(self) -> int:
        return int(self._scheduler.now * 1000)

    def _get(self, name: bytes) -> bytes | None:
        found = self._data.get(name)
        if found is None:
            return None
        if found[1] is not None and self._milliseconds() > found[1]:
            del self._data[name]
            self._lost(name)
            return None
        return found[0]

    def _getrange(self, name: bytes, first: int, last: int) -> bytes:
        return (self._get(name) or b"")[first : last + 1]

    def _set(self, name: bytes, value: bytes, *options: Any) -> bytes | None:
        until: int | None = None
        if "NX" in options and self._get(name) is not None:
            return None
        if "PX" in options:
            until = self._milliseconds() + int(options[options.index("PX") + 1])
        if "KEEPTTL" in options and self._get(name) is not None:
            until = self._data[name][1]
        self._data[name] = (value, until)
        if b":v:" in name:
            self._history.stored(value, None if until is None else (until - self._milliseconds()) / 1000)
        return b"OK"

    def _del(self, *names: bytes) -> int:
        there = [name for name in names if self._get(name) is not None]
        for name in there:
            del self._data[name]
            self._lost(name)
        return len(there)

    def _lost(self, name: bytes) -> None:
        """Whoever had a lease has it no longer: another may load beside it."""
        if b":l:" in name:
            self._history.disturb(None, name[name.index(b"{") + 1 : -1].decode())

    def _pttl(self, name: bytes) -> int:
        if self._get(name) is None:
            return -2
        until = self._data[name][1]
        return -1 if until is None else max(0, until - self._milliseconds())

    def _pexpire(self, name: bytes, milliseconds: int) -> int:
        value = self._get(name)
        if value is None:
            return 0
        self._data[name] = (value, self._milliseconds() + milliseconds)
        return 1

    def _xread(self, _: str, milliseconds: int, __: str, name: bytes, after: str) -> bytes | None:
        return self._get(name)

    def _eval(self, script: str, count: int, *rest: Any) -> Reply:
        return self._scripts[script](*rest)

    # The scripts, line by line.

    def _write_if_fenced(
        self, fence: bytes, name: bytes, counter: bytes, token: bytes, value: bytes, milliseconds: int
    ) -> int:
        if self._get(fence) != token:
            return 0
        self._set(name, value, "PX", milliseconds)
        self._del(fence, counter)
        return 1

    def _announce(self, fence: bytes, token: bytes, milliseconds: int) -> bytes | None:
        announced = self._get(fence) or b""
        return self._set(fence, announced[-1024:] + token, "PX", milliseconds)

    def _put_if_announced(
        self, fence: bytes, name: bytes, counter: bytes, token: bytes, value: bytes, milliseconds: int
    ) -> int:
        announced = self._get(fence) or b""
        first = announced.find(token)
        if not announced:
            return 0
        if first < 0:
            return -1 if announced[0] > 127 else -2
        self._set(name, value, "PX", milliseconds)
        self._del(counter)
        rest = announced[first + len(token) :]
        if first > 0:
            rest = token[::-1] + rest
        if rest:
            self._set(fence, rest, "KEEPTTL")
        else:
            self._del(fence)
        return 1

    def _take_lease(self, lease: bytes, wake: bytes, token: bytes, milliseconds: int) -> int:
        holder, left = self._get(lease), self._pttl(lease)
        if holder is not None and holder != token and left > 0:
            return left
        if holder is not None and holder != token:
            self._lost(lease)  # in the millisecond in which it ends
        self._set(lease, token, "PX", milliseconds)
        self._del(wake)
        return 0

    def _extend_lease(self, lease: bytes, token: bytes, milliseconds: int) -> int:
        if self._get(lease) != token:
            return 0
        return self._pexpire(lease, milliseconds)

    def _release_lease(self, lease: bytes, wake: bytes, token: bytes, milliseconds: int) -> int:
        holder = self._get(lease)
        if holder is not None and holder != token:
            return 0
        self._data.pop(lease, None)
        self._set(wake, b"released", "PX", milliseconds)
        for woken in self._waiting.pop(wake, ()):
            self._scheduler.later(0.0, woken)
        return 1

    def _next_number(self, sequence: bytes, epoch: bytes, milliseconds: int, digests: bytes) -> bytes:
        last, number, recent = self._get(sequence), 0, b""
        if last is not None and len(last) >= TOKEN_LENGTH and len(last) % 8 == 0:
            epoch, recent = last[:EPOCH_LENGTH], last[TOKEN_LENGTH:]
            number = int.from_bytes(last[EPOCH_LENGTH:TOKEN_LENGTH], "big")
        token = epoch + (number + len(digests) // 8).to_bytes(TOKEN_LENGTH - EPOCH_LENGTH, "big")
        self._set(sequence, token + (recent + digests)[-8 * _LISTED :], "PX", milliseconds)
        return token

    def _set_tag(self, name: bytes, token: bytes, milliseconds: int) -> int:
        there = self._get(name)
        if there is not None and there[:EPOCH_LENGTH] == token[:EPOCH_LENGTH] and there > token:
            return 0
        self._set(name, token, "PX", milliseconds)
        return 1


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
        """How likely a packet is to be lost; a reply is as likely, and so is an exchange that happens twice."""
        self._promptly = 0.5 if slow else 0.8

    def delay(self) -> float:
        """Often none; now and then longer than anybody waits."""
        drawn = self.random()
        if drawn < self._promptly:
            return 0.0
        return 0.01 if drawn < 0.88 else 0.1 if drawn < 0.96 else 0.3 if drawn < 0.99 else 0.8

    def connection(self, sender: object) -> Connection:
        return Connection(self, sender)


class Connection:
    """One of the connections that the pool holds."""

    def __init__(self, network: Network, sender: object) -> None:
        self.network = network
        self.sender = sender

    def pack_commands(self, commands: Sequence[Command]) -> Sequence[Command]:
        return commands

    def disconnect(self) -> None:
        pass

    async def converse(self, commands: Sequence[Command], *, reused: bool) -> list[Reply]:
        network = self.network
        exchange = _Exchange(network, self.sender, commands)
        exchange.done = network.scheduler.waker()
        delay, random = network.delay, network.random
        if network.loss and random() < network.loss:
            exchange.tell("is lost")
        else:
            if network.loss and reused and random() < network.loss:
                # The server closes the connection behind the packet, so that it is sent once more over another.
                exchange.again = True
            way = delay()
            if way or random() < 0.7:
                network.scheduler.later(way, partial(exchange.arrive, 0))
            else:
                exchange.arrive(0)
        if exchange.answer is None:
            waits = sum(_blocks(command) for command in commands if command[0] == "XREAD")
            network.scheduler.wake_after(PATIENCE + waits)
            await park()
        if exchange.answer is None:
            raise BackendUnavailable("Redis did not answer")
        return exchange.answer


class _Exchange:
    """A packet on its way there, and its replies on their way back."""

    __slots__ = ("_waited", "again", "answer", "commands", "done", "network", "replies", "sender")

    def __init__(self, network: Network, sender: object, commands: Sequence[Command]) -> None:
        self.network = network
        self.sender = sender
        self.commands = commands
        self.replies: list[Reply] = []
        self.again = False
        self._waited = False
        self.answer: list[Reply] | None = None
        self.done: Callable[[], None] | None = None

    def tell(self, what: str) -> None:
        history = self.network.history
        if history.told:
            history.tell(f"network: {' '.join(_shown(command) for command in self.commands)} of {self.sender} {what}")

    def arrive(self, first: int) -> None:
        """Carry out the commands from the ``first`` on, or only some before others come in between."""
        network, replies = self.network, self.replies
        if network.server.silent:
            self.tell("meets a silent server")
            return
        count = len(self.commands)
        pauses = network.random() < 0.2
        for index in range(first, count):
            if self.commands[index][0] == "XREAD" and not self._waited:
                self._wait(index, _blocks(self.commands[index]))
                return
            replies.append(network.server.execute(self.commands[index], self.sender))
            if pauses and index + 1 < count:
                network.scheduler.later(0.0, partial(self.arrive, index + 1))
                return
        if self.again:
            self.tell("gets no reply and is sent once more")
            self.again = False
            self.replies = []
            network.scheduler.later(network.delay(), partial(self.arrive, 0))
            return
        if network.loss and network.random() < network.loss:
            self.tell("gets a reply that is lost")
            return
        delay = network.delay()
        if delay or network.random() < 0.5:
            network.scheduler.later(delay, self.reply)
        else:
            self.reply()

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

    def reply(self) -> None:
        assert self.done is not None
        self.answer = self.replies
        self.done()


class SimulatedLink(Link):
    """The real link, over connections of the simulated network."""

    def __init__(self, network: Network, layout: Layout, breaker: Breaker, sender: object) -> None:
        super().__init__(None, layout, breaker)  # type: ignore[arg-type]  # there is no target to connect to
        make = partial(network.connection, sender)
        few = Pool(make, keep=1, most=1, patience=PATIENCE)  # so that some have to look again and again
        self.pool = Pool(make, keep=_CONNECTIONS, most=_CONNECTIONS, patience=PATIENCE, waiting=few)

    async def _pool_of_loop(self) -> Pool:
        return self.pool

    def busy(self) -> int:
        """Connections that were taken and not given back."""
        assert self.pool.waiting is not None
        return _CONNECTIONS - self.pool._free + 1 - self.pool.waiting._free

    async def pause(self, port: Port, seconds: float) -> None:
        await port.do(_never, sleep, min(seconds, 0.1))


def _never(_: object) -> None:
    raise AssertionError("everything here awaits")


async def converse(port: Port, connection: Connection, packed: Any, count: int, *, reused: bool) -> list[Reply]:
    """Stands in for the function of that name in the link, which talks to the driver's connections."""
    replies = await connection.converse(packed, reused=reused)
    assert len(replies) == count
    return replies


class Tokens:
    """Tokens that are told apart at a glance, and never lie across the border of two."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return (b"T%d" % self._count).ljust(TOKEN_LENGTH - 1, b".") + b"\xff"

    def epoch(self) -> bytes:
        """The first half of the tokens that are numbered."""
        self._count += 1
        return (_EPOCH + b"%d" % self._count).ljust(EPOCH_LENGTH, b".")

    def plain(self, length: int) -> bytes:
        """Stands in for ``secrets.token_bytes``."""
        self._count += 1
        return (b"t%d" % self._count).ljust(length, b".")


_SCRIPT_NAMES: Final = {
    layout._WRITE_IF_FENCED: "WRITE-IF-FENCED",
    layout._ANNOUNCE: "ANNOUNCE",
    layout._PUT_IF_ANNOUNCED: "PUT-IF-ANNOUNCED",
    layout._TAKE_LEASE: "TAKE-LEASE",
    layout._EXTEND_LEASE: "EXTEND-LEASE",
    layout._RELEASE_LEASE: "RELEASE-LEASE",
    layout._NEXT: "NEXT",
    layout._SET_TAG: "SET-TAG",
}

_TAG_NAMES: Final = {name_digest(tag): tag for tag in TAGS}


def _tag(digest: bytes) -> str:
    return f"<{_TAG_NAMES[digest]}>"


def _blocks(command: Command) -> float:
    """For how many seconds a command that waits may keep its sender waiting."""
    return int(command[2]) / 1000


def _shown(command: Command) -> str:
    words = list(command)
    if words[0] == "EVAL":
        words[:3] = [_SCRIPT_NAMES[str(words[1])]]
    return "(" + " ".join(_brief(word) for word in words) + ")"


def _brief(value: Any) -> str:
    if isinstance(value, bytes):
        if value.startswith(b"FC"):
            return f"<entry {value[49 + 24 * value[48] : -4].decode()}>"
        if value[:1] == _EPOCH:
            epoch = value[1:EPOCH_LENGTH].decode().rstrip(".")
            number, listed = value[EPOCH_LENGTH:TOKEN_LENGTH], value[TOKEN_LENGTH:]
            tags = ", ".join(_tag(listed[at : at + 8]) for at in range(0, len(listed), 8))
            return f"E{epoch}" + f"/{int.from_bytes(number, 'big')}" * bool(number) + f" {tags}" * bool(tags)
        names = [value[at : at + 8] for at in range(0, len(value), 8)]
        if value and all(name in _TAG_NAMES for name in names):
            return ", ".join(map(_tag, names))
        if b":t:" in value:
            prefix, digest = value.decode().split(":t:")
            return f"{prefix}:t:{_tag(bytes.fromhex(digest))}"
        return value.decode("ascii", "replace").replace(".", "")
    return "nil" if value is None else str(value)
