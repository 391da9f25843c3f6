"""How a namespace lies in Redis: the names of its keys, and the scripts that change them, each with its procedure.

    ns:v:{key}   the value, in an envelope, with a lifetime
    ns:f:{key}   the fence: random tokens that exist while loads of the key, or changes, are in flight
    ns:l:{key}   the lease: a random token of the one process that may load; it is short, and extended meanwhile
    ns:w:{key}   the wake-up: a stream with one entry, there for a moment after a lease was released
    ns:h:{key}   how often the value was found, where a function counts that; it ends with the value
    ns:n:{key}   what became of the last changes in place, by their tokens: there for a moment, see ``changes``
    ns:k:{key}   a lock that somebody holds by name, see ``locks``
    ns:u:{key}   its wake-up, as for a lease
    ns:s:{key}   the fencing token that was given last with it
    ns:r:{}      a mark, which is there for a moment: what replicas that have it had before, they have too
    ns:g:        the generation of the namespace: a random token that every envelope repeats; it has no lifetime
    ns:t:{tag}   the generation of a tag, by its digest: repeated by the envelopes of what has it, and living longer;
                 behind it up to eight former ones, whose entries are stale
    ns:c:        no key, but the channel on which changes are told to those who may not track them
    ns:q:        the last number that was given to an invalidation of tags, and the digests of those that came last

A value and what belongs to it share a slot. The prefixes do not nest, so each can be watched or scanned by itself.

The fence. Whoever is about to compute a value creates the token if there is none, and stores the value only if the
very same token is still there. A delete removes value and token in one command, and needs nothing else: no garbage
stays behind, and a token that was lost (evicted, expired, gone with a failed master) refuses the write, which is
always safe. The idea of a lease that a delete revokes is Facebook's: "Scaling Memcache at Facebook", NSDI 2013, §3.2.1.

Putting a value removes the fence, too, and with it fences off whatever loads. Such a command may arrive late: when its
sender has given up, and somebody has deleted the key since. So it says until when it may be carried out, by the clock
of the server (see ``deadlines``), and before that its sender does not end without an answer. Of values put at once the
one stays that the server was given last. As the lifetimes of all keys, this relies on a clock that is not set back:
what was sent before that and arrives late would be stored after all, if it is late by less than the step.

Refreshing appends a token to the fence, which thereby changes for every load.

The lease is for functions that are to be loaded by one process at a time. It only saves work: what may be stored is for
the fence to say. It is taken in the packet that captures the fence, before the value is looked at, so that a value
stored by the last holder is seen; and released behind the write. Those who wait read the wake-up stream from its
beginning, so that a release between their attempt and their waiting is not missed; the next holder removes it. A delete
removes the lease too: what is loading is fenced off, and the next caller need not wait for it.

Tags. A load captures the generations of the tags that its result will have; an entry is dead once one of them is
another, or gone. An invalidation of tags takes the next number of the namespace, which begins at a random epoch, and
makes it their generation. So a tag that is added while loading, whose generation nobody captured, is told from one
that was invalidated meanwhile: the tags that were given the numbers since are listed beside the last one. If that was
lost, or more were invalidated than the list holds, the result is not stored.

Clearing puts a new generation; entries that repeat another one are dead when read, and expire by themselves.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from fast_cache.backends.channel import ALL_NEWS, News
from fast_cache.backends.redis.deadlines import Deadline
from fast_cache.backends.redis.resp import Command, Reply, Word
from fast_cache.backends.redis.script import Anew, Refused, Script, Transaction, text
from fast_cache.serializers import TAIL_SIZE, head_size
from redis.exceptions import ResponseError

TOKEN_LENGTH: Final = 16
LONGEST_FENCE: Final = 128 * TOKEN_LENGTH
EPOCH_LENGTH: Final = 8

_ANNOUNCED_MS: Final = 10_000
"""For how long a put without scripts may take, at most."""

_MARK_MS: Final = 1000
"""Milliseconds."""


async def _write_if_fenced(
    do: Transaction, fence: bytes, value: bytes, counter: bytes, token: bytes, data: bytes, milliseconds: bytes
) -> Reply:
    (there,) = await do.look(("GET", fence))
    if there != token:
        return there if isinstance(there, Exception) else 0
    await do.change(("SET", value, data, "PX", milliseconds), ("DEL", fence, counter))
    return 1


_WRITE_IF_FENCED: Final = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[1], KEYS[3])
return 1
""",
    _write_if_fenced,
)


