"""The way to a Redis Cluster: each command goes to the node that serves its key, and all nodes are one server here.

Keys of one packet lie on several nodes: its commands are grouped by node, and the groups travel at the same time, in
order within a node and in none between nodes. A node that was asked wrongly says who is to be asked (Redis Cluster
specification, "Redirection and resharding"); then the map of slots is read anew.

If one node is away, the cache is: the generation that every read needs lies on one of them, and which it is nobody can
know in advance. So the breaker is closed only when every master answers, which takes as long as a failover. A node that
took the place of another may lack what that one confirmed, as a new master does elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import count, takewhile
from time import monotonic
from typing import Any, Final

from fast_cache.backends.redis.aside import aside
from fast_cache.backends.redis.batch import Packet, has_error
from fast_cache.backends.redis.cluster import Cluster
from fast_cache.backends.redis.deadlines import Dated, alike
from fast_cache.backends.redis.driver import Address, discard
from fast_cache.backends.redis.fleet import Where
from fast_cache.backends.redis.lane import unavailable
from fast_cache.backends.redis.link import AWAY, Link
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.backends.redis.script import Told, carry_out
from fast_cache.backends.redis.slot_map import SlotMap, slot_of
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import ASYNCIO, BLOCKING, Port, run_blocking
from redis.exceptions import ResponseError

_REDIRECTIONS: Final = 5
"""How often a command is sent on."""

_STRANGE: Final = 60.0
"""Seconds. A slot may be on its way for longer: then it is asked for again."""

_KEYLESS: Final = frozenset({"PING", "INFO", "TIME", "SCAN"})


class ClusterLink(Link):
    """The way to the nodes of a Cluster; takes what :class:`Link` takes."""

    ordered = False
    _useless = (*AWAY, "READONLY")
    _target: Cluster

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._slots: SlotMap | None = None
        self._strangers: dict[Address, float] = {}
        """Nodes that serve no slot, but keys of one that is on its way to them; and until when they are thought to."""
        self._topology = 0
        self._reading = threading.Lock()
        self._read: Future[SlotMap] | None = None

    def forked(self) -> None:
        super().forked()
        self._reading = threading.Lock()
        self._read = None

    async def servers(self, port: Port, *, anew: bool = False) -> Sequence[Where]:
        slots = None if anew else self._slots
        masters = (slots or await self._read_slots(port, anew=anew)).masters
        now = monotonic()
        strangers = [where for where, until in list(self._strangers.items()) if now < until]
        return tuple(dict.fromkeys((*masters, *strangers)))

    @property
    def topology(self) -> int:
        return self._topology

    def _carry(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        slots = self._slots
        pair = len(packet) == 2 and packet[1][0] == "GET" and (packet[0][0] == "GET" or type(packet) is Dated)
        if pair and port is ASYNCIO and slots is not None:
            return self._pair_by_task(packet, slots)
        return self._carry_anything(port, packet)

    async def _pair_by_task(self, packet: Packet, slots: SlotMap) -> list[Reply]:
        """A value, read or put, and the generation of its namespace: most packets, for which the way below is too long.

        Both commands may be carried out twice.
        """
        lanes = await self._fleet.lanes_of_loop()
        own = lanes.to(_place(slots, packet[0])).lane_for(packet).exchange(alike(packet, packet[:1]))
        shared = lanes.to(_place(slots, packet[1])).lane_for(packet).shared(packet[1])
        (value,) = await own
        # Never awaited itself: it is not for one of its readers to cancel it.
        (generation,) = shared.result() if shared.done() else await asyncio.shield(shared)
        if type(value) is ResponseError or type(generation) is ResponseError:
            return await self._carry_anything(ASYNCIO, packet)
        return [value, generation]

    async def _carry_anything(self, port: Port, packet: Packet) -> list[Reply]:
        slots = self._slots or await self._read_slots(port)
        places = _places(slots, packet)
        replies = await self._sent(port, packet, places)
        for _ in range(_REDIRECTIONS):
            if not any(isinstance(reply, ResponseError) for reply in replies):
                break
            redirects = {
                index: redirect
                for index, (reply, where) in enumerate(zip(replies, places, strict=True))
                if where is not None and (redirect := self._target.redirect(reply, where)) is not None
            }
            if not redirects:
                await self._try_one_by_one(port, packet, replies)
                break
            if not all(redirect.ask for redirect in redirects.values()):
                await self._moved(port)
            again: list[Command] = []
            where_to: list[Where] = []
            indices: list[int | None] = []
            for index, redirect in redirects.items():
                # What is told of it was told too early.
                tells = takewhile(lambda at: packet[at][0] == "PUBLISH", range(index + 1, len(packet)))
                for at in (index, *tells):
                    places[at] = redirect.address
                    if at == index and redirect.ask:
                        self._note(redirect.address)
                        again.append(("ASKING",))
                        indices.append(None)
                    again.append(packet[at])
                    indices.append(at)
                where_to += [redirect.address] * (len(again) - len(where_to))
            answers = await self._sent(port, alike(packet, again), where_to)
            for at_or_none, answer in zip(indices, answers, strict=True):
                if at_or_none is not None:
                    replies[at_or_none] = answer
        return replies

    async def _converse_about(self, command: Command, told: Told) -> Reply:
        slots = self._slots or await self._read_slots(BLOCKING)
        where, asking = _place(slots, command), False
        for _ in range(_REDIRECTIONS):
            assert where is not None
            reply = await carry_out(partial(self._conversations.talk, where), command, asking=asking, told=told)
            redirect = self._target.redirect(reply, where) if isinstance(reply, ResponseError) else None
            if redirect is None:
                break
            if not redirect.ask:
                await self._moved(BLOCKING)
            where, asking = redirect.address, redirect.ask
        return reply

    def _note(self, address: Address) -> None:
        """Note who is asked for keys of a slot that is another's yet."""
        now = monotonic()
        until, self._strangers[address] = self._strangers.get(address, now), now + _STRANGE
        if until <= now:
            self._topology += 1

    async def _try_one_by_one(self, port: Port, packet: Packet, replies: list[Reply]) -> None:
        """Remove keys singly that can't be removed together, because their slot is on its way to another node."""
        for index, (command, reply) in enumerate(zip(packet, replies, strict=True)):
            if command[0] in ("DEL", "UNLINK") and len(command) > 2 and has_error([reply], "TRYAGAIN"):
                removed = await self._carry_anything(port, [(command[0], name) for name in command[1:]])
                errors = [one for one in removed if isinstance(one, ResponseError)]
                replies[index] = errors[0] if errors else sum(removed)

    async def _sent(self, port: Port, packet: Packet, places: Sequence[Where]) -> list[Reply]:
        """Each command to its place; the replies in the order of the commands."""
        first = places[0]
        if all(where == first for where in places):
            return await port.do(self._fleet.by_thread, self._fleet.by_task, packet, first)
        groups: dict[Where, list[int]] = {}
        for index, where in enumerate(places):
            groups.setdefault(where, []).append(index)
        packets = [(alike(packet, [packet[index] for index in indices]), where) for where, indices in groups.items()]
        answers = await port.do(self._fleet.each_by_thread, self._fleet.each_by_task, packets)
        replies: list[Reply] = [None] * len(packet)
        for indices, answer in zip(groups.values(), answers, strict=True):
            for index, reply in zip(indices, answer, strict=True):
                replies[index] = reply
        return replies

    async def _carry_waiting(self, port: Port, packet: Packet) -> list[Reply] | None:
        # First the waiting, then the reading: what is on other nodes would be read before.
        slots = self._slots or await self._read_slots(port)
        where = _place(slots, packet[0])
        woken = await port.do(self._fleet.wait_by_thread, self._fleet.wait_by_task, packet[:1], where)
        if woken is None or len(packet) == 1:
            return woken
        return woken + await self._carry(port, packet[1:])

    async def _moved(self, port: Port) -> None:
        """A slot is served by another node than we thought."""
        epoch = self.epoch
        await self._read_slots(port, anew=True)
        if self._invalidations.pending:  # a master was replaced: it has to be told before it is asked
            self.lost(epoch)
            raise unavailable()

    def _part(self, commands: list[Command], where: Where) -> list[Command]:
        slots = self._slots
        assert slots is not None
        return [command for command in commands if _place(slots, command) == where]

    async def _greet(self, port: Port, connection: Any) -> None:
        if self._invalidations.pending:  # and not only to this node: the probe tells them all
            raise BackendUnavailable("a node of the Cluster was replaced")

    async def _read_slots(self, port: Port, *, anew: bool = False) -> SlotMap:
        """Who serves what; one thread asks, for all who want to know."""
        with self._reading:
            if self._slots is not None and not anew:
                return self._slots
            if self._read is None or self._read.done():
                self._read = aside(lambda: run_blocking(self._ask_for_slots(BLOCKING)), "slots")
            read = self._read
        epoch = self.epoch
        try:
            return await port.do(self._result, self._awaited, read)
        except (TimeoutError, BackendUnavailable) as error:
            if isinstance(error, BackendUnavailable):
                self._blame(error)
            self.lost(epoch)
            raise unavailable(error) from error

    def _result(self, read: Future[SlotMap]) -> SlotMap:
        return read.result(self._silence)

    async def _awaited(self, read: Future[SlotMap]) -> SlotMap:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(read)), self._silence)

    async def _ask_for_slots(self, port: Port) -> SlotMap:
        connection, asked = await self._target.connect_where(port)
        try:
            (reply,) = await self._converse(port, connection, [("CLUSTER", "SLOTS")])
        finally:
            await discard(port, connection)
        slots = self._target.read_slots(reply, asked)
        with self._reading:
            before, self._slots = self._slots, slots
        if slots != before:
            self._topology += 1
        if before is not None and slots != before:
            gone = {before.owner(slot) for slot in before.changed_owners(slots)} - slots.owners
            if gone:  # not only moved: another node took their place
                self._invalidations.repeat()
            self._fleet.keep_only(slots.masters)
            self._conversations.keep_only(slots.masters)
        return slots

    def _near(self, where: Where) -> str:
        slots = self._slots
        assert slots is not None
        return next(tag for tag in map(str, count()) if slots.serving(slot_of(self._layout.mark_key(tag))) == where)

    async def _meet(self, port: Port) -> None:
        slots = await self._ask_for_slots(port)
        if not slots.complete:
            raise BackendUnavailable("the Cluster does not serve all slots")
        connections = {}
        try:
            for where in slots.masters:
                connections[where] = connection = await self._target.connect(port, where)
                _, doubtful = await self._recognise(port, connection, where)
                if doubtful:
                    self._invalidations.repeat()
                (reply,) = await self._converse(port, connection, [("PING",)])
                if isinstance(reply, ResponseError):
                    raise BackendUnavailable("a node of the Cluster refuses a PING")

            async def talk(commands: list[Command]) -> list[Reply]:
                # One answer for all will do: that none is an error.
                replies: list[Reply] = []
                for where, connection in connections.items():
                    theirs = [command for command in commands if _place(slots, command) == where]
                    replies += await self._converse(port, connection, theirs) if theirs else ()
                return replies

            if self._invalidations.pending:
                await self._deliver(talk)
            waiting = self._waiting()
            for where, connection in connections.items():
                theirs = [command for command in waiting if _place(slots, command) == where]
                await self._catch_up(port, connection, theirs)
        finally:
            for connection in connections.values():
                await discard(port, connection)


def _place(slots: SlotMap, command: Command) -> Where:
    """Where a command goes."""
    key = _key_of(command)
    where = slots.masters[0] if key is None else slots.serving(slot_of(key))
    if where is None:
        raise BackendUnavailable("no node of the Cluster serves this key")
    return where


def _places(slots: SlotMap, packet: Packet) -> list[Where]:
    """Where the commands of a packet go. What is told of a change goes along with it, or it could come before: all
    nodes hear what one is told (Redis Cluster specification, "Publish/Subscribe").
    """
    places: list[Where] = []
    for command in packet:
        places.append(places[-1] if places and command[0] == "PUBLISH" else _place(slots, command))
    return places


def _key_of(command: Command) -> bytes | None:
    """The first key of a command of ours."""
    name = command[0]
    if name in _KEYLESS:
        return None
    key = command[3] if name == "EVAL" else command[command.index("STREAMS") + 1] if name == "XREAD" else command[1]
    assert isinstance(key, bytes)
    return key
