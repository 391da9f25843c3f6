"""Clients of the workers: so many connections, each with one request under way, for a bounded time.

They know when each write was acknowledged. What is read by a request that was sent later, and is older, is stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from time import perf_counter_ns
from typing import Any

import orjson

from tests.benchmarks.layered_app import NUMBERS

CONNECTIONS = 32
"""Of all workers together."""

WRITES = 0.01
"""The share of requests that write."""

LIMIT = 30.0
"""Seconds that requests may take once the time is over."""

_POPULARITY = list(accumulate(1 / rank for rank in range(1, NUMBERS + 1)))
"""As on the web: the second in rank is asked for half as often as the first, the third a third."""


class Failed(RuntimeError):
    """A worker did not answer as it should."""


@dataclass
class Seen:
    """What happened in one round.

    Args:
        seconds: how long it lasted.
        taken: the nanoseconds of each read.
        writes: how many writes there were.
        stale: for each stale read, the nanoseconds from the acknowledged write to the request.
        loads: how often the origin was asked.
        cpu: nanoseconds of processor time that the workers took.
    """

    seconds: float = 0.0
    taken: list[int] = field(default_factory=list)
    writes: int = 0
    stale: list[int] = field(default_factory=list)
    loads: int = 0
    cpu: int = 0

    @property
    def requests(self) -> int:
        return len(self.taken) + self.writes

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Clients:
    """All clients, in one process.

    Args:
        ports: those of the workers, on this machine.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._each = CONNECTIONS // len(ports)
        self._version = 0

    def fill(self, kind: str) -> None:
        """Read everything from every worker."""
        asyncio.run(self._fill(kind))

    def ask(self, kind: str, seconds: float, seed: int) -> Seen:
        """Send requests for a while."""
        return asyncio.run(self._ask(kind, seconds, seed))

    def close(self) -> None:
        """There is nothing to give back."""

    async def _fill(self, kind: str) -> None:
        async def read(port: int, numbers: range) -> None:
            async with _wire(port) as wire:
                for number in numbers:
                    await wire.request("GET", f"/{kind}/{number}")

        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            for port in self._ports:
                for first in range(self._each):
                    group.create_task(read(port, range(first, NUMBERS, self._each)))

    async def _ask(self, kind: str, seconds: float, seed: int) -> Seen:
        seen = Seen()
        written: dict[int, tuple[int, int]] = {}
        async with asyncio.timeout(seconds + LIMIT), contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(_wire(port)) for port in self._ports * self._each]
            began = perf_counter_ns()
            end = began + int(seconds * 1e9)
            async with asyncio.TaskGroup() as group:
                for number, wire in enumerate(wires):
                    choices = random.Random(seed * CONNECTIONS + number)
                    group.create_task(self._client(wire, kind, choices, end, seen, written))
            seen.seconds = (perf_counter_ns() - began) / 1e9
        return seen

    async def _client(
        self, wire: Wire, kind: str, choices: random.Random, end: int, seen: Seen, written: dict[int, tuple[int, int]]
    ) -> None:
        """One connection. ``written`` holds the version and the time of each acknowledged write."""
        while (sent := perf_counter_ns()) < end:
            (number,) = choices.choices(range(NUMBERS), cum_weights=_POPULARITY)
            if choices.random() < WRITES:
                self._version += 1
                version = self._version
                await wire.request("POST", f"/{kind}/{number}?version={version}")
                written[number] = max(written.get(number, (0, 0)), (version, perf_counter_ns()))
                seen.writes += 1
                continue
            version, at = written.get(number, (0, sent))
            found = await wire.request("GET", f"/{kind}/{number}")
            seen.taken.append(perf_counter_ns() - sent)
            if found["version"] < version:
                seen.stale.append(sent - at)


@dataclass(frozen=True)
class Wire:
    """A connection that is kept."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self, method: str, target: str) -> Any:
        """What is answered.

        Raises:
            Failed: no success.
        """
        self.writer.write(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise Failed(head.decode(errors="replace"))
        _, _, rest = head.lower().partition(b"content-length:")
        return orjson.loads(await self.reader.readexactly(int(rest.partition(b"\r\n")[0])))


@contextlib.asynccontextmanager
async def _wire(port: int) -> AsyncIterator[Wire]:
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield wire
    finally:
        wire.writer.close()
        await wire.writer.wait_closed()
