"""What every backend can do: ten methods, five steps in two flavours; and the calls that are built on them.

Whoever implements the ten has a full backend: coalescing, fenced writes and typed values come from the engine,
which reaches it through :meth:`CacheBackend.engine_store`; counters, locks and other calls from
:class:`~fast_cache.backends.calls.Calls`. Built-in backends override ``engine_store`` and ``engine_calls`` with their
own. Constructors need not call ``super().__init__()``.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from fast_cache.backends.announce import fence_methods
from fast_cache.backends.calls import Calls
from fast_cache.backends.pending import defer_methods
from fast_cache.backends.steps import CallSteps
from fast_cache.durations import Duration
from fast_cache.stats import Stats

if TYPE_CHECKING:
    from fast_cache.backends.channel import Channel, Listener
    from fast_cache.backends.store import Store


class CacheBackend(Calls):
    """A place for values, by key.

    Keys are text. ``None`` is a value like any other: ``get`` returns ``default`` only where nothing is stored.
    To a backend that has these ten methods and no store of its own, decorated functions hand over ``bytes``, which
    they expect back unchanged, and an ``expire`` that is a number of seconds or ``None``.

    The errors named below are those of the built-in backends, which raise none because a server is away. One of yours
    may raise what it likes: whoever calls the method gets it; a call of a decorated function runs uncached.
    """

    @abstractmethod
    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``.

        Raises:
            InvalidTypeError: the key is not text.
            ConfigurationError: the key is empty, longer than 4096 characters, or not encodable as UTF-8.
        """

    @abstractmethod
    async def aget(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``; raises what :meth:`get` does."""

    @abstractmethod
    def set(self, key: str, value: Any, expire: Duration | None = None) -> Any:
        """Store ``value`` under ``key``, for ``expire``.

        Args:
            key: as for :meth:`get`.
            value: ``RedisBackend`` takes what comes back from it as it was, up to ``max_value_size``;
                ``InMemoryBackend`` anything that can be copied and weighed, where it was told to do so.
            expire: after how long the value is gone: seconds (``int`` or ``float``), a ``timedelta``, or text such as
                ``"30s"`` or ``"1h30m"``. ``None``: it does not expire; it may still be evicted, and ``RedisBackend``
                keeps no value for longer than its ``max_expire``.

        Raises:
            InvalidTypeError: the key is not text, or ``expire`` is of another type.
            ConfigurationError: the key is one that :meth:`get` refuses, or ``expire`` is zero, negative, longer than
                a century, or text that is no duration.
            EncodeError: the value can't be stored.
        """

    @abstractmethod
    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> Any:
        """Store ``value`` under ``key``, for ``expire``; takes and raises what :meth:`set` does."""

    @abstractmethod
    def delete(self, key: str) -> Any:
        """Remove ``key``; True if it is known to have been there. Raises what :meth:`get` does."""

    @abstractmethod
    async def adelete(self, key: str) -> Any:
        """Remove ``key``; True if it is known to have been there. Raises what :meth:`get` does."""

    @abstractmethod
    def clear(self) -> Any:
        """Remove every key of this backend's namespace, and nothing else."""

    @abstractmethod
    async def aclear(self) -> Any:
        """Remove every key of this backend's namespace, and nothing else."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether ``key`` has a value. Raises what :meth:`get` does."""

    @abstractmethod
    async def ahas(self, key: str) -> bool:
        """Whether ``key`` has a value. Raises what :meth:`get` does."""

    def close(self) -> None:  # most backends hold nothing open
        """Release what the blocking methods hold open. The backend may be used again afterwards."""

    async def aclose(self) -> None:
        """Release what the awaiting methods hold open on this event loop, and what the blocking ones do."""
        self.close()

    def stats(self) -> Stats:
        """What decorated functions asked of this backend; what was read by hand too, if it is a built-in one."""
        return self.engine_store().stats()

    def engine_store(self) -> Store:
        """The engine's view of this backend; the same object at every call."""
        return _store_of(self)

    def engine_calls(self) -> CallSteps:
        return _calls_of(self)

    def engine_channel(self, listener: Listener, *, how: str | None, staleness: float) -> Channel | None:
        """What tells ``listener`` of changes by other processes; ``None`` if this backend carries no such news.

        Args:
            how: ``"tracking"`` or ``"pubsub"``; ``None`` for what can be had.
            staleness: for how many seconds silence may last.
        """
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Fence and put off the methods as the class is made: a constructor may forget ``super().__init__()``."""
        super().__init_subclass__(**kwargs)
        if cls.engine_store is CacheBackend.engine_store:  # a store of its own sees to its fences by itself
            fence_methods(cls)
        defer_methods(cls)  # outermost: what is put off is announced when it is done


_creation = threading.Lock()


def _store_of(backend: CacheBackend) -> Store:
    existing: Store | None = backend.__dict__.get("_fast_cache_store")
    if existing is None:
        from fast_cache.backends.ten_methods import TenMethodStore

        with _creation:
            existing = backend.__dict__.get("_fast_cache_store")
            if existing is None:
                existing = backend.__dict__["_fast_cache_store"] = TenMethodStore(backend)
    return existing


def _calls_of(backend: CacheBackend) -> CallSteps:
    existing: CallSteps | None = backend.__dict__.get("_fast_cache_calls")
    if existing is None:
        from fast_cache.backends.ten_calls import TenCalls

        store = backend.engine_store()
        with _creation:
            existing = backend.__dict__.get("_fast_cache_calls")
            if existing is None:
                existing = backend.__dict__["_fast_cache_calls"] = TenCalls(backend, store)
    return existing
