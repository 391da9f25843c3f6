"""Values as bytes: codecs, the envelope around their payloads, and the way from an entry back to its codec."""

from __future__ import annotations

from fast_cache.serializers.base import Codec, Serializer, checked_serializer, decoded, encoded
from fast_cache.serializers.envelope import (
    NAMESPACE_DIGEST,
    TAIL_SIZE,
    Envelope,
    head_size,
    name_digest,
    pack,
    unpack,
    unpack_head,
    version_of,
    version_of_entry,
)
from fast_cache.serializers.pickled import PickleSerializer
from fast_cache.serializers.raising import RaisingCodec
from fast_cache.serializers.registry import decoder_of, register
from fast_cache.serializers.schema import schema_digest
from fast_cache.serializers.stored import (
    NO_TAGS,
    Limits,
    Payload,
    Stored,
    decode_stored,
    encode_stored,
    holds_value,
    payload_of,
    plain_value,
    seal,
    unpack_stored,
)
from fast_cache.serializers.tagged import TaggedCodec
from fast_cache.serializers.typed import any_codec, codec_for

__all__ = [
    "NAMESPACE_DIGEST",
    "NO_TAGS",
    "TAIL_SIZE",
    "Codec",
    "Envelope",
    "Limits",
    "Payload",
    "PickleSerializer",
    "RaisingCodec",
    "Serializer",
    "Stored",
    "TaggedCodec",
    "any_codec",
    "checked_serializer",
    "codec_for",
    "decode_stored",
    "decoded",
    "decoder_of",
    "encode_stored",
    "encoded",
    "head_size",
    "holds_value",
    "name_digest",
    "pack",
    "payload_of",
    "plain_value",
    "register",
    "schema_digest",
    "seal",
    "unpack",
    "unpack_head",
    "unpack_stored",
    "version_of",
    "version_of_entry",
]
