"""Requests to an application in this event loop, with nothing in between: as many at once as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope


class Answer:
    """What came back."""

    def __init__(self, messages: list[Message]) -> None:
        starts = [message for message in messages if message["type"] == "http.response.start"]
        assert len(starts) == 1, messages
        self.status: int = starts[0]["status"]
        self.raw_headers: list[tuple[bytes, bytes]] = list(starts[0].get("headers", ()))
        self.body = b"".join(message.get("body", b"") for message in messages)

    def json(self) -> Any:
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        return [value.decode("latin-1") for key, value in self.raw_headers if key.decode("latin-1").lower() == name]

    def header(self, name: str) -> str:
        """The value of a header that is sent once; empty if it is not."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else ""

    @property
    def cached(self) -> str:
        """What ``Cache-Status`` says, without the name of the cache and the parameters that are numbers."""
        parts = [part.strip() for part in self.header("cache-status").split(";")[1:]]
        return "; ".join(part for part in parts if not part.startswith(("ttl=", "key=")))


def scope_of(
    url: str, method: str = "GET", headers: dict[str, str] | list[tuple[str, str]] | None = None, **more: Any
) -> Scope:
    path, _, query = url.partition("?")
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"test"), *((name.lower().encode(), value.encode()) for name, value in pairs)],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": {},
        **more,
    }


class _Client:
    """The other end of one request. Like a server it knows the scope, so whoever keeps it in there makes a ring."""

    def __init__(self, scope: Scope, body: bytes, take: Callable[[Message], Awaitable[object]] | None) -> None:
        self._scope = scope
        self._left = [body]
        self._take = take
        self.messages: list[Message] = []

    async def receive(self) -> Message:
        if self._left:
            return {"type": "http.request", "body": self._left.pop(), "more_body": False}
        await asyncio.Event().wait()  # it stays
        raise AssertionError

    async def send(self, message: Message) -> None:
        # Headers as they are now: whoever sent them may go on to change the list.
        self.messages.append({**message, "headers": list(message["headers"])} if "headers" in message else message)
        if self._take is not None:
            await self._take(message)


async def ask(
    app: ASGIApp,
    url: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    body: bytes = b"",
    take: Callable[[Message], Awaitable[object]] | None = None,
    **more: Any,
) -> Answer:
    """Make a request, and raise what the application raises; ``more`` goes into its scope.

    Each message is sent for as long as ``take`` takes it.
    """
    scope = scope_of(url, method, headers, **more)
    client = _Client(scope, body, take)
    await app(scope, client.receive, client.send)
    return Answer(client.messages)
