"""Changes of an entry that depend on what is there: the scripts, each with its procedure, and their commands.

A script looks and changes in one step, and in one slot: of the generation, which lies elsewhere, it is told what its
sender knows, and the sender asks in the same packet, behind it, whether that was right.

Twice. A packet may be executed, lose its answer, and be sent again. So whoever changes something by a sum or where
nothing was notes its token and the result, and the second one gets what the first one got. The last 64 of a key are
known, for a few seconds: as long as a packet may be under way.

Late. A packet may be executed after its sender has given up, and other changes with it. What is there is changed only
if it still is what the sender saw, or by the sum itself, which is what somebody wanted. Where nothing is, the change is
announced in the fence first, by a token (see ``layout``): a delete takes that away, and a late one finds nothing.

Loads are fenced off by a mark at the end of the fence, if there is one: of those that come one after the other the last
remains. First and last byte tell it from the tokens of what is announced, which stay valid.

Counters are entries like others. The script adds to those that ``set`` and ``incr`` themselves have written: a whole
number of few digits behind an envelope without anything special. It repeats all of the envelope but the checksum, which
it computes. All else goes back to the sender, who knows what it means, and offers what it makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from fast_cache.backends.redis.layout import TOKEN_LENGTH, Layout
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.backends.redis.script import Script, Transaction, text
from fast_cache.serializers.envelope import LAYOUT, MAGIC, NAMESPACE_DIGEST

_HEAD: Final = Struct(">2sBBQQI8s16sB8s16s")
"""The envelope up to the end of its first generation, which is that of the namespace. See ``serializers.envelope``."""

HEAD: Final = _HEAD.size
"""73 bytes."""

_FIXED: Final = 24
"""Behind the times: from here on the head of a key's counters is the same in one generation."""

_REMEMBERED: Final = 64
"""Changes of a key: looking through them is part of each."""

_POLYNOMIAL: Final = 0xEDB88320


def _crc_table() -> str:
    """CRC-32 by half bytes: the table of 16, in Lua."""
    table = []
    for value in range(16):
        for _ in range(4):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(str(value))
    return ", ".join(table)


_IS_TEXT: Final = """
local function is_text(name)
    return redis.call('TYPE', name).ok == 'string' and redis.call('STRLEN', name) > 0
end
"""

_IDENTITY: Final = f"""
local function identity(name)
    if not is_text(name) then return '' end
    return redis.call('GETRANGE', name, 0, {HEAD - 1}) .. redis.call('GETRANGE', name, -4, -1)
        .. redis.call('STRLEN', name)
end
"""
# Head, checksum and length say whether it is the same entry, however large that is.

_FENCE: Final = f"""
local function fence_of(name)
    local fence = redis.pcall('GET', name)
    return type(fence) == 'string' and fence or ''
end
local function mark(name, fence, token)
    local first, last = string.byte(fence, -{TOKEN_LENGTH}), string.byte(fence, -1)
    if first and first < 128 and last < 128 then fence = string.sub(fence, 1, -{TOKEN_LENGTH + 1}) end
    redis.call('SET', name, fence .. token, 'KEEPTTL')
end
local function announce(name, token, milliseconds)
    local fence = fence_of(name)
    if not string.find(fence, token, 1, true) then
        redis.call('SET', name, string.sub(fence, -1024) .. token, 'PX', milliseconds)
    end
end
"""

_MEMORY: Final = f"""
local function result_of(token)
    local place = redis.pcall('LPOS', KEYS[4], token)
    if type(place) == 'table' then redis.call('DEL', KEYS[4]) end
    return type(place) == 'number' and redis.call('LINDEX', KEYS[4], place + 1)
end
local function note(token, result, milliseconds)
    redis.call('RPUSH', KEYS[4], token, result)
    redis.call('LTRIM', KEYS[4], -{2 * _REMEMBERED}, -1)
    redis.call('PEXPIRE', KEYS[4], milliseconds)
end
"""

