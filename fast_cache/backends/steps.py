"""What a backend does for the calls of :mod:`~fast_cache.backends.calls`: steps over a port, so there is one copy.

Keys, prefixes and numbers are checked before, and durations are seconds. A step fences off the loads of each key that
it changes, as ``set`` and ``delete`` do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fast_cache.backends.locks import Locks
from fast_cache.errors import CounterError
from fast_cache.ports import Port

LARGEST: Final = 2**63 - 1
"""Counters are whole numbers of 64 bits, as Redis has them."""


class Page(NamedTuple):
    """Some of the keys that are looked for, and where to go on; ``None`` at the end."""

    keys: list[str]
    next: Any


class CallSteps(ABC):
    """The steps of one backend."""

    locks: Locks
    """Its locks, which are no entries: they have keys of their own, and :meth:`clear` does not release them."""

    @abstractmethod
    async def get_many(self, port: Port, keys: Sequence[str], default: Any) -> tuple[Any, ...]:
        """Return the value of each key, or ``default``."""

    @abstractmethod
    async def set_many(self, port: Port, values: Mapping[str, Any], lifetime: float | None) -> None:
        """Store each value."""

    @abstractmethod
    async def delete_many(self, port: Port, keys: Sequence[str]) -> int:
        """Remove each key; how many are known to have been there."""

    @abstractmethod
    async def increment(self, port: Port, key: str, by: int, lifetime: float | None) -> int:
        """Add to the number under ``key``, which keeps its lifetime; where there is none, store ``by``."""

    @abstractmethod
    async def add(self, port: Port, key: str, value: Any, lifetime: float | None) -> bool:
        """Store ``value`` where there is none."""

    @abstractmethod
    async def expire(self, port: Port, key: str, lifetime: float | None) -> bool:
        """Let what is stored live for ``lifetime`` from now, or for the one that it was stored with."""

    @abstractmethod
    async def ttl(self, port: Port, key: str) -> float | None:
        """How long what is stored is still fresh; infinite if it has no end, ``None`` if there is nothing."""

    @abstractmethod
    async def ping(self, port: Port) -> bool:
        """Whether the store answers."""

    @abstractmethod
    def first(self, prefix: str) -> Any:
        """Where :meth:`page` begins to look for keys. Nothing is asked yet."""

    @abstractmethod
    async def page(self, port: Port, prefix: str, at: Any) -> Page:
        """Some of the keys that begin with ``prefix``."""

    @abstractmethod
    async def delete_match(self, port: Port, prefix: str) -> int:
        """Remove the keys that begin with ``prefix``; how many are known to have been there."""


def added(value: Any, by: int) -> int:
    """The sum of what is stored and what is added.

    Raises:
        CounterError: what is stored is no ``int``, or the sum has more than 64 bits.
    """
    if type(value) is not int:
        raise CounterError(
            f"the value under this key is of type {type(value).__name__}, and only an int can be counted with; "
            "delete it first, or count under another key"
        )
    return check_sum(value + by)


def check_sum(number: int) -> int:
    """Return ``number`` if it has at most 64 bits."""
    if not -LARGEST - 1 <= number <= LARGEST:
        raise CounterError("a counter has at most 64 bits: from -2**63 to 2**63 - 1; this one is left as it was")
    return number