async def _put_in_time(
    do: Transaction, fence: bytes, value: bytes, counter: bytes, data: bytes, milliseconds: bytes, deadline: Deadline
) -> Reply:
    if not deadline.goes_on():
        raise Refused(ResponseError("TRYAGAIN others change this all the time"))
    # A transaction can't look at the clock when it is carried out. So there is to be something that whoever removes or
    # replaces the value removes too: then it is not.
    token = new_token()
    await do.before(("SET", fence, token, "PX", _ANNOUNCED_MS))
    (there,) = await do.look(("GET", fence))
    if there != token:
        raise Anew
    await do.change(("SET", value, data, "PX", milliseconds), ("DEL", fence, counter))
    return 1


_PUT_IN_TIME: Final = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[3]) then return -now end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[1], KEYS[3])
return now
""",
    _put_in_time,
)
# The value goes first: a server that is full refuses what a script begins with, and lets it finish what it has begun.


async def _count(do: Transaction, value: bytes, counter: bytes, longest: bytes) -> Reply:
    # Others may count in between: what is added to is not looked at.
    repairs: tuple[list[Command], list[Command]] = ([], [("DEL", counter)])
    for repair in repairs:
        (left,) = await do.look(("PTTL", value))
        if left == -2:
            return 0
        lives: Word = longest if left < 0 else max(left, 1)
        with suppress(Refused):
            *_, count, _ = await do.change(*repair, ("INCR", counter), ("PEXPIRE", counter, lives))
            if count > 0:
                return count
    return 0


_COUNT: Final = Script(
    """
local left = redis.call('PTTL', KEYS[1])
if left == -2 then return 0 end
local count = redis.pcall('INCR', KEYS[2])
if type(count) ~= 'number' or count < 1 then
    redis.pcall('DEL', KEYS[2])
    count = redis.pcall('INCR', KEYS[2])
    if type(count) ~= 'number' then return 0 end
end
redis.call('PEXPIRE', KEYS[2], left < 0 and ARGV[1] or math.max(left, 1))
return count
""",
    _count,
)
# Whatever else lies under the name of the count is removed. A server that takes no writes still gives what it has.


async def _take_lease(do: Transaction, lease: bytes, wake: bytes, token: bytes, milliseconds: bytes) -> Reply:
    holder, left = await do.look(("GET", lease), ("PTTL", lease))
    if isinstance(holder, bytes) and holder != token and left > 0:
        return left
    await do.change(("SET", lease, token, "PX", milliseconds), ("DEL", wake))
    return 0


_TAKE_LEASE: Final = Script(
    """
