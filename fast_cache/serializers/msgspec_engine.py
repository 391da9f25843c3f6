"""MessagePack by msgspec, for annotations that name structs.

Imports msgspec when an engine is made: there is a struct, so somebody has imported it already. Reading runs a struct's
``__post_init__`` again, as msgspec itself does when it unpickles: there is no other way to make one.
"""

from __future__ import annotations

from typing import Any

from fast_cache.serializers.engines import Engine
from fast_cache.serializers.kinds import Kind


class MsgspecEngine(Engine):
    """An encoder and a decoder of msgspec."""

    mark = b"M"

    def __init__(self, annotation: Any) -> None:
        import msgspec

        version = ".".join(msgspec.__version__.split(".")[:2])
        self.name = f"msgspec-{version}"
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(annotation)

    @classmethod
    def for_annotation(cls, annotation: Any, classes: dict[type, Kind]) -> MsgspecEngine | None:
        """An engine for ``annotation``, which leads to ``classes``; None if it is beyond msgspec."""
        structs: list[Any] = [struct for struct, kind in classes.items() if kind is Kind.STRUCT]
        if any(struct.__struct_config__.omit_defaults for struct in structs):
            return None  # what is not written would come back as the default of the day
        try:
            return cls(annotation)
        except Exception:  # whatever the classes of a user make of it
            return None

    def dump(self, value: Any) -> bytes:
        return self._encoder.encode(value)

    def load(self, payload: bytes) -> Any:
        return self._decoder.decode(payload)
