"""The calls beyond the ten methods that every backend has: many keys at once, counters, lifetimes, prefixes, locks.

Names, arguments and what is checked of them stand here, once for both flavours and all backends; what is done stands
in the :class:`~fast_cache.backends.steps.CallSteps` of each backend. A backend of ten methods has all of them, built
on the ten; one of its own may define any of them anew, in both flavours. Each change fences off the loads of its keys.

What an answer depends on is never guessed. ``incr``, ``decr``, ``add``, ``scan`` and ``lock`` raise
:class:`~fast_cache.errors.BackendError` where the store can't be asked; the others count as not done, or find nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from fast_cache.backends.keyspace import check_key, check_keys, check_prefix, check_values
from fast_cache.backends.locks import DEFAULT_EXPIRE, DEFAULT_WAIT, Lock
from fast_cache.backends.pending import defer_methods
from fast_cache.backends.steps import CallSteps, check_sum
from fast_cache.durations import Duration, optional_seconds, seconds
from fast_cache.errors import InvalidTypeError
from fast_cache.ports import ASYNCIO, BLOCKING, run_blocking


class Calls(ABC):
    """The calls of a backend; :meth:`engine_calls` is what they are made of."""

    @abstractmethod
    def engine_calls(self) -> CallSteps:
        """The steps of this backend's calls; the same object at every call."""

    def get_many(self, *keys: str | Iterable[str], default: Any = None) -> tuple[Any, ...]:
        """Return the value of each key, in order, or ``default`` where there is none.

        Args:
            keys: the keys, or one iterable of them.
            default: stands for a value that is not there.

        Raises:
            InvalidTypeError: a key is not text.
            ConfigurationError: a key is empty, longer than 4096 characters, or not encodable as UTF-8.
        """
        return run_blocking(self.engine_calls().get_many(BLOCKING, check_keys(keys), default))

    async def aget_many(self, *keys: str | Iterable[str], default: Any = None) -> tuple[Any, ...]:
        """Return the value of each key, in order, or ``default``; takes and raises what :meth:`get_many` does."""
        return await self.engine_calls().get_many(ASYNCIO, check_keys(keys), default)

    def set_many(self, values: Mapping[str, Any], expire: Duration | None = None) -> None:
        """Store several values, each as ``set`` does: they are not there all at once.

        Args:
            values: the values, by their keys.
            expire: how long each is kept; as for ``set``.

        Raises:
            InvalidTypeError, ConfigurationError: as for ``set``; nothing is stored.
            EncodeError: a value can't be stored; others may have been.
        """
        run_blocking(self.engine_calls().set_many(BLOCKING, *_values(values, expire)))

    async def aset_many(self, values: Mapping[str, Any], expire: Duration | None = None) -> None:
        """Store several values; takes and raises what :meth:`set_many` does."""
        await self.engine_calls().set_many(ASYNCIO, *_values(values, expire))

    def delete_many(self, *keys: str | Iterable[str]) -> int:
        """Remove several keys, or one iterable of them; how many are known to have been there.

        Raises what :meth:`get_many` does.
        """
        return run_blocking(self.engine_calls().delete_many(BLOCKING, check_keys(keys)))

    async def adelete_many(self, *keys: str | Iterable[str]) -> int:
        """Remove several keys; takes, returns and raises what :meth:`delete_many` does."""
        return await self.engine_calls().delete_many(ASYNCIO, check_keys(keys))

    def incr(self, key: str, by: int = 1, expire: Duration | None = None) -> int:
        """Add ``by`` to the number under ``key``, in one step with all others who do, and return the sum.

        A counter is a value like any other: ``set`` gives it a number, ``get`` reads it, ``delete`` and ``clear``
        remove it. Where there is none, ``by`` is stored.

        Args:
            key: as for ``get``.
            by: a whole number, which may be negative.
            expire: how long the counter is kept, if this call creates it. Later calls leave its lifetime alone.

        Raises:
            InvalidTypeError, ConfigurationError: as for ``set``; or ``by`` is no ``int``.
            CounterError: the value is no ``int``, or ``by`` or the sum has more than 64 bits. The value stays.
            BackendError: the store could not be asked, or did not answer: it is not known whether ``by`` was added.
            NotSupportedError: a backend of ten methods does not know how long the counter is to be kept.
        """
        return run_blocking(self.engine_calls().increment(BLOCKING, *_increment(key, by, expire)))

    async def aincr(self, key: str, by: int = 1, expire: Duration | None = None) -> int:
        """Add ``by`` to the number under ``key``; takes, returns and raises what :meth:`incr` does.

        Of a call that is cancelled it is not known whether ``by`` was added.
        """
        return await self.engine_calls().increment(ASYNCIO, *_increment(key, by, expire))

    def decr(self, key: str, by: int = 1, expire: Duration | None = None) -> int:
        """Subtract ``by`` from the number under ``key``; otherwise like :meth:`incr`. It may become negative."""
        return self.incr(key, -_number(by), expire)

    async def adecr(self, key: str, by: int = 1, expire: Duration | None = None) -> int:
        """Subtract ``by`` from the number under ``key``; otherwise like :meth:`aincr`."""
        return await self.aincr(key, -_number(by), expire)

    def add(self, key: str, value: Any, expire: Duration | None = None) -> bool:
        """Store ``value`` if nothing is stored under ``key``; True for the one caller who did.

        Takes and raises what ``set`` does, and

        Raises:
            BackendError: the store could not be asked, or did not answer: it is not known whether it was stored.
        """
        return run_blocking(self.engine_calls().add(BLOCKING, check_key(key), value, _lifetime(expire)))

    async def aadd(self, key: str, value: Any, expire: Duration | None = None) -> bool:
        """Store ``value`` if nothing is stored under ``key``; takes, returns and raises what :meth:`add` does."""
        return await self.engine_calls().add(ASYNCIO, check_key(key), value, _lifetime(expire))

    def expire(self, key: str, duration: Duration) -> bool:
        """Let the value of ``key`` live for ``duration`` from now, however long it had left; False if there is none.

        Args:
            key: as for ``get``.
            duration: seconds (``int`` or ``float``), a ``timedelta``, or text such as ``"5m"``.

        Raises:
            InvalidTypeError, ConfigurationError: as for ``set``.
            BackendError: the backend is one of ten methods, and one of them raised it.
        """
        return run_blocking(self.engine_calls().expire(BLOCKING, check_key(key), seconds(duration, option="duration")))

    async def aexpire(self, key: str, duration: Duration) -> bool:
        """Let the value of ``key`` live for ``duration`` from now; takes and raises what :meth:`expire` does."""
        return await self.engine_calls().expire(ASYNCIO, check_key(key), seconds(duration, option="duration"))

    def touch(self, key: str, expire: Duration | None = None) -> bool:
        """Let the lifetime of ``key`` begin anew; False if there is no value.

        Args:
            key: as for ``get``.
            expire: another lifetime from now on; without it, the one that the value was stored with.

        Raises:
            InvalidTypeError, ConfigurationError: as for ``set``.
            NotSupportedError: a backend of ten methods does not know which lifetime that was.
        """
        return run_blocking(self.engine_calls().expire(BLOCKING, check_key(key), _lifetime(expire)))

    async def atouch(self, key: str, expire: Duration | None = None) -> bool:
        """Let the lifetime of ``key`` begin anew; takes, returns and raises what :meth:`touch` does."""
        return await self.engine_calls().expire(ASYNCIO, check_key(key), _lifetime(expire))

    def ttl(self, key: str) -> float | None:
        """For how many seconds ``get`` still finds ``key``: ``math.inf`` if it has no end, ``None`` if it is not there.

        Raises:
            InvalidTypeError, ConfigurationError: as for ``get``.
            NotSupportedError: a backend of ten methods knows that only of what this process stored.
        """
        return run_blocking(self.engine_calls().ttl(BLOCKING, check_key(key)))

    async def attl(self, key: str) -> float | None:
        """For how many seconds ``aget`` still finds ``key``; returns and raises what :meth:`ttl` does."""
        return await self.engine_calls().ttl(ASYNCIO, check_key(key))

    def ping(self) -> bool:
        """Whether the store answers, for health checks; never raises because it does not."""
        return run_blocking(self.engine_calls().ping(BLOCKING))

    async def aping(self) -> bool:
        """Whether the store answers, for health checks; never raises because it does not."""
        return await self.engine_calls().ping(ASYNCIO)

    def scan(self, prefix: str = "") -> Iterator[str]:
        """Iterate over the keys that have a value and begin with ``prefix``, in no order, a few hundred at a time.

        Those that are there all the time come for certain, and one may come twice while others are stored; of what
        comes and goes meanwhile, anything may be seen.

        Args:
            prefix: plain text: ``*``, ``?`` and ``[`` stand for themselves. Without it, every key of the namespace.

        Raises:
            InvalidTypeError, ConfigurationError: the prefix is one that no key can have.
            NotSupportedError: a backend of ten methods has no way to list its keys.
            BackendError: while iterating: the store could not be asked, and some keys may not have come.
        """
        steps, checked = self.engine_calls(), check_prefix(prefix)
        return _scanned(steps, checked, steps.first(checked))

    def ascan(self, prefix: str = "") -> AsyncIterator[str]:
        """Iterate over the keys by ``async for``; takes and raises what :meth:`scan` does."""
        steps, checked = self.engine_calls(), check_prefix(prefix)
        return _ascanned(steps, checked, steps.first(checked))

    def delete_match(self, prefix: str) -> int:
        """Remove the keys that begin with ``prefix``; how many are known to have been there.

        It is done in small steps, and others get their turns in between. What is stored while it goes on may stay;
        what was being loaded before is not stored. To remove everything, ``clear`` is quicker.

        Args:
            prefix: plain text, as for :meth:`scan`.

        Raises:
            InvalidTypeError, ConfigurationError: the prefix is one that no key can have.
            NotSupportedError: a backend of ten methods has no way to list its keys.
        """
        return run_blocking(self.engine_calls().delete_match(BLOCKING, check_prefix(prefix)))

    async def adelete_match(self, prefix: str) -> int:
        """Remove the keys that begin with ``prefix``; takes, returns and raises what :meth:`delete_match` does."""
        return await self.engine_calls().delete_match(ASYNCIO, check_prefix(prefix))

    def lock(self, key: str, expire: Duration = DEFAULT_EXPIRE, wait: Duration | None = DEFAULT_WAIT) -> Lock:
        """Return a lock for ``with`` and ``async with``; see :class:`~fast_cache.backends.locks.Lock`.

        It has nothing to do with the value of ``key``. On Redis all processes of the namespace share it, elsewhere
        the threads and tasks of this process.

        Args:
            key: the name of the lock.
            expire: after how long it ends by itself, for holders that died; 10 seconds. It is not extended by itself.
            wait: how long to try to take it; 10 seconds. 0 tries once, ``None`` without end.

        Raises:
            InvalidTypeError, ConfigurationError: as for ``set``. What taking it raises, see ``Lock.acquire``.
        """
        return Lock(self.engine_calls().locks, check_key(key), expire, wait)

    def alock(self, key: str, expire: Duration = DEFAULT_EXPIRE, wait: Duration | None = DEFAULT_WAIT) -> Lock:
        """Return a lock: the same as :meth:`lock`, under the name that asynchronous methods have."""
        return self.lock(key, expire, wait)


defer_methods(Calls)


def _scanned(steps: CallSteps, prefix: str, at: Any) -> Iterator[str]:
    while at is not None:
        keys, at = run_blocking(steps.page(BLOCKING, prefix, at))
        yield from keys


async def _ascanned(steps: CallSteps, prefix: str, at: Any) -> AsyncIterator[str]:
    while at is not None:
        keys, at = await steps.page(ASYNCIO, prefix, at)
        for key in keys:
            yield key


def _values(values: Mapping[str, Any], expire: Duration | None) -> tuple[Mapping[str, Any], float | None]:
    return check_values(values), _lifetime(expire)


def _increment(key: str, by: int, expire: Duration | None) -> tuple[str, int, float | None]:
    return check_key(key), check_sum(_number(by)), _lifetime(expire)


def _number(by: object) -> int:
    if not isinstance(by, int) or isinstance(by, bool):
        raise InvalidTypeError(f"by must be an int, not {type(by).__name__}")
    return int(by)


def _lifetime(expire: Duration | None) -> float | None:
    return optional_seconds(expire, option="expire")
