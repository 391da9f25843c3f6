"""The bytes of one stored entry: the one place that knows them.

Layout 1, integers unsigned and big-endian:

    offset  size  field
    0       2     magic, "FC"
    2       1     layout, 1
    3       1     flags: 0x01 payload compressed; every other bit is refused
    4       8     lifetime in milliseconds, counted from the write; 0: never expires
    12      8     the last part of the lifetime in which the value is stale, in milliseconds
    20      4     how long the value took to compute, in milliseconds
    24      8     fingerprint of the codec: BLAKE2b of its name
    32      16    digest of the key: BLAKE2b of the key in UTF-8
    48      1     number of generations, n
    49      24 n  generations: digest of the name (8: BLAKE2b of the name in UTF-8), token (16)
    49+24n  ...   payload
    end-4   4     CRC-32 (as in zlib, gzip and PNG) of everything before it

A compressed payload, one with the flag 0x01:

    0       1     algorithm: 1 zlib (RFC 1950), 2 Zstandard (RFC 8878)
    1       8     size of the payload before it was compressed, not 0
    9       ...   one stream or frame; a frame names the same size in its header, and needs no dictionary

There is never a wall-clock time in it: what is left of a lifetime is known by the store. The checksum finds what was
torn or flipped by accident; it is no signature. A payload that is signed is signed before it is compressed, and its
codec knows it by its own configuration: no bit of an entry could say so and be believed. Whatever is not exactly this
is a :class:`DecodeError`.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from fast_cache.errors import DecodeError, EncodeError

MAGIC: Final = b"FC"
LAYOUT: Final = 1

_COMPRESSED: Final = 0x01

_HEAD: Final = Struct(">2sBBQQI8s16sB")
_GENERATION: Final = Struct(">8s16s")
_CHECKSUM: Final = Struct(">I")

MOST_GENERATIONS: Final = 255
_LONGEST_LOAD: Final = 2**32 - 1

_MISFIT: Final = "a codec's fingerprint and a generation's digest have 8 bytes, a token has 16"

_PLAIN: Final = MAGIC + bytes((LAYOUT, 0))
_NEVER_STALE: Final = bytes(8)
_COUNTS: Final = [bytes((count,)) for count in range(MOST_GENERATIONS + 1)]


class Envelope(NamedTuple):  # made on every read: a frozen dataclass takes 0.66 µs to make, this 0.24
    """A payload and what must be known to use it. Durations are in milliseconds, 0 for none.

    ``codec`` is the fingerprint of the codec (8 bytes). ``generations`` are those that the value depends on, each a
    digest of its name (8 bytes, see :func:`name_digest`) and its token (16 bytes). Whether the payload is
    ``compressed`` is told here; compressing it is done elsewhere.
    """

    payload: bytes
    codec: bytes
    lifetime_ms: int = 0
    stale_ms: int = 0
    load_ms: int = 0
    generations: tuple[tuple[bytes, bytes], ...] = ()
    compressed: bool = False


def name_digest(name: str) -> bytes:
    """The digest by which an envelope refers to a generation: 8 bytes of BLAKE2b."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


NAMESPACE_DIGEST: Final = name_digest("")
"""The digest of a namespace's generation: no tag is empty."""


def packed_size(payload: bytes, generations: int) -> int:
    """How many bytes an entry with this payload and so many generations takes."""
    return _HEAD.size + generations * _GENERATION.size + len(payload) + _CHECKSUM.size


def pack(key: str, envelope: Envelope) -> bytes:
    """Return the bytes to store under ``key``. A load that took longer than 49 days counts as 49 days.

    Raises:
        EncodeError: a duration, digest or token that does not fit, or more than 255 generations.
    """
    payload, codec, lifetime_ms, stale_ms, load_ms, generations, compressed = envelope
    if len(generations) > MOST_GENERATIONS:
        raise EncodeError(f"an entry depends on at most {MOST_GENERATIONS} generations; use fewer tags")
    parts: list[bytes] = []
    for name, token in generations:  # one for most entries; two generators in this place took a fifth of sealing
        if len(name) != 8 or len(token) != 16:
            raise EncodeError(_MISFIT)
        parts += name, token
    if len(codec) != 8:
        raise EncodeError(_MISFIT)
    try:
        head = _HEAD.pack(
            MAGIC,
            LAYOUT,
            _COMPRESSED if compressed else 0,
            lifetime_ms,
            stale_ms,
            min(load_ms, _LONGEST_LOAD),
            codec,
            _key_digest(key),
            len(generations),
        )
    except Exception:  # struct.error, for what is negative, too large or no integer
        raise EncodeError("durations in an envelope are whole milliseconds from 0 to 2**64 - 1") from None
    body = b"".join((head, *parts, payload))
    return body + _CHECKSUM.pack(crc32(body))


