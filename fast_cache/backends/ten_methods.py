"""The engine's view of a backend that has the ten methods and nothing more.

Values are kept in it as enveloped bytes, so they come back typed and rubbish is a miss. Compressing them is for such a
backend to do; an entry that another program compressed is read, up to 64 MiB.

The fence is the table of flights of this process: such a backend can't compare and set, so a write is checked before
and after, and undone if an invalidation came in between; until it is undone the key looks absent. Across processes
nothing is promised.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from fast_cache.backends.lifetimes import Lifetimes
from fast_cache.backends.store import Store, Terms
from fast_cache.entry import MISSING, NEVER, MissingType
from fast_cache.errors import BackendError, DecodeError
from fast_cache.freshness import Found, Life
from fast_cache.keys import GROUP, text_of
from fast_cache.ports import Port
from fast_cache.serializers import Stored, decode_stored, encode_stored, name_digest, unpack_stored
from fast_cache.single_flight import Flight

if TYPE_CHECKING:
    from fast_cache.backends.base import CacheBackend

_HARDLY: Final = 1e-9
"""For how long what is due counts as fresh, in seconds."""

_SHORTEST: Final = 1.0
"""The shortest lifetime that a sign is given, in seconds: backends that count whole ones would make 0 of less, and of
that what never ends, or an error."""

_STANDS: Final = b"1"
"""A sign that holds as long as it is there."""

_TOKEN: Final = 16
"""Bytes of a tag's token."""

_FORMER: Final = 8
"""How many former tokens of a tag are known, whose entries are stale."""

_TAG_LIFETIME: Final = 30 * 86400.0
"""Seconds after which the token of a tag is made anew, and whatever has the tag is gone. Without an end they would add
up, where tags name users."""

_GROUP_KNOWN: Final = 1.0
"""For how many seconds it is known whether a group was invalidated, by another process that is."""

_COUNTED: Final = 65_536
"""For how many keys at most it is counted how often they were found."""

_OVERLOOKED: Final = 1024
"""How many keys may be overlooked at once; one write that is being undone each."""

_REVOKED: Final = 1024
"""How many tokens are remembered that a slow write may bring back."""


class _Candidate:
    """A token that is being stored, by so many at once: the same for all, because of two one would not last."""

    __slots__ = ("token", "writers")

    def __init__(self) -> None:
        self.token = secrets.token_bytes(_TOKEN)
        self.writers = 0


