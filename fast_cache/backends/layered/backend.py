"""Local memory before Redis: what was found there is served from here, until somebody changes it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, TypeVar
from weakref import WeakSet

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.channel import ALL_NEWS, Channel, News
from fast_cache.backends.from_url import backend_from_url
from fast_cache.backends.keyspace import check_key
from fast_cache.backends.layered.calls import LayeredCalls
from fast_cache.backends.layered.store import LayeredStore
from fast_cache.backends.memory import InMemoryBackend, MemoryStore, glanced
from fast_cache.backends.steps import CallSteps
from fast_cache.backends.store import Store
from fast_cache.durations import Duration, optional_seconds, seconds
from fast_cache.entry import MISSING, NEVER
from fast_cache.errors import BackendError, ConfigurationError, InvalidTypeError
from fast_cache.ports import ASYNCIO, BLOCKING, Port, run_blocking

T = TypeVar("T")

_STALENESS: Final = 10.0
_SHORTEST_STALENESS: Final = 0.1
"""Seconds. Four times in it the channel is asked whether it still hears."""


class LayeredBackend(CacheBackend):
    """Local memory before a store that processes share, which behave as one cache.

    What is found in the store is held in this process too, and served from here as fast as from memory alone, until it
    ends or anybody changes it: a change by one process reaches the memory of the others at once, by Redis's client
    tracking, or by messages where that is forbidden. What a load brings is written to the store, under its fences.

    Args:
        l1: local memory; by default an :class:`InMemoryBackend` of the same namespace. It is this backend's alone.
        l2: the store behind it: a :class:`RedisBackend`, a URL for one with its options in the query (see
            :func:`backend_from_url`), or a backend of yours.
        l1_expire: for how long a copy is held at most (seconds or another duration); by default as long as what it is a
            copy of. A backend of yours does not tell how long that is: there it is ``max_staleness`` by default, and
            no more.
        max_staleness: for how long a copy is served without word that all changes were heard of; 10 seconds by default.
            Beyond it the store confirms each copy before it is served. While the store is away, what is loaded is held
            here for so long.
        coherence: how changes by others are heard of: ``"tracking"``, ``"pubsub"``, or ``None`` for tracking where the
            server allows it and messages where it does not; then all processes must be allowed the same. With a backend
            of yours: a :class:`RedisBackend` that carries the messages, or ``None``, and copies live for
            ``max_staleness`` at most.

    Raises:
        ConfigurationError: tiers that are swapped or nested, memory that belongs to another backend, copies that are to
            live for longer than the store or the contract allows.
        InvalidTypeError: something that is no backend or no duration.
    """

    def __init__(
        self,
        l1: InMemoryBackend | None = None,
        l2: CacheBackend | str | None = None,
        *,
        l1_expire: Duration | None = None,
        max_staleness: Duration | None = None,
        coherence: Any = None,
    ) -> None:
        self.l2 = far = _far(l1, l2)
        self.l1 = near = _near(l1, far)
        self.namespace: str = getattr(far, "namespace", near.namespace)
        staleness = _STALENESS if max_staleness is None else seconds(max_staleness, option="max_staleness")
        if staleness < _SHORTEST_STALENESS:
            raise ConfigurationError(
                f"max_staleness must be at least {_SHORTEST_STALENESS:g} s, got {staleness:g} s: four times in it the "
                "server is asked whether all changes were told"
            )
        longest = optional_seconds(l1_expire, option="l1_expire")
        store = far.engine_store()
        if longest is not None and store.longest is not None and longest > store.longest:
            raise ConfigurationError(
                f"l1_expire ({longest:g} s) is longer than anything lives in the store behind ({store.longest:g} s)"
            )
        self._store = LayeredStore(_memory_of(near), store, staleness=staleness)
        channel = _channel(far, coherence, self._store, staleness)
        # Without the one nobody tells that a value has changed, without the other nobody that it has ended.
        bounded = channel is not None and store.tells_age
        if longest is not None and longest > staleness and not bounded:
            raise ConfigurationError(
                f"l1_expire ({longest:g} s) is longer than max_staleness ({staleness:g} s), and "
                + (
                    "nothing tells this process of changes by others; shorten it, or name a RedisBackend that carries "
                    "them: coherence="
                    if channel is None
                    else f"a {type(far).__name__} does not tell when its values end; shorten it"
                )
            )
        self._store.longest_held = longest if longest is not None else NEVER if bounded else staleness
        if channel is not None:
            self._store.listen_to(channel)
        self._calls = LayeredCalls(self._store, far.engine_calls())
        self._taken = near
        _taken.add(near)
        self._hit = self._store.direct.hit
        self._miss = self._store.direct.miss

    def get(self, key: str, default: Any = None) -> Any:
        value = glanced(self._store.by_hand.table.get(key)) if type(key) is str else MISSING
        if value is MISSING:
            return run_blocking(self._get(BLOCKING, key, default))
        self._hit()
        return value

    async def aget(self, key: str, default: Any = None) -> Any:
        value = glanced(self._store.by_hand.table.get(key)) if type(key) is str else MISSING
        if value is MISSING:
            return await self._get(ASYNCIO, key, default)
        self._hit()
        return value

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        run_blocking(self._set(BLOCKING, key, value, expire))

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        await self._set(ASYNCIO, key, value, expire)

    def delete(self, key: str) -> bool:
        return run_blocking(self._delete(BLOCKING, key))

    async def adelete(self, key: str) -> bool:
        return await self._delete(ASYNCIO, key)

    def clear(self) -> None:
        run_blocking(self._clear(BLOCKING))

    async def aclear(self) -> None:
        await self._clear(ASYNCIO)

    def has(self, key: str) -> bool:
        return self.l2.has(key)

    async def ahas(self, key: str) -> bool:
        return await self.l2.ahas(key)

    def close(self) -> None:
        self._store.close()
        self.l2.close()

    async def aclose(self) -> None:
        self._store.close()
        await self.l2.aclose()

    def engine_store(self) -> Store:
        return self._store

    def engine_calls(self) -> CallSteps:
        return self._calls

    # What is delegated is the far backend's own method: what it does in trouble, and what it counts as, is its affair.

    async def _get(self, port: Port, key: str, default: Any) -> Any:
        check_key(key)
        if not self._store.tells_age:  # nobody knows for how long a copy would be good
            return await port.do(self.l2.get, self.l2.aget, key, default)
        value: Any = MISSING
        try:
            value = await self._store.read_by_hand(port, key)
        except BackendError as error:
            self._store.health.failed("read", error)
        else:
            self._store.health.works("read")
        if value is MISSING:
            self._miss()
            return default
        self._hit()
        return value

    async def _set(self, port: Port, key: str, value: Any, expire: Duration | None) -> None:
        step = port.do(self.l2.set, self.l2.aset, check_key(key), value, expire)
        await self._store.change(port, News((key,)), _awaited(step), decided=True)

    async def _delete(self, port: Port, key: str) -> bool:
        step = port.do(self.l2.delete, self.l2.adelete, check_key(key))
        removed, told = await self._store.changed(port, News((key,)), _awaited(step))
        return removed and told

    async def _clear(self, port: Port) -> None:
        await self._store.change(port, ALL_NEWS, _awaited(port.do(self.l2.clear, self.l2.aclear)))


_taken: WeakSet[InMemoryBackend] = WeakSet()
"""The memory that belongs to a backend."""


async def _awaited(step: Awaitable[T]) -> T:
    return await step


def _far(l1: Any, l2: Any) -> CacheBackend:
    if l2 is None:
        raise ConfigurationError("LayeredBackend needs l2=, the store that processes share: a RedisBackend or a URL")
    if isinstance(l2, str):
        l2 = backend_from_url(l2)
    if not isinstance(l2, CacheBackend):
        raise InvalidTypeError(f"l2 must be a backend or a URL, not {type(l2).__name__}")
    if isinstance(l2, InMemoryBackend):
        swapped = isinstance(l1, CacheBackend) and not isinstance(l1, InMemoryBackend)
        raise ConfigurationError(
            "l1 and l2 are swapped: l1 is local memory, and l2 the store behind it"
            if swapped
            else "l2 is local memory, which no other process shares; give l2= a RedisBackend or a URL"
        )
    if isinstance(l2, LayeredBackend):
        raise ConfigurationError("l2 has two tiers already; give l2= the store behind them")
    return l2


def _near(l1: Any, far: CacheBackend) -> InMemoryBackend:
    if l1 is None:
        return InMemoryBackend(getattr(far, "namespace", "fastapi-cache"))
    if not isinstance(l1, InMemoryBackend):
        what = "a backend of two tiers" if isinstance(l1, LayeredBackend) else f"a {type(l1).__name__}"
        raise ConfigurationError(f"l1 must be an InMemoryBackend, which this process has for itself, not {what}")
    if l1 in _taken:
        raise ConfigurationError("l1 belongs to another LayeredBackend; give each an InMemoryBackend of its own")
    return l1


def _memory_of(near: InMemoryBackend) -> MemoryStore:
    store = near.engine_store()
    assert isinstance(store, MemoryStore)
    return store


def _channel(far: CacheBackend, coherence: Any, store: LayeredStore, staleness: float) -> Channel | None:
    """What tells ``store`` of changes by others; ``None`` if nothing does."""
    carrier, how = (coherence, "pubsub") if isinstance(coherence, CacheBackend) else (far, coherence)
    if how not in (None, "tracking", "pubsub"):
        raise ConfigurationError(f'coherence must be "tracking", "pubsub", a RedisBackend or None, not {how!r}')
    channel = carrier.engine_channel(store, how=how, staleness=staleness)
    if channel is None and how is not None:
        raise ConfigurationError(
            f"a {type(carrier).__name__} carries no news; name a RedisBackend that does: coherence=RedisBackend(...)"
        )
    return channel
