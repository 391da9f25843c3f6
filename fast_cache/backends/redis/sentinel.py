"""A master that Sentinels watch: they are asked where it is, whenever a connection is made.

As the guidelines for Sentinel clients say (redis.io, "Sentinel client spec"): the Sentinels are asked in turn, the one
that answered goes first from then on, and whom they name is asked for its role, since it may just have lost it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fast_cache.backends.redis.deployment import Target
from fast_cache.backends.redis.driver import Address, Maker, blame, discard
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import Port
from redis.exceptions import NoPermissionError

_DEMOTED: Final = "the Sentinels name a master that is none; another one is probably being chosen"


class Sentinels(Target):
    """The master of one service.

    Args:
        maker: makes connections to the master.
        asking: makes connections to the Sentinels, with a patience of ``connect_timeout``.
        sentinels: where they are, one at least.
        service: the name under which they know the master.
        host: the host to connect to instead of the one that they name, where that can't be reached from here.
        setting: the option that names the service, for messages.
    """

    def __init__(
        self,
        maker: Maker,
        asking: Maker,
        sentinels: Sequence[Address],
        service: str,
        *,
        connect_timeout: float,
        timeout: float,
        host: str | None = None,
        setting: str = "redis_url",
    ) -> None:
        # At worst each Sentinel takes its time, and names a master that takes its time.
        super().__init__(maker, connect_within=len(sentinels) * (3 * connect_timeout + timeout))
        self._asking = asking
        self._sentinels = tuple(sentinels)
        self._service = service
        self._host = host
        self._setting = setting

    async def connect(self, port: Port, address: Address | None = None, *, timeout: float | None = None) -> Any:
        trouble: BackendUnavailable | None = None
        tried: set[Address] = set()
        ignorant = 0
        for sentinel in self._sentinels:
            try:
                named = await self._ask(port, sentinel)
            except BackendUnavailable as error:
                trouble = _worse(trouble, error)
                continue
            if named is None:
                ignorant += 1
                continue
            self._answered(sentinel)
            if named in tried:
                continue
            tried.add(named)
            try:
                return await self._open_master(port, named, timeout)
            except BackendUnavailable as error:
                if error.setting:
                    raise  # it refuses us: no other Sentinel can help
                trouble = _worse(trouble, error)
        if ignorant and not tried:
            raise BackendUnavailable(f"{self._setting}: no Sentinel knows its service", setting=self._setting)
        raise trouble or BackendUnavailable("no Sentinel answers")

    async def _ask(self, port: Port, sentinel: Address) -> Address | None:
        """Whom a Sentinel names; ``None`` if it does not know the service."""
        connection = await self._asking.open(port, sentinel)
        try:
            reply = await self._asking.ask(port, connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        finally:
            await discard(port, connection)
        if reply is None:
            return None
        if isinstance(reply, Exception):
            raise self._asking.unavailable(reply) from reply
        try:
            host, at = reply
            return self._host or host.decode(), int(at)
        except (TypeError, ValueError, AttributeError) as error:
            raise BackendUnavailable("a Sentinel answers in a way that is not understood") from error

    async def _open_master(self, port: Port, address: Address, timeout: float | None) -> Any:
        connection = await self.maker.open(port, address, timeout=timeout)
        usable = False
        try:
            role = await self.maker.ask(port, connection, "ROLE")
            # Where it is forbidden to ask, the Sentinels are believed.
            usable = isinstance(role, NoPermissionError) or (isinstance(role, list) and role[:1] == [b"master"])
            if isinstance(role, Exception) and not usable and blame(role) is not None:
                raise self.maker.unavailable(role) from role
        finally:
            if not usable:
                await discard(port, connection)
        if not usable:
            raise BackendUnavailable(_DEMOTED)
        return connection

    def _answered(self, sentinel: Address) -> None:
        """Ask this one first from now on."""
        if self._sentinels[0] != sentinel:
            self._sentinels = (sentinel, *(other for other in self._sentinels if other != sentinel))


def _worse(known: BackendUnavailable | None, error: BackendUnavailable) -> BackendUnavailable:
    """Which of two troubles is told: the first for which a setting is to blame, else the first."""
    return error if known is None or (error.setting and not known.setting) else known
