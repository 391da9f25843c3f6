"""A Redis Cluster: connections to its nodes. Which of them serves a key is for the slot map to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fast_cache.backends.redis.deployment import Target
from fast_cache.backends.redis.driver import Address, Maker, Reply, blame, discard
from fast_cache.backends.redis.slot_map import Redirect, SlotMap, redirect_of
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import Port

_TRIES: Final = 4
"""How many nodes are tried at once when any will do; the next call goes on with the others."""


class Cluster(Target):
    """The nodes of a Cluster.

    Args:
        maker: makes connections to nodes, all of them with the same settings.
        seeds: nodes that are there from the beginning, one at least.
        remap: what to make of an address that a node names, where it can't be reached from here under that.
    """

    cluster = True

    def __init__(
        self,
        maker: Maker,
        seeds: Sequence[Address],
        *,
        connect_timeout: float,
        timeout: float,
        remap: Callable[[Address], Address] | None = None,
    ) -> None:
        super().__init__(maker, connect_within=_TRIES * (2 * connect_timeout + timeout))
        self._seeds = tuple(seeds)
        self._candidates = self._seeds
        self._remap = remap

    def read_slots(self, reply: Reply, asked: Address) -> SlotMap:
        """Who serves what, from the reply to CLUSTER SLOTS by the node at ``asked``; its nodes are asked from now on.

        Raises:
            BackendUnavailable: see :meth:`SlotMap.read`.
        """
        slots = SlotMap.read(reply, asked, self._remap)
        self._candidates = tuple(dict.fromkeys((*slots.addresses, *self._seeds)))
        return slots

    def redirect(self, reply: Reply, asked: Address) -> Redirect | None:
        """Where the node at ``asked`` sends us; ``None`` if ``reply`` is anything else."""
        return redirect_of(reply, asked, self._remap)

    async def connect(self, port: Port, address: Address | None = None, *, timeout: float | None = None) -> Any:
        connection, _ = await self.connect_where(port, address, timeout=timeout)
        return connection

    async def connect_where(
        self, port: Port, address: Address | None = None, *, timeout: float | None = None
    ) -> tuple[Any, Address]:
        """The same, and the address: what a node leaves open in its own is to be taken from there."""
        if address is not None:
            return await self._open(port, address, timeout), address
        trouble: BackendUnavailable | None = None
        for candidate in self._candidates[:_TRIES]:
            try:
                connection = await self._open(port, candidate, timeout)
                await self._hear(port, connection)
            except BackendUnavailable as error:
                self._failed(candidate)
                if trouble is None or not trouble.setting:
                    trouble = error
            else:
                return connection, candidate
        raise trouble or BackendUnavailable("no node of the Cluster answers")

    async def _open(self, port: Port, address: Address, timeout: float | None) -> Any:
        return await self.maker.open(port, address, timeout=timeout)

    async def _hear(self, port: Port, connection: Any) -> None:
        """Let the node say something: the system connects also to a process that is frozen."""
        heard = False
        try:
            reply = await self.maker.ask(port, connection, "PING")
            if isinstance(reply, Exception) and blame(reply) is not None:
                raise self.maker.unavailable(reply) from reply
            heard = True
        finally:
            if not heard:
                await discard(port, connection)

    def _failed(self, address: Address) -> None:
        """Try this one last from now on."""
        self._candidates = (*(other for other in self._candidates if other != address), address)
