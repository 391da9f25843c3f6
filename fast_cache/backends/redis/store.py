"""The engine's view of Redis: values in envelopes, fences as tokens, one copy for both flavours.

What the commands are is the layout's affair, how they travel the link's; here is what the replies mean. Nothing that
lies in Redis is trusted: a foreign type, a torn envelope, another key's entry or a dead generation is a miss.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from fast_cache.backends.redis.breaker import Breaker
from fast_cache.backends.redis.layout import TOKEN_LENGTH, Command, Layout
from fast_cache.backends.redis.link import Link, Reply, new_token
from fast_cache.backends.store import CodecSource, Store
from fast_cache.entry import MISSING, NEVER, MissingType
from fast_cache.errors import BackendError, DecodeError, EncodeError
from fast_cache.freshness import Found, Life
from fast_cache.ports import Port
from fast_cache.serializers import (
    Codec,
    Stored,
    codec_for,
    decode_stored,
    encode_stored,
    holds_exception,
    unpack_stored,
)
from fast_cache.single_flight import Flight
from redis.exceptions import ResponseError

_ANOTHER_FENCE: Final = -2

_LAPS: Final = 8
"""How often a value is offered again after somebody else got in between; each time somebody else was done."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a load depends on, noted before it began."""

    fence: bytes
    generation: bytes


class RedisStore(Store):
    """Entries of one namespace.

    Args:
        longest: caps the lifetime of every entry, in seconds: none stays in Redis for ever.
        largest: caps every entry, in bytes: to one that is too large for it the server answers by hanging up.
    """

    shared = True

    def __init__(self, name: str, link: Link, layout: Layout, breaker: Breaker, longest: float, largest: int) -> None:
        super().__init__(name)
        self.label = "redis"
        self._link = link
        self._layout = layout
        self._breaker = breaker
        self._longest: Final = longest
        self._largest: Final = largest

    async def read(
        self, port: Port, key: str, codec: CodecSource | None, *, soft: bool, count: bool = False
    ) -> Found | MissingType:
        # The time that is left is asked for first. Commands of one packet are not one step: a value that is written in
        # between is then taken for older than it is, never for younger.
        commands = (self._layout.left(key) if soft else []) + self._layout.read(key)
        if count:
            commands += self._layout.count(key)
        replies = await self._link.exchange(port, commands)
        left = replies.pop(0) if soft else None
        stored = _opened(key, *replies[:2])
        if stored is not None and stored.stale and not soft:
            return await self.read(port, key, codec, soft=True)  # written by somebody who serves what is stale
        found = _found(stored, codec, left)
        return found._replace(hits=_expect_int(replies[-1])) if count and found is not MISSING else found

    async def has(self, port: Port, key: str) -> bool:
        left, data, generation = await self._link.exchange(port, self._layout.left(key) + self._layout.read(key))
        stored = _opened(key, data, generation)
        return stored is not None and not holds_exception(stored) and _fresh_for(stored, left) > 0

    async def capture(
        self, port: Port, key: str, codec: CodecSource, *, soft: bool, replace: bool
    ) -> tuple[Found | MissingType, object]:
        commands = self._layout.capture(key, new_token(), new_token(), replace=replace)
        if soft:
            commands = self._layout.left(key) + commands
        replies = await self._link.exchange(port, commands)
        left = replies.pop(0) if soft else None
        data, announced, _, fence, _, generation = replies
        if replace:
            _expect_ok([announced])
        stored = None if replace else _opened(key, data, generation)
        found = _found(stored, codec, left) if stored is not None and (soft or not stored.stale) else MISSING
        if not _is_fence(fence):
            if found is not MISSING and found.fresh_for > 0:
                return found, None
            fence = new_token()
            _expect_ok(await self._link.exchange(port, self._layout.repair_fence(key, fence)))
        return found, Ticket(fence, await self._usable(port, generation))

    async def write(
        self, port: Port, flight: Flight, ticket: object, value: Any, codec: CodecSource, life: Life
    ) -> bool:
        assert isinstance(ticket, Ticket)
        key = str(flight.key)
        data, lifetime_ms = self._encode(key, value, codec(), life, ticket.generation)
        if flight.moved:
            return False
        commands = self._layout.write(key, ticket.fence, data, lifetime_ms)
        stored, generation = await self._link.exchange(port, commands)
        # Of a generation that has passed, the entry is dead already; the load counts as fenced off like any other.
        return _expect_int(stored) == 1 and generation == ticket.generation

    async def put(self, port: Port, key: str, value: Any, expire: float | None) -> None:
        """Store ``value`` whatever is in flight; undelivered, it counts as an invalidation of what was there.

        Raises:
            EncodeError: the value can't be stored; what was stored under the key is gone.
        """
        codec = codec_for()
        # What can't be stored is the caller's error, also while Redis is away; any generation will do to find out.
        try:
            self._encode(key, value, codec, Life(expire), new_token())
        except EncodeError:
            with suppress(BackendError):  # then it is owed
                await self.delete(port, key)
            raise
        self.flights.invalidate(key)
        try:
            await self._put(port, key, value, codec, expire)
        except BackendError:
            self._breaker.owe(key)
            raise

    async def _put(self, port: Port, key: str, value: Any, codec: Codec, expire: float | None) -> None:
        for _ in range(_LAPS):
            token = new_token()
            announced = await self._link.exchange(port, self._layout.announce(key, token, new_token()))
            _expect_ok(announced[:1])
            generation = await self._usable(port, announced[-1])
            data, lifetime_ms = self._encode(key, value, codec, Life(expire), generation)
            (stored,) = await self._link.exchange(port, self._layout.put(key, token, data, lifetime_ms))
            if _expect_int(stored) == _ANOTHER_FENCE:
                # If ours was lost, what was to be replaced is still there. Without it this is a miss, which is safe.
                _expect_ok(await self._link.exchange(port, self._layout.delete(key)))
                return
            if _expect_int(stored) != 0:
                return
            # Somebody else loaded or deleted. Or the fence was evicted, and the old value is still there: once more.
        raise BackendError("Redis loses fences before a value is stored; raise max_load_time or its memory")

    async def _usable(self, port: Port, generation: Reply) -> bytes:
        """The generation, or a new one in the place of something that is none."""
        if isinstance(generation, bytes) and _is_token(generation):
            return generation
        if isinstance(generation, Exception) and not str(generation).startswith("WRONGTYPE"):
            raise _refused(generation)  # there may well be one that others use
        repaired = new_token()
        _expect_ok(await self._link.exchange(port, self._layout.repair_generation(repaired)))
        return repaired

    async def stands(self, port: Port, key: str, ticket: object) -> bool:
        assert isinstance(ticket, Ticket)
        return tuple(await self._link.exchange(port, self._layout.stands(key))) == (ticket.fence, ticket.generation)

    async def delete(self, port: Port, key: str) -> bool:
        self.flights.invalidate(key)
        (_, removed) = await self._invalidate(port, key, self._layout.delete(key))
        return _expect_int(removed) > 0

    async def clear(self, port: Port) -> None:
        self.flights.invalidate_all()
        await self._invalidate(port, None, self._layout.clear(new_token()))

    async def _invalidate(self, port: Port, key: str | None, commands: list[Command]) -> list[Reply]:
        """Tell Redis of an invalidation. One that is not confirmed is owed, also if its caller is cancelled."""
        confirmed = False

        async def tell() -> list[Reply]:
            nonlocal confirmed
            replies = await self._link.exchange(port, commands)
            _expect_ok(replies)
            confirmed = True
            return replies

        return await port.finish(tell(), at_end=lambda: None if confirmed else self._breaker.owe(key))

    def _encode(self, key: str, value: Any, codec: Codec, life: Life, generation: bytes) -> tuple[bytes, int]:
        fresh = self._longest if life.fresh is None else min(life.fresh, self._longest)
        stale = min(life.stale, self._longest - fresh)
        data = encode_stored(key, value, codec, fresh + stale, generation, stale=stale, load=life.load)
        if len(data) > self._largest:
            raise EncodeError(f"it takes {len(data)} bytes; max_value_size allows {self._largest}")
        return data, max(1, round((fresh + stale) * 1000))


