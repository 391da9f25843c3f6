"""Values as bytes: codecs, the envelope around their payloads, and the way from an entry back to its codec."""

from __future__ import annotations

from fast_cache.serializers.base import Codec
from fast_cache.serializers.envelope import Envelope, name_digest, pack, unpack
from fast_cache.serializers.pickled import PickleSerializer
from fast_cache.serializers.registry import decoder_of, register
from fast_cache.serializers.stored import Stored, decode_stored, encode_stored, unpack_stored
from fast_cache.serializers.tagged import TaggedCodec
from fast_cache.serializers.typed import any_codec, codec_for

__all__ = [
    "Codec",
    "Envelope",
    "PickleSerializer",
    "Stored",
    "TaggedCodec",
    "any_codec",
    "codec_for",
    "decode_stored",
    "decoder_of",
    "encode_stored",
    "name_digest",
    "pack",
    "register",
    "unpack",
    "unpack_stored",
]
