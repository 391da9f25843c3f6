"""A page on its way to a client: the headers that belong to the moment, and 304 for those who have it already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fast_cache.entry import NEVER
from fast_cache.http.conditional import kept_in_304, none_match
from fast_cache.http.directives import cache_control, cache_status
from fast_cache.http.options import HTTPOptions, PageOptions
from fast_cache.http.page import Page
from fast_cache.policy import CachePolicy

Headers = list[tuple[bytes, bytes]]

_CONDITIONAL: Final = b"if-none-match"

_OVERRULED: Final = frozenset({b"cache-control", b"etag", b"expires"})
"""Headers of a page that give way to those that a dependency sets."""

_PUBLIC: Final = re.compile(rb"\bpublic\b", re.IGNORECASE)


class Sender:
    """How the pages of one route are sent.

    Args:
        private: whether they are one visitor's, or those of the visitors whom guards let in.
        weak: whether somebody outside changes the bytes, such as a middleware that compresses: then the entity tag
            tells that the content is the same, not that the bytes are (RFC 9110, section 8.8.1).
    """

    def __init__(
        self, http: HTTPOptions, options: PageOptions, policy: CachePolicy, *, private: bool, weak: bool
    ) -> None:
        self._name = http.cache_status
        self._shows_key = http.cache_status_key
        self._control = options.cache_control
        self._private = private
        self._weak = weak
        self._stale_while = int(policy.freshness.stale_while_revalidate) or None
        self._stale_if_error = int(policy.freshness.stale_if_error) or None

    def hit(self, page: Page, left: float, lifetime: float, key: str) -> Headers:
        """The headers of a page that is fresh for ``left`` seconds of its ``lifetime``. The list is the caller's.

        They are made once a second: that is 0.3 µs of a hit, where making them takes 3.
        """
        if page.lifetime == NEVER:
            lifetime = NEVER  # a store may put an end to what has none
        ttl = int(left) if left < NEVER else None
        sent = page.sent
        # Of two apps that share a page each has its own way of sending it.
        if sent is not None and sent[0] == ttl and sent[1] is self and sent[2] == lifetime:
            return sent[3].copy()
        headers = self._with_status(page, lifetime, hit=True, ttl=ttl, key=key)
        if lifetime < NEVER and ttl is not None:
            headers.append((b"age", b"%d" % max(0, int(lifetime - left))))
        page.sent = (ttl, self, lifetime, headers)
        return headers.copy()

    def other(self, page: Page, lifetime: float, key: str, **status: Any) -> Headers:
        """The headers of a page that was not simply found; ``status`` is what :func:`cache_status` takes."""
        return self._with_status(page, lifetime, key=key, **status)

    def status(self, **status: Any) -> Headers:
        """What is told of a response that is no page."""
        return [] if self._name is None else [(b"cache-status", cache_status(self._name, **status))]

    def etag(self, page: Page) -> bytes:
        return b"W/" + page.etag if self._weak and not page.etag.startswith(b"W/") else page.etag

    def _with_status(self, page: Page, lifetime: float, *, key: str, **status: Any) -> Headers:
        headers = [*page.headers, (b"etag", self.etag(page))]
        if not page.own_control:
            control = self._control
            if control is None:
                control = cache_control(
                    private=self._private,
                    max_age=int(lifetime) if lifetime < NEVER else None,
                    stale_while_revalidate=self._stale_while,
                    stale_if_error=self._stale_if_error,
                )
            if control:
                headers.append((b"cache-control", control))
        if self._name is not None:
            shown = key if self._shows_key else None
            headers.append((b"cache-status", cache_status(self._name, key=shown, **status)))
        return headers


def has_it(method: str, asked: Sequence[tuple[bytes, bytes]], page: Page) -> bool:
    """Whether the client has the page already (RFC 9110, section 13.1.2), going by its headers.

    Only ``GET`` is answered with 304; what the condition means for other methods is left to the endpoint.
    """
    fields = [value for name, value in asked if name == _CONDITIONAL]
    return (
        bool(fields)
        and method == "GET"
        and page.status == 200
        and none_match(fields[0] if len(fields) == 1 else b", ".join(fields), page.etag)
    )


def with_own(headers: Headers, own: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers of a page, and those that dependencies set for this request: of what both say theirs counts.

    What sets a cookie for a visitor is no other's, whatever the page is.
    """
    names = {name.lower() for name, _ in own}
    if not names.isdisjoint(_OVERRULED):
        headers = [header for header in headers if header[0] not in _OVERRULED or header[0] not in names]
    if b"set-cookie" in names:
        headers = [
            (name, _PUBLIC.sub(b"private", value) if name == b"cache-control" else value) for name, value in headers
        ]
    return [*headers, *own]


async def send_page(send: Send, page: Page, headers: Headers, *, known: bool) -> None:
    """Send a page, or 304 to who knows it."""
    if known:
        headers = [header for header in headers if kept_in_304(header[0])]
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": page.body})


class PageResponse(Response):
    """A page, as an endpoint returns it to FastAPI; the background tasks of dependencies are FastAPI's to add."""

    def __init__(self, page: Page, headers: Headers, *, known: bool) -> None:
        # Not the base's, which would encode what is bytes already.
        if known:
            self.status_code, self.body = 304, b""
            self.raw_headers = [header for header in headers if kept_in_304(header[0])]
        else:
            self.status_code, self.body, self.raw_headers = page.status, page.body, headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})
        if self.background is not None:
            await self.background()
