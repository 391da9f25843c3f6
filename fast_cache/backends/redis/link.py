"""Exchanges with Redis: a packet of commands out, one reply for each back, in either flavour.

What travels how is the affair of the lanes; here is what must be known of a server before it is asked, and told it
before anything is read. Whether it allows scripts is learned from the first one, and holds until another server takes
its place; if not, what they do is done in plain words, see ``script``.

The driver's errors end here: whatever it raises while it connects means that the server could not be used, and is
:class:`BackendUnavailable`; a reply that is an error is handed back in its place among the replies. What is raised
outside the driver is a defect of this package, and passes through.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import groupby
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakSet, ref

from fast_cache.backends.channel import ALL_NEWS
from fast_cache.backends.redis.batch import Packet, has_error
from fast_cache.backends.redis.breaker import Breaker, Prober
from fast_cache.backends.redis.conversations import Conversations
from fast_cache.backends.redis.deadlines import Dated, Deadline, ServerClock, alike
from fast_cache.backends.redis.deployment import Target
from fast_cache.backends.redis.driver import discard, forbids
from fast_cache.backends.redis.fleet import LONGEST_WAIT, Fleet, Where
from fast_cache.backends.redis.invalidations import Invalidations, Name
from fast_cache.backends.redis.lane import Connected, unavailable
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.replicas import Replicas
from fast_cache.backends.redis.resp import Command, Reply, pack
from fast_cache.backends.redis.script import Told, carry_out
from fast_cache.backends.redis.watch import EVERY, Watch
from fast_cache.errors import BackendError, BackendUnavailable
from fast_cache.ports import BLOCKING, Port, run_blocking
from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from fast_cache.backends.redis.hearing import Hearing

_BETWEEN_LOOKS: Final = (0.05, 0.25)
"""Seconds: how often those look who find no connection to wait on."""

_POSTPONED: Final = 1024
"""Commands; of more, the oldest are forgotten."""

AWAY: Final = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH")
"""How the errors begin by which a server says that it can't serve anybody just now."""

_SCRIPTING: Final = frozenset({"EVAL", "EVALSHA"})
_TRANSACTIONS: Final = frozenset({"WATCH", "MULTI", "EXEC", "DISCARD"})


