"""A value as a store of bytes keeps it: encoded, in an envelope, and back.

An entry depends on generations: that of its namespace, which goes by the empty name, and those of its tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fast_cache.errors import DecodeError
from fast_cache.serializers.base import Codec
from fast_cache.serializers.envelope import Envelope, name_digest, pack, unpack
from fast_cache.serializers.raising import RaisingCodec
from fast_cache.serializers.registry import decoder_of

_NAMESPACE: Final = name_digest("")

NO_TAGS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Stored(NamedTuple):
    """An entry whose envelope is in order: the codec's fingerprint, payload, generation, and the key in UTF-8.

    Of its ``lifetime`` the last part is ``stale``; to compute the value took ``load``: all in seconds, 0 for none.
    ``tags`` are the generations (16 bytes) of its tags, by their digests.
    """

    codec: bytes
    payload: bytes
    generation: bytes | None
    context: bytes
    lifetime: float
    stale: float
    load: float
    tags: Mapping[bytes, bytes] = NO_TAGS


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
) -> bytes:
    """Return the bytes to store under ``key`` for ``expire`` seconds, ``None`` for ever.

    Args:
        generation: the token (16 bytes) of the generation that the entry depends on.
        stale: the last part of ``expire`` in which the value is stale.
        load: how long it took to compute.
        tags: the tokens of its tags, by their digests: 8 bytes, see :func:`name_digest`.

    Raises:
        EncodeError: ``codec`` can't store the value faithfully.
    """
    lifetime_ms = 0 if expire is None else max(1, ceil(expire * 1000))
    generations = (() if generation is None else ((_NAMESPACE, generation),)) + tuple(tags.items())
    payload = codec.encode(value, _context(key))
    times = (lifetime_ms, round(stale * 1000), round(load * 1000))
    return pack(key, Envelope(payload, codec.fingerprint, *times, generations))


def unpack_stored(key: str, data: bytes) -> Stored:
    """Return what is stored under ``key``, still encoded.

    Raises:
        DecodeError: ``data`` is no entry of ``key``: torn, foreign or of another version.
    """
    envelope = unpack(key, data)
    tags = dict(envelope.generations)
    generation = tags.pop(_NAMESPACE, None)
    times = (envelope.lifetime_ms / 1000, envelope.stale_ms / 1000, envelope.load_ms / 1000)
    return Stored(envelope.codec, envelope.payload, generation, _context(key), *times, tags)


def decode_stored(stored: Stored, codec: Codec | None) -> Any:
    """Return the value of an entry, written by ``codec``; None takes whichever codec of this process wrote it.

    Raises:
        DecodeError: another codec wrote it, or one that this process does not have, or the payload is damaged.
    """
    if codec is None:
        codec = decoder_of(stored.codec)
    if codec is None or codec.fingerprint != stored.codec:
        raise DecodeError("the entry was written by a codec that is not at hand: of another type or another version")
    return codec.decode(stored.payload, stored.context)


def holds_value(stored: Stored) -> bool:
    """Whether it is a value, of which this process knows the codec, and no exception that a function raised."""
    codec = decoder_of(stored.codec)
    return codec is not None and not (isinstance(codec, RaisingCodec) and codec.is_exception(stored.payload))


def _context(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
