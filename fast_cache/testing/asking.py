"""Requests to an application by calling it: no client, no server, no socket.

A request is one call of the ASGI application in the task that asks, so that what is set in a context variable
beforehand reaches the endpoint. The lifespan is entered unless the application lives already. An application that
raises has answered with status 500, as it would have below a server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote, urlencode, urlsplit

from fastapi import FastAPI
from starlette.types import Message, Scope

from fast_cache.http.lifespan import life_of

_HOST: Final = "testserver"


@dataclass(frozen=True, kw_only=True, repr=False)
class Identity:
    """What somebody sends with each request: ``headers``, ``cookies``, and ``query`` parameters such as an API key."""

    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


class Client(Protocol):
    """A client that has logged in, such as one of httpx or Starlette's ``TestClient``."""

    @property
    def headers(self) -> Any: ...
    @property
    def cookies(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, and whether a route was found for the request."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    routed: bool


def identity_of(given: Mapping[str, str] | Identity | Client) -> Identity:
    """What ``given`` sends; a mapping is one of headers.

    Raises:
        TypeError: neither a mapping nor something with headers and cookies.
    """
    if isinstance(given, Mapping):
        return Identity(headers=given)
    headers, cookies = getattr(given, "headers", None), getattr(given, "cookies", None)
    if headers is None or cookies is None:
        raise TypeError(
            f"an identity is a mapping of headers, an Identity, or a client with headers and cookies, not a "
            f"{type(given).__name__}"
        )
    if isinstance(given, Identity):
        return given
    # What a client accepts is its own affair: compressed bodies may hold the time of day.
    sent = {name: value for name, value in headers.items() if name.lower() != "accept-encoding"}
    return Identity(headers=sent, cookies=dict(cookies.items()))


@asynccontextmanager
async def alive(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Let ``app`` live meanwhile, if it does not, and give the state that its lifespan yields to requests."""
    state = life_of(app)
    if state is not None:
        yield dict(state)
        return
    async with app.router.lifespan_context(app) as yielded:
        yield dict(yielded or {})


async def ask(app: Any, method: str, url: str, identity: Identity, state: Mapping[str, Any]) -> Answer:
    """The answer of ``app`` to ``identity``."""
    scope = _scope(method, url, identity, state)
    started: Message = {"status": 500, "headers": []}
    body = bytearray()
    waits = True

    async def receive() -> Message:
        nonlocal waits
        if waits:
            waits = False
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            started = message
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:
        # Starlette sends its page for this and raises all the same, for servers to log.
        started = {"status": 500, "headers": []}
        body.clear()
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in started["headers"])
    return Answer(started["status"], headers, bytes(body), "endpoint" in scope)


def _scope(method: str, url: str, identity: Identity, state: Mapping[str, Any]) -> Scope:
    parts = urlsplit(url)
    raw_path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._").encode("ascii")
    query = "&".join(part for part in (parts.query, urlencode(identity.query)) if part)
    sent = {name.lower(): value for name, value in identity.headers.items()}
    if identity.cookies:
        cookies = "; ".join(f"{name}={value}" for name, value in identity.cookies.items())
        sent["cookie"] = f"{sent['cookie']}; {cookies}" if "cookie" in sent else cookies
    headers = {"host": parts.netloc or _HOST, "accept": "*/*"} | sent
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": parts.scheme or "http",
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query.encode("utf-8"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": (_HOST, 443 if parts.scheme == "https" else 80),
        "state": dict(state),
    }
