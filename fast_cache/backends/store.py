"""What the flow asks of a backend: the engine's side of a store, as users' code never sees it.

A step is a coroutine over a port, so that one implementation serves blocking and awaiting callers. Every step may
raise :class:`~fast_cache.errors.BackendError` and nothing else but :class:`~fast_cache.errors.EncodeError` from
``write``. A store owns the flights of its keys, because invalidating a key and fencing off its loads are one act.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from fast_cache.entry import Entry
from fast_cache.once import Health
from fast_cache.outcome import Outcome
from fast_cache.ports import Port
from fast_cache.serializers import Codec
from fast_cache.single_flight import Flight, Flights

CodecSource = Callable[[], Codec]
"""Asked for a codec only by stores that hold bytes: a return annotation need not be resolved for the others."""


class Store(ABC):
    """One backend, as the flow uses it."""

    caches: ClassVar[bool] = True
    """False only for the store that stands in before ``init_app``: functions run as if undecorated."""

    local: ClassVar[bool] = False
    """Whether writing never suspends."""

    shared: ClassVar[bool] = False
    """Whether other processes change it and every write is checked against what they did."""

    table: Mapping[str, Entry]
    """Local memory, for a look without I/O; empty where a store has none."""

    def __init__(self, name: str) -> None:
        self.flights = Flights()
        self.health = Health(name)

    def shared_out(self, outcome: Outcome) -> Outcome:
        """The outcome of a load as one of its followers gets it."""
        return outcome

    @abstractmethod
    async def read(self, port: Port, key: str, codec: CodecSource) -> Any:
        """Return the value of ``key``, or ``MISSING``."""

    @abstractmethod
    async def capture(self, port: Port, key: str, codec: CodecSource, *, replace: bool) -> tuple[Any, object]:
        """Look once more, and note the generations that ``key`` depends on, before its value is computed.

        Returns the value that is there or ``MISSING``, and a ticket for :meth:`write`; a ticket of ``None`` means that
        nothing can be stored. With ``replace`` the value does not matter, and loads of other processes are fenced off.
        """

    @abstractmethod
    async def write(
        self, port: Port, flight: Flight, ticket: object, value: Any, codec: CodecSource, expire: float | None
    ) -> bool:
        """Store ``value`` for ``expire`` seconds, unless something moved since the ticket was taken: then False."""

    @abstractmethod
    async def delete(self, port: Port, key: str) -> bool:
        """Remove ``key`` and fence off its loads; True if a value was removed."""