class _Groups:
    """The tokens of groups as they were read of late; empty where there is none, which is as good as one."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, float]] = {}
        self.count = 0
        """How many were invalidated here."""

    def known(self, digest: bytes) -> bytes | None:
        """The token, if it was read or made not long ago."""
        known = self._known.get(digest)
        return None if known is None or monotonic() - known[1] >= _GROUP_KNOWN else known[0]

    def learn(self, digest: bytes, token: bytes, count: int) -> bytes:
        """What was read since :attr:`count` was this; returns what holds, which may have been made here meanwhile."""
        known = self._known.get(digest)
        if count != self.count and known is not None:
            return known[0]
        self._known[digest] = (token, monotonic())
        return token

    def renewed(self, digest: bytes) -> bytes:
        """A new token, which holds here from now on."""
        self.count += 1
        token = secrets.token_bytes(_TOKEN)
        self._known[digest] = (token, monotonic())
        return token


class TenMethodStore(Store):
    """A store over the ten methods of ``backend``."""

    def __init__(self, backend: CacheBackend) -> None:
        super().__init__(type(backend).__name__)
        self._backend = backend
        self._writing: dict[str, Any] = {}
        self._overlooked: OrderedDict[str, None] = OrderedDict()
        self._making = threading.RLock()  # garbage that is collected in here may be a load that is given up
        self._candidates: dict[bytes, _Candidate] = {}
        self._revoked: OrderedDict[bytes, None] = OrderedDict()
        self._groups = _Groups()
        self._ended = 0
        self._counting = threading.Lock()
        self._counts: OrderedDict[str, int] = OrderedDict()
        self.lifetimes = Lifetimes()
        """How long values live that were stored by hand, or by functions."""

    async def read(self, port: Port, key: str, terms: Terms) -> Found | MissingType:
        data = await self._do(port, "get", key)
        if not isinstance(data, (bytes, bytearray)):
            return MISSING  # None for absence; anything else was put there by somebody else
        try:
            stored = unpack_stored(key, bytes(data))
            value = decode_stored(stored, terms.decoder())
        except DecodeError:
            return MISSING
        if not await self._stands_grouped(port, stored, terms.groups):
            return MISSING
        expired: bool | None = False
        if terms.tags or stored.tags:
            expired = await self._expired(port, stored, terms)
            if expired is None or (expired and not terms.soft):
                return MISSING
        tags = tuple(stored.tags) if terms.copies else ()
        if not (terms.soft or stored.stale):
            return Found(value, tags=tags)
        # Such a backend can't say how long a value has left: small entries beside it, which end earlier, tell.
        fresh_for = NEVER
        fresh, not_due = _signs(key, data)
        if not _holds(await self._do(port, "get", fresh)):
            fresh_for = 0.0
        elif terms.soft and not _holds(await self._do(port, "get", not_due)):
            fresh_for = _HARDLY
        if expired:
            fresh_for = 0.0
        hits = self._count(key) if terms.counts else 0
        return Found(value, fresh_for, stored.lifetime - stored.stale, stored.load, hits, tags)

    async def capture(self, port: Port, key: str, terms: Terms, *, replace: bool) -> tuple[Found | MissingType, object]:
        # The flight itself is the fence; tags have tokens, which other processes may change.
        tokens = await self._group_tokens(port, terms.groups)
        tokens |= await self._tokens(port, map(name_digest, terms.tags))
        return MISSING if replace else await self.read(port, key, terms), tokens

    async def write(self, port: Port, flight: Flight, ticket: object, value: Any, life: Life, terms: Terms) -> bool:
        key = text_of(flight.key)
        assert isinstance(ticket, Mapping)
        late = [digest for digest in map(name_digest, terms.tags) if digest not in ticket]
        ticket = {**ticket, **await self._tokens(port, late)}
        data = encode_stored(key, value, terms.encoder(), life.kept, stale=life.stale, load=life.load, tags=ticket)
        if self._writing.setdefault(key, data) is not data:
            return False  # an older write of this key has not ended: whichever came last would win by luck
        try:
            if flight.moved or not flight.lost.isdisjoint(terms.names):
                return False
            if key in self._overlooked:
                await self._undo(port, key)  # an earlier attempt to undo failed
            if life.due is not None:
                fresh, not_due = _signs(key, data)
                await self._sign(port, fresh, life.fresh)
                if life.due:
                    await self._sign(port, not_due, life.due if life.due < NEVER else None)
            await self._do(port, "set", key, data, life.kept)
        finally:
            if self._writing.get(key) is data:  # not so in a forked child
                del self._writing[key]
        self._uncount(key)
        if flight.moved or not flight.lost.isdisjoint(terms.names):
            await self._undo(port, key)
            return False
        return True

    async def hits(self, port: Port, key: str) -> int:
        return self._counts.get(key, 0)

    async def delete(self, port: Port, key: str) -> bool:
        return bool(await self._do(port, "delete", key))

    async def delete_tagged(self, port: Port, tags: Sequence[str], *, soft: bool = False) -> None:
        self.flights.lose(tags)
        failed: BackendError | None = None
        for tag in tags:
            digest = name_digest(tag)
            try:
                if tag.startswith(GROUP):
                    await self._do(port, "set", _tag_key(digest), self._groups.renewed(digest), None)
                elif soft:
                    await self._soften(port, digest)
                else:
                    self._ended += 1
                    self._revoke(digest)
                    await self._do(port, "delete", _tag_key(digest))
            except BackendError as error:
                failed = error
        if failed is not None:
            raise failed

    async def _expired(self, port: Port, stored: Stored, terms: Terms) -> bool | None:
        """Whether one of an entry's tags was invalidated softly since it was stored; ``None`` if it has ended by one,
        or lacks one."""
        if not stored.tags.keys() >= set(map(name_digest, terms.tags)):
            return None
        grouped = set(map(name_digest, terms.groups))  # which were looked at
        expired = False
        for digest, token in stored.tags.items():
            if digest not in grouped:
                tokens = await self._tokens_of(port, digest)
                if token not in tokens:
                    return None
                expired = expired or token != tokens[0]
        return expired

    async def _stands_grouped(self, port: Port, stored: Stored, groups: Sequence[str]) -> bool:
        """Whether none of the groups of an entry was invalidated since it was stored."""
        tokens = await self._group_tokens(port, groups)
        return all(stored.tags.get(digest) == tokens.get(digest) for digest in map(name_digest, groups))

    async def _group_tokens(self, port: Port, groups: Sequence[str]) -> dict[bytes, bytes]:
        """The tokens of groups, of those that were ever invalidated. A second old at most: to ask for them with each
        value would double what a read costs."""
        tokens = {}
        for digest in map(name_digest, groups):
            token = self._groups.known(digest)
            if token is None:
                asked = self._groups.count
                found = await self._do(port, "get", _tag_key(digest))
                token = bytes(found) if isinstance(found, (bytes, bytearray)) else b""
                token = self._groups.learn(digest, token, asked)
            if token:
                tokens[digest] = token
        return tokens

    async def _tokens(self, port: Port, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """The tokens of tags, new ones where there are none. Whoever invalidates a tag removes its token."""
        tokens = {}
        for digest in digests:
            known = await self._tokens_of(port, digest)
            tokens[digest] = known[0] if known else await self._new_token(port, digest)
        return tokens

    async def _tokens_of(self, port: Port, digest: bytes) -> list[bytes]:
        """The token of a tag, and behind it former ones, of what is stale; nothing if there is none."""
        found = await self._do(port, "get", _tag_key(digest))
        data = bytes(found) if isinstance(found, (bytes, bytearray)) else b""
        tokens = [data[at : at + _TOKEN] for at in range(0, len(data), _TOKEN)]
        return tokens if len(data) % _TOKEN == 0 and tokens and tokens[0] not in self._revoked else []

    async def _soften(self, port: Port, digest: bytes) -> None:
        """Let what has a tag be stale: its token becomes a former one."""
        ended = self._ended
        former = await self._tokens_of(port, digest)
        self._revoke(digest)
        if former:
            data = b"".join([secrets.token_bytes(_TOKEN), *former[:_FORMER]])
            await self._do(port, "set", _tag_key(digest), data, _TAG_LIFETIME)
            if self._ended != ended:  # perhaps this one, which must not come back as stale
                await self._do(port, "delete", _tag_key(digest))

    async def _new_token(self, port: Port, digest: bytes) -> bytes:
        with self._making:
            candidate = self._candidates.setdefault(digest, _Candidate())
            candidate.writers += 1
        try:
            await self._do(port, "set", _tag_key(digest), candidate.token, _TAG_LIFETIME)
            if candidate.token in self._revoked:  # which came before this write, and it must not undo that
                await self._do(port, "delete", _tag_key(digest))
        finally:
            with self._making:
                candidate.writers -= 1
                if not candidate.writers and self._candidates.get(digest) is candidate:
                    del self._candidates[digest]
        return candidate.token

    def _revoke(self, digest: bytes) -> None:
        """The token that is being stored for a tag may be stored after the removal that follows: it holds no more."""
        with self._making:
            candidate = self._candidates.pop(digest, None)
            if candidate is not None:
                self._revoked[candidate.token] = None
                if len(self._revoked) > _REVOKED:
                    self._revoked.popitem(last=False)

    async def put(self, port: Port, flight: Flight, key: str, value: Any, lifetime: float | None) -> bool:
        """Store ``value`` as it is, unless ``flight`` was fenced off: undone if that happens meanwhile.

        False also if an older write of the key has not ended. Raises what the user's method does.
        """
        if self._writing.setdefault(key, value) is not value:
            return False
        try:
            await port.do(self._backend.set, self._backend.aset, key, value, lifetime)
        finally:
            if self._writing.get(key, MISSING) is value:
                del self._writing[key]
        self._uncount(key)
        moved = flight.moved
        self.flights.invalidate(key)
        if moved or key in self._overlooked:
            await self._undo(port, key)
            return False
        return True

    def changing(self, key: str, value: object = MISSING) -> None:
        """A user's method is about to change ``key``."""
        if value is MISSING:
            self.lifetimes.forget(key)
        elif self._writing.get(key, MISSING) is value:
            return  # our own write, by a method that calls another of the ten
        self.flights.invalidate(key)
        self._uncount(key)
        if key in self._writing:
            self._overlook(key)

    def setting(self, key: str) -> Callable[[object], None]:
        """A user's method is about to store something."""
        return self.lifetimes.setting(key)

    def clearing(self) -> None:
        """A user's method is about to remove everything, or who knows what."""
        self.lifetimes.clear()
        self.flights.invalidate_all()
        for key in list(self._writing):
            self._overlook(key)

    def after_fork(self) -> None:
        super().after_fork()
        self._counting = threading.Lock()
        self._making = threading.RLock()
        self.lifetimes.forked()
        self._candidates = {}
        # What is overlooked stays so: nobody knows whether the parent's thread came to undo it, and a write here does.
        self._writing = {}

    def overlooks(self, key: str) -> bool:
        """Whether a write of ``key`` that was fenced off has still to be undone."""
        return key in self._overlooked

    def _count(self, key: str) -> int:
        """How often this process found ``key``: such a backend can't add across processes."""
        with self._counting:
            number = self._counts[key] = self._counts.get(key, 0) + 1
            self._counts.move_to_end(key)
            if len(self._counts) > _COUNTED:
                self._counts.popitem(last=False)
            return number

    def _uncount(self, key: str) -> None:
        """Begin to count anew."""
        if self._counts:
            with self._counting:
                self._counts.pop(key, None)

    def _overlook(self, key: str) -> None:
        self._overlooked[key] = None
        if len(self._overlooked) > _OVERLOOKED:
            self._overlooked.popitem(last=False)

    async def _sign(self, port: Port, sign: str, lifetime: float | None) -> None:
        """Leave a sign beside a value. The value is stored all the same if that fails: it then looks older than it is.

        One for less than a second names its end by the clock of this machine, because backends may be coarser than
        that. Where clocks disagree it holds for a second at most.
        """
        data, seconds = _STANDS, lifetime
        if lifetime is not None and lifetime < _SHORTEST:
            data, seconds = repr(time() + lifetime).encode(), _SHORTEST
        try:
            await self._do(port, "set", sign, data, seconds)
        except BackendError as error:
            self.health.failed("sign", error)
        else:
            self.health.works("sign")

    async def _undo(self, port: Port, key: str) -> None:
        await self._do(port, "delete", key)
        self._overlooked.pop(key, None)

    async def _do(self, port: Port, name: str, *args: Any) -> Any:
        """Call one of the ten; whatever a user's backend raises is trouble of the store."""
        try:
            return await port.do(getattr(self._backend, name), getattr(self._backend, f"a{name}"), *args)
        except Exception as error:
            raise BackendError(f"{self.health.name}.{name} failed") from error


def _tag_key(digest: bytes) -> str:
    return f"#tag:{digest.hex()}"


def _holds(sign: Any) -> bool:
    """Whether what was found in the place of a sign says that it still holds."""
    if sign == _STANDS:
        return True
    try:
        return isinstance(sign, (bytes, bytearray)) and time() < float(sign)
    except ValueError:
        return False


def _signs(key: str, data: bytes | bytearray) -> tuple[str, str]:
    """The keys of the entries that end when a value expires, and when it is due; they say nothing of another value."""
    digest = blake2b(data, digest_size=8).hexdigest()
    return f"{key}#fresh:{digest}", f"{key}#due:{digest}"
