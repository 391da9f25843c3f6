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
from typing import Any, Final

from fast_cache.backends.redis.aside import aside
from fast_cache.backends.redis.batch import Packet, has_error
from fast_cache.backends.redis.cluster import Cluster
from fast_cache.backends.redis.driver import discard
from fast_cache.backends.redis.fleet import Where
from fast_cache.backends.redis.lane import unavailable
from fast_cache.backends.redis.link import AWAY, Link
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.backends.redis.slot_map import SlotMap, slot_of
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import ASYNCIO, BLOCKING, Port, run_blocking
from redis.exceptions import ResponseError

_REDIRECTIONS: Final = 5
"""How often a command is sent on."""

_KEYLESS: Final = frozenset({"PING", "INFO", "TIME", "SCAN"})


class ClusterLink(Link):
    """The way to the nodes of a Cluster; takes what :class:`Link` takes."""

    ordered = False
    _target: Cluster

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._slots: SlotMap | None = None
        self._reading = threading.Lock()
        self._read: Future[SlotMap] | None = None

    def useless(self, replies: Sequence[Reply]) -> bool:
        return has_error(replies, (*AWAY, "READONLY"))

    def forked(self) -> None:
        super().forked()
        self._reading = threading.Lock()
        self._read = None

    async def servers(self, port: Port) -> Sequence[Where]:
        return (self._slots or await self._read_slots(port)).masters

    def _carry(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        slots = self._slots
        if port is ASYNCIO and slots is not None and len(packet) == 2 and packet[0][0] == packet[1][0] == "GET":
            return self._pair_by_task(packet, slots)
        return self._carry_anything(port, packet)

    async def _pair_by_task(self, packet: Packet, slots: SlotMap) -> list[Reply]:
        """A value and the generation of its namespace: most packets, for which the way below is too long."""
        lanes = await self._fleet.lanes_of_loop()
        own = lanes.to(_place(slots, packet[0])).lane_for(packet).exchange(packet[:1])
        shared = lanes.to(_place(slots, packet[1])).lane_for(packet).shared(packet[1])
        (value,) = await own
        # Never awaited itself: it is not for one of its readers to cancel it.
        (generation,) = shared.result() if shared.done() else await asyncio.shield(shared)
        if type(value) is ResponseError or type(generation) is ResponseError:
            return await self._carry_anything(ASYNCIO, packet)
        return [value, generation]

    async def _carry_anything(self, port: Port, packet: Packet) -> list[Reply]:
        slots = self._slots or await self._read_slots(port)
        places = [_place(slots, command) for command in packet]
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
            for index, redirect in redirects.items():
                places[index] = redirect.address
                again += [("ASKING",), packet[index]] if redirect.ask else [packet[index]]
            where_to = [r.address for r in redirects.values() for _ in range(1 + r.ask)]
            answers = iter(await self._sent(port, again, where_to))
            for index, redirect in redirects.items():
                if redirect.ask:
                    next(answers)
                replies[index] = next(answers)
        return replies

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
        packets = [([packet[index] for index in indices], where) for where, indices in groups.items()]
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
        if before is not None and slots != before:
            gone = {before.owner(slot) for slot in before.changed_owners(slots)} - slots.owners
            if gone:  # not only moved: another node took their place
                self._invalidations.repeat()
            self._fleet.keep_only(slots.masters)
        return slots

    async def _probe(self, port: Port) -> None:
        slots = await self._ask_for_slots(port)
        if not slots.complete:
            raise BackendUnavailable("the Cluster does not serve all slots")
        connections = {}
        try:
            for where in slots.masters:
                connections[where] = connection = await self._target.connect(port, where)
                await self._recognise(port, connection, where)
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
            await talk(self._waiting())
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


def _key_of(command: Command) -> bytes | None:
    """The first key of a command of ours."""
    name = command[0]
    if name in _KEYLESS:
        return None
    key = command[3] if name == "EVAL" else command[command.index("STREAMS") + 1] if name == "XREAD" else command[1]
    assert isinstance(key, bytes)
    return key
