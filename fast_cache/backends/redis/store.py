"""The engine's view of Redis: values in envelopes, fences as tokens, one copy for both flavours.

What the commands are is the layout's affair, how they travel the link's; here is what the replies mean. Nothing that
lies in Redis is trusted: a foreign type, a torn envelope, another key's entry or a dead generation is a miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from weakref import ref

from fast_cache.backends.channel import ALL_NEWS, NO_NEWS, Channel, News
from fast_cache.backends.redis.batch import has_error
from fast_cache.backends.redis.driver import refused
from fast_cache.backends.redis.fleet import LONGEST_WAIT
from fast_cache.backends.redis.hearing import Hearing
from fast_cache.backends.redis.keeper import HeldLease, Keeper
from fast_cache.backends.redis.layout import (
    EPOCH_LENGTH,
    LONGEST_FENCE,
    TOKEN_LENGTH,
    Layout,
    first_number,
    new_epoch,
    new_token,
)
from fast_cache.backends.redis.link import Link
from fast_cache.backends.redis.reclaim import Reclaimer
from fast_cache.backends.redis.resp import Command, Renewed, Reply
from fast_cache.backends.redis.tokens import current, former
from fast_cache.backends.store import Store, Terms
from fast_cache.entry import MISSING, NEVER, MissingType
from fast_cache.errors import BackendError, DecodeError, EncodeError
from fast_cache.freshness import Found, Life
from fast_cache.keys import GROUP, groups_of_key, text_of
from fast_cache.outcome import Raised
from fast_cache.ports import Port
from fast_cache.serializers import (
    NAMESPACE_DIGEST,
    NO_TAGS,
    Codec,
    Limits,
    Payload,
    RaisingCodec,
    Stored,
    codec_for,
    decode_stored,
    decoder_of,
    encode_stored,
    holds_value,
    name_digest,
    payload_of,
    plain_value,
    seal,
    unpack_head,
    unpack_stored,
    version_of,
    version_of_entry,
)
from fast_cache.single_flight import Flight

BY_HAND: Final = Terms(None)
"""Nothing is known of what is read by its key alone."""

_DIGEST: Final = 8
"""Bytes of a tag's digest."""

_HARDLY: Final = 1e-9
"""A part of a lifetime, in seconds, by which it is known that an entry may be stale."""

_LAPS: Final = 8
"""How often a value is offered again that came too late, or after somebody cleared the namespace meanwhile."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a load depends on, noted before it began: ``tags`` by their digests, ``number`` for those added later."""

    fence: bytes
    generation: bytes
    tags: Mapping[bytes, bytes]
    number: Reply


