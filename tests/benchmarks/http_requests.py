"""Requests made by hand: what uvicorn hands to an application, without a network, and what comes of it.

A scope is made anew for each request, of new objects, as a server makes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Scope

from tests.benchmarks.http_app import BODY, PATH

_HEADERS = """\
host: shop.example.com
connection: keep-alive
sec-ch-ua-platform: "Linux"
user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36
accept: application/json, text/plain, */*
sec-fetch-site: same-origin
sec-fetch-mode: cors
referer: https://shop.example.com/kettles
accept-encoding: gzip, deflate, br, zstd
accept-language: en-GB,en;q=0.9,de;q=0.8
cookie: session=6f1f3a7c2b5d4e8f9a0b1c2d3e4f5a6b; theme=dark; consent=yes
x-tenant: acme
"""

HEADERS = [tuple(line.encode().split(b": ", 1)) for line in _HEADERS.splitlines()]
"""Those of a browser, and one that an application's dependencies read."""

PAGES = 5
"""How many different requests take turns."""

PASSES = 3
"""How often everything is asked for beforehand: it is stored, what was learned of it is used, and that is checked."""


class Unlike(RuntimeError):
    """An application did not answer as it should."""


def scope(path: str, query: str = "") -> Scope:
    """A GET, as uvicorn describes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 51234),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        # Joined again: bytes that were read from a connection are new, and nobody knows their hash yet.
        "headers": [(b"".join((name[:1], name[1:])), b"".join((value[:1], value[1:]))) for name, value in HEADERS],
        "state": {},
    }


def pages() -> list[Scope]:
    return [scope(PATH, f"page={number}") for number in range(PAGES)]


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def discard(message: Message) -> None:
    """Send it nowhere."""


@dataclass(frozen=True)
class Answer:
    """What an application sent, and whether its routes were asked for it."""

    status: int
    headers: dict[str, str]
    body: bytes
    routed: bool


async def answer(app: ASGIApp, request: Scope) -> Answer:
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    await app(request, receive, keep)
    start, *bodies = sent
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], headers, b"".join(one.get("body", b"") for one in bodies), "endpoint" in request)


async def warm(
    app: ASGIApp, requests: Callable[[], Sequence[Scope]] = pages, *, hits: bool = False, routed: bool = True
) -> None:
    """Ask for everything, until all that can be stored is stored.

    Args:
        app: the application.
        requests: makes what is asked for.
        hits: the last answers have to be pages of ours.
        routed: whether routes have to be asked for them.

    Raises:
        Unlike: it is something else.
    """
    for number in range(PASSES):
        for request in requests():
            found = await answer(app, request)
            if found.status != 200:
                raise Unlike(f"{request['path']} was answered with {found.status}")
            if request["path"] == PATH and orjson.loads(found.body) != _EXPECTED:
                raise Unlike(f"{request['path']} was answered with something else: {found.body!r}")
            if not hits or number < PASSES - 1:
                continue
            if "; hit" not in (told := found.headers.get("cache-status", "no Cache-Status")):
                raise Unlike(f"{request['path']} is not answered from the cache: {told}")
            if found.routed != routed:
                raise Unlike(f"{request['path']} is answered {'after' if found.routed else 'before'} routing")
        await asyncio.sleep(0)  # what a cache does afterwards


_EXPECTED: Any = orjson.loads(BODY)