_CRC: Final = f"""
local table_of = {{{_crc_table()}}}
local bxor, rshift, band = bit.bxor, bit.rshift, bit.band
local function fed(crc, text)
    for place = 1, #text do
        crc = bxor(crc, string.byte(text, place))
        crc = bxor(rshift(crc, 4), table_of[band(crc, 15) + 1])
        crc = bxor(rshift(crc, 4), table_of[band(crc, 15) + 1])
    end
    return crc
end
local function checksum(crc)
    return struct.pack('>I4', bit.bnot(crc) % 4294967296)
end
"""

# What the procedures have in common, as above in Lua.


async def _announced(do: Transaction, fence: bytes, there: Reply, token: bytes, milliseconds: bytes) -> None:
    if token not in text(there):
        await do.change(("SET", fence, text(there)[-1024:] + token, "PX", milliseconds))


def _marked(fence: bytes, there: bytes, mark: bytes) -> list[Command]:
    if not there:
        return []
    if len(there) >= TOKEN_LENGTH and there[-TOKEN_LENGTH] < 128 and there[-1] < 128:
        there = there[:-TOKEN_LENGTH]
    return [("SET", fence, there + mark, "KEEPTTL")]


def _result_of(token: bytes, memory: Reply) -> bytes | None:
    """What became of the change the first time, if there was one."""
    known: Iterator[bytes] = iter(memory if isinstance(memory, list) else ())
    return next(known, None) if token in known else None


def _noted(memory: bytes, there: Reply, token: bytes, result: bytes, milliseconds: bytes) -> list[Command]:
    rubbish: list[Command] = [] if isinstance(there, list) else [("DEL", memory)]
    return [
        *rubbish,
        ("RPUSH", memory, token, result),
        ("LTRIM", memory, -2 * _REMEMBERED, -1),
        ("PEXPIRE", memory, milliseconds),
    ]


def _parts(value: bytes) -> list[Command]:
    return [("GETRANGE", value, 0, HEAD - 1), ("GETRANGE", value, -4, -1), ("STRLEN", value)]


def _told(head: Reply, end: Reply, length: Reply) -> bytes:
    """What ``identity`` says in Lua, from the replies to :func:`_parts`."""
    return head + end + b"%d" % length if text(head) else b""


async def _look(do: Transaction, value: bytes, fence: bytes, token: bytes, milliseconds: bytes) -> Reply:
    entry, there = await do.look(("GET", value), ("GET", fence))
    if text(entry):
        return entry
    await _announced(do, fence, there, token, milliseconds)
    return None


_LOOK: Final = Script(
    f"""
{_IS_TEXT}{_FENCE}
if is_text(KEYS[1]) then return redis.call('GET', KEYS[1]) end
announce(KEYS[2], ARGV[1], ARGV[2])
return false
""",
    _look,
)


async def _increment(
    do: Transaction, value: bytes, fence: bytes, counter: bytes, memory: bytes,
    token: bytes, fence_ms: bytes, by: bytes, magic: bytes, like: bytes, mark: bytes, memory_ms: bytes,
) -> Reply:  # fmt: skip
    entry, there, known = await do.look(("GET", value), ("GET", fence), ("LRANGE", memory, 0, -1))
    before = _result_of(token, known)
    if before is not None:
        return int(before)
    if not text(entry):
        await _announced(do, fence, there, token, fence_ms)
        return None
    head, digits, checksum = entry[:HEAD], entry[HEAD:-4], entry[-4:]
    alike = head[:4] == magic and head[12:20] == bytes(8) and head[_FIXED:] == like
    plain = alike and len(digits) <= 15 and digits.removeprefix(b"-").isdigit()
    if not plain or _checksum(head + digits) != checksum:
        return entry
    number = int(digits) + int(by)
    if abs(number) >= 10**15:
        return entry
    written = b"%d" % number
    new = head + written
    await do.change(
        ("SET", value, new + _checksum(new), "KEEPTTL"),
        ("DEL", counter),
        *_marked(fence, text(there), mark),
        *_noted(memory, known, token, written, memory_ms),
    )
    return number


