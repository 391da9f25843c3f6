"""What turns values into bytes and back.

A codec gives back exactly what it was given, value and type, or refuses it when it is stored; bytes that it can't
read are a :class:`DecodeError` and nothing else. Its name stays the same from process to process, and the
fingerprint of the name travels with the bytes: bytes of another codec are a miss, never a guess.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import Any


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
