"""Locks by name: one holder at a time, for a limited time.

A holder has a random name, so that nobody else releases or extends its lock, and a fencing token: a number that rises
with every holder of the key. A lock that ends by itself can't stop a holder who does not know it yet; whatever it
protects should remember the highest token that it has seen and refuse lower ones. (M. Kleppmann, "How to do
distributed locking", 2016.) How a lock is taken is a backend's affair; how it is waited for is written here, once.
"""

from __future__ import annotations

import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic, time_ns
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from weakref import WeakSet

from fast_cache.durations import Duration, seconds
from fast_cache.entry import NEVER
from fast_cache.errors import BackendError, ConfigurationError, InvalidTypeError, LockLost, LockTimeout
from fast_cache.outcome import Outcome
from fast_cache.ports import ASYNCIO, BLOCKING, Port, run_blocking
from fast_cache.single_flight import Flight, Flights, Signal

DEFAULT_EXPIRE: Final = 10.0
"""Seconds after which a lock ends by itself."""

DEFAULT_WAIT: Final = 10.0
"""Seconds: as long as a lock lasts, so that a holder who died delays the others, and fails none."""

_HOLDER: Final = 16
"""Bytes of a holder's name."""

_SWEPT: Final = 64
"""From how many locks on those are looked for that ended by themselves."""


class Taken(NamedTuple):
    """What came of an attempt: the fencing token, or ``None`` and for how many seconds another has the lock."""

    token: int | None
    left: float = 0.0


class Locks(ABC):
    """The locks of one backend."""

    @abstractmethod
    async def take(self, port: Port, key: str, holder: bytes, lifetime: float) -> Taken:
        """Take the lock of ``key`` if nobody has it."""

    @abstractmethod
    async def wait(self, port: Port, key: str, within: float) -> None:
        """Wait until the lock may be free, ``within`` seconds at most, or less."""

    @abstractmethod
    async def extend(self, port: Port, key: str, holder: bytes, lifetime: float) -> bool:
        """Let the lock last for ``lifetime`` from now, if ``holder`` has it."""

    @abstractmethod
    async def release(self, port: Port, key: str, holder: bytes) -> bool:
        """Let others have the lock, if ``holder`` has it."""


class Lock:
    """A lock that ``with`` and ``async with`` take and release; made by ``backend.lock(key)``.

    It has one holder at a time and is not re-entrant: whoever has it and asks for it again waits for itself, until
    that raises :class:`LockTimeout`. An object serves one holder after the other; let each task make its own.
    """

    def __init__(self, locks: Locks, key: str, expire: Duration, wait: Duration | None) -> None:
        self.key = key
        self._locks = locks
        self._lifetime = seconds(expire, option="expire")
        self._wait = _patience(wait)
        self._holder: bytes | None = None
        self._token: int | None = None
        self._until = -NEVER

    @property
    def token(self) -> int:
        """The fencing token: higher than that of every holder before.

        Raises:
            LockLost: nobody holds the lock by this object.
        """
        if self._token is None:
            raise LockLost("this lock is not held; take it by `with` or `async with` first")
        return self._token

    @property
    def remaining(self) -> float:
        """For how many seconds it is still held, as far as its holder can know; 0 if it is not."""
        return max(0.0, self._until - monotonic())

    def acquire(self) -> Self:
        """Take the lock, waiting for it as long as ``wait`` says.

        Raises:
            LockTimeout: others had it all the time. At once if the calling thread runs an event loop, which must not
                be kept waiting: use ``async with`` there.
            BackendError: the store could not be asked; nothing is held.
            ConfigurationError: this object holds the lock, or waits for it.
        """
        run_blocking(self._acquire(BLOCKING))
        return self

    async def aacquire(self) -> Self:
        """The same, without blocking the event loop."""
        await self._acquire(ASYNCIO)
        return self

    def extend(self, expire: Duration | None = None) -> None:
        """Hold the lock for ``expire`` from now; without it, for as long as it was taken for.

        Raises:
            LockLost: it is held no longer.
            BackendError: the store could not be asked; until it ends, the lock is still held.
        """
        run_blocking(self._extend(BLOCKING, expire))

    async def aextend(self, expire: Duration | None = None) -> None:
        """The same, without blocking the event loop."""
        await self._extend(ASYNCIO, expire)

    def release(self) -> bool:
        """Let others have the lock; False if it was lost before, or the store could not be told: then it ends by
        itself. Another holder's lock is left alone.
        """
        return run_blocking(self._release(BLOCKING))

    async def arelease(self) -> bool:
        """The same, without blocking the event loop. It is carried to its end even if the caller is cancelled."""
        return await self._release(ASYNCIO)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        return await self.aacquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.arelease()

    async def _acquire(self, port: Port) -> None:
        if self._holder is not None:
            raise ConfigurationError("this object holds its lock, or waits for it; call lock(key) for another one")
        self._holder = holder = secrets.token_bytes(_HOLDER)
        try:
            self._token = await self._taken(port, holder)
        except BaseException:
            self._holder = None
            raise

    async def _taken(self, port: Port, holder: bytes) -> int:
        until = monotonic() + self._wait
        while True:
            asked = monotonic()
            try:
                token, left = await self._locks.take(port, self.key, holder, self._lifetime)
            except Exception:
                raise
            except BaseException:  # cancelled: it may have been taken all the same
                await _carried(port, self._locks.release(port, self.key, holder))
                raise
            if token is not None:
                self._until = asked + self._lifetime
                return token
            if not port.can_wait():
                raise LockTimeout(
                    "another holder has this lock, and a thread that runs an event loop can't wait for it; "
                    "use `async with`"
                )
            patience = until - monotonic()
            if patience <= 0:
                raise LockTimeout(f"another holder has had this lock for the whole time of wait ({self._wait:g} s)")
            await self._locks.wait(port, self.key, min(left, patience))

    async def _extend(self, port: Port, expire: Duration | None) -> None:
        lifetime = self._lifetime if expire is None else seconds(expire, option="expire")
        asked, holder = monotonic(), self._holder
        if holder is None or self._token is None:
            raise LockLost("this lock is not held; take it by `with` or `async with` first")
        if not await self._locks.extend(port, self.key, holder, lifetime):
            self._until = -NEVER
            raise LockLost("this lock ended before it was extended, and another may have it by now")
        self._until = asked + lifetime

    async def _release(self, port: Port) -> bool:
        holder, self._holder = self._holder, None
        self._token = None
        self._until = -NEVER
        return holder is not None and await _carried(port, self._locks.release(port, self.key, holder))