def _found(stored: Stored | None, codec: CodecSource | None, left: Reply) -> Found | MissingType:
    """What an entry holds; ``left`` is the server's word of how long it has left, where that was asked for."""
    value = _decoded(stored, codec)
    if stored is None or value is MISSING:
        return MISSING
    fresh_for = NEVER if left is None else _fresh_for(stored, left)
    return Found(value, fresh_for, stored.lifetime - stored.stale, stored.load)


def _fresh_for(stored: Stored, left: Reply) -> float:
    """For how many seconds an entry is still fresh, by what is left of its lifetime in milliseconds."""
    milliseconds: float = _expect_int(left)
    if milliseconds < 0:
        return -NEVER
    if stored.lifetime:
        milliseconds = min(milliseconds, stored.lifetime * 1000)  # it may be that of the value before this one
    # What is still there is fresh if it is never stale, also in the millisecond that rounds to none.
    return milliseconds / 1000 - stored.stale if stored.stale else max(milliseconds, 1) / 1000


def _opened(key: str, data: Reply, generation: Reply) -> Stored | None:
    """The entry, if the bytes are one of ``key`` and of the living generation."""
    if not isinstance(data, bytes) or not _is_token(generation):
        return None
    try:
        stored = unpack_stored(key, data)
    except DecodeError:
        return None
    return stored if stored.generation == generation else None


def _decoded(stored: Stored | None, codec: CodecSource | None) -> Any:
    if stored is None:
        return MISSING
    try:
        return decode_stored(stored, codec() if codec is not None else None)
    except DecodeError:
        return MISSING


def _is_token(reply: Reply) -> bool:
    return isinstance(reply, bytes) and len(reply) == TOKEN_LENGTH


def _is_fence(reply: Reply) -> bool:
    return isinstance(reply, bytes) and len(reply) > 0 and len(reply) % TOKEN_LENGTH == 0


def _expect_int(reply: Reply) -> int:
    if isinstance(reply, int):
        return reply
    raise _refused(reply)


def _expect_ok(replies: list[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise _refused(reply)


def _refused(reply: Reply) -> BackendError:
    """A reply that is an error: full, read-only, forbidden. Its first word names the kind; the rest may quote us."""
    kind = str(reply).split(" ", 1)[0][:40] if isinstance(reply, ResponseError) else type(reply).__name__
    error = BackendError(f"Redis refused a command: {kind}")
    error.__cause__ = reply if isinstance(reply, Exception) else None
    return error
