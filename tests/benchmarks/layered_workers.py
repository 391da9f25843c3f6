"""Four uvicorn workers that read through a cache and write now and then, beside other ways to do so.

Every worker serves all ways; the rounds of one way alternate with those of the others, in an order that rotates.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks.expiry import percentile
from tests.benchmarks.harness import Spread, running_order
from tests.benchmarks.layered_app import (
    CASHEWS,
    CPU,
    KINDS,
    LAYERED,
    NO_CACHE,
    NUMBERS,
    ORIGIN,
    REDIS,
    REDIS_ONLY,
    VERSIONS,
    create_versions,
)
from tests.benchmarks.layered_clients import CONNECTIONS, WRITES, Clients, Seen
from tests.benchmarks.layered_members import Process, ask_all
from tests.benchmarks.report import OURS, Table, duration, ratio
from tests.support.uvicorn_server import ServedApp, serve

WORKERS = 4

NAMES = {
    LAYERED: f"{OURS}, two tiers",
    REDIS_ONLY: f"{OURS}, Redis only",
    CASHEWS: "cashews, `client_side=True, protocol=2`",
    NO_CACHE: "no cache",
}

SOON = 50_000_000
"""Nanoseconds in which a write has reached everybody; what is stale after that was not dropped."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: so many ``rounds`` of each way, of so many ``seconds``."""

    rounds: int = 7
    seconds: float = 2.0


Found = dict[str, list[Seen]]
"""By way: what happened in each round."""


def workers(url: str, effort: Effort) -> Table:
    """All ways, with a Redis at ``url``."""
    return table(observed(url, effort), effort)


def table(found: Found, effort: Effort) -> Table:
    return Table(
        f"{WORKERS} uvicorn workers, {WRITES:.0%} writes",
        [
            "",
            "requests per second",
            "÷ Redis only",
            "p99 of reads",
            "worker CPU per request",
            "origin loads per 1000 reads",
            "stale reads, of them late",
        ],
        [[NAMES[kind], *_cells(rounds, found[REDIS_ONLY])] for kind, rounds in found.items()],
        notes=[
            f"{CONNECTIONS} connections read one of {NUMBERS} things, some much more often than others, from an origin "
            f"that takes {ORIGIN * 1000:.0f} ms, or write one, which invalidates it. Medians of {effort.rounds} rounds "
            f"of {effort.seconds:g} s, stale reads of all together; the clients run on the same processors.",
            "Stale: sent after a write was acknowledged, and answered with what was there before. Late: more than "
            f"{SOON // 1_000_000} ms after.",
            "cashews: with the protocol that redis-py 8 takes by default it hears of no change."
            if CASHEWS in found
            else "Left out: cashews is not installed.",
        ],
    )


def _cells(rounds: Sequence[Seen], beside: Sequence[Seen]) -> list[str]:
    """What the table says of one way, ``beside`` another."""
    stale = [at for seen in rounds for at in seen.stale]
    return [
        f"{median(seen.rate for seen in rounds):,.0f}",
        ratio(Spread.of([own.rate / other.rate for own, other in zip(rounds, beside, strict=True)])),
        duration(median(percentile(sorted(seen.taken), 0.99) for seen in rounds)),
        duration(median(seen.cpu / seen.requests for seen in rounds)),
        f"{median(1000 * seen.loads / len(seen.taken) for seen in rounds):.1f}",
        f"{len(stale)}, {sum(at > SOON for at in stale)}",
    ]


def observed(url: str, effort: Effort) -> Found:
    """All ways, in rounds."""
    found: Found = {kind: [] for kind in KINDS}
    with started(url) as served:
        clients = Process(Clients, [one.port for one in served])
        try:
            for kind in KINDS:
                for _ in range(2):  # what one worker loaded, it has a copy of when it reads it again
                    ask_all([clients], "fill", kind)
                ask_all([clients], "ask", kind, effort.seconds, 0)  # not counted
            for number in range(effort.rounds):
                for place in running_order(number, len(KINDS)):
                    kind = KINDS[place]
                    before = counts(served)
                    (seen,) = ask_all([clients], "ask", kind, effort.seconds, number + 1)
                    counted = counts(served) - before
                    seen.loads, seen.cpu = counted[kind], counted[CPU]
                    found[kind].append(seen)
        finally:
            clients.end()
    return found


@contextlib.contextmanager
def started(url: str) -> Iterator[list[ServedApp]]:
    """The workers, each in a process of its own."""
    with contextlib.ExitStack() as stack:
        versions = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "versions"
        create_versions(versions)
        env = {REDIS: url, VERSIONS: str(versions)}
        yield [stack.enter_context(serve("tests.benchmarks.layered_app:app", env=env)) for _ in range(WORKERS)]


def counts(served: Sequence[ServedApp]) -> Counter[str]:
    """What all workers have counted so far."""
    total: Counter[str] = Counter()
    for one in served:
        with one.client() as client:
            total.update(client.get("/counts").json())
    return total
