"""Pages over the wire: one uvicorn worker for each way to answer, asked in rounds whose order rotates.

The clients are one process, the worker that is asked another; the other workers wait. A cached endpoint that runs
during a round ends the measurement: that was no hit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median

from starlette.types import ASGIApp

from tests.benchmarks.expiry import percentile
from tests.benchmarks.harness import NotAHit, Spread, running_order
from tests.benchmarks.http_app import CPU, OVER_THE_WIRE, PEERS, RUNS, UNCACHED, WAY
from tests.benchmarks.http_clients import CONNECTIONS, Clients, Seen
from tests.benchmarks.http_requests import warm
from tests.benchmarks.layered_members import Process, ask_all
from tests.benchmarks.peers import made
from tests.benchmarks.report import Table, duration, ratio
from tests.support.uvicorn_server import ServedApp, serve


@dataclass(frozen=True)
class Effort:
    """How long to measure: so many ``rounds`` of each way, of so many ``seconds``."""

    rounds: int = 7
    seconds: float = 1.5


Found = Mapping[str, Sequence[Seen]]
"""By way: what happened in each round."""


def workers(effort: Effort) -> Table:
    """All ways that can be gone here."""
    peers, absent = made(partial(_tried, way, OVER_THE_WIRE[way]) for way in PEERS)
    ways = [way for way in OVER_THE_WIRE if way not in PEERS or way in peers]
    return table(observed(ways, effort), effort, absent)


def _tried(way: str, make: Callable[[], ASGIApp]) -> str:
    asyncio.run(warm(make()))
    return way


def table(found: Found, effort: Effort, absent: Sequence[str] = ()) -> Table:
    return Table(
        f"A uvicorn worker, {CONNECTIONS} connections",
        ["", "requests per second", "÷ not cached", "p99", "worker CPU per request"],
        [[way, *_cells(rounds, found[UNCACHED])] for way, rounds in found.items()],
        notes=[
            f"Requests are parsed by {'httptools' if find_spec('httptools') else 'h11, in Python'}. Medians "
            f"of {effort.rounds} rounds of {effort.seconds:g} s.",
            f"p99: of {CONNECTIONS} requests that are always under way, and wait for each other.",
            *absent,
        ],
    )


def _cells(rounds: Sequence[Seen], beside: Sequence[Seen]) -> list[str]:
    """What the table says of one way, ``beside`` another."""
    return [
        f"{median(seen.rate for seen in rounds):,.0f}",
        ratio(Spread.of([own.rate / other.rate for own, other in zip(rounds, beside, strict=True)])),
        duration(median(percentile(sorted(seen.taken), 0.99) for seen in rounds)),
        duration(median(seen.cpu / len(seen.taken) for seen in rounds)),
    ]


def observed(ways: Sequence[str], effort: Effort) -> Found:
    """All ``ways``, in rounds.

    Raises:
        NotAHit: a cached endpoint ran.
    """
    found: dict[str, list[Seen]] = {way: [] for way in ways}
    with started(ways) as served:
        clients = Process(Clients)
        try:
            for way in ways:
                for connections in (1, CONNECTIONS):  # one visitor who sees it all, then many; not counted
                    ask_all([clients], "ask", served[way].port, effort.seconds / 2, connections)
            for number in range(effort.rounds):
                for place in running_order(number, len(ways)):
                    way = ways[place]
                    found[way].append(asked(clients, way, served[way], effort.seconds))
        finally:
            clients.end()
    return found


def asked(clients: Process, way: str, served: ServedApp, seconds: float) -> Seen:
    before = counts(served)
    seen: Seen
    (seen,) = ask_all([clients], "ask", served.port, seconds)
    counted = counts(served)
    seen.runs, seen.cpu = counted[RUNS] - before[RUNS], counted[CPU] - before[CPU]
    if seen.runs:
        raise NotAHit(f"{way} ran the cached endpoint {seen.runs} times in {len(seen.taken)} requests")
    return seen


@contextlib.contextmanager
def started(ways: Sequence[str]) -> Iterator[dict[str, ServedApp]]:
    """A worker for each way, each in a process of its own."""
    with contextlib.ExitStack() as stack:
        yield {way: stack.enter_context(serve("tests.benchmarks.http_app:app", env={WAY: way})) for way in ways}


def counts(served: ServedApp) -> Counter[str]:
    """What a worker has counted so far."""
    with served.client() as client:
        return Counter(client.get("/counts").raise_for_status().json())