def unpack(key: str, data: bytes) -> Envelope:
    """Return what was packed under ``key``.

    Raises:
        DecodeError: torn, foreign or forged bytes, an entry of another key, another layout or an unknown flag.
    """
    end = len(data) - _CHECKSUM.size
    if end < _HEAD.size or data[:2] != MAGIC:
        raise DecodeError("these bytes are not an entry of this package")
    _, layout, flags, lifetime_ms, stale_ms, load_ms, codec, digest, count = _HEAD.unpack_from(data)
    if layout != LAYOUT or flags & ~_COMPRESSED:
        raise DecodeError(f"an entry of layout {layout} with flags {flags:#x} is not readable by this version")
    if crc32(memoryview(data)[:end]) != _CHECKSUM.unpack_from(data, end)[0]:
        raise DecodeError("the checksum does not match: the entry was torn or altered")
    if digest != _key_digest(key):
        raise DecodeError("the entry belongs to another key")
    start = _HEAD.size
    generations: tuple[tuple[bytes, bytes], ...] = ()
    if count:
        start += count * _GENERATION.size
        if start > end:
            raise DecodeError("the entry ends before its generations do")
        generations = tuple(_GENERATION.iter_unpack(data[_HEAD.size : start]))
    return Envelope(data[start:end], codec, lifetime_ms, stale_ms, load_ms, generations, flags == _COMPRESSED)


def unpack_plain(key: bytes, data: bytes, generations: bytes) -> tuple[bytes, bytes] | None:
    """The codec's fingerprint and the payload of an entry as most are; ``None`` of any other, also one that is damaged.

    Most depend on these generations (of each the digest of its name and its token), and are neither compressed nor ever
    stale. Of them this takes 1.1 µs, where :func:`unpack`, with what its callers do to its result, takes 3.3.
    """
    start = 49 + len(generations)
    if (
        data[32:start] != blake2b(key, digest_size=16).digest() + _COUNTS[len(generations) // 24] + generations
        or not data.startswith(_PLAIN)
        or data[12:20] != _NEVER_STALE
        or _CHECKSUM.unpack_from(data, len(data) - 4)[0] != crc32(data[:-4])
    ):
        return None
    return data[24:32], data[start:-4]


class Head(NamedTuple):
    """What stands before a payload, as far as it says whether an entry is still the same, and lives."""

    lifetime_ms: int
    stale_ms: int
    generations: tuple[tuple[bytes, bytes], ...]


def head_size(generations: int) -> int:
    """How many bytes stand before the payload of an entry with so many generations."""
    return _HEAD.size + generations * _GENERATION.size


TAIL_SIZE: Final = _CHECKSUM.size
"""How many bytes stand behind the payload."""


def unpack_head(data: bytes, *, whole: bool = True) -> Head | None:
    """What the head of an entry says; ``None`` if it is none, or not all of it, or followed by more if it is to be the
    ``whole`` of what is given. Nothing vouches for what it says."""
    if len(data) < _HEAD.size or data[:2] != MAGIC or data[2] != LAYOUT:
        return None
    _, _, _, lifetime_ms, stale_ms, _, _, _, count = _HEAD.unpack_from(data)
    end = head_size(count)
    if len(data) < end or (whole and len(data) != end):
        return None
    return Head(lifetime_ms, stale_ms, tuple(_GENERATION.iter_unpack(data[_HEAD.size : end])))


def version_of(head: bytes, tail: bytes, size: int) -> bytes:
    """What tells an entry from any other under its key: 16 bytes of BLAKE2b.

    Args:
        head: what stands before the payload.
        tail: what stands behind it: the checksum of the whole.
        size: of the whole, in bytes.
    """
    return blake2b(b"%b%b%d" % (head, tail, size), digest_size=16).digest()


def version_of_entry(data: bytes) -> bytes:
    """The same, of an entry that is at hand and in order."""
    return version_of(data[: head_size(data[_HEAD.size - 1])], data[-TAIL_SIZE:], len(data))


def _key_digest(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
