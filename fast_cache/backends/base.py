"""What every backend can do: ten methods, five steps in two flavours.

Whoever implements the ten has a full backend: coalescing, fenced writes and typed values come from the engine,
which reaches it through :meth:`CacheBackend.engine_store`. Built-in backends override that method with a store
of their own. Constructors need not call ``super().__init__()``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from fast_cache.backends.announce import fence_methods
from fast_cache.durations import Duration

if TYPE_CHECKING:
    from fast_cache.backends.store import Store


class CacheBackend(ABC):
    """A place for values, by key.

    Keys are text; values are any Python objects; ``expire`` is a duration (seconds, ``timedelta`` or text) after which
    the value is gone, ``None`` for never. ``None`` is a value: ``get`` returns ``default`` where nothing is stored.
    Decorated functions hand over ``bytes`` and expect them back unchanged.
    """

    @abstractmethod
    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``."""

    @abstractmethod
    async def aget(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``."""

    @abstractmethod
    def set(self, key: str, value: Any, expire: Duration | None = None) -> Any:
        """Store ``value`` under ``key``, for ``expire``."""

    @abstractmethod
    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> Any:
        """Store ``value`` under ``key``, for ``expire``."""

    @abstractmethod
    def delete(self, key: str) -> Any:
        """Remove ``key``; True if it was there."""

    @abstractmethod
    async def adelete(self, key: str) -> Any:
        """Remove ``key``; True if it was there."""

    @abstractmethod
    def clear(self) -> Any:
        """Remove every key of this backend's namespace, and nothing else."""

    @abstractmethod
    async def aclear(self) -> Any:
        """Remove every key of this backend's namespace, and nothing else."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether ``key`` has a value."""

    @abstractmethod
    async def ahas(self, key: str) -> bool:
        """Whether ``key`` has a value."""

    def close(self) -> None:  # noqa: B027  # most backends hold nothing open
        """Release what the blocking methods hold open. The backend may be used again afterwards."""

    async def aclose(self) -> None:
        """Release what the awaiting methods hold open on this event loop, and what the blocking ones do."""
        self.close()

    def engine_store(self) -> Store:
        """The engine's view of this backend; the same object at every call."""
        return _store_of(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Fence the methods as the class is made: a constructor may forget ``super().__init__()``."""
        super().__init_subclass__(**kwargs)
        if cls.engine_store is CacheBackend.engine_store:  # a store of its own sees to its fences by itself
            fence_methods(cls)


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