_INCREMENT: Final = Script(
    f"""
{_IS_TEXT}{_FENCE}{_MEMORY}{_CRC}
local before = result_of(ARGV[1])
if before then return tonumber(before) end
if not is_text(KEYS[1]) then
    announce(KEYS[2], ARGV[1], ARGV[2])
    return false
end
local entry = redis.call('GET', KEYS[1])
local head, digits = string.sub(entry, 1, {HEAD}), string.sub(entry, {HEAD + 1}, -5)
local plain = #digits <= 15 and string.sub(head, 1, 4) == ARGV[4] and string.sub(head, 13, 20) == string.rep('\\0', 8)
    and string.sub(head, {_FIXED + 1}) == ARGV[5] and string.find(digits, '^%-?%d+$')
if not plain then return entry end
local crc = fed(-1, head)
if checksum(fed(crc, digits)) ~= string.sub(entry, -4) then return entry end
local sum = tonumber(digits) + tonumber(ARGV[3])
if math.abs(sum) >= 1e15 then return entry end
local written = string.format('%.0f', sum)
redis.call('SET', KEYS[1], head .. written .. checksum(fed(crc, written)), 'KEEPTTL')
redis.call('DEL', KEYS[3])
local fence = fence_of(KEYS[2])
if fence ~= '' then mark(KEYS[2], fence, ARGV[6]) end
note(ARGV[1], written, ARGV[7])
return sum
""",
    _increment,
)


async def _change(
    do: Transaction, value: bytes, fence: bytes, counter: bytes, memory: bytes,
    token: bytes, identity: bytes, new: bytes, milliseconds: bytes, mark: bytes, result: bytes, memory_ms: bytes,
) -> Reply:  # fmt: skip
    *parts, reply, known = await do.look(*_parts(value), ("GET", fence), ("LRANGE", memory, 0, -1))
    if _result_of(token, known) is not None:
        return 1
    there = text(reply)
    if _told(*parts) != identity or (not identity and token not in there):
        return 0
    commands: list[Command] = []
    if not identity:
        there = there.replace(token, b"", 1)
        if not there:
            commands.append(("DEL", fence))
    commands.append(("SET", value, new, "PX", milliseconds) if milliseconds else ("SET", value, new, "KEEPTTL"))
    await do.change(
        *commands,
        ("DEL", counter),
        *_marked(fence, there, mark),
        *_noted(memory, known, token, result, memory_ms),
    )
    return 1


_CHANGE: Final = Script(
    f"""
{_IS_TEXT}{_IDENTITY}{_FENCE}{_MEMORY}
if result_of(ARGV[1]) then return 1 end
if identity(KEYS[1]) ~= ARGV[2] then return 0 end
local fence = fence_of(KEYS[2])
if ARGV[2] == '' then
    local first, last = string.find(fence, ARGV[1], 1, true)
    if not first then return 0 end
    fence = string.sub(fence, 1, first - 1) .. string.sub(fence, last + 1)
    if fence == '' then redis.call('DEL', KEYS[2]) end
end
if ARGV[4] == '' then
    redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
else
    redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
redis.call('DEL', KEYS[3])
if fence ~= '' then mark(KEYS[2], fence, ARGV[5]) end
note(ARGV[1], ARGV[6], ARGV[7])
return 1
""",
    _change,
)


async def _renew(
    do: Transaction, value: bytes, fence: bytes, counter: bytes, identity: bytes, milliseconds: bytes, mark: bytes
) -> Reply:
    *parts, there = await do.look(*_parts(value), ("GET", fence))
    if not identity or _told(*parts) != identity:
        return 0
    await do.change(
        ("PEXPIRE", value, milliseconds), ("PEXPIRE", counter, milliseconds), *_marked(fence, text(there), mark)
    )
    return 1