class RedisStore(Store):
    """Entries of one namespace.

    Args:
        longest: caps the lifetime of every entry, in seconds: none stays in Redis for ever.
        largest: caps every entry, written or read, in bytes: to one that is too large for it the server answers by
            hanging up, and what is found may come from anybody.
        compress_above: payloads larger than this are compressed, in bytes; ``None``: none is.
        serializer: the codec of values that have none of their own.
    """

    shared = True
    tells_age = True
    leases = True

    def __init__(
        self,
        name: str,
        link: Link,
        layout: Layout,
        keeper: Keeper,
        reclaimer: Reclaimer,
        longest: float,
        largest: int,
        compress_above: int | None = None,
        serializer: Codec | None = None,
    ) -> None:
        super().__init__(name)
        self.label = "redis"
        self._link = link
        self._layout = layout
        self._keeper = keeper
        self._reclaimer = reclaimer
        self.longest: float = longest
        self._limits: Final = Limits(largest, compress_above)
        self.serializer = serializer
        self.codec: Final[Codec] = codec_for() if serializer is None else serializer
        """Makes bytes of what is stored by hand."""
        self.generation: bytes | None = None
        """The last one that was seen: right nearly always, and checked where it is used."""
        self._raising = None if serializer is None else RaisingCodec(serializer, ())

    def plain(self, key: str, replies: Sequence[Reply]) -> Any:
        """The value of ``key`` for those who know nothing but that, from what was read, by the shortest way."""
        value = plain_value(key, replies[0], replies[1], self.serializer, self._limits.largest)
        return MISSING if type(value) is Raised else value

    async def closely(self, port: Port, key: str, replies: list[Reply]) -> Any:
        """The same, whatever it is; ``MISSING`` if there is none that is fresh."""
        found = await self._closely(port, key, BY_HAND, [], replies)
        if not isinstance(found, Found) or found.fresh_for <= 0 or type(found.value) is Raised:
            return MISSING
        return found.value

    async def read(self, port: Port, key: str, terms: Terms) -> Found | MissingType:
        # The time that is left is asked for first. Commands of one packet are not one step: a value that is written in
        # between is then taken for older than it is, never for younger. And the tags last.
        commands = self._read(key, terms)
        digests = _digests(terms) if terms.names else []
        if terms.counts:
            commands += self._layout.count(key)
        if digests:
            commands += self._layout.read_tags(digests)
        replies = await self._link.exchange(port, commands)
        if len(replies) == 2 + len(digests):  # nothing was asked for but the value
            codec = self.serializer if terms.codec is None else terms.codec(self.serializer)
            tags = tuple(zip(digests, replies[2:], strict=True)) if digests else ()
            value = plain_value(key, replies[0], replies[1], codec, self._limits.largest, tags)
            if value is not MISSING:
                return Found(value)
        return await self._closely(port, key, terms, digests, replies)

    async def _closely(
        self, port: Port, key: str, terms: Terms, digests: Sequence[bytes], replies: list[Reply]
    ) -> Found | MissingType:
        """What was read, whatever it is."""
        left = replies.pop(0) if terms.soft else None
        known = dict(zip(digests, replies[len(replies) - len(digests) :], strict=True))
        stored = await self.living(port, self.entry(key, *replies[:2]), known)
        if stored is not None and stored.stale and not terms.soft:
            # written by somebody who serves what is stale
            return await self.read(port, key, terms._replace(soft=True))
        found = self._found(stored, terms, left)
        if found is MISSING:
            return found
        if terms.copies and stored is not None:
            found = found._replace(tags=tuple(stored.tags), version=version_of_entry(replies[0]))
        return found._replace(hits=expect_int(replies[2])) if terms.counts else found

    async def confirm(self, port: Port, key: str, version: bytes, tags: Sequence[bytes]) -> float | None:
        # What is left first, as in ``read``. Of two values in turn the parts make the version of neither.
        left, head, tail, size, *tokens = await self._link.exchange(
            port, self._layout.left(key) + self._layout.version(key, 1 + len(tags)) + self._layout.read_tags(tags)
        )
        if not isinstance(head, bytes) or not isinstance(tail, bytes) or not isinstance(size, int):
            return None
        known = unpack_head(head)
        if known is None or version_of(head, tail, size) != version:
            return None
        if dict(known.generations) != dict(zip((NAMESPACE_DIGEST, *tags), map(current, tokens), strict=True)):
            return None
        return _left(left, known.lifetime_ms / 1000, known.stale_ms / 1000)

    async def has(self, port: Port, key: str) -> bool:
        left, data, generation = await self._link.exchange(port, self._layout.left(key) + self._layout.read(key))
        stored = await self.living(port, self.entry(key, data, generation), {})
        codec = None if stored is None else self.codec_by_hand(stored.codec)
        if stored is None or codec is None or not holds_value(stored, codec, self._limits):
            return False
        return _fresh_for(stored, left) > 0

    async def capture(self, port: Port, key: str, terms: Terms, *, replace: bool) -> tuple[Found | MissingType, object]:
        replies = await self._link.exchange(port, self._capture(key, terms, replace=replace))
        return await self._captured(port, key, terms, replies, replace=replace)

    async def claim(
        self, port: Port, flight: Flight, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object, float | None]:
        key = text_of(flight.key)
        lease = flight.lease
        if not isinstance(lease, HeldLease):
            # Noted before anything is sent: whoever is cancelled meanwhile may have taken it.
            lease = flight.lease = HeldLease(self._keeper, key, new_token())
        commands = self._layout.take_lease(key, lease.token) + self._capture(key, terms, replace=replace)
        try:
            replies = await self._link.exchange(port, commands)
        except BackendError:
            self._let_go(flight)  # if it has been taken, it ends by itself
            raise
        taken = replies.pop(0)
        if taken == 0:
            self._keeper.hold(lease)
        else:
            self._let_go(flight)
        found, ticket = await self._captured(port, key, terms, replies, replace=replace)
        # A server that refuses leases, because it is full or takes no writes, keeps nobody from loading.
        return found, ticket, taken / 1000 if isinstance(taken, int) and taken else None

    async def released(self, port: Port, key: str, terms: Terms, *, within: float) -> Found | MissingType:
        # The answers to what is sent behind it come when the waiting is over.
        digests = _digests(terms)
        commands = self._layout.wait(key, max(1, round(min(within, LONGEST_WAIT) * 1000)))
        commands += self._read(key, terms) + self._layout.read_tags(digests)
        replies = await self._link.wait(port, commands, within)
        if replies is None:
            return MISSING
        woken = replies.pop(0)
        left = replies.pop(0) if terms.soft else None
        if isinstance(woken, Exception):
            await self._link.pause(port, within)  # forbidden, or something else lies there: look now and then
        known = dict(zip(digests, replies[2:], strict=True))
        stored = await self.living(port, self.entry(key, *replies[:2]), known)
        return MISSING if stored is not None and stored.stale and not terms.soft else self._found(stored, terms, left)

    async def release(self, port: Port, flight: Flight) -> None:
        lease = flight.lease
        if isinstance(lease, HeldLease):
            try:
                await self._link.exchange(port, self._layout.release(lease.key, lease.token))
            except BackendError:
                self._let_go(flight)
                raise
            self._let_go(flight)

    async def lease_left(self, port: Port, key: str) -> float | None:
        (left,) = await self._link.exchange(port, self._layout.lease_left(key))
        return left / 1000 if isinstance(left, int) and left > 0 else None

    def after_fork(self) -> None:
        super().after_fork()
        self._keeper.forked()
        self._reclaimer.forked()

    def _let_go(self, flight: Flight) -> None:
        """The lease of ``flight`` is released, or can't be, or is another's."""
        lease, flight.lease = flight.lease, None
        if isinstance(lease, HeldLease):
            self._keeper.drop(lease)

    def _read(self, key: str, terms: Terms) -> list[Command]:
        return self._layout.left(key) + self._layout.read(key) if terms.soft else self._layout.read(key)

    def _capture(self, key: str, terms: Terms, *, replace: bool) -> list[Command]:
        commands = self._layout.left(key) if terms.soft else []
        commands += self._layout.capture(key, Renewed(new_token), Renewed(new_token), replace=replace)
        commands += self._layout.capture_number(Renewed(lambda: first_number(new_epoch())))
        return commands + self._layout.capture_tags({digest: Renewed(new_token) for digest in _digests(terms)})

    async def _captured(
        self, port: Port, key: str, terms: Terms, replies: list[Reply], *, replace: bool
    ) -> tuple[Found | MissingType, object]:
        left = replies.pop(0) if terms.soft else None
        data, announced, _, fence, _, generation, _, number, *tokens = replies
        if replace:
            if has_error([announced], "WRONGTYPE") or (isinstance(announced, int) and announced > LONGEST_FENCE):
                fence = None  # begun anew below, before it grows without end
            else:
                _expect_ok([announced])
        tags = await self._captured_tags(port, _digests(terms), tokens)
        stored = None if replace else await self.living(port, self.entry(key, data, generation), tags)
        found = self._found(stored, terms, left) if stored is not None and (terms.soft or not stored.stale) else MISSING
        if not _is_fence(fence):
            if found is not MISSING and found.fresh_for > 0:
                return found, None
            repaired = Renewed(new_token)
            _expect_ok(await self._link.exchange(port, self._layout.repair_fence(key, repaired)))
            fence = repaired.value
        sound, _ = await self._sound(port, tags)
        return found, Ticket(fence, await self.usable(port, generation), sound, number)

    async def _captured_tags(self, port: Port, digests: Sequence[bytes], replies: list[Reply]) -> dict[bytes, Reply]:
        """The generations of tags, by what was answered to their capture; those that would end soon are renewed."""
        if ending := [
            digest for digest, left in zip(digests, replies[1::3], strict=True) if not self._layout.lasts(left)
        ]:
            await self._link.exchange(port, self._layout.renew_tags(ending))  # if that fails, the entries die with them
        return dict(zip(digests, replies[2::3], strict=True))

    async def living(self, port: Port, stored: Stored | None, known: Mapping[bytes, Reply]) -> Stored | None:
        """The entry, if none of its tags was invalidated, and it has those whose generations are ``known``.

        If one was, but what had it is to count as stale, then it has expired.
        """
        if stored is None or not (stored.tags or known):
            return stored
        if not known.keys() <= stored.tags.keys():
            return None
        if more := [digest for digest in stored.tags if digest not in known]:
            replies = await self._link.exchange(port, self._layout.read_tags(more))
            known = {**known, **dict(zip(more, replies, strict=True))}
        if known == stored.tags:
            return stored
        expired = False
        for digest, token in stored.tags.items():
            if token != current(known[digest]):
                if token not in former(known[digest]):
                    return None
                expired = True
        return stored._replace(stale=stored.stale or _HARDLY, expired=True) if expired else stored

    async def _sound(self, port: Port, captured: Mapping[bytes, Reply]) -> tuple[dict[bytes, bytes], bool]:
        """The tokens of tags that were captured, and whether there was one that is none: in its place is a new one."""
        tokens: dict[bytes, Any] = {digest: current(reply) for digest, reply in captured.items()}
        damaged = [digest for digest, token in tokens.items() if not is_token(token)]
        if damaged:
            tokens |= await self._repaired(port, damaged)
        return tokens, bool(damaged)

    async def _repaired(self, port: Port, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """New generations in the place of what is none, which no entry repeats."""
        tokens = {digest: Renewed(new_token) for digest in digests}
        commands = [command for digest in digests for command in self._layout.set_tags([digest], tokens[digest])]
        _expect_ok(await self._link.exchange(port, commands))
        return {digest: token.value for digest, token in tokens.items()}

    async def _with_late(self, port: Port, ticket: Ticket, digests: Sequence[bytes]) -> Mapping[bytes, bytes] | None:
        """The generations of all tags; ``None`` if one that was added while loading was invalidated meanwhile."""
        late = [digest for digest in digests if digest not in ticket.tags]
        if not late:
            return ticket.tags
        # The number last: a tag that is invalidated in between must not be taken for one that was not.
        capture = self._layout.capture_tags({digest: Renewed(new_token) for digest in late})
        if self._link.ordered:
            *replies, number = await self._link.exchange(port, capture + self._layout.last_number())
        else:
            replies = await self._link.exchange(port, capture)
            (number,) = await self._link.exchange(port, self._layout.last_number())
        tokens, damaged = await self._sound(port, await self._captured_tags(port, late, replies))
        if damaged:
            return None  # whatever it said is lost
        return {**ticket.tags, **tokens} if await self._stood(port, late, ticket.number, number) else None

    async def _stood(self, port: Port, digests: Sequence[bytes], before: Reply, now: Reply) -> bool:
        """Whether none of these tags was invalidated between two looks at the last number, as far as can be told."""
        if not (is_token(before) and is_token(now)):
            return False  # it was lost, and with it what was invalidated
        if before == now:
            return True
        (last,) = await self._link.exchange(port, self._layout.last_tags())
        if not isinstance(last, bytes) or last[:EPOCH_LENGTH] != before[:EPOCH_LENGTH]:
            return False
        count = int.from_bytes(last[EPOCH_LENGTH:TOKEN_LENGTH], "big") - int.from_bytes(before[EPOCH_LENGTH:], "big")
        listed = [last[at : at + _DIGEST] for at in range(TOKEN_LENGTH, len(last), _DIGEST)]
        return 0 < count <= len(listed) and set(digests).isdisjoint(listed[-count:])

    def tells_along(self, channel: Channel) -> bool:
        if not isinstance(channel, Hearing) or channel.link is not self._link:
            return False
        channel.is_of_store = True
        if self._link.channel() is not None:  # one is enough, and the other tells by itself
            return False
        self._link.channel = ref(channel)
        return True

    async def changed(
        self, port: Port, parts: Sequence[tuple[Sequence[Command], News]], *, dated: bool = False
    ) -> tuple[list[Reply], BackendError | None]:
        """Send commands which change what stands beside them, and with each of them what others are told of that.

        Returns the replies to the commands, and why others could not be told, if they could not.
        """
        exchange = self._link.exchange_dated if dated else self._link.exchange
        channel = self._link.channel()
        packet: list[Command] = []
        tells: list[bool] = []
        for commands, news in parts:
            told = [] if channel is None else channel.beside(news)
            packet += [*commands, *told]
            tells += [False] * len(commands) + [True] * len(told)
        if channel is None or not any(tells):
            return await exchange(port, packet), None
        try:
            replies = await exchange(port, packet)
        except BackendError:
            channel.unanswered()
            raise
        own = [reply for reply, is_told in zip(replies, tells, strict=True) if not is_told]
        try:
            channel.answered(reply for reply, is_told in zip(replies, tells, strict=True) if is_told)
        except BackendError as untold:
            self.health.failed("tell", untold)
            return own, untold
        self.health.works("tell")
        return own, None

    async def write(self, port: Port, flight: Flight, ticket: object, value: Any, life: Life, terms: Terms) -> bool:
        assert isinstance(ticket, Ticket)
        key = text_of(flight.key)
        generations = await self._with_late(port, ticket, _digests(terms))
        if generations is None:
            return False
        codec = terms.encoder(self.serializer)
        data, lifetime_ms = self.encode(key, value, codec, life, ticket.generation, generations)
        if flight.moved or not flight.lost.isdisjoint(terms.names):
            return False
        write, *commands = self._layout.write(key, ticket.fence, data, lifetime_ms)
        commands += self._layout.read_tags(generations)
        lease = flight.lease
        if isinstance(lease, HeldLease):
            commands += self._layout.release(key, lease.token)
        try:
            (stored, generation, *tokens), _ = await self.changed(port, [([write], News((key,))), (commands, NO_NEWS)])
        except BackendError:
            self._let_go(flight)
            raise
        self._let_go(flight)
        # Of a generation that has passed, the entry is dead already; the load counts as fenced off like any other.
        now = list(map(current, tokens[: len(generations)]))
        stands = generation == ticket.generation and now == list(generations.values())
        return expect_int(stored) == 1 and stands

    async def put(self, port: Port, key: str, value: Any, expire: float | None) -> None:
        """Store ``value`` whatever is in flight; undelivered, it counts as an invalidation of what was there.

        Raises:
            EncodeError: the value can't be stored; what was stored under the key is gone.
        """
        groups = groups_of_key(key)  # under a function's key it ends with what the function returns
        try:
            payload = payload_of(key, value, self.codec, self._limits, generations=1 + len(groups))
        except EncodeError:  # the caller's error, also while Redis is away
            with suppress(BackendError):  # then it is owed
                await self.delete(port, key)
            raise
        self.flights.invalidate(key)
        self._link.begin(key)
        try:
            lifetime = self.longest if expire is None else min(expire, self.longest)
            untold = await self._put(port, key, payload, lifetime, [_group_digest(group) for group in groups])
        except BackendError:
            self._link.owe(key)
            raise
        self._link.confirm(key)
        await self._link.replicated(port)
        if untold is not None:
            raise untold

    async def _put(
        self, port: Port, key: str, payload: Payload, lifetime: float, groups: Sequence[bytes]
    ) -> BackendError | None:
        """Store it; returns why others could not be told, if they could not."""
        lifetime_ms = max(1, round(lifetime * 1000))
        deadline = self._link.deadline()
        tags: Mapping[bytes, bytes] = NO_TAGS
        for _ in range(_LAPS):
            generation = self.generation or await self.ask_generation(port)
            if groups:
                tags = await self._tokens(port, groups)
            data = seal(key, payload, lifetime, generation, tags=tags)
            put, *reads = self._layout.put(key, data, lifetime_ms, deadline)
            reads += self._layout.read_tags(groups)
            parts = [([put], News((key,))), (reads, NO_NEWS)]
            (told, now, *tokens), untold = await self.changed(port, parts, dated=True)
            in_time = deadline.told(expect_int(told))
            # Whatever passed meanwhile has ended what was put.
            if self.is_living(generation, now) and in_time and list(map(current, tokens)) == list(tags.values()):
                return untold
        raise BackendError("Redis gets values too late, or is cleared all the time")

    async def _tokens(self, port: Port, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """The generations of tags, new ones where there are none."""
        capture = self._layout.capture_tags({digest: Renewed(new_token) for digest in digests})
        tokens, _ = await self._sound(
            port, await self._captured_tags(port, digests, await self._link.exchange(port, capture))
        )
        return tokens

    async def ask_generation(self, port: Port) -> bytes:
        """The generation that there is, or a new one; remembered."""
        *_, reply = await self._link.exchange(port, self._layout.read_generation(Renewed(new_token)))
        self.generation = generation = await self.usable(port, reply)
        return generation

    def is_living(self, generation: bytes, current: Reply) -> bool:
        """Whether ``generation`` was the living one, by what was read later: generations never come back."""
        if current == generation:
            return True
        self.generation = current if is_token(current) else None
        return False

    async def usable(self, port: Port, generation: Reply) -> bytes:
        """The generation, or a new one in the place of something that is none."""
        if isinstance(generation, bytes) and is_token(generation):
            return generation
        if isinstance(generation, Exception) and not str(generation).startswith("WRONGTYPE"):
            raise refused(generation)  # there may well be one that others use
        repaired = Renewed(new_token)
        _expect_ok(await self._link.exchange(port, self._layout.repair_generation(repaired)))
        return repaired.value

    async def stands(self, port: Port, key: str, ticket: object, terms: Terms) -> bool:
        assert isinstance(ticket, Ticket)
        late = [digest for digest in _digests(terms) if digest not in ticket.tags]
        commands = self._layout.stands(key) + self._layout.read_tags(ticket.tags)
        known = [ticket.fence, ticket.generation, *ticket.tags.values()]
        if late:
            commands += self._layout.last_number()
        replies = await self._link.exchange(port, commands)
        if [*replies[:2], *map(current, replies[2 : len(known)])] != known:
            return False
        return not late or await self._stood(port, late, ticket.number, replies[-1])

    async def hits(self, port: Port, key: str) -> int:
        (counted,) = await self._link.exchange(port, self._layout.counted(key))
        return int(counted) if isinstance(counted, bytes) and counted.isdigit() else 0

    def queued(self) -> int:
        return self._link.queued()

    async def delete(self, port: Port, key: str) -> bool:
        self.flights.invalidate(key)
        (_, removed) = await self._invalidate(port, key, self._layout.delete(key), News((key,)))
        return expect_int(removed) > 0

    async def clear(self, port: Port) -> None:
        self.flights.invalidate_all()
        await self._invalidate(port, None, self._layout.clear(Renewed(new_token)), ALL_NEWS)
        self._reclaimer.begin()

    async def delete_tagged(self, port: Port, tags: Sequence[str], *, soft: bool = False) -> None:
        self.flights.lose(tags)
        digests = [name_digest(tag) for tag in tags]
        for digest in digests:
            self._link.begin(digest)
        confirmed = False

        async def tell() -> None:
            nonlocal confirmed
            (number,) = await self._link.exchange(port, self._layout.next_number(digests, Renewed(new_epoch)))
            if not is_token(number):
                raise refused(number)
            each = [(self._layout.set_tags([digest], number, soft=soft), News(tags=(digest,))) for digest in digests]
            replies, untold = await self.changed(port, each)
            _expect_ok(replies)
            confirmed = True
            for digest in digests:
                self._link.confirm(digest)
            await self._link.replicated(port)
            if untold is not None:
                raise untold

        def at_end() -> None:
            if not confirmed:
                for digest in digests:
                    self._link.owe(digest)

        await port.finish(tell(), at_end)
        if any(tag.startswith(GROUP) for tag in tags):  # what has other tags is left to expire
            self._reclaimer.begin()

    async def _invalidate(self, port: Port, key: str | None, commands: list[Command], news: News) -> list[Reply]:
        """Tell Redis of an invalidation. One that is not confirmed is owed, also if its caller is cancelled."""
        self._link.begin(key)
        confirmed = False

        async def tell() -> list[Reply]:
            nonlocal confirmed
            replies, untold = await self.changed(port, [(commands, news)])
            _expect_ok(replies)
            confirmed = True
            self._link.confirm(key)
            await self._link.replicated(port)
            if untold is not None:
                raise untold
            return replies

        return await port.finish(tell(), at_end=lambda: None if confirmed else self._link.owe(key))

    def encode(
        self,
        key: str,
        value: Any,
        codec: Codec,
        life: Life,
        generation: bytes,
        tags: Mapping[bytes, bytes] = NO_TAGS,
    ) -> tuple[bytes, int]:
        fresh = self.longest if life.fresh is None else min(life.fresh, self.longest)
        stale = min(life.stale, self.longest - fresh)
        data = encode_stored(
            key,
            value,
            codec,
            fresh + stale,
            generation,
            stale=stale,
            load=life.load,
            tags=tags,
            limits=self._limits,
        )
        return data, max(1, round((fresh + stale) * 1000))

    def entry(self, key: str, data: Reply, generation: Reply) -> Stored | None:
        """The entry, if it is not too large, and one of ``key`` and of the living generation."""
        if isinstance(data, bytes) and len(data) > self._limits.largest:
            return None
        return opened(key, data, generation)

    def value_of(self, stored: Stored | None) -> Any:
        """What an entry holds, for those who know nothing but its key; ``MISSING`` if that can't be read."""
        found = self._found(stored, BY_HAND, None)
        return found.value if isinstance(found, Found) else MISSING

    def _found(self, stored: Stored | None, terms: Terms, left: Reply) -> Found | MissingType:
        """What an entry holds; ``left`` is the server's word of how long it has left, where that was asked for."""
        if stored is None:
            return MISSING
        codec = self.codec_by_hand(stored.codec) if terms.codec is None else terms.codec(self.serializer)
        if codec is None:
            return MISSING
        try:
            value = decode_stored(stored, codec, self._limits)
        except DecodeError:
            return MISSING
        fresh_for = NEVER if left is None else _fresh_for(stored, left)
        return Found(value, fresh_for, stored.lifetime - stored.stale, stored.load)

    def codec_by_hand(self, fingerprint: bytes) -> Codec | None:
        """The codec that reads an entry for those who know no function, if it may be read by one.

        With a serializer of the store's own it must be that: whoever configures a signature wants nothing else.
        """
        if self.serializer is None:
            return decoder_of(fingerprint)
        ours = (self.serializer, self._raising)
        return next((codec for codec in ours if codec is not None and codec.fingerprint == fingerprint), None)


def _fresh_for(stored: Stored, left: Reply) -> float:
    """For how many seconds an entry is still fresh, by what is left of its lifetime in milliseconds."""
    fresh_for = _left(left, stored.lifetime, stored.stale)
    return min(fresh_for, 0.0) if stored.expired else fresh_for


def _left(left: Reply, lifetime: float, stale: float) -> float:
    """The same, of an entry with this ``lifetime``, the last part of which is ``stale``, in seconds."""
    milliseconds: float = expect_int(left)
    if milliseconds < 0:
        return -NEVER
    if lifetime:
        milliseconds = min(milliseconds, lifetime * 1000)  # it may be that of the value before this one
    # What is still there is fresh if it is never stale, also in the millisecond that rounds to none.
    return milliseconds / 1000 - stale if stale else max(milliseconds, 1) / 1000


def opened(key: str, data: Reply, generation: Reply) -> Stored | None:
    """The entry, if the bytes are one of ``key`` and of the living generation."""
    if not isinstance(data, bytes) or not is_token(generation):
        return None
    try:
        stored = unpack_stored(key, data)
    except DecodeError:
        return None
    return stored if stored.generation == generation else None


def _digests(terms: Terms) -> list[bytes]:
    return [*map(_group_digest, terms.groups), *map(name_digest, terms.tags)]


_group_digest = lru_cache(maxsize=4096)(name_digest)
"""A function has one or two groups, which are read with each of its values."""


def is_token(reply: Reply) -> bool:
    return isinstance(reply, bytes) and len(reply) == TOKEN_LENGTH


def _is_fence(reply: Reply) -> bool:
    return isinstance(reply, bytes) and len(reply) > 0 and len(reply) % TOKEN_LENGTH == 0


def expect_int(reply: Reply) -> int:
    if isinstance(reply, int):
        return reply
    raise refused(reply)


def _expect_ok(replies: list[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise refused(reply)
