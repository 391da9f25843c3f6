"""The calls of Redis. What is sent stands in ``changes``; here is what the replies mean, and what is done then.

Many keys at once are the steps of single ones, taken in step: one packet for what one step sends. What depends on an
answer of the server (counters, ``add``, ``scan``) raises without one; the others find nothing, or count as not done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import inf
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from fast_cache.backends.channel import NO_NEWS, News
from fast_cache.backends.redis.changes import Changes, head_of
from fast_cache.backends.redis.driver import refused
from fast_cache.backends.redis.fleet import Where
from fast_cache.backends.redis.layout import Layout, new_token
from fast_cache.backends.redis.link import Link
from fast_cache.backends.redis.locks import RedisLocks
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.backends.redis.store import RedisStore, expect_int
from fast_cache.backends.steps import CallSteps, Page, added
from fast_cache.backends.turns import Turns
from fast_cache.entry import MISSING
from fast_cache.errors import BackendError
from fast_cache.freshness import Life
from fast_cache.lockstep import Lockstep
from fast_cache.outcome import Outcome, Raised
from fast_cache.ports import BatchPort, Port
from fast_cache.serializers import Codec, RaisingCodec, Stored, encode_stored

if TYPE_CHECKING:
    from fast_cache.backends.redis.backend import RedisBackend

_LAPS: Final = 64
"""How often a change is offered again after somebody else got in between; each time somebody else was done."""

_STEP: Final = 256
"""How many names the server looks at before others have their turn: about a tenth of a millisecond."""

_LONGEST_PAUSE: Final = 0.05
"""Seconds between two steps of a deletion: as long as a step took, so that it is half of the time at most."""


class _Place(NamedTuple):
    """How far the names have been looked through: the servers that are left, and the cursor of the first.

    Without a server nobody has been asked yet.
    """

    servers: tuple[Where, ...]
    cursor: bytes


class RedisCalls(CallSteps):
    """The calls of one namespace. ``longest`` caps every lifetime, in seconds."""

    def __init__(
        self,
        backend: RedisBackend,
        store: RedisStore,
        link: Link,
        layout: Layout,
        changes: Changes,
        longest: float,
    ) -> None:
        self._backend = backend
        self._store = store
        self._link = link
        self._layout = layout
        self._changes = changes
        self._longest = longest
        self._turns = Turns()
        self.locks = RedisLocks(link, layout, store.health)

    async def get_many(self, port: Port, keys: Sequence[str], default: Any) -> tuple[Any, ...]:
        step = _in_step(port)
        return tuple(await step.run([self._backend.get_step(step, key, default) for key in keys]))

    async def set_many(self, port: Port, values: Mapping[str, Any], lifetime: float | None) -> None:
        step = _in_step(port)
        await step.run([self._backend.set_step(step, key, value, lifetime) for key, value in values.items()])

    async def delete_many(self, port: Port, keys: Sequence[str]) -> int:
        step = _in_step(port)
        return sum(await step.run([self._backend.delete_step(step, key) for key in keys]))

    async def increment(self, port: Port, key: str, by: int, lifetime: float | None) -> int:
        self._store.flights.invalidate(key)
        with self._told("incr"), ExitStack() as turn:
            for lap in range(_LAPS):
                if lap == 1:  # several callers of this process would disturb each other again and again
                    await self._turns.enter(port, key, turn)
                token, generation = new_token(), await self._known(port)
                like = encode_stored(key, 0, self._store.codec, None, generation)
                change = self._changes.increment(key, token, by, like)
                reply = await self._in_generation(port, generation, change, News((key,)))
                if isinstance(reply, int):
                    return reply
                if reply is MISSING:
                    continue
                there = await self._alive(port, key, reply, generation)
                if there is None:
                    number, data, lifetime_ms = by, *self._new(key, by, lifetime, generation)
                else:
                    number, lifetime_ms = added(there[1], by), None
                    data = _like(key, number, self._store.codec, there[0])
                change = self._changes.change(key, token, reply or b"", data, lifetime_ms, number)
                if await self._in_generation(port, generation, change, News((key,))) == 1:
                    return number
            raise _crowded()

    async def add(self, port: Port, key: str, value: Any, lifetime: float | None) -> bool:
        self._new(key, value, lifetime, new_token())  # what can't be stored is refused before anything is done
        with self._told("add"):
            for _ in range(_LAPS):
                token, generation = new_token(), await self._known(port)
                reply = await self._in_generation(port, generation, self._changes.look(key, token))
                if reply is MISSING:
                    continue
                if await self._alive(port, key, reply, generation) is not None:
                    return False
                self._store.flights.invalidate(key)
                data, lifetime_ms = self._new(key, value, lifetime, generation)
                change = self._changes.change(key, token, reply or b"", data, lifetime_ms, 1)
                if await self._in_generation(port, generation, change, News((key,))) == 1:
                    return True
            raise _crowded()

    async def expire(self, port: Port, key: str, lifetime: float | None) -> bool:
        try:
            with self._told("expire"):
                return await self._renewed(port, key, lifetime)
        except BackendError:
            return False

    async def ttl(self, port: Port, key: str) -> float | None:
        try:
            with self._told("ttl"):
                there = await self._read(port, key)
        except BackendError:
            return None
        return None if there is None else there[2]

    async def ping(self, port: Port) -> bool:
        try:
            with self._told("ping"):
                (reply,) = await self._ask(port, [("PING",)])
        except BackendError:
            return False
        return bool(reply == b"PONG")

    def first(self, prefix: str) -> Any:
        return _Place((), b"0")

    async def page(self, port: Port, prefix: str, at: Any) -> Page:
        with self._told("scan"):
            names, at = await self._names(port, self._layout.value_pattern(prefix), at)
            return Page(await self._living(port, names), at)

    async def delete_match(self, port: Port, prefix: str) -> int:
        self._store.flights.invalidate_where(lambda key: isinstance(key, str) and key.startswith(prefix))
        deleted = 0
        confirmed = False

        async def delete() -> None:
            nonlocal deleted, confirmed
            # Fences first: a load that was under way is refused, or has stored its value before that is looked for.
            for pattern in (self._layout.fence_pattern(prefix), self._layout.value_pattern(prefix)):
                at: _Place | None = self.first(prefix)
                while at is not None:
                    began = monotonic()
                    keys, at = await self._names(port, pattern, at)
                    deleted += await self._unlinked(port, keys)
                    await port.do(sleep, _suspended, min(monotonic() - began, _LONGEST_PAUSE))
            confirmed = True
            await self._link.replicated(port)

        def at_end() -> None:
            if not confirmed:  # what begins with the prefix can't be told apart later: everything
                self._link.owe(None)

        try:
            with self._told("delete_match"):
                await port.finish(delete(), at_end)
        except BackendError:
            pass
        return deleted

    async def _known(self, port: Port) -> bytes:
        """The generation that was seen last, or the one that there is."""
        return self._store.generation or await self._store.ask_generation(port)

    async def _in_generation(self, port: Port, generation: bytes, commands: list[Command], news: News = NO_NEWS) -> Any:
        """The reply to a command for which ``generation`` is the living one; ``MISSING`` if it turns out not to be.

        It is asked for behind the command, which changes what ``news`` says.
        """
        reply, current = await self._ask(port, commands, news, self._layout.generation())
        return reply if self._store.is_living(generation, current) else MISSING

    async def _ask(
        self, port: Port, commands: list[Command], news: News = NO_NEWS, behind: Sequence[Command] = ()
    ) -> list[Reply]:
        replies, _ = await self._store.changed(port, [(commands, news), (behind, NO_NEWS)])
        for reply in replies:
            if isinstance(reply, Exception):
                raise refused(reply)
        return replies

    async def _alive(self, port: Port, key: str, data: Reply, generation: bytes) -> tuple[Stored, Any] | None:
        """The entry and its value, if that is one which ``get`` finds."""
        stored = await self._store.living(port, self._store.entry(key, data, generation), {})
        if stored is None:
            return None
        if stored.stale:
            there = await self._read(port, key)
            return None if there is None else there[:2]
        value = self._store.value_of(stored)
        return None if value is MISSING or type(value) is Raised else (stored, value)

    async def _read(self, port: Port, key: str) -> tuple[Stored, Any, float, bytes] | None:
        """What ``get`` finds: the entry, its value, for how many seconds it is fresh, and its bytes."""
        left, data, generation = await self._link.exchange(port, self._layout.left(key) + self._layout.read(key))
        stored = await self._store.living(port, self._store.entry(key, data, generation), {})
        value = self._store.value_of(stored)
        if stored is None or value is MISSING or type(value) is Raised:
            return None
        milliseconds = expect_int(left)
        fresh_for = inf if milliseconds == -1 else max(milliseconds, 1) / 1000 - stored.stale
        alive = fresh_for > 0 and milliseconds != -2 and not stored.expired
        return (stored, value, fresh_for, data) if alive else None

    async def _renewed(self, port: Port, key: str, lifetime: float | None) -> bool:
        for _ in range(_LAPS):
            there = await self._read(port, key)
            if there is None:
                return False
            stored, _, _, data = there
            fresh = stored.lifetime - stored.stale if lifetime is None else lifetime
            lives = max(1, round(min(fresh + stored.stale, self._longest) * 1000))
            self._store.flights.invalidate(key)
            (renewed,) = await self._ask(port, self._changes.renew(key, new_token(), data, lives), News((key,)))
            if renewed == 1:
                return True
        raise _crowded()

    def _new(self, key: str, value: Any, lifetime: float | None, generation: bytes) -> tuple[bytes, int]:
        return self._store.encode(key, value, self._store.codec, Life(lifetime), generation)

    async def _names(self, port: Port, pattern: bytes, at: _Place) -> tuple[list[str], _Place | None]:
        """Some of the keys whose names match, and where to go on."""
        servers = at.servers or tuple(await self._link.servers(port))
        (reply,) = await self._link.exchange_with(port, servers[0], self._layout.scan(pattern, at.cursor, _STEP))
        if isinstance(reply, Exception):
            raise refused(reply)
        cursor, names = reply
        found = dict.fromkeys(key for name in names if (key := self._layout.key_of(name)) is not None)
        if cursor == b"0":
            servers = servers[1:]
        return list(found), _Place(servers, cursor) if servers else None

    async def _living(self, port: Port, keys: list[str]) -> list[str]:
        """Those keys that have a value. Most are known by their heads; of the others all is read."""
        if not keys:
            return []
        commands = [command for key in keys for command in self._changes.head(key)] + self._layout.generation()
        *replies, generation = await self._link.exchange(port, commands)
        step = _in_step(port)
        unsure: list[str] = []
        living: list[str] = []
        for key, reply in zip(keys, replies, strict=True):
            head = head_of(reply)
            dead = head is None or head.generation != generation
            codec = None if head is None or dead else self._store.codec_by_hand(head.codec)
            if head is None or codec is None:
                continue
            (living if head.simple and not isinstance(codec, RaisingCodec) else unsure).append(key)
        has = await step.run([self._store.has(step, key) for key in unsure])
        return living + [key for key, there in zip(unsure, has, strict=True) if there]

    async def _unlinked(self, port: Port, keys: list[str]) -> int:
        """Remove keys; how many of them were alive."""
        if not keys:
            return 0
        for key in keys:
            self._link.begin(key)
        parts = [(self._changes.head(key) + self._layout.unlink(key), News((key,))) for key in keys]
        (*replies, generation), _ = await self._store.changed(port, [*parts, (self._layout.generation(), NO_NEWS)])
        alive = 0
        for head, _, removed in zip(replies[::3], replies[1::3], replies[2::3], strict=True):
            found = head_of(head)
            alive += expect_int(removed) > 0 and found is not None and found.generation == generation
        for key in keys:
            self._link.confirm(key)
        return alive

    @contextmanager
    def _told(self, step: str) -> Iterator[None]:
        """Tell whether the store works; its trouble is logged once."""
        try:
            yield
        except BackendError as error:
            self._store.health.failed(step, error)
            raise
        self._store.health.works(step)


def _in_step(port: Port) -> Lockstep:
    return Lockstep(cast(BatchPort, port), _nothing_is_loaded)


async def _nothing_is_loaded(port: BatchPort, elements: list[Any]) -> list[Outcome]:
    raise AssertionError("these steps load nothing")


def _like(key: str, value: Any, codec: Codec, stored: Stored) -> bytes:
    """The bytes of ``value`` with all that was said of another one."""
    return encode_stored(
        key,
        value,
        codec,
        stored.lifetime or None,
        stored.generation,
        stale=stored.stale,
        load=stored.load,
        tags=stored.tags,
    )


def _crowded() -> BackendError:
    return BackendError("others change this key in Redis all the time")


async def _suspended(seconds: float) -> None:
    await asyncio.sleep(seconds)
