"""What turns values into bytes and back.

A codec gives back exactly what it was given, value and type, or refuses it when it is stored; bytes that it can't
read are a :class:`DecodeError` and nothing else. Its name stays the same from process to process, and the
fingerprint of the name travels with the bytes: bytes of another codec are a miss, never a guess.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from fast_cache.errors import ConfigurationError, DecodeError, EncodeError, InvalidTypeError

T = TypeVar("T")


class Codec(ABC):
    """One format of values. Codecs are used from several threads at once and keep no state between calls.

    ``name`` says readably what is encoded and how; ``fingerprint`` is its BLAKE2b digest of 8 bytes.
    """

    name: str
    fingerprint: bytes

    def __init__(self, name: str) -> None:
        self.name = name
        self.fingerprint = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @abstractmethod
    def encode(self, value: Any, context: bytes = b"") -> bytes:
        """Return the bytes of ``value``. Codecs that sign include ``context`` (the key) in what they sign.

        Raises:
            EncodeError: the value can't be stored so that the same value comes back.
        """

    @abstractmethod
    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        """Return the value that ``payload`` was made from, under the same ``context``.

        Raises:
            DecodeError: whatever is wrong with the bytes.
        """


class Serializer(Codec, Generic[T]):
    """A format of your own for values of type ``T``: derive from it, and pass an object as ``serializer=``.

    ``dumps`` returns bytes, and ``loads`` what they were made from. Whatever they raise costs nobody anything: a value
    that can't be dumped is returned and not stored, bytes that can't be loaded are a miss. They are called from several
    threads, and on the event loop of async callers.

    To bind bytes to their key, as encryption does, extend ``encode`` and ``decode`` too, whose ``context`` it is.

    Args:
        name: names the format; by default the full name of the class. Entries that were written under another name are
            a miss, so change it when the bytes change.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(f"{type(self).__module__}.{type(self).__qualname__}" if name is None else name)

    @abstractmethod
    def dumps(self, value: T) -> bytes:
        """Return the bytes of ``value``."""

    @abstractmethod
    def loads(self, data: bytes) -> T:
        """Return the value that ``data`` was made from."""

    def encode(self, value: T, context: bytes = b"") -> bytes:
        return self.dumps(value)

    def decode(self, payload: bytes, context: bytes = b"") -> T:
        return self.loads(payload)


def checked_serializer(given: object) -> Codec | None:
    """Return what was given as ``serializer=``; ``None`` stands for none.

    Raises:
        InvalidTypeError: it is no serializer.
        ConfigurationError: its constructor does not call that of its base.
    """
    if given is None:
        return None
    if not isinstance(given, Codec):
        kind = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise InvalidTypeError(
            f"serializer must be a PickleSerializer, or an object of a class derived from Serializer, not {kind}"
        )
    if not isinstance(getattr(given, "fingerprint", None), bytes):
        raise ConfigurationError(f"the constructor of {type(given).__qualname__} must call super().__init__()")
    return given


def encoded(codec: Codec, value: Any, context: bytes = b"") -> bytes:
    """Return the bytes of ``value``; ``codec`` may be a user's, and raise anything.

    Raises:
        EncodeError: the value can't be stored.
    """
    try:
        payload = codec.encode(value, context)
    except EncodeError:
        raise
    except Exception as error:  # without its cause, whose message may quote the value
        raise EncodeError(f"{type(codec).__qualname__} raised {type(error).__name__}") from None
    if not isinstance(payload, bytes):
        raise EncodeError(f"{type(codec).__qualname__} made a {type(payload).__name__} of it, not bytes")
    return payload


def decoded(codec: Codec, payload: bytes, context: bytes = b"") -> Any:
    """Return the value that ``payload`` was made from; ``codec`` may be a user's, and raise anything.

    Raises:
        DecodeError: whatever is wrong with the bytes.
    """
    try:
        return codec.decode(payload, context)
    except DecodeError:
        raise
    except Exception as error:  # without its cause, whose message may quote the value
        raise DecodeError(f"{type(codec).__qualname__} raised {type(error).__name__}") from None
