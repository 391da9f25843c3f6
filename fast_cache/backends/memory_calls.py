"""The calls of local memory. Nothing here waits for anything but locks; what takes long lets others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import sleep
from typing import TYPE_CHECKING, Any, Final

from fast_cache.backends.locks import LocalLocks
from fast_cache.backends.steps import CallSteps, Page, added
from fast_cache.backends.store import Address
from fast_cache.freshness import Life
from fast_cache.keys import address_of, text_of
from fast_cache.ports import Port

if TYPE_CHECKING:
    from fast_cache.backends.memory import InMemoryBackend, MemoryStore

_STEP: Final = 500
"""How many keys are looked at before others have their turn: well below a millisecond."""


class MemoryCalls(CallSteps):
    """The calls of ``backend``, over its ``store``."""

    def __init__(self, backend: InMemoryBackend, store: MemoryStore) -> None:
        self._backend = backend
        self._store = store
        self.locks = LocalLocks()

    async def get_many(self, port: Port, keys: Sequence[str], default: Any) -> tuple[Any, ...]:
        return tuple(self._backend.get(key, default) for key in keys)

    async def set_many(self, port: Port, values: Mapping[str, Any], lifetime: float | None) -> None:
        for key, value in values.items():
            self._backend.set(key, value, lifetime)

    async def delete_many(self, port: Port, keys: Sequence[str]) -> int:
        return sum(self._backend.delete(key) for key in keys)

    async def increment(self, port: Port, key: str, by: int, lifetime: float | None) -> int:
        while True:  # until nobody got in between; whoever did was done
            address = self._address(key)
            there = self._store.fresh(address)
            number = by if there is None else added(there[1], by)
            if self._store.put_over(address, None if there is None else there[0], number, Life(lifetime)):
                return number

    async def add(self, port: Port, key: str, value: Any, lifetime: float | None) -> bool:
        address = self._address(key)
        return self._store.put_over(address, None, value, Life(lifetime))

    async def expire(self, port: Port, key: str, lifetime: float | None) -> bool:
        return self._store.renew(self._address(key), lifetime)

    async def ttl(self, port: Port, key: str) -> float | None:
        there = self._store.fresh(self._address(key))
        return None if there is None else there[2]

    async def ping(self, port: Port) -> bool:
        return True

    def first(self, prefix: str) -> Any:
        return ()

    async def page(self, port: Port, prefix: str, at: Any) -> Page:
        left: list[Address] = at or self._matching(prefix)  # of those that are there now
        found = [_text(address) for address in left[-_STEP:] if self._store.fresh(address) is not None]
        del left[-_STEP:]
        return Page([key for key in found if key is not None], left or None)

    async def delete_match(self, port: Port, prefix: str) -> int:
        begins = _begins(prefix)
        self._store.flights.invalidate_where(begins)  # first: what they load is not stored from now on
        matching, deleted = self._matching(prefix), 0
        while matching:
            for address in matching[-_STEP:]:
                there = self._store.fresh(address) is not None
                deleted += self._store.remove(address) and there
            del matching[-_STEP:]
            await port.do(sleep, _turn, 0)
        return deleted

    def _matching(self, prefix: str) -> list[Address]:
        begins = _begins(prefix)
        return [address for address in self._store.addresses() if begins(address)]

    def _address(self, key: str) -> Address:
        """Where ``key`` is: a function's own place, or under its text if it was stored before the decoration."""
        address = address_of(key)
        if address is not key and self._store.fresh(address) is None and self._store.fresh(key) is not None:
            return key
        return address


def _begins(prefix: str) -> Callable[[Address], bool]:
    def begins(address: Address) -> bool:
        text = _text(address)
        return text is not None and text.startswith(prefix)

    return begins


def _text(address: Address) -> str | None:
    """The text key of an address; ``None`` if its function is gone, and with it everybody who could name it."""
    try:
        return text_of(address)
    except KeyError:
        return None


async def _turn(seconds: float) -> None:
    await asyncio.sleep(seconds)