local holder = redis.pcall('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if type(holder) == 'string' and holder ~= ARGV[1] and left > 0 then return left end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
return 0
""",
    _take_lease,
)
# What has no lifetime, or is no text, is no lease.


async def _extend_lease(do: Transaction, lease: bytes, token: bytes, milliseconds: bytes) -> Reply:
    (holder,) = await do.look(("GET", lease))
    if holder != token:
        return 0
    (extended,) = await do.change(("PEXPIRE", lease, milliseconds))
    return extended


_EXTEND_LEASE: Final = Script(
    """
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""",
    _extend_lease,
)


async def let_go(
    do: Transaction, name: bytes, wake: bytes, milliseconds: bytes, ours: Callable[[Reply], bool]
) -> Reply:
    """Remove a lease or a lock if it is ``ours``, and wake those who wait for it."""
    removed: Command = ("DEL", name, wake)
    try:
        (holder,) = await do.look(("GET", name))
        if ours(holder):
            await do.change(removed, ("XADD", wake, "*", "released", 1), ("PEXPIRE", wake, milliseconds))
    except Refused:  # a full server still removes; those who wait look again by themselves
        (holder,) = await do.look(("GET", name))
        if ours(holder):
            await do.change(removed)
    return int(ours(holder))


async def _release_lease(do: Transaction, lease: bytes, wake: bytes, token: bytes, milliseconds: bytes) -> Reply:
    return await let_go(do, lease, wake, milliseconds, lambda holder: holder is None or holder == token)


_RELEASE_LEASE: Final = Script(
    """
local holder = redis.pcall('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('XADD', KEYS[2], '*', 'released', 1)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
""",
    _release_lease,
)
# One that was deleted is released too, for the sake of those who wait.


async def _next(do: Transaction, sequence: bytes, new_epoch: bytes, milliseconds: bytes, digests: bytes) -> Reply:
    (there,) = await do.look(("GET", sequence))
    last = text(there)
    epoch, number, recent = new_epoch, 0, b""
    if len(last) >= TOKEN_LENGTH and len(last) % 8 == 0:
        given = int.from_bytes(last[EPOCH_LENGTH:TOKEN_LENGTH], "big")
        if given < 2**52:
            epoch, number, recent = last[:EPOCH_LENGTH], given, last[TOKEN_LENGTH:]
    token = epoch + (number + len(digests) // 8).to_bytes(TOKEN_LENGTH - EPOCH_LENGTH, "big")
    await do.change(("SET", sequence, token + (recent + digests)[-8192:], "PX", milliseconds))
    return token


_NEXT: Final = Script(
    """
local last = redis.pcall('GET', KEYS[1])
local epoch, number, recent = ARGV[1], 0, ''
if type(last) == 'string' and #last >= 16 and #last % 8 == 0 then
    local given = struct.unpack('>I8', string.sub(last, 9, 16))
    if given < 2^52 then epoch, number, recent = string.sub(last, 1, 8), given, string.sub(last, 17) end
end
local token = epoch .. struct.pack('>I8', number + #ARGV[3] / 8)
redis.call('SET', KEYS[1], token .. string.sub(recent .. ARGV[3], -8192), 'PX', ARGV[2])
return token
""",
    _next,
)
# Behind the number lie the digests of the tags that were invalidated last, 8 bytes each: the last of them has it.
# What is larger than anybody counts is rubbish: Lua's numbers, which are doubles, would not grow from there.


async def _set_tag(do: Transaction, tag: bytes, token: bytes, milliseconds: bytes, soft: bytes) -> Reply:
    (reply,) = await do.look(("GET", tag))
    there, stored = text(reply), 1
    if len(there) % TOKEN_LENGTH:
        there = b""
    if there[:EPOCH_LENGTH] == token[:EPOCH_LENGTH] and there[:TOKEN_LENGTH] > token:
        token, stored = there[:TOKEN_LENGTH], 0
    former = b""
    if soft == b"1":
        former = there[TOKEN_LENGTH if token == there[:TOKEN_LENGTH] else 0 :][: 8 * TOKEN_LENGTH]
    await do.change(("SET", tag, token + former, "PX", milliseconds))
    return stored


_SET_TAG: Final = Script(
    """
local there = redis.pcall('GET', KEYS[1])
if type(there) ~= 'string' or #there < 16 or #there % 16 ~= 0 then there = '' end
local token, former, stored = ARGV[1], '', 1
if string.sub(there, 1, 8) == string.sub(token, 1, 8)
    and struct.unpack('>I8', string.sub(there, 9)) > struct.unpack('>I8', string.sub(token, 9)) then
    token, stored = string.sub(there, 1, 16), 0
end
if ARGV[3] == '1' then former = string.sub(there, token == string.sub(there, 1, 16) and 17 or 1) end
former = string.sub(former, 1, 128)
redis.call('SET', KEYS[1], token .. former, 'PX', ARGV[2])
return stored
""",
    _set_tag,
)
# Numbers only rise: one that arrives late, or twice, must not bring back what a later invalidation has ended. What is
# to count as stale stands behind the generation, and is ended by an invalidation that comes late, too.


def new_token() -> bytes:
    """A random token: it can't be guessed, and rubbish in its place can't be taken for it.

    Its first byte is below 128 and its last one is not, so that it is known from the marks of changes.
    """
    token = bytearray(secrets.token_bytes(TOKEN_LENGTH))
    token[0] &= 0x7F
    token[-1] |= 0x80
    return bytes(token)


def new_epoch() -> bytes:
    """The first half of the tokens that order the invalidations of tags; its first byte is above 127."""
    epoch = bytearray(secrets.token_bytes(EPOCH_LENGTH))
    epoch[0] |= 0x80
    return bytes(epoch)


class Layout:
    """The commands of one namespace. Lifetimes are in milliseconds."""

    def __init__(
        self,
        namespace: str,
        fence_ms: int,
        counter_ms: int = 86_400_000,
        lease_ms: int = 5000,
    ) -> None:
        # Braces would decide the slot, colons imitate another namespace; everything else is left readable.
        prefix = quote(namespace, safe=" !#$&'()*+,/;<=>?@[]^`|~\"\\-._")
        self._value_prefix = f"{prefix}:v:{{"
        self._fence_prefix = f"{prefix}:f:{{"
        self._counter_prefix = f"{prefix}:h:{{"
        self._lease_prefix = f"{prefix}:l:{{"
        self._wake_prefix = f"{prefix}:w:{{"
        self._changes_prefix = f"{prefix}:n:{{"
        self._lock_prefixes = (f"{prefix}:k:{{", f"{prefix}:u:{{", f"{prefix}:s:{{")
        self._mark_prefix = f"{prefix}:r:{{"
        self._generation = f"{prefix}:g:".encode()
        self._get_generation: Command = ("GET", self._generation)
        self._tag_prefix = f"{prefix}:t:"
        self.tracked = (self._value_prefix, f"{prefix}:g:", self._tag_prefix)
        """How the names begin of what local memory holds copies of, or what these depend on."""
        self.channel = f"{prefix}:c:".encode()
        self._sequence = f"{prefix}:q:".encode()
        # An entry that has a tag is written by a load, and then lives; twice that, to be renewed once in that time.
        self._tag_ms = 2 * (counter_ms + fence_ms)
        self._counter_ms = counter_ms
        self._fence_ms = fence_ms
        self._lease_ms = lease_ms

    # Names are bytes, because a client of the user's may encode text in its own way.

    def value_key(self, key: str) -> bytes:
        return f"{self._value_prefix}{_within_braces(key)}}}".encode()

    def fence_key(self, key: str) -> bytes:
        return f"{self._fence_prefix}{_within_braces(key)}}}".encode()

    def counter_key(self, key: str) -> bytes:
        return f"{self._counter_prefix}{_within_braces(key)}}}".encode()

    def lease_key(self, key: str) -> bytes:
        return f"{self._lease_prefix}{_within_braces(key)}}}".encode()

    def wake_key(self, key: str) -> bytes:
        return f"{self._wake_prefix}{_within_braces(key)}}}".encode()

    def changes_key(self, key: str) -> bytes:
        return f"{self._changes_prefix}{_within_braces(key)}}}".encode()

    def lock_keys(self, key: str) -> tuple[bytes, bytes, bytes]:
        """The lock, its wake-up, its last token."""
        within = _within_braces(key)
        lock, wake, last = (f"{prefix}{within}}}".encode() for prefix in self._lock_prefixes)
        return lock, wake, last

    def mark_key(self, tag: str) -> bytes:
        return f"{self._mark_prefix}{tag}}}".encode()

    def value_pattern(self, prefix: str) -> bytes:
        """What SCAN is to match: the names of values whose keys begin with ``prefix``."""
        return _plain(f"{self._value_prefix}{_within_braces(prefix)}") + b"*"

    def scan(self, pattern: bytes, cursor: bytes, count: int) -> list[Command]:
        """Reply: where to go on, and some names."""
        return [("SCAN", cursor, "MATCH", pattern, "COUNT", count)]

    def fence_pattern(self, prefix: str) -> bytes:
        """The same for fences: of keys that are being loaded."""
        return _plain(f"{self._fence_prefix}{_within_braces(prefix)}") + b"*"

    def key_of(self, name: bytes) -> str | None:
        """The key of a value or a fence, by its name; ``None`` if it is none of ours."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        for prefix in (self._value_prefix, self._fence_prefix):
            if text.startswith(prefix) and text.endswith("}"):
                key = text[len(prefix) : -1].replace("%7D", "}").replace("%25", "%")
                return key if key and name in (self.value_key(key), self.fence_key(key)) else None
        return None

    def news_of(self, names: Iterable[object]) -> News:
        """What has changed, by the names under which it lies."""
        keys: list[str] = []
        tags: list[bytes] = []
        for name in names:
            if isinstance(name, bytes) and name.startswith(self._tag_prefix.encode()):
                with suppress(ValueError):
                    tags.append(bytes.fromhex(name[len(self._tag_prefix.encode()) :].decode()))
            elif isinstance(name, bytes) and name.startswith(self._value_prefix.encode()):
                key = self.key_of(name)
                if key is not None:
                    keys.append(key)
            elif name == self._generation:
                return ALL_NEWS
        return News(tuple(keys), tuple(tags))

    def tag_key(self, digest: bytes) -> bytes:
        return f"{self._tag_prefix}{digest.hex()}".encode()

    def read(self, key: str) -> list[Command]:
        """Replies: the value, the generation."""
        return [("GET", self.value_key(key)), self._get_generation]

    def count(self, key: str) -> list[Command]:
        """Reply: how often the value was found since it was stored; 0 if it is not there or can't be counted."""
        return [("EVAL", _COUNT, 2, self.value_key(key), self.counter_key(key), self._counter_ms)]

    def counted(self, key: str) -> list[Command]:
        """Reply: how often the value was found, or nil."""
        return [("GET", self.counter_key(key))]

    def left(self, key: str) -> list[Command]:
        """Reply: how long the value has left, in milliseconds; negative where it has no end, or is not there."""
        return [("PTTL", self.value_key(key))]

    def version(self, key: str, generations: int) -> list[Command]:
        """Replies: what stands before the payload of an entry with so many generations, what stands behind it, its
        size; the generation of the namespace."""
        name = self.value_key(key)
        head = ("GETRANGE", name, 0, head_size(generations) - 1)
        return [head, ("GETRANGE", name, -TAIL_SIZE, -1), ("STRLEN", name), ("GET", self._generation)]

    def read_generation(self, new: Word) -> list[Command]:
        """Create the generation if there is none. Replies: OK or nil, the generation."""
        return [("SET", self._generation, new, "NX"), ("GET", self._generation)]

    def capture(self, key: str, new_fence: Word, new_generation: Word, *, replace: bool) -> list[Command]:
        """Replies: the value, OK or nil (with ``replace`` the length of the fence), whether the lifetime was set, the
        fence, OK or nil, the generation."""
        fence = self.fence_key(key)
        return [
            ("GET", self.value_key(key)),
            ("APPEND", fence, new_fence) if replace else ("SET", fence, new_fence, "PX", self._fence_ms, "NX"),
            ("PEXPIRE", fence, self._fence_ms),
            ("GET", fence),
            *self.read_generation(new_generation),
        ]

    def repair_fence(self, key: str, new: Word) -> list[Command]:
        """Replace whatever lies under the name of the fence."""
        return [("SET", self.fence_key(key), new, "PX", self._fence_ms)]

    def repair_generation(self, new: Word) -> list[Command]:
        """Replace whatever lies under the name of the generation: clearing, as it happens."""
        return self.clear(new)

    def stands(self, key: str) -> list[Command]:
        """Replies: the fence, the generation."""
        return [("GET", self.fence_key(key)), ("GET", self._generation)]

    def write(self, key: str, fence: bytes, data: bytes, lifetime_ms: int) -> list[Command]:
        """Replies: 1 if stored, 0 if fenced off; the generation, which in a cluster no script could compare."""
        return [("EVAL", _WRITE_IF_FENCED, 3, *self._names(key), fence, data, lifetime_ms), ("GET", self._generation)]

    def put(self, key: str, data: bytes, lifetime_ms: int, deadline: Word) -> list[Command]:
        """Store a value, and fence off what is in flight, unless the deadline has passed.

        Replies: the server's time in microseconds, negative if that was too late; the generation, asked for behind it.
        """
        put: Command = ("EVAL", _PUT_IN_TIME, 3, *self._names(key), data, lifetime_ms, deadline)
        return [put, self._get_generation]

    def delete(self, key: str) -> list[Command]:
        """Last reply: how many values were removed. The fence goes first, so nothing slips in between."""
        return [("DEL", self.fence_key(key), self.counter_key(key), self.lease_key(key)), ("DEL", self.value_key(key))]

    def take_lease(self, key: str, token: bytes) -> list[Command]:
        """Take the lease, or extend one's own. Reply: 0, or for how long another's holds."""
        return [("EVAL", _TAKE_LEASE, 2, self.lease_key(key), self.wake_key(key), token, self._lease_ms)]

    def extend(self, key: str, token: bytes) -> list[Command]:
        """Reply: 1, or 0 if the lease is lost."""
        return [("EVAL", _EXTEND_LEASE, 1, self.lease_key(key), token, self._lease_ms)]

    def release(self, key: str, token: bytes) -> list[Command]:
        """Let others have the lease, and wake those who wait for it. Reply: 1, or 0 if another holds it."""
        return [("EVAL", _RELEASE_LEASE, 2, self.lease_key(key), self.wake_key(key), token, self._lease_ms)]

    def wait(self, key: str, milliseconds: int) -> list[Command]:
        """Wait until the lease is released, so long at most. Reply: nil if it was not."""
        return [("XREAD", "BLOCK", milliseconds, "STREAMS", self.wake_key(key), "0-0")]

    def lease_left(self, key: str) -> list[Command]:
        """Reply: how long the lease holds, in milliseconds; negative if there is none."""
        return [("PTTL", self.lease_key(key))]

    def read_tags(self, digests: Iterable[bytes]) -> list[Command]:
        """Reply for each: its generation."""
        return [("GET", self.tag_key(digest)) for digest in digests]

    def capture_number(self, new: Word) -> list[Command]:
        """Begin to count if nobody does, so that it is noticed if the last number is lost. Replies: OK or nil, the
        generation that was given to a tag last."""
        return [("SET", self._sequence, new, "PX", self._tag_ms, "NX"), *self.last_number()]

    def last_number(self) -> list[Command]:
        """Reply: the generation that was given to a tag last, or nothing."""
        return [("GETRANGE", self._sequence, 0, TOKEN_LENGTH - 1)]

    def last_tags(self) -> list[Command]:
        """Reply: the same, and behind it the digests of the tags that were invalidated last; or nil."""
        return [("GET", self._sequence)]

    def capture_tags(self, new: Mapping[bytes, Word]) -> list[Command]:
        """Create the generations that there are none of. Replies for each: OK or nil, what it has left, the generation.

        Its lifetime is not renewed each time: that would be a change, and reach all who keep entries with this tag.
        """
        return [
            command
            for digest, token in new.items()
            for command in (
                ("SET", self.tag_key(digest), token, "PX", self._tag_ms, "NX"),
                ("PTTL", self.tag_key(digest)),
                ("GET", self.tag_key(digest)),
            )
        ]

    def lasts(self, left: Reply) -> bool:
        """Whether the generation of a tag with so much ``left`` outlives the entry of a load that begins now."""
        return not isinstance(left, int) or not 0 <= left < self._tag_ms // 2

    def renew_tags(self, digests: Iterable[bytes]) -> list[Command]:
        """Reply for each: 1, or 0 if it is gone."""
        return [("PEXPIRE", self.tag_key(digest), self._tag_ms) for digest in digests]

    def next_number(self, digests: Iterable[bytes], new_epoch: Word) -> list[Command]:
        """Reply: the generation to give to the tags that are invalidated."""
        return [("EVAL", _NEXT, 1, self._sequence, new_epoch, self._tag_ms, b"".join(digests))]

    def set_tags(self, digests: Iterable[bytes], token: Word, *, soft: bool = False) -> list[Command]:
        """Reply for each: 1, or 0 if it has a later number already. If it is ``soft``, entries become stale."""
        return [("EVAL", _SET_TAG, 1, self.tag_key(digest), token, self._tag_ms, int(soft)) for digest in digests]

    def forget_number(self) -> list[Command]:
        """Count anew: all that is being loaded is refused that adds a tag meanwhile. Reply: 1 if there was a number."""
        return [("DEL", self._sequence)]

    def forget_tags(self, digests: Iterable[bytes]) -> list[Command]:
        """Invalidate tags, whatever their number would have been. Replies: how many there were of each."""
        return [("DEL", self.tag_key(digest)) for digest in digests]

    def clear(self, new: Word) -> list[Command]:
        """Reply: OK."""
        return [("SET", self._generation, new)]

    def forget_everything(self) -> list[Command]:
        """Clear by removing only, which a server that is full takes too. Reply: 1 if there was a generation."""
        return [("DEL", self._generation)]

    def mark(self, tag: str) -> list[Command]:
        """Write something behind everything else. Reply: OK."""
        return [("SET", self.mark_key(tag), b"", "PX", _MARK_MS)]

    def generation(self) -> list[Command]:
        """Reply: the generation, or nil."""
        return [("GET", self._generation)]

    def unlink(self, key: str) -> list[Command]:
        """Like :meth:`delete`, and the server frees the memory behind its callers' backs."""
        return [
            ("UNLINK", self.fence_key(key), self.counter_key(key), self.lease_key(key)),
            ("UNLINK", self.value_key(key)),
        ]

    def _names(self, key: str) -> tuple[bytes, bytes, bytes]:
        tail = f"{_within_braces(key)}}}"
        return (
            f"{self._fence_prefix}{tail}".encode(),
            f"{self._value_prefix}{tail}".encode(),
            f"{self._counter_prefix}{tail}".encode(),
        )


def _plain(text: str) -> bytes:
    """A pattern that matches nothing but ``text``."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in text).encode()


def first_number(epoch: bytes) -> bytes:
    """The number with which an epoch begins."""
    return epoch + bytes(TOKEN_LENGTH - EPOCH_LENGTH)


def _within_braces(key: str) -> str:
    """``key`` as the hash tag: a closing brace inside would end the tag early, and an empty tag would be none."""
    if "}" in key or "%" in key:
        key = key.replace("%", "%25").replace("}", "%7D")
    return key
