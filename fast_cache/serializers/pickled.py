"""Pickle, for those who ask for it, and only under a signature.

Reading a pickle can run any code, so nothing is unpickled before its signature was verified: a keyed digest over the
format, the algorithm, the context (the key of the entry) and the pickle. The algorithm comes from configuration alone,
never from the bytes. The first secret signs and each one verifies, so that secrets can be exchanged one by one.

Payload: format (1 byte, 1), signature (32 bytes), pickle.
"""

from __future__ import annotations

import hmac
import pickle
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal

from fast_cache.errors import ConfigurationError, DecodeError, EncodeError, InvalidTypeError
from fast_cache.serializers.base import Serializer

Algorithm = Literal["blake2b", "hmac-sha256"]
"""Keyed BLAKE2b (RFC 7693), or HMAC with SHA-256 (RFC 2104) where a policy asks for it."""

_FORMAT: Final = b"\x01"
_SIZE: Final = 32
_SHORTEST_SECRET: Final = 16


def _blake2b(secret: bytes, message: bytes) -> bytes:
    return blake2b(message, key=secret, digest_size=_SIZE).digest()


def _hmac_sha256(secret: bytes, message: bytes) -> bytes:
    return hmac.digest(secret, message, "sha256")


_ALGORITHMS: Final[dict[str, Callable[[bytes, bytes], bytes]]] = {"blake2b": _blake2b, "hmac-sha256": _hmac_sha256}


class PickleSerializer(Serializer[Any]):
    """Whatever pickle can take, signed: an entry that was not signed for its key with one of the secrets is a miss,
    and is never unpickled.

    What is signed is the value and its key, without the namespace of the backend: where several share a Redis and not
    their trust, each needs a secret of its own. Whoever can write to the store, and has no secret, can still remove a
    value, prolong its life or bring back an older one of the same key.

    Args:
        secret: one secret, or several of which the first signs and all verify, so that they can be exchanged one by
            one; each of at least 16 bytes. Whoever knows one can run code in every process that reads the store.
        algorithm: ``"blake2b"`` (keyed, RFC 7693), or ``"hmac-sha256"`` where a policy asks for it. Entries signed by
            the other one are a miss.

    Raises:
        ConfigurationError: no secret, a secret that is too short, or an unknown algorithm.
        InvalidTypeError: a secret that is neither text nor bytes.
    """

    def __init__(self, secret: str | bytes | Sequence[str | bytes], *, algorithm: Algorithm = "blake2b") -> None:
        super().__init__(f"pickle-1 {algorithm}")
        if algorithm not in _ALGORITHMS:
            raise ConfigurationError(f"algorithm must be one of {', '.join(_ALGORITHMS)}")
        self._sign = _ALGORITHMS[algorithm]
        self._algorithm = algorithm.encode()
        several = isinstance(secret, Sequence) and not isinstance(secret, (str, bytes))
        secrets: Sequence[Any] = secret if several else [secret]
        if not secrets:
            raise ConfigurationError("PickleSerializer needs a secret of at least 16 bytes")
        self._keys = tuple(map(_key, secrets))

    def dumps(self, value: Any) -> bytes:
        return self.encode(value)

    def loads(self, data: bytes) -> Any:
        """Return the value, if ``data`` was signed for no key, as by :meth:`dumps`."""
        return self.decode(data)

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        try:
            body = pickle.dumps(value, protocol=5)
        except Exception as error:  # without its cause, whose message may quote the value
            raise EncodeError(f"a {type(value).__qualname__} can't be pickled ({type(error).__name__})") from None
        return _FORMAT + self._signature(self._keys[0], body, context) + body

    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        signature, body = payload[1 : 1 + _SIZE], payload[1 + _SIZE :]
        if payload[:1] != _FORMAT or len(signature) != _SIZE:
            raise DecodeError("the payload is no signed pickle of this format")
        if not any(hmac.compare_digest(signature, self._signature(key, body, context)) for key in self._keys):
            raise DecodeError(
                "the signature of the pickle does not match: it was altered, or signed with another secret"
            )
        try:
            return pickle.loads(body)
        except Exception as error:  # without its cause, whose message may quote the value
            raise DecodeError(f"the signed pickle can't be read here ({type(error).__name__})") from None

    def _signature(self, key: bytes, body: bytes, context: bytes) -> bytes:
        # Lengths before what varies: no text can be moved from one part into the next.
        sizes = len(self._algorithm).to_bytes(8, "big") + len(context).to_bytes(8, "big")
        return self._sign(key, b"".join((_FORMAT, sizes, self._algorithm, context, body)))


def _key(secret: Any) -> bytes:
    if not isinstance(secret, (str, bytes)):
        raise InvalidTypeError(f"a secret must be text or bytes, not {type(secret).__name__}")
    raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else secret
    if len(raw) < _SHORTEST_SECRET:
        raise ConfigurationError(
            f"a secret must have at least {_SHORTEST_SECRET} bytes, not {len(raw)}; secrets.token_bytes(32) makes one"
        )
    return blake2b(raw, digest_size=64, person=b"fast_cache pickl").digest()  # BLAKE2b takes keys of up to 64 bytes
