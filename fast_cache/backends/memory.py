"""Values in this process's own memory, as the objects they are.

Bounded, safe for threads and for the tasks of any number of event loops. A hit takes no lock: one lookup, one look at
the clock. Every change happens under one lock together with its mark on the flights, so a load that was fenced off
can't slip in. Which entries stay is the eviction policy's decision.
"""

from __future__ import annotations

import copy as copying
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.clock import ClockTable
from fast_cache.backends.keyspace import check_key, check_namespace
from fast_cache.backends.store import CodecSource, Store
from fast_cache.durations import Duration, optional_seconds
from fast_cache.entry import MISSING, NEVER, Entry
from fast_cache.errors import ConfigurationError, EncodeError, InvalidTypeError
from fast_cache.outcome import Outcome
from fast_cache.ports import Port
from fast_cache.single_flight import Flight

DEFAULT_MAX_SIZE = 100_000


class InMemoryBackend(CacheBackend):
    """A bounded cache in local memory.

    Args:
        namespace: names this cache in messages; every instance has memory of its own.
        max_size: how many entries are kept.
        copy: hand out and take in deep copies, so that a caller who changes a value changes only its own.
            Without it callers share the stored object, which is faster.

    Raises:
        ConfigurationError: ``max_size`` below 1, or a namespace that is empty or has control characters.
    """

    def __init__(self, namespace: str = "fastapi-cache", max_size: int = DEFAULT_MAX_SIZE, copy: bool = False) -> None:
        check_namespace(namespace)
        if not isinstance(max_size, int) or isinstance(max_size, bool):
            raise InvalidTypeError(f"max_size must be a whole number of entries, not {type(max_size).__name__}")
        if max_size < 1:
            raise ConfigurationError(f"max_size must be at least 1, got {max_size}; the memory cache is always bounded")
        self.namespace = namespace
        self.max_size = max_size
        self._store = MemoryStore(max_size, copying.deepcopy if copy else None)

    def get(self, key: str, default: Any = None) -> Any:
        value = self._store.look(check_key(key))
        return default if value is MISSING else value

    async def aget(self, key: str, default: Any = None) -> Any:
        value = self._store.look(check_key(key))
        return default if value is MISSING else value

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        self._store.put(check_key(key), value, optional_seconds(expire, option="expire"))

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        self.set(key, value, expire)

    def delete(self, key: str) -> bool:
        return self._store.remove(check_key(key))

    async def adelete(self, key: str) -> bool:
        return self.delete(key)

    def clear(self) -> None:
        self._store.clear()

    async def aclear(self) -> None:
        self.clear()

    def has(self, key: str) -> bool:
        return self._store.look(check_key(key)) is not MISSING

    async def ahas(self, key: str) -> bool:
        return self.has(key)

    def __len__(self) -> int:
        return len(self._store)

    def engine_store(self) -> Store:
        return self._store


class MemoryStore(Store):
    """The entries, their flights, and the lock that makes a change and its fence one act."""

    local = True

    def __init__(self, max_size: int, duplicate: Callable[[Any], Any] | None) -> None:
        super().__init__("InMemoryBackend")
        self._lock = threading.Lock()
        self._entries = ClockTable(max_size)
        self._duplicate = duplicate
        # With copies there is nothing to hand out at a glance: every answer goes through `look`.
        self.table: Mapping[str, Entry] = self._entries.table if duplicate is None else {}

    def __len__(self) -> int:
        return len(self._entries.table)

    def look(self, key: str) -> Any:
        """The value of ``key`` or ``MISSING``, without a lock."""
        entry = self._entries.table.get(key)
        if entry is None:
            return MISSING
        value = entry.value  # before the expiry: an entry is retired in the opposite order
        if entry.expires <= monotonic():
            return MISSING
        entry.visits = 1
        return value if self._duplicate is None else self._duplicate(value)

    def put(self, key: str, value: Any, expire: float | None, flight: Flight | None = None) -> bool:
        """Store ``value``; as the result of ``flight`` only if it was not fenced off, else fencing off any other."""
        if self._duplicate is not None:
            try:
                value = self._duplicate(value)
            except Exception as error:
                raise EncodeError(f"a {type(value).__name__} can't be copied ({type(error).__name__})") from error
        expires = NEVER if expire is None else monotonic() + expire
        with self._lock:
            if flight is None:
                self.flights.invalidate(key)
            elif flight.moved:
                return False
            self._entries.put(key, value, expires)
        return True

    def remove(self, key: str) -> bool:
        with self._lock:
            self.flights.invalidate(key)
            return self._entries.remove(key)

    def clear(self) -> None:
        with self._lock:
            self.flights.invalidate_all()
            self._entries.clear()

    def shared_out(self, outcome: Outcome) -> Outcome:
        if self._duplicate is None or outcome.error is not None:
            return outcome
        return Outcome(self._duplicate(outcome.value))

    async def read(self, port: Port, key: str, codec: CodecSource) -> Any:
        return self.look(key)

    async def capture(self, port: Port, key: str, codec: CodecSource, *, replace: bool) -> tuple[Any, object]:
        return MISSING if replace else self.look(key), self  # the flight itself is the fence

    async def write(
        self, port: Port, flight: Flight, ticket: object, value: Any, codec: CodecSource, expire: float | None
    ) -> bool:
        return self.put(flight.key, value, expire, flight)

    async def delete(self, port: Port, key: str) -> bool:
        return self.remove(key)
