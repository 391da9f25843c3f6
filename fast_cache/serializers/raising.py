"""The codec of functions whose exceptions are stored too: a value as another codec writes it, or an exception.

The first byte says which. Only exceptions of the types that the function declares, and of classes derived from them,
come back: the bytes name a class, and are never followed to an import. Where values are signed, so are exceptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fast_cache.errors import DecodeError, EncodeError
from fast_cache.outcome import Raised, made_of, members_of
from fast_cache.serializers.base import Codec
from fast_cache.serializers.pickled import PickleSerializer
from fast_cache.serializers.tagged import TaggedCodec

_VALUE: Final = b"v"
_ERROR: Final = b"e"
_TAGGED: Final = TaggedCodec()
_NO_KEY: Final = b"\xff"
"""Begins no key in UTF-8. Before a key it makes the context of exceptions: no signature of a value serves for one."""


class RaisingCodec(Codec):
    """Codec for results of ``inner`` and for exceptions of ``types``."""

    def __init__(self, inner: Codec, types: Iterable[type[Exception]]) -> None:
        super().__init__(f"raising-2 {inner.name}")
        self._inner = inner
        self._types = tuple(types)
        self._parts: Codec = inner if isinstance(inner, PickleSerializer) else _TAGGED

    def is_exception(self, payload: bytes) -> bool:
        """Whether the payload is one of an exception."""
        return payload[:1] == _ERROR

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        if type(value) is not Raised:
            return _VALUE + self._inner.encode(value, context)
        error = value.error
        name = _name(type(error))
        if _found(self._types, name) is not type(error):
            raise EncodeError(f"two exceptions are named {name}, so none of them can be stored")
        attributes, members = vars(error), members_of(error)
        parts = [name, list(error.args), attributes, *([members] if members else [])]
        payload = _ERROR + self._parts.encode(parts, _NO_KEY + context)
        try:
            faithful = str(made_of(type(error), error.args, attributes, members)) == str(error)
        except Exception:
            faithful = False
        if not faithful:
            raise EncodeError(f"a {name} can't be made from what can be stored of it")
        return payload

    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        kind, rest = payload[:1], payload[1:]
        if kind == _VALUE:
            return self._inner.decode(rest, context)
        if kind != _ERROR:
            raise DecodeError("the payload says neither that it is a value nor that it is an exception")
        try:
            name, args, attributes, *members = self._parts.decode(rest, _NO_KEY + context)
            cls = _found(self._types, name)
            if cls is None:
                raise DecodeError("it is an exception of a type that this function does not declare")
            return Raised(made_of(cls, tuple(args), attributes, *(members or [{}])))
        except DecodeError:
            raise
        except Exception as error:  # without its cause, whose message may quote the value
            raise DecodeError(f"the payload is no exception ({type(error).__name__})") from None


def _found(types: Iterable[type[Exception]], name: str) -> type[Exception] | None:
    """The class of this name among ``types`` and what derives from them."""
    seen: set[type[Exception]] = set()
    waiting = list(types)
    while waiting:
        cls = waiting.pop()
        if cls in seen:
            continue
        if _name(cls) == name:
            return cls
        seen.add(cls)
        waiting += type.__subclasses__(cls)
    return None


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
