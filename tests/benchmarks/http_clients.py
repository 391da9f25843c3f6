"""Connections to one worker, each with one request under way, for a bounded time.

They parse as little of an answer as can be, so that the worker is what is measured: its status, its length, its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from time import perf_counter_ns

from tests.benchmarks.http_app import PATH
from tests.benchmarks.http_requests import HEADERS, PAGES

CONNECTIONS = 64

LIMIT = 30.0
"""Seconds that answers may take once the time is over."""

_END = b"\r\n\r\n"


class Failed(RuntimeError):
    """The worker did not answer as it should."""


@dataclass
class Seen:
    """What happened in one round.

    Args:
        seconds: how long it lasted.
        taken: the nanoseconds of each request.
        runs: how often a cached endpoint ran.
        cpu: nanoseconds of processor time that the worker took.
    """

    seconds: float = 0.0
    taken: list[int] = field(default_factory=list)
    runs: int = 0
    cpu: int = 0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.taken) / self.seconds


class Clients:
    """All connections, in one process."""

    def ask(self, port: int, seconds: float, connections: int = CONNECTIONS) -> Seen:
        """Send requests for a while.

        Raises:
            Failed: an answer was no success, or a connection was lost.
        """
        return asyncio.run(self._ask(port, seconds, connections))

    def close(self) -> None:
        """There is nothing to give back."""

    async def _ask(self, port: int, seconds: float, connections: int) -> Seen:
        seen, loop = Seen(), asyncio.get_running_loop()
        requests = [request(number) for number in range(PAGES)]
        async with asyncio.timeout(seconds + LIMIT):
            made = []
            for number in range(connections):
                turns = islice(cycle(requests), number % PAGES, None)
                connection = partial(Connection, turns, seen.taken)
                made.append(await loop.create_connection(connection, "127.0.0.1", port))
            try:
                began = perf_counter_ns()
                end = began + int(seconds * 1e9)
                await asyncio.gather(*(connection.run(end) for _, connection in made))
                seen.seconds = (perf_counter_ns() - began) / 1e9
            finally:
                for transport, _ in made:
                    transport.abort()
        return seen


def request(page: int) -> bytes:
    """What is sent for one page."""
    headers = b"".join(b"%s: %s\r\n" % pair for pair in HEADERS)
    return b"GET %s?page=%d HTTP/1.1\r\n%s\r\n" % (PATH.encode(), page, headers)


class Connection(asyncio.Protocol):
    """A connection that is kept.

    Args:
        requests: what to send, one after the other.
        taken: where the nanoseconds of each request go.
    """

    def __init__(self, requests: Iterator[bytes], taken: list[int]) -> None:
        self._requests = requests
        self._taken = taken
        self._got = b""
        self._missing = 0
        self._sent = self._until = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, until: int) -> None:
        """Send requests until that time."""
        self._until = until
        self._send()
        await self._done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head = self._got.find(_END)
        if head < 0:
            return
        if not self._missing:
            try:
                self._missing = head + len(_END) + length(self._got[:head])
            except Failed as error:
                self._fail(error)
                return
        if len(self._got) < self._missing:
            return
        self._got, self._missing = self._got[self._missing :], 0
        now = perf_counter_ns()
        self._taken.append(now - self._sent)
        if now < self._until:
            self._send()
        elif not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(Failed(f"the worker closed a connection: {error}"))

    def _send(self) -> None:
        self._sent = perf_counter_ns()
        self._transport.write(next(self._requests))

    def _fail(self, error: Failed) -> None:
        if not self._done.done():
            self._done.set_exception(error)


def length(head: bytes) -> int:
    """How long the body of an answer is.

    Raises:
        Failed: it is no success, or does not say.
    """
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    if not head.startswith(b"HTTP/1.1 200 ") or not found:
        raise Failed(head.decode(errors="replace"))
    return int(rest.partition(b"\r\n")[0])
