"""A request made once more, to nobody: how a page is refreshed when its visitor has been answered.

It goes through the application below the exchange, so its dependencies are made anew; what the middleware outside put
into the scope, such as who is asking, is kept. Only ``GET`` is repeated, and without the body that it may have had.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import anyio
from starlette.types import Message, Receive, Scope

_NOT_REPEATED: Final = frozenset(
    {
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"),
        *(b"cache-control", b"pragma", b"expect", b"content-length", b"transfer-encoding"),
        *(b"traceparent", b"tracestate", b"baggage", b"b3", b"sentry-trace", b"x-request-start"),
    }
)
"""Headers with conditions for the answer, those of a body that is not there, and those by which it would be traced as a
part of what is over."""

_OF_ROUTING: Final = frozenset({"endpoint", "path_params", "route", "router"})

_OF_OTHERS: Final = ("fastapi", "fast_cache", "starlette.", "opentelemetry", "otel", "sentry", "ddtrace", "datadog")
"""What keys of a scope begin with that belong to one run of a request."""


def repeated(scope: Scope, *, path: str, root_path: str, state: Any) -> Scope:
    """A scope for the same request; ``path``, ``root_path`` and ``state`` as they were when it came by."""
    made = {
        key: value for key, value in scope.items() if key not in _OF_ROUTING and not key.lower().startswith(_OF_OTHERS)
    }
    made["path"] = path
    made["root_path"] = root_path
    made["headers"] = [header for header in scope["headers"] if header[0] not in _NOT_REPEATED]
    if "state" in made:  # not what dependencies have put there since, such as a session that ends with them
        made["state"] = state
    if "session" in made:  # of the first run, which may go on
        made["session"] = copy.copy(made["session"])
    made.pop("extensions", None)  # there is nobody to send anything special to
    return made


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request brings a body, which can be read once."""
    return any((name == b"content-length" and value != b"0") or name == b"transfer-encoding" for name, value in headers)


class BodyAgain:
    """What is received in a request without a body that is made once more for the same client."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._asked = False

    async def __call__(self) -> Message:
        if self._asked:
            return await self._receive()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}


class Nobody:
    """The client of a repeated request: it says nothing, does not go away, and takes whatever it is sent."""

    async def receive(self) -> NoReturn:
        while True:
            await anyio.sleep_forever()

    async def send(self, message: Message) -> None:
        pass
