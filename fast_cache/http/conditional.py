"""Entity tags: made of a body, compared with what a client has, and which headers a 304 carries (RFC 9110).

Bytes in, bytes out: no I/O, no ASGI. Field values come from outside: whatever they hold, nothing here raises, and the
time is linear in their size, which is bounded. Where a field can't be understood the answer is "no match": the client
is sent the whole page, which is never wrong.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import Final

__all__ = ["NOT_MODIFIED_HEADERS", "etag_of", "kept_in_304", "none_match"]

_LONGEST: Final = 8192
"""The longest ``If-None-Match`` that is read, in bytes. Servers refuse longer ones by default, and a client that has
so many versions of one page gains nothing by it."""

_TAG: Final = rb'(?:W/)?+("[\x21\x23-\x7e\x80-\xff]*+")'
"""Section 8.8.3; the group is what weak comparison compares. A backslash is a character like others."""

# Possessive, so that a list that is wrong at its end is not tried again in other ways.
_LIST: Final = re.compile(rb"[ \t]*+(?:%b[ \t]*+)?+(?:,[ \t]*+(?:%b[ \t]*+)?+)*+" % (_TAG, _TAG))
"""Section 5.6.1: elements may be empty, and blanks stand around them."""

_TAGS: Final = re.compile(_TAG)

NOT_MODIFIED_HEADERS: Final = frozenset(
    {
        *(b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary"),
        *(b"age", b"cache-groups", b"cache-status"),
    }
)
"""Headers that a 304 must carry if the 200 would have: the six of section 15.4.5, and what caches say about a page."""

_REPRESENTATION: Final = frozenset(
    {
        *(b"content-encoding", b"content-language", b"content-length", b"content-md5", b"content-range"),
        *(b"content-type", b"content-digest", b"digest", b"repr-digest", b"trailer", b"transfer-encoding"),
    }
)


def etag_of(body: bytes) -> bytes:
    """The strong entity tag of a body, in its quotes (RFC 9110, sections 8.8.1 and 8.8.3).

    Equal bytes have equal tags in every process. It is a digest and no secret: whoever knows the body knows the tag.
    """
    return b'"%b"' % urlsafe_b64encode(blake2b(body, digest_size=16).digest()).rstrip(b"=")


def none_match(field: bytes, etag: bytes) -> bool:
    """Whether ``If-None-Match`` names the page that has this tag, so that the answer is 304 (RFC 9110, 13.1.2).

    Tags are compared weakly (8.8.3.2). ``*`` stands for any page. A field that is malformed anywhere, or too long,
    names none.

    Args:
        field: the value; of several header lines, the values joined by ``b", "``.
        etag: the tag of the page, weak or strong.
    """
    if field == etag:
        return True
    if len(field) > _LONGEST:
        return False
    if not _LIST.fullmatch(field):
        return field.strip(b" \t") == b"*"
    # Not `etag in field`: a comma may be part of a tag, so that '","' occurs in '"a","b"'.
    return etag.removeprefix(b"W/") in _TAGS.findall(field)


def kept_in_304(name: bytes) -> bool:
    """Whether a header of the page goes into its 304 as well.

    Everything does but metadata of the representation (RFC 9110, section 8), which the client has and a 304 should
    not repeat (15.4.5), digests of the content (RFC 9530), and what frames a body. What is about the request or the
    origin stays: cookies, CORS, security policies. So do the fields that section 15.4.5 lists, of which
    ``Content-Location`` is such metadata, and ``Last-Modified``, which it names as one that guides updates of caches.
    ``Content-Length`` would be allowed (8.6) only with the length of the 200, which a compressor outside changes.
    """
    return name.lower() not in _REPRESENTATION