async def _carried(port: Port, release: Coroutine[Any, Any, bool]) -> bool:
    """Carry a release to its end, also if its caller is cancelled; if it fails, the lock ends by itself."""
    with suppress(BackendError):
        return await port.finish(release, lambda: None)
    return False


class _Held:
    """A lock in local memory: who has it, until when, and who waits for that."""

    __slots__ = ("flight", "holder", "until")

    def __init__(self, flight: Flight, holder: bytes, until: float) -> None:
        self.flight = flight
        self.holder = holder
        self.until = until


class LocalLocks(Locks):
    """Locks within this process, between its threads and the tasks of all its event loops."""

    def __init__(self) -> None:
        self._flights = Flights()  # those who wait for a lock are the followers of its flight
        self._begin()
        _local.add(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # garbage collected in here may be the holder of another lock
        self._held: dict[str, _Held] = {}
        self._sweep_at = _SWEPT
        self._last = 0

    def forked(self) -> None:
        """In a forked child: what was held is held by the parent."""
        self._flights.forget()
        self._begin()

    async def take(self, port: Port, key: str, holder: bytes, lifetime: float) -> Taken:
        now = monotonic()
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.until > now:
                return Taken(None, held.until - now)
            if len(self._held) >= self._sweep_at:
                self._sweep(now)
            self._held[key] = _Held(self._flights.lone(key), holder, now + lifetime)
            self._last = token = max(self._last + 1, time_ns() // 1000)
        if held is not None:
            self._wake(held)
        return Taken(token)

    async def wait(self, port: Port, key: str, within: float) -> None:
        held = self._held.get(key)
        if held is not None:
            patience = min(within, held.until - monotonic())
            if patience > 0 and await port.wait(self._flights, held.flight, patience) is Signal.ALONE:
                raise LockTimeout("this lock is held by a load that waits for its caller: it would wait for itself")

    async def extend(self, port: Port, key: str, holder: bytes, lifetime: float) -> bool:
        now = monotonic()
        with self._lock:
            held = self._held.get(key)
            if held is None or held.holder != holder or held.until <= now:
                return False
            held.until = now + lifetime
            return True

    async def release(self, port: Port, key: str, holder: bytes) -> bool:
        now = monotonic()
        with self._lock:
            held = self._held.get(key)
            if held is None or held.holder != holder:
                return False
            del self._held[key]
        self._wake(held)
        return held.until > now

    def _wake(self, held: _Held) -> None:
        """Let those look again who waited for this holder."""
        self._flights.settle(held.flight, Outcome(), Signal.OVERTAKEN)

    def _sweep(self, now: float) -> None:
        """Forget locks that ended by themselves; so seldom that taking one takes the same time, however many."""
        for key, held in list(self._held.items()):
            if held.until <= now:
                del self._held[key]
                self._wake(held)
        self._sweep_at = max(_SWEPT, 2 * len(self._held))


_local: WeakSet[LocalLocks] = WeakSet()


def _forked() -> None:
    for locks in list(_local):
        locks.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


def _patience(wait: Duration | None) -> float:
    """For how long to wait, in seconds. Unlike elsewhere 0 has a meaning here: to try once."""
    if wait is None:
        return NEVER
    if isinstance(wait, bool):
        raise InvalidTypeError("wait must be a duration, 0 to try once, or None to wait without end; not a bool")
    return 0.0 if wait == 0 else seconds(wait, option="wait")