_RENEW: Final = Script(
    f"""
{_IS_TEXT}{_IDENTITY}{_FENCE}
if ARGV[1] == '' or identity(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
local fence = fence_of(KEYS[2])
if fence ~= '' then mark(KEYS[2], fence, ARGV[3]) end
return 1
""",
    _renew,
)


class Changes:
    """The commands of one namespace. ``memory_ms``: for how long the result of a change is known."""

    def __init__(self, layout: Layout, fence_ms: int, memory_ms: int) -> None:
        self._layout = layout
        self._fence_ms = fence_ms
        self._memory_ms = memory_ms

    def look(self, key: str, token: bytes) -> list[Command]:
        """Reply: the entry; or nil, and a change is announced."""
        names = (self._layout.value_key(key), self._layout.fence_key(key))
        return [("EVAL", _LOOK, 2, *names, token, self._fence_ms)]

    def increment(self, key: str, token: bytes, by: int, like: bytes) -> list[Command]:
        """Add to a counter whose envelope is ``like`` another one.

        Reply: the sum; or the entry, which is no such counter; or nil, and a change is announced.
        """
        arguments = (token, self._fence_ms, by, like[:4], like[_FIXED:HEAD], _mark(token), self._memory_ms)
        return [("EVAL", _INCREMENT, 4, *self._names(key), *arguments)]

    def change(
        self, key: str, token: bytes, old: bytes, new: bytes, lifetime_ms: int | None, result: int
    ) -> list[Command]:
        """Store ``new`` where ``old`` is; empty if nothing is, and the change was announced. Reply: 1, or 0 if not.

        Without ``lifetime_ms`` the old one goes on.
        """
        lifetime = "" if lifetime_ms is None else lifetime_ms
        arguments = (token, _identity(old), new, lifetime, _mark(token), result, self._memory_ms)
        return [("EVAL", _CHANGE, 4, *self._names(key), *arguments)]

    def renew(self, key: str, token: bytes, old: bytes, lifetime_ms: int) -> list[Command]:
        """Let ``old`` live so long from now. Reply: 1, or 0 if it is not there any more."""
        return [("EVAL", _RENEW, 3, *self._names(key)[:3], _identity(old), lifetime_ms, _mark(token))]

    def head(self, key: str) -> list[Command]:
        """Replies: the first bytes of an entry, for :func:`head_of`."""
        return [("GETRANGE", self._layout.value_key(key), 0, HEAD - 1)]

    def _names(self, key: str) -> tuple[bytes, bytes, bytes, bytes]:
        layout = self._layout
        return layout.value_key(key), layout.fence_key(key), layout.counter_key(key), layout.changes_key(key)


class Head(NamedTuple):
    """What the first bytes of an entry tell: the codec's fingerprint, the generation, whether there is more to it."""

    codec: bytes
    generation: bytes
    simple: bool
    """It is never stale and has no tags."""


def head_of(data: object) -> Head | None:
    """Read the head of an entry; ``None`` if it is none of a namespace."""
    if not isinstance(data, bytes) or len(data) < HEAD:
        return None
    magic, layout, _, _, stale, _, codec, _, count, name, token = _HEAD.unpack_from(data)
    if magic != MAGIC or layout != LAYOUT or not count or name != NAMESPACE_DIGEST:
        return None
    return Head(codec, token, not stale and count == 1)


def _identity(entry: bytes) -> bytes:
    """What the script of that name says of an entry."""
    return entry[:HEAD] + entry[-4:] + str(len(entry)).encode() if entry else b""


def _checksum(entry: bytes) -> bytes:
    return crc32(entry).to_bytes(4, "big")


def _mark(token: bytes) -> bytes:
    """A mark for the fence: no token, whose last byte is above 127."""
    return bytes((*token[:-1], token[-1] & 0x7F))