class Link:
    """The way to one server.

    Args:
        silence: for how many seconds the server may say nothing before it is taken to be away.
        keep: how many connections stay open while nobody uses them, of each event loop and of all threads.
        most: how many there may be at once.
        replicas: how many have to acknowledge an invalidation; ``None`` asks none.
    """

    ordered: ClassVar[bool] = True
    """Whether the commands of a packet are carried out in their order."""
    _useless: ClassVar[tuple[str, ...]] = AWAY

    def __init__(
        self,
        target: Target,
        layout: Layout,
        invalidations: Invalidations,
        *,
        silence: float,
        keep: int,
        most: int,
        replicas: int | None = None,
    ) -> None:
        self._target = target
        self._layout = layout
        self._invalidations = invalidations
        self._silence = silence
        self._breaker = Breaker()
        self._prober = Prober(self._breaker, self._probe)
        self._watch = Watch(invalidations, self._look, self.leaving_nothing)
        self._fleet = Fleet(self._open, self, silence=silence, keep=keep, most=most, merges=self.ordered)
        self._wanted = replicas
        self._replicas = Replicas(
            invalidations, lambda: run_blocking(self._acknowledged(BLOCKING)), self.leaving_nothing
        )
        self._conversations = Conversations(self._open, self, silence=silence)
        self._identities: dict[Where, bytes | None] = {}
        self._scripts: bool | None = None
        """Whether the server allows them, as far as is known."""
        self._refusal: Reply = None
        """How it refused one."""
        self._postponed: deque[tuple[Command, float]] = deque(maxlen=_POSTPONED)
        self._blamed: BackendUnavailable | None = None
        """Why the server can't be used, where a setting is to blame."""
        self.closing = object()
        """Another one each time it is closed."""
        self.channel: Callable[[], Hearing | None] = _nobody
        """Through which others are told of what is changed, where that is to be."""
        _links.add(self)

    @property
    def epoch(self) -> int:
        """Changes whenever the server is found to be away, or back."""
        return self._breaker.epoch

    def away(self) -> bool:
        """Whether the server is taken to be away; then it is asked again shortly."""
        if self._breaker.is_open:
            self._prober.awake()
            return True
        return False

    def lost(self, epoch: int) -> None:
        """Something that was sent in ``epoch`` was not answered."""
        if self._breaker.lost(epoch):
            self._invalidations.away()
            self._prober.awake()

    def useless(self, replies: Sequence[Reply]) -> bool:
        """Whether the server says that it can't serve anybody, or is no longer the one to ask."""
        if self._scripts and any(forbids(reply, _SCRIPTING) for reply in replies):
            self._scripts = None  # its user has lost the right; the next one finds out
        return has_error(replies, self._useless)

    def queued(self) -> int:
        """How many invalidations the servers have not confirmed."""
        return self._invalidations.queued()

    def owe(self, name: Name) -> None:
        """See to it that ``name`` is invalidated before anything else is asked."""
        self._invalidations.owe(name)
        self._watch.awake()

    def begin(self, name: Name) -> None:
        """The server is about to be told that ``name`` is invalidated."""
        self._invalidations.begin(name)

    def confirm(self, name: Name) -> None:
        """The server has confirmed that ``name`` is invalidated."""
        self._invalidations.confirm(name)
        self._watch.awake()

    async def replicated(self, port: Port) -> None:
        """Wait until the replicas have all that was confirmed, if they are to be asked.

        Raises:
            BackendError: they have not acknowledged it in time. They are asked again, and it is owed to any server that
                takes the place of this one.
        """
        if self._wanted is None:
            return
        told = self._invalidations.last_told
        while not self._invalidations.all_replicated(told):
            if self._replicas.answered >= told:
                raise BackendError(
                    f"wait_for_replicas: not {self._wanted} of them acknowledged an invalidation in time",
                    setting="wait_for_replicas",
                )
            await port.later(self._asked)

    def postpone(self, command: Command, until: float) -> None:
        """Send ``command`` when the server is back, if that is before ``until``; nobody waits for the reply."""
        self._postponed.append((command, until))

    def exchange(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        """Send ``packet`` and return one reply per command.

        It may be sent twice, the second time over a new connection, if the server closed the first one meanwhile.

        Raises:
            BackendUnavailable: the server is away, or did not answer in time.
        """
        return port.send(self._exchange, packet)

    def recognises(self) -> bool:
        """Whether the servers say which ones they are. Else each new connection may be one to another server, and all
        that was invalidated of late is repeated there: what is done behind everybody's back should open none.
        """
        return None not in self._identities.values()

    async def connect(self, port: Port, where: Where) -> Any:
        """A connection of the driver's to one of :meth:`servers`, for a purpose of one's own."""
        return await self._target.connect(port, where)

    def deadline(self) -> Deadline:
        """A word for :meth:`exchange_dated`."""
        return Deadline(self._silence)

    def exchange_dated(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        """The same for commands with deadlines. It ends when it is decided what became of all that was sent: whoever
        gets no answer waits until the deadlines have passed, and whoever is cancelled for one of both.
        """
        return port.send(self._exchange_dated, packet)

    async def servers(self, port: Port, *, anew: bool = False) -> Sequence[Where]:
        """Those who have a part of the keys each; with ``anew`` not as far as is known, but now."""
        return (None,)

    @property
    def topology(self) -> int:
        """Another number whenever :meth:`servers` may be others."""
        return 0

    async def exchange_with(self, port: Port, where: Where, packet: Packet) -> list[Reply]:
        """The same with one of :meth:`servers`, and not with others in one packet."""
        if self._breaker.is_open or self._invalidations.pending:
            await self._ready(port)
        return await port.do(self._fleet.by_thread, self._fleet.by_task, packet, where)

    async def wait(self, port: Port, packet: Packet, seconds: float) -> list[Reply] | None:
        """Send ``packet``, which the server may answer only after ``seconds``, over a connection for such.

        If none is free, nothing is sent, and ``None`` returned after a while; also if another of a batch has waited.
        """
        return await port.later(partial(self._wait, packet, seconds))

    async def pause(self, port: Port, seconds: float) -> None:
        """Let some time pass between two looks, not more than ``seconds``."""
        await port.do(sleep, _suspended, min(seconds, random.uniform(*_BETWEEN_LOOKS)))

    def close(self) -> None:
        """Close the connections of threads, and ask no more whether a server that is away is back, or still there."""
        self.closing = object()
        self._watch.close()
        self._prober.close()
        self._hang_up()

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._fleet.aclose()

    def leaving_nothing(self) -> Leaving:
        """To be put around what a thread of ours does, by whoever begins it, before anybody may know of it."""
        return Leaving(self)

    def hang_up_if_closed(self, since: object) -> None:
        """Close the connections of threads once more, if that was done after ``since``, which is a :attr:`closing`."""
        if self.closing is not since:
            self._hang_up()

    def _hang_up(self) -> None:
        self._fleet.close()
        self._conversations.close()

    def forked(self) -> None:
        """In a forked child: begin anew, but for what is owed."""
        self._fleet.forked()
        self._conversations.forked()
        self._breaker.forked()
        self._prober.forked()
        self._watch.forked()
        self._replicas.forked()
        self._invalidations.forked()

    def _exchange(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        # Where nothing is in the way this ends in the lane's own future, without a coroutine in between.
        if self._breaker.is_open or self._invalidations.pending:
            return self._carry_when_ready(port, packet)
        if self._scripts or not _has_script(packet):
            return self._carry(port, packet)
        return self._carry_scripts(port, packet)

    def _exchange_dated(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        return self._exchange(port, Dated(packet))

    async def _carry_when_ready(self, port: Port, packet: Packet) -> list[Reply]:
        await self._ready(port)
        return await (self._carry_scripts(port, packet) if _has_script(packet) else self._carry(port, packet))

    async def _carry_scripts(self, port: Port, packet: Packet) -> list[Reply]:
        """Carry ``packet``, in plain words from the first script on that the server refuses."""
        if self._scripts:  # by now, or whoever calls did not ask
            return await self._carry(port, packet)
        done: list[Reply] = []
        if self._scripts is None:
            replies = await self._carry(port, packet)
            refused = next((at for at, reply in enumerate(replies) if forbids(reply, _SCRIPTING)), None)
            if refused is None:
                # What is an error may have been one before it came to that.
                self._scripts = None if any(isinstance(reply, Exception) for reply in replies) else True
                return replies
            self._scripts, self._refusal = False, replies[refused]
            done = replies[:refused]
        return done + await self._in_plain_words(port, alike(packet, packet[len(done) :]))

    async def _in_plain_words(self, port: Port, packet: Packet) -> list[Reply]:
        """Carry ``packet`` in the order of its commands, and do in plain words what scripts would do."""
        talks, replies, dated = self._conversations, list[Reply](), type(packet) is Dated
        for is_script, group in groupby(_with_what_they_tell(packet), key=lambda one: _is_script(one[0])):
            if is_script:
                step = partial(self._without_scripts, list(group))
                replies += await port.do(talks.by_thread, talks.by_task, step, dated)
            else:
                replies += await self._carry(port, [command for commands in group for command in commands])
        return replies

    async def _without_scripts(self, scripts: Sequence[Sequence[Command]]) -> list[Reply]:
        """Do what these scripts would do, and tell of it what stands behind each; where conversations are held."""
        replies: list[Reply] = []
        for script, *tells in scripts:
            told = Told(tells)
            reply = await self._converse_about(script, told)
            # One who allows neither is asked to allow the first.
            replies += [self._refusal if forbids(reply, _TRANSACTIONS) else reply, *told.replies]
        return replies

    async def _converse_about(self, command: Command, told: Told) -> Reply:
        """Do what one script would do."""
        return await carry_out(partial(self._conversations.talk, None), command, told=told)

    async def _ready(self, port: Port) -> None:
        """See to it that the server may be asked."""
        if self._breaker.is_open:
            self._prober.awake()
            raise unavailable(self._blamed)
        if self._invalidations.pending:
            epoch = self._breaker.epoch
            try:
                await self._deliver(partial(self._carry, port))
            except BackendUnavailable:
                self.lost(epoch)
                raise

    def _carry(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        """Carry ``packet`` to where it belongs."""
        return port.do(self._fleet.by_thread, self._fleet.by_task, packet)

    async def _wait(self, packet: Packet, seconds: float, port: Port) -> list[Reply] | None:
        await self._ready(port)
        replies = await self._carry_waiting(port, packet)
        if replies is None:
            await self.pause(port, seconds)
        return replies

    def _carry_waiting(self, port: Port, packet: Packet) -> Awaitable[list[Reply] | None]:
        return port.do(self._fleet.wait_by_thread, self._fleet.wait_by_task, packet)

    async def _open(self, port: Port, where: Where = None) -> Connected:
        """Make a connection for a lane, and tell the server what it has to know before anything else."""
        try:
            connection = await self._target.connect(port, where)
        except BackendUnavailable as error:
            self._blame(error)
            raise
        try:
            clock, doubtful = await self._recognise(port, connection, where)
            if doubtful:
                await self._tell_again(port, connection, where)
            await self._greet(port, connection)
        except BaseException:
            await discard(port, connection)
            raise
        return Connected(connection, clock)

    async def _recognise(self, port: Port, connection: Any, where: Where) -> tuple[ServerClock, bool]:
        """Find out whether the server is another one than before: then it may lack what that one confirmed.

        The second result is whether it may be another one and does not say: each connection has to ask that anew.
        """
        asked = monotonic()
        *replies, time = await self._converse(
            port, connection, [("INFO", "server"), ("INFO", "replication"), ("TIME",)]
        )
        clock = ServerClock()
        clock.read(time, asked, monotonic())
        if self.useless(replies):
            raise BackendUnavailable("Redis can't serve anybody yet")
        identity = _identity(replies)
        changed = where in self._identities and (identity is None or identity != self._identities[where])
        doubtful = changed and identity is None
        if changed:
            self._scripts = None
            if not doubtful:
                self._invalidations.repeat()
        self._identities[where] = identity
        return clock, doubtful

    async def _tell_again(self, port: Port, connection: Any, where: Where) -> None:
        """Tell a server what it may lack, if it is another one than before, over the connection that is in doubt.

        That is owed to nobody else: whoever read it meanwhile over another connection has told it there. Nor is it
        remembered for longer: else it would be told for ever where connections come and go.
        """
        for commands in self._invalidations.of_late().packets(self._layout):
            theirs = self._part(commands, where)
            if theirs:
                _check_told(await self._converse(port, connection, theirs))

    def _part(self, commands: list[Command], where: Where) -> list[Command]:
        """Those of ``commands`` that belong there."""
        return commands

    async def _greet(self, port: Port, connection: Any) -> None:
        if self._invalidations.pending:
            await self._deliver(partial(self._converse, port, connection))

    async def _deliver(self, talk: Callable[[list[Command]], Awaitable[list[Reply]]]) -> None:
        """Tell the server what it is owed."""
        owed, servers = self._invalidations.owed(), self._identities.copy()
        for commands in owed.packets(self._layout):
            _check_told(await talk(commands))
        channel = self.channel()
        if channel is not None and (told := channel.beside(ALL_NEWS)):
            await talk(told)  # nobody has told them of it, or of what the server before this one had forgotten
        if servers == self._identities:  # else one that was told may be gone already
            self._invalidations.delivered(owed)

    async def _converse(self, port: Port, connection: Any, commands: Sequence[Command]) -> list[Reply]:
        """Send over a connection of the driver's that no lane has yet, and read a reply to each command.

        Raises:
            BackendUnavailable: there was none in time.
        """
        send, packed = connection.send_packed_command, [pack(commands, scripts=True)]
        try:
            await port.do(send, send, packed)
            return [await _one_reply(port, connection) for _ in commands]
        except Exception as error:
            raise self._target.unavailable(error) from error

    def _waiting(self) -> list[Command]:
        """What was postponed, and is still to be sent."""
        waiting = []
        with suppress(IndexError):
            while True:
                waiting.append(self._postponed.popleft())
        return [command for command, until in waiting if until > monotonic()]

    async def _look(self, port: Port) -> None:
        """Ask the servers that nobody asks just now: only who asks finds out that one is another than before."""
        if self.away() or not self.recognises():
            return
        with suppress(BackendUnavailable):  # then it is probed
            for where in await self.servers(port):
                if self._invalidations.pending or self._fleet.is_quiet(where, EVERY):
                    await self.exchange_with(port, where, [("PING",)])
            if self._wanted is not None and self._invalidations.told():
                await self._asked(port)

    async def _asked(self, port: Port) -> bool:
        """Whether the replicas have everything; others may ask at the same time."""
        return await port.do(_result, _awaited, self._replicas.ask())

    async def _acknowledged(self, port: Port) -> bool:
        """Ask the replicas of each server."""
        assert self._wanted is not None
        milliseconds = max(1, round(min(self._silence, LONGEST_WAIT) * 1000))
        for where in await self.servers(port):
            packet = [*self._layout.mark(self._near(where)), ("WAIT", self._wanted, milliseconds)]
            await self._ready(port)
            replies = await port.do(self._fleet.wait_by_thread, self._fleet.wait_by_task, packet, where)
            if replies is None or isinstance(replies[0], Exception):
                return False
            if not isinstance(replies[1], int) or replies[1] < self._wanted:
                return False
        return True

    def _near(self, where: Where) -> str:
        """Something for the name of a key that is to lie there."""
        return ""

    async def _catch_up(self, port: Port, connection: Any, waiting: Sequence[Command]) -> None:
        """Send what was postponed."""
        if not waiting:
            return

        async def talk(commands: Sequence[Command], _: bool) -> list[Reply]:
            return await self._converse(port, connection, commands)

        replies = await talk(waiting, False)
        for command, reply in zip(waiting, replies, strict=True):
            if forbids(reply, _SCRIPTING):
                await carry_out(talk, command)

    async def _probe(self, port: Port) -> None:
        """Find out whether the server is back, and tell it what it is owed."""
        try:
            await self._meet(port)
        except BackendUnavailable as error:
            self._blame(error)
            raise
        self._blamed = None
        self._invalidations.back()

    def _blame(self, error: BackendUnavailable) -> None:
        """Let those who find the server away know why, if a setting is to blame."""
        # Not the error itself, which would keep all that its traceback refers to.
        self._blamed = BackendUnavailable(str(error), setting=error.setting) if error.setting else None

    async def _meet(self, port: Port) -> None:
        """Tell the server what it is owed, if it is there, and what was postponed."""
        connection = await self._target.connect(port)
        try:
            _, doubtful = await self._recognise(port, connection, None)
            if doubtful:
                # What was remembered for as long as the server was away is about to be forgotten otherwise.
                self._invalidations.repeat()
            await self._greet(port, connection)
            (reply,) = await self._converse(port, connection, [("PING",)])
            if isinstance(reply, ResponseError):
                raise BackendUnavailable("Redis refuses a PING")
            await self._catch_up(port, connection, self._waiting())
        finally:
            await discard(port, connection)


class Leaving:
    """Around what is done behind everybody's back: if the backend is closed after this was made, what it opens does not
    stay open. It keeps no backend alive.
    """

    def __init__(self, link: Link) -> None:
        self._link = ref(link)
        self._since = link.closing

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        link = self._link()
        if link is not None:
            link.hang_up_if_closed(self._since)


_links: WeakSet[Link] = WeakSet()


def _forked() -> None:
    for link in list(_links):
        link.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _result(future: Future[bool]) -> bool:
    return future.result()


async def _awaited(future: Future[bool]) -> bool:
    return await asyncio.shield(asyncio.wrap_future(future))  # it is others' too


def _has_script(packet: Packet) -> bool:
    return any(map(_is_script, packet))


def _is_script(command: Command) -> bool:
    return command[0] == "EVAL"


def _with_what_they_tell(packet: Packet) -> list[list[Command]]:
    """The commands, each with those behind it that tell others of it."""
    groups: list[list[Command]] = []
    for command in packet:
        if groups and command[0] == "PUBLISH":
            groups[-1].append(command)
        else:
            groups.append([command])
    return groups


def _nobody() -> None:
    """There is no channel."""


async def _suspended(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _identity(replies: Sequence[Reply]) -> bytes | None:
    """Which run of which server this is, and whose data it has, if it says so.

    A master that was made the replica of another one, and master again, is the same run with other data.
    """
    lines = [line for reply in replies if isinstance(reply, bytes) for line in reply.splitlines()]
    told = [line for line in lines if line.startswith((b"run_id:", b"master_replid:"))]
    return b" ".join(told) if any(line.startswith(b"run_id:") for line in told) else None


def _check_told(replies: Sequence[Reply]) -> None:
    """See to it that the server has taken the invalidations."""
    if any(isinstance(reply, Exception) for reply in replies):
        # A replica or a server that forbids it: until it can be told, nothing it holds may be believed.
        raise BackendUnavailable("Redis refuses the invalidations it is owed")


async def _one_reply(port: Port, connection: Any) -> Reply:
    read = connection.read_response
    try:
        return await port.do(read, read, disable_decoding=True)
    except ResponseError as error:
        return error
