"""The codec for a return annotation, chosen once.

Built-in types need no annotation to come back as they were: they, and whatever says nothing, get the tagged codec.
Models, dataclasses and structs get the library that reads bytes straight into them, about twice as fast. Such a library
is not faithful by itself, so each value is read back and compared before its bytes are used; a value that would
come back changed is left to the tagged codec, and one byte before the payload says whose it is.
"""

from __future__ import annotations

import inspect
from hashlib import blake2b
from typing import Any, Final

from fast_cache.errors import DecodeError
from fast_cache.serializers.annotations import describe, says_nothing
from fast_cache.serializers.base import Codec
from fast_cache.serializers.engines import Engine
from fast_cache.serializers.faithful import same
from fast_cache.serializers.kinds import Kind
from fast_cache.serializers.msgspec_engine import MsgspecEngine
from fast_cache.serializers.names import plain_name
from fast_cache.serializers.pydantic_engine import PydanticEngine
from fast_cache.serializers.reach import classes_in
from fast_cache.serializers.registry import decoder_of, register
from fast_cache.serializers.tagged import TaggedCodec

_TAGGED: Final = b"T"

ANY: Final = TaggedCodec()
"""The codec of functions without a usable annotation."""

register(ANY)


def any_codec() -> Codec:
    """The codec for values of which no annotation tells the type."""
    return ANY


class TypedCodec(Codec):
    """An engine for what it gives back unchanged, the tagged codec for everything else."""

    def __init__(self, description: str, engine: Engine, tagged: TaggedCodec) -> None:
        super().__init__(f"{engine.name} {description}")
        self.classes = tagged.classes
        self._engine = engine
        self._tagged = tagged

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        try:
            body = self._engine.dump(value)
            if same(value, self._engine.load(body)):
                return self._engine.mark + body
        except Exception:  # not of the annotated type, or of a form that the library can't write or read
            pass
        return _TAGGED + self._tagged.encode(value)

    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        mark, body = payload[:1], payload[1:]
        if mark == _TAGGED:
            return self._tagged.decode(body)
        if mark != self._engine.mark:
            raise DecodeError(f"the payload is no value of {self.name!r}")
        try:
            return self._engine.load(body)
        except Exception as error:  # without its cause, whose message quotes the value
            raise DecodeError(f"the payload is no value of {self.name!r} ({type(error).__name__})") from None


def codec_for(annotation: Any = inspect.Signature.empty) -> Codec:
    """Return the codec for results of a function that is annotated to return ``annotation``.

    It takes any value, of that type or not. It is found by its fingerprint for as long as somebody holds it.
    """
    if says_nothing(annotation):
        return ANY
    classes = classes_in(annotation)
    description = describe(annotation)
    if classes:
        description += f"#{_digest(sorted(map(plain_name, classes)))}"
    tagged = TaggedCodec(description, classes)
    engine = _engine_for(annotation, classes)
    codec = tagged if engine is None else TypedCodec(description, engine, tagged)
    known = decoder_of(codec.fingerprint)
    if isinstance(known, (TaggedCodec, TypedCodec)) and known.classes == codec.classes:
        return known
    register(codec)
    return codec


def _engine_for(annotation: Any, classes: dict[type, Kind]) -> Engine | None:
    kinds = set(classes.values())
    if Kind.STRUCT in kinds:
        return MsgspecEngine.for_annotation(annotation, classes)
    if Kind.MODEL in kinds or Kind.DATACLASS in kinds:
        return PydanticEngine.for_annotation(annotation)
    return None


def _digest(names: list[str]) -> str:
    return blake2b(repr(names).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
