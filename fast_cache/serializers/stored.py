"""A value as a store of bytes keeps it: encoded, in an envelope, and back.

An entry depends on generations: that of its namespace, which goes by the empty name, and those of its tags.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import ceil
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fast_cache.entry import MISSING
from fast_cache.errors import DecodeError, EncodeError
from fast_cache.serializers.base import Codec, decoded, encoded
from fast_cache.serializers.compression import compress, decompress
from fast_cache.serializers.envelope import NAMESPACE_DIGEST, Envelope, pack, packed_size, unpack, unpack_plain
from fast_cache.serializers.raising import RaisingCodec
from fast_cache.serializers.registry import decoder_of

NO_TAGS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Limits(NamedTuple):
    """How large entries may be. In bytes.

    ``largest`` holds for an entry before it is compressed and after, written or read (a backend's ``max_value_size``).
    Payloads above ``compress_above`` are compressed when they are written; ``None``: none is.
    """

    largest: int = 64 * 2**20
    compress_above: int | None = None

    def uncompressed(self) -> Limits:
        """The same, without compression."""
        return self._replace(compress_above=None)


_WHATEVER_IS_READ: Final = Limits()
_WHATEVER_IS_WRITTEN: Final = Limits(largest=sys.maxsize)


class Stored(NamedTuple):
    """An entry whose envelope is in order: the codec's fingerprint, payload, generation, and the key in UTF-8.

    Of its ``lifetime`` the last part is ``stale``; to compute the value took ``load``: all in seconds, 0 for none.
    ``tags`` are the generations (16 bytes) of its tags, by their digests. The payload may still be ``compressed``.
    It was ``expired`` if it is to count as stale, however much of its lifetime is left.
    """

    codec: bytes
    payload: bytes
    generation: bytes | None
    context: bytes
    lifetime: float
    stale: float
    load: float
    tags: Mapping[bytes, bytes] = NO_TAGS
    compressed: bool = False
    expired: bool = False


class Payload(NamedTuple):
    """A value as bytes, ``compressed`` or not, and the fingerprint of the codec that made them."""

    data: bytes
    codec: bytes
    compressed: bool


def encode_stored(
    key: str,
    value: Any,
    codec: Codec,
    expire: float | None,
    generation: bytes | None = None,
    *,
    stale: float = 0.0,
    load: float = 0.0,
    tags: Mapping[bytes, bytes] = NO_TAGS,
    limits: Limits = _WHATEVER_IS_WRITTEN,
) -> bytes:
    """Return the bytes to store under ``key`` for ``expire`` seconds, ``None`` for ever.

    Args:
        generation: the token (16 bytes) of the generation that the entry depends on.
        stale: the last part of ``expire`` in which the value is stale.
        load: how long it took to compute.
        tags: the tokens of its tags, by their digests: 8 bytes, see :func:`name_digest`.
        limits: by default it may be of any size, and is not compressed.

    Raises:
        EncodeError: ``codec`` can't store the value faithfully, or it is too large.
    """
    payload = payload_of(key, value, codec, limits, generations=(generation is not None) + len(tags))
    return seal(key, payload, expire, generation, stale=stale, load=load, tags=tags)


def payload_of(key: str, value: Any, codec: Codec, limits: Limits, *, generations: int = 1) -> Payload:
    """What is to be sealed under ``key``, with so many generations; raises what :func:`encode_stored` does."""
    data = encoded(codec, value, _context(key))
    size = packed_size(data, generations)
    if size > limits.largest:  # before it is compressed: it has to be read again
        raise EncodeError(f"it takes {size} bytes; max_value_size allows {limits.largest}")
    smaller = None
    if limits.compress_above is not None and len(data) > limits.compress_above:
        smaller = compress(data)
    return Payload(data if smaller is None else smaller, codec.fingerprint, smaller is not None)


def seal(
    key: str,
    payload: Payload,
    expire: float | None,
    generation: bytes | None,
    *,
    stale: float = 0.0,
    load: float = 0.0,
    tags: Mapping[bytes, bytes] = NO_TAGS,
) -> bytes:
    """Return the bytes to store; takes what :func:`encode_stored` takes."""
    lifetime_ms = 0 if expire is None else max(1, ceil(expire * 1000))
    generations: tuple[tuple[bytes, bytes], ...] = () if generation is None else ((NAMESPACE_DIGEST, generation),)
    if tags:
        generations += tuple(tags.items())
    times = (lifetime_ms, round(stale * 1000), round(load * 1000))
    return pack(key, Envelope(payload.data, payload.codec, *times, generations, payload.compressed))


def unpack_stored(key: str, data: bytes) -> Stored:
    """Return what is stored under ``key``, still encoded.

    Raises:
        DecodeError: ``data`` is no entry of ``key``: torn, foreign or of another version.
    """
    envelope = unpack(key, data)
    tags = dict(envelope.generations)
    generation = tags.pop(NAMESPACE_DIGEST, None)
    times = (envelope.lifetime_ms / 1000, envelope.stale_ms / 1000, envelope.load_ms / 1000)
    return Stored(envelope.codec, envelope.payload, generation, _context(key), *times, tags, envelope.compressed)


def plain_value(
    key: str,
    data: object,
    generation: object,
    codec: Codec | None,
    largest: int,
    tags: Sequence[tuple[bytes, object]] = (),
) -> Any:
    """The value of an entry as most are, by the shortest way; ``MISSING`` of any other, which may be one all the same.

    Args:
        data: what lies under ``key``, or whatever came in its place.
        generation: the living one of the namespace, likewise.
        codec: as for :func:`decode_stored`.
        largest: in bytes.
        tags: those that it has, by their digests, with the living generations: all of them, in their order.
    """
    if type(data) is not bytes or type(generation) is not bytes or len(data) > largest:
        return MISSING
    context = key.encode("utf-8", "surrogatepass")
    generations = NAMESPACE_DIGEST + generation
    for digest, token in tags:
        if type(token) is not bytes:
            return MISSING
        generations += digest + token
    plain = unpack_plain(context, data, generations)
    if plain is None:
        return MISSING
    fingerprint, payload = plain
    if codec is None:
        codec = decoder_of(fingerprint)
    if codec is None or codec.fingerprint != fingerprint:
        return MISSING
    try:
        return codec.decode(payload, context)
    except Exception:  # who looks more closely finds out what it is
        return MISSING


def decode_stored(stored: Stored, codec: Codec | None, limits: Limits = _WHATEVER_IS_READ) -> Any:
    """Return the value of an entry, written by ``codec``; None takes whichever codec of this process wrote it.

    Raises:
        DecodeError: another codec wrote it, or one that this process does not have, or the payload is damaged, or
            larger than ``limits`` allow.
    """
    if codec is None:
        codec = decoder_of(stored.codec)
    if codec is None or codec.fingerprint != stored.codec:
        raise DecodeError("the entry was written by a codec that is not at hand: of another type or another version")
    return decoded(codec, _payload(stored, limits), stored.context)


def holds_value(stored: Stored, codec: Codec | None = None, limits: Limits = _WHATEVER_IS_READ) -> bool:
    """Whether it is a value written by ``codec`` (None: by one that this process knows), and no exception."""
    if codec is None:
        codec = decoder_of(stored.codec)
    if codec is None or codec.fingerprint != stored.codec:
        return False
    if not isinstance(codec, RaisingCodec):
        return True
    try:
        return not codec.is_exception(_payload(stored, limits))
    except DecodeError:
        return False


def _payload(stored: Stored, limits: Limits) -> bytes:
    return decompress(stored.payload, limits.largest) if stored.compressed else stored.payload


def _context(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
