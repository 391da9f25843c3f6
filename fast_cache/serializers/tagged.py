"""The codec for values of any type: JSON, with tags for what JSON lacks. Each value comes back exactly, or is refused.

A payload that begins with ``$`` goes on with a JSON list of two: the names of the classes in it (see ``names``), and
the value. In that, an object with a single key that begins with ``$`` is a tag: ``{"$tuple": [1, 2]}``, or
``{"$model": [0, {...}]}`` for an instance of the first class. A dict that would look like one is written as
``{"$dict": [[keys], [values]]}``, as are dicts whose keys are not all text. Any other payload is plain JSON.
References are not kept: an object that occurs twice comes back as two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from fast_cache.errors import DecodeError, EncodeError
from fast_cache.serializers.base import Codec
from fast_cache.serializers.names import plain_name
from fast_cache.serializers.plain import is_plain
from fast_cache.serializers.tagged_reader import Reader
from fast_cache.serializers.tagged_writer import Writer

_MARK: Final = b"$"

FORMAT: Final = "tagged-1"
"""The first word of the codec's name; another layout of the payload needs another."""


class TaggedCodec(Codec):
    """Codec for any value.

    ``annotation`` is the described type that the value is said to have; it is only part of the name. ``classes`` are
    found by their plain names even where no module leads to them.
    """

    def __init__(self, annotation: str = "any", classes: Iterable[type] = ()) -> None:
        super().__init__(f"{FORMAT} {annotation}")
        self.classes = frozenset(classes)
        self._classes: dict[str, type] = {}
        ambiguous = set()
        for cls in self.classes:
            name = plain_name(cls)
            if self._classes.setdefault(name, cls) is not cls:
                ambiguous.add(name)
        for name in ambiguous:
            del self._classes[name]
        self._names = {cls: name for name, cls in self._classes.items()}

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        try:
            try:
                if is_plain(value):
                    return orjson.dumps(value)
                return _MARK + Writer(self._names).dump(value)
            except orjson.JSONEncodeError:
                # An integer beyond 64 bits or text with lone surrogates. They are rare, and looking at every number
                # and text for them is not cheap.
                return _MARK + Writer(self._names, careful=True).dump(value)
        except EncodeError:
            raise
        except Exception as error:  # without its cause, whose message may quote the value
            raise EncodeError(
                f"a {type(value).__qualname__} can't be written as JSON ({type(error).__name__})"
            ) from None

    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        try:
            if payload[:1] != _MARK:
                return orjson.loads(payload)
            tagged = orjson.loads(memoryview(payload)[1:])
            if type(tagged) is not list:
                raise DecodeError("a list of names and a value was expected")
            names, tree = tagged
            return Reader(self._classes, names).read(tree)
        except DecodeError:
            raise
        except Exception as error:  # without its cause, whose message may quote the value
            raise DecodeError(f"the payload is no value of {self.name!r} ({type(error).__name__})") from None
