"""Codecs by their fingerprints, so that whoever finds an entry can read it.

A plain ``backend.get(key)`` knows no return annotation; the entry's fingerprint leads it to the codec of the function
that stored it, in every process that has made that codec. Codecs are held weakly: they live with their functions.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from fast_cache.serializers.base import Codec

_codecs: WeakValueDictionary[bytes, Codec] = WeakValueDictionary()


def register(codec: Codec) -> None:
    """Let ``codec`` be found by its fingerprint for as long as somebody holds it; of one name, the latest is found."""
    _codecs[codec.fingerprint] = codec


def decoder_of(fingerprint: bytes) -> Codec | None:
    """The codec that wrote entries with this fingerprint, if this process has made it."""
    return _codecs.get(fingerprint)
