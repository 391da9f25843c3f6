"""A response as it is stored: status, headers and bytes, as they went to the client that asked first.

Which responses are pages is decided here (RFC 9111, section 3, as a shared cache). A page never changes once it is
made, so everyone may have the same one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fast_cache.entry import NEVER
from fast_cache.errors import DecodeError, EncodeError
from fast_cache.http.conditional import etag_of
from fast_cache.http.directives import directives, is_private
from fast_cache.serializers import Codec, decoded, encoded, register

RawHeaders = tuple[tuple[bytes, bytes], ...]

_HEADERS: Final = 256
"""How many headers a page has at most, and so what is read from a store."""

_NEVER_STORED: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"),
        *(b"date", b"server", b"age"),
    }
)
"""Headers of a connection (RFC 9111, section 3.1), and those that belong to the moment of sending."""

_IN_THE_WAY: Final = {
    b"set-cookie": "it sets a cookie",
    b"content-range": "it is a part of something",
    b"trailer": "it has trailers",
    b"www-authenticate": "it asks who is there",
}


class Page:
    """A stored response. ``headers`` have lower-case names; ``etag`` is not among them.

    ``whole`` says that headers which dependencies set are not merged into it.
    ``lifetime`` is how long it was to be fresh, in seconds; ``None`` where only the store it came from knows.
    ``sent`` remembers the headers as they were last sent, for a second.
    """

    __slots__ = ("body", "etag", "headers", "lifetime", "own_control", "sent", "status", "whole")

    def __init__(self, status: int, headers: RawHeaders, body: bytes, etag: bytes, *, whole: bool = False) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.etag = etag
        self.whole = whole
        self.own_control = any(name == b"cache-control" for name, _ in headers)
        self.lifetime: float | None = None
        self.sent: tuple[int | None, object, float, list[tuple[bytes, bytes]]] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Page):
            return NotImplemented
        mine = (self.status, self.headers, self.body, self.etag, self.whole)
        return mine == (other.status, other.headers, other.body, other.etag, other.whole)

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Page:
        return self

    def __deepcopy__(self, memo: Any) -> Page:
        return self

    def __sizeof__(self) -> int:
        parts = sum(sys.getsizeof(name) + sys.getsizeof(value) for name, value in self.headers)
        return object.__sizeof__(self) + sys.getsizeof(self.headers) + parts + sys.getsizeof(self.body)

    def __repr__(self) -> str:
        return f"<page with status {self.status}, {len(self.body)} bytes>"


class Unstorable:
    """Why a response is no page; the ``error`` that it was made from, if that is why."""

    __slots__ = ("error", "reason")

    def __init__(self, reason: str, error: Exception | None = None) -> None:
        self.reason = reason
        self.error = error


def page_of(
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    *,
    of_request: Sequence[tuple[bytes, bytes]] | None = (),
    statuses: frozenset[int],
    vary_on: Iterable[str],
    max_body: int,
) -> Page | Unstorable:
    """The page that a response is, or why it is none.

    Args:
        of_request: those among ``headers`` that dependencies set, which belong to the request and not to the page;
            ``None`` if such are not merged into it.
    """
    if status not in statuses:
        return Unstorable(f"its status is {status}")
    if len(body) > max_body:
        return Unstorable(f"its body is longer than {max_body} bytes")
    own = without(headers, of_request or ())
    if len(headers) - len(own) != len(of_request or ()):
        return Unstorable("the endpoint changes a header that a dependency set; set it in one of them alone")
    if len(own) > _HEADERS:
        return Unstorable("it has too many headers")
    kept, etag, control = [], b"", []
    varies = {name.encode("latin-1") for name in vary_on}
    for given, value in own:
        name = given.lower()
        if name in _IN_THE_WAY:
            return Unstorable(_IN_THE_WAY[name])
        if name == b"vary":
            beyond = {field.strip().lower() for field in value.split(b",")} - varies - {b""}
            if beyond:
                return Unstorable(f"it varies on {b', '.join(sorted(beyond)).decode('latin-1')}, and vary_on does not")
            continue
        if name == b"content-encoding" and value.lower() != b"identity" and b"accept-encoding" not in varies:
            return Unstorable("it is compressed for the client that asked; compress by a middleware")
        if name == b"cache-control":
            control.append(value)
        elif name == b"etag":
            etag = value
            continue
        if name not in _NEVER_STORED:
            kept.append((name, value))
    if control and is_private(directives(control)):
        return Unstorable("its Cache-Control forbids it")
    return Page(status, tuple(kept), body, etag or etag_of(body), whole=of_request is None)


def without(headers: Iterable[tuple[bytes, bytes]], taken: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """``headers`` without those that are ``taken``, each once, the last ones first: they were appended."""
    left = list(headers)
    for one in taken:
        for index in range(len(left) - 1, -1, -1):
            if left[index] == one:
                del left[index]
                break
    return left


_WHOLE: Final = 0x4000
_ENDLESS: Final = 0x8000


class PageCodec(Codec):
    """Bytes of a page; numbers are big-endian, names and values as they are on the wire.

        status and flags 2 · headers 2 · (name length 2 · value length 4 · name · value)* · etag length 2 · etag · body

    The flags are ``_WHOLE`` and ``_ENDLESS``: that it has no end is not to be seen from a store that puts one to all.
    A store with a serializer of its own gets these bytes to sign or to encrypt.
    """

    def __init__(self, inner: Codec | None = None) -> None:
        super().__init__("fast_cache page 1" if inner is None else f"fast_cache page 1 in {inner.name}")
        self._inner = inner
        if inner is not None:
            register(inner)

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        if not isinstance(value, Page):
            raise EncodeError(f"a {type(value).__name__} is no page")
        flags = _WHOLE * value.whole + _ENDLESS * (value.lifetime == NEVER)
        try:
            parts = [(value.status + flags).to_bytes(2), len(value.headers).to_bytes(2)]
            for name, field in value.headers:
                parts += (len(name).to_bytes(2), len(field).to_bytes(4), name, field)
            parts += (len(value.etag).to_bytes(2), value.etag, value.body)
        except OverflowError:
            raise EncodeError("the page has a header that is too long") from None
        data = b"".join(parts)
        return data if self._inner is None else encoded(self._inner, data, context)

    def decode(self, payload: bytes, context: bytes = b"") -> Page:
        if self._inner is not None:
            payload = decoded(self._inner, payload, context)
            if not isinstance(payload, bytes):
                raise DecodeError("no page")
        reader = _Reader(payload)
        first = reader.number(2)
        status = first & ~(_WHOLE | _ENDLESS)
        count = reader.number(2)
        if not 200 <= status <= 599 or count > _HEADERS:
            raise DecodeError("no page")
        headers = []
        for _ in range(count):
            name, value = reader.number(2), reader.number(4)
            headers.append((reader.take(name), reader.take(value)))
        etag = reader.take(reader.number(2))
        if not etag:
            raise DecodeError("no page")
        page = Page(status, tuple(headers), reader.rest(), etag, whole=bool(first & _WHOLE))
        if first & _ENDLESS:
            page.lifetime = NEVER
        return page


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise DecodeError("a page that ends too early")
        self._at += size
        return taken

    def rest(self) -> bytes:
        return self._data[self._at :]
