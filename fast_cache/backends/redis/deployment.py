"""What every deployment of Redis has in common for those who use it: connections, made when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from fast_cache.backends.redis.driver import Address, Maker
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import Port


class Target(ABC):
    """Where Redis is, and how to connect. Safe for threads; remembers nothing but which server answered last.

    Args:
        maker: makes connections to a server that keeps values.
        connect_within: for how many seconds :meth:`connect` keeps trying where servers are silent.
    """

    cluster: ClassVar[bool] = False
    """Whether keys are spread over several nodes."""

    def __init__(self, maker: Maker, *, connect_within: float) -> None:
        self.maker = maker
        self.connect_within = connect_within

    @abstractmethod
    async def connect(self, port: Port, address: Address | None = None, *, timeout: float | None = None) -> Any:
        """A new connection of the driver's, of the flavour of ``port``, ready for commands.

        Args:
            address: a node of a Cluster; without it any node that answers. Of no meaning elsewhere.
            timeout: how long the server may be silent (seconds), if not as long as the settings say.

        Raises:
            BackendUnavailable: it could not be had; with a ``setting`` where that is to blame.
        """

    def unavailable(self, error: Exception) -> BackendUnavailable:
        """What an error means that the driver raised later, over a connection of this target."""
        return self.maker.unavailable(error)


class Server(Target):
    """One server, at one address."""

    async def connect(self, port: Port, address: Address | None = None, *, timeout: float | None = None) -> Any:
        return await self.maker.open(port, timeout=timeout)
