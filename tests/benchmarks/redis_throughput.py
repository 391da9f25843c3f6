"""What an operation on Redis takes and costs, beside redis-py's own clients with orjson, which do the same work.

Two runs of everything: client and server pinned to one CPU, and placed by the system. Each part is measured in a
process of its own, with a server of its own on this machine. A Cluster takes part where there is one. What is published
is one table of the whole: the first run, where nothing depends on where the system places whom.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.placement import in_child, one_cpu
from tests.benchmarks.redis_delays import LARGE_READERS, LATE, PAUSE, READERS, SMALL, Delays, delays
from tests.benchmarks.redis_rounds import MIXED, READS, WRITES, Cell, Effort, Load, Plan, Slice, measured
from tests.benchmarks.redis_subjects import ASYNC, BLOCKING, CACHED, CLUSTER, PEERS, REDIS_PY, Contestant
from tests.benchmarks.report import OURS, Options, Skipped, Table, duration, factor, ratio
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer, RedisServerNotFound, find_redis_server

KINDS = (READS, WRITES, MIXED)
MEDIUM = 1024

NOTHING = "–"  # noqa: RUF001
FAILS = "fails"
MARK = " *"
"""Stands behind what was not done in a contestant's default way."""


@dataclass(frozen=True)
class Place:
    """Where processes run."""

    name: str
    cpu: int | None


@dataclass(frozen=True)
class Site:
    """What is measured against: a server, or the nodes of a Cluster.

    Args:
        url: what clients are given.
        nodes: the URLs of all servers behind it, whose counters are read.
        processes: those of them that were started for this, and may be pinned.
    """

    url: str
    nodes: Sequence[str]
    processes: Sequence[int] = ()

    def measured(self, contestants: Sequence[Contestant], plan: Plan, place: Place) -> list[Cell]:
        """The cells of a plan, measured in a process of its own."""
        return in_child(measured, self.url, self.nodes, contestants, plan, cpu=place.cpu, beside=self.processes)


def run(options: Options) -> Iterator[Table]:
    try:
        find_redis_server()
    except RedisServerNotFound as error:
        raise Skipped(str(error)) from None
    cpu = one_cpu()
    places = [Place("placed by the system", None)]
    if cpu is not None:
        places.insert(0, Place("client and server on one CPU", cpu))
    few = places[:1] if options.quick else places
    effort = Effort(seconds=0.2, rounds=2) if options.quick else Effort(seconds=1.2, rounds=3)
    keys = 500 if options.quick else 5000
    chosen: dict[str, list[Cell]] = {"": []}
    for place in places:
        with server() as site:
            cells = site.measured(ASYNC, Plan(loads(quick=options.quick), effort, keys), place)
        yield from tables(f"Redis, async, {place.name}", cells)
        if place is places[0]:
            chosen[""] += cells
    for place in few:
        with server() as site:
            cells = site.measured(BLOCKING, Plan(loads_of_threads(quick=options.quick), effort, keys), place)
        yield from tables(f"Redis, sync, {place.name}", cells)
        if place is places[0]:
            chosen[""] += cells
    yield beside_peers(few, effort, keys)
    yield around_large(few, quick=options.quick)
    with cluster() as site:
        for place in few:
            cells = site.measured(CLUSTER, Plan(loads_of_cluster(), effort, keys), place)
            yield from tables(f"Redis Cluster of three masters, async, {place.name}", cells)
            if place is places[0]:
                chosen["Cluster, "] = cells
    yield in_short(places[0], chosen)


def loads(*, quick: bool) -> list[Load]:
    """What tasks do: everything with small values, and what is not about the number of tasks with larger ones too."""
    if quick:
        return [*(Load(kind, SMALL, callers) for kind in KINDS for callers in (1, 100)), Load(READS, SMALL, 500)]
    medium = (1, 10, 100)
    return [
        *(Load(kind, SMALL, callers) for kind in KINDS for callers in (1, 10, 100, 500, 5000)),
        *(Load(kind, MEDIUM, callers) for kind in KINDS for callers in medium),
    ]


def loads_of_threads(*, quick: bool) -> list[Load]:
    callers = (1, 32) if quick else (1, 8, 32)
    return [Load(kind, SMALL, threads, blocking=True) for kind in (READS, WRITES) for threads in callers]


def loads_of_cluster() -> list[Load]:
    return [Load(kind, SMALL, callers) for kind in KINDS for callers in (1, 100)]


@contextlib.contextmanager
def server() -> Iterator[Site]:
    """A server for one measurement."""
    with RedisServer() as started:
        yield Site(started.url, [started.url], [started.pid])


@contextlib.contextmanager
def cluster() -> Iterator[Site]:
    """A Cluster for one measurement."""
    with RedisCluster() as started:
        yield Site(started.masters[0].url, [node.url for node in started.masters], [node.pid for node in started.nodes])


def tables(title: str, cells: Sequence[Cell]) -> Iterator[Table]:
    """What operations take, and what those with small values cost."""
    own = [name for name in (OURS, CACHED) if any(name in cell.outcomes for cell in cells)]
    yield Table(
        f"{title}: time per operation",
        ["", REDIS_PY, *(heading for name in own for heading in (name, "times as fast"))],
        [
            [
                str(cell.load),
                time(cell, REDIS_PY),
                *(text for name in own for text in (time(cell, name), gain(cell, name))),
            ]
            for cell in cells
        ],
        notes=remarks(cells),
        published=False,
    )
    yield Table(
        f"{title}: cost per operation",
        ["", *(f"{what}, {name}" for what in COSTS for name in (REDIS_PY, OURS))],
        [
            [str(cell.load), *(cost(cell, what, name) for what in COSTS for name in (REDIS_PY, OURS))]
            for cell in cells
            if cell.load.size == SMALL
        ],
        notes=[
            "Round trips: how often the server read from a socket; operations that share one count for a part each.",
            "Commands: those that scripts call are counted too.",
        ],
        published=False,
    )


def in_short(place: Place, chosen: Mapping[str, Sequence[Cell]]) -> Table:
    """Some of the loads, what they take and what they cost.

    Args:
        chosen: what was measured there; the names stand before the loads.
    """
    shown = [
        (name, cell)
        for name, cells in chosen.items()
        for cell in cells
        if cell.load.size == SMALL and cell.load.kind in (READS, WRITES) and cell.load.callers in SHOWN[name]
    ]
    return Table(
        f"Redis, per operation, {place.name}",
        ["", REDIS_PY, OURS, "times as fast", *(f"{what}, {name}" for what in PAID for name in (REDIS_PY, OURS))],
        [
            [
                f"{name}{cell.load.kind}, {cell.load.who}",
                time(cell, REDIS_PY),
                time(cell, OURS),
                gain(cell, OURS),
                *(cost(cell, what, by) for what in PAID for by in (REDIS_PY, OURS)),
            ]
            for name, cell in shown
        ],
        notes=[
            f"Values of {SMALL} B as JSON. Tasks are async, threads sync; the Cluster has three masters.",
            "Round trips: how often the server read from a socket; operations that share one count for a part each.",
            *remarks([cell for _, cell in shown]),
        ],
    )


def beside_peers(places: Sequence[Place], effort: Effort, keys: int) -> Table:
    """Reads by 100 tasks, with the libraries that are installed."""
    contestants, absent = [], []
    for contestant in PEERS:
        name = contestant.name
        if name in (OURS, REDIS_PY) or importlib.util.find_spec(name) is not None:
            contestants.append(contestant)
        else:
            absent.append(f"Left out: {name} is not installed.")
    cells = []
    for place in places:
        with server() as site:
            cells += site.measured(contestants, Plan([Load(READS, SMALL, 100)], effort, keys), place)
    return Table(
        f"Redis beside other libraries: {Load(READS, SMALL, 100)}",
        ["", *(heading for place in places for heading in (place.name, "times as fast as redis-py"))],
        [
            [name, *(text for cell in cells for text in (time(cell, name), gain(cell, name)))]
            for name in (contestant.name for contestant in contestants)
        ],
        notes=[*failures(cells), *absent],
        published=False,
    )


def around_large(places: Sequence[Place], *, quick: bool) -> Table:
    """Small reads without large ones and beside them."""
    seconds, rounds = (0.3, 1) if quick else (1.0, 3)
    rows = []
    failed = []
    contestants = [contestant for contestant in ASYNC if contestant.name != CACHED]
    for place in places:
        with server() as site:
            found = in_child(delays, site.url, contestants, seconds, rounds, cpu=place.cpu, beside=site.processes)
        for (name, large), seen in found.items():
            rows.append([f"{name}, {'1 MiB beside' if large else 'small only'}, {place.name}", *figures(seen)])
            if seen.failure:
                failed.append(f"{rows[-1][0]}: {FAILS} ({seen.failure}).")
    return Table(
        "Redis: small reads while large values travel",
        ["", "p50", "p99", "max", f"over {LATE / 1e6:.0f} ms", "1 MiB reads per second"],
        rows,
        notes=[
            f"{READERS} tasks read {SMALL} B after pauses of {PAUSE[0] * 1000:.0f} to {PAUSE[1] * 1000:.0f} ms; "
            f"{LARGE_READERS} tasks read 1 MiB all the time, where it says so.",
            *failed,
        ],
        published=False,
    )


def figures(seen: Delays) -> list[str]:
    if not seen.taken:
        return [FAILS] + [NOTHING] * 4
    return [
        *(duration(seen.percentile(share)) for share in (0.5, 0.99)),
        duration(seen.taken[-1]),
        f"{seen.late:.2%}",
        f"{seen.large:,.0f}" if seen.large else NOTHING,
    ]


COSTS: dict[str, tuple[Callable[[Slice], float], Callable[[float], str]]] = {
    "client CPU": (lambda one: one.client_cpu, duration),
    "server CPU": (lambda one: one.server_cpu, duration),
    "round trips": (lambda one: one.round_trips, factor),
    "commands": (lambda one: one.commands, factor),
}
"""What is read from a slice, and how it is written."""

PAID = ("client CPU", "server CPU", "round trips")
"""Those that are published."""

SHOWN = {"": (1, 8, 10, 32, 100, 500), "Cluster, ": (100,)}
"""How many callers, of the loads that are published."""


def cost(cell: Cell, what: str, name: str) -> str:
    """The median of a figure, as text."""
    outcome = cell.outcomes[name]
    figure, text = COSTS[what]
    return text(outcome.median(figure)) if outcome.slices else FAILS


def time(cell: Cell, name: str) -> str:
    """What an operation took, as text; marked where it was not done in the default way."""
    outcome = cell.outcomes.get(name)
    if outcome is None:
        return NOTHING
    if not outcome.slices:
        return FAILS
    return duration(cell.measurement.per_call(name).median) + (MARK if outcome.way else "")


def gain(cell: Cell, name: str) -> str:
    """How many times as fast as redis-py it was, as text."""
    measurement = cell.measurement
    if name == REDIS_PY or not {name, REDIS_PY} <= measurement.samples.keys():
        return NOTHING
    return ratio(measurement.ratio(REDIS_PY, name))


def remarks(cells: Sequence[Cell]) -> list[str]:
    """What a reader must know to compare the times."""
    ways = {
        f"{MARK.strip()} {name} with `{outcome.way}`: its default fails ({outcome.failures[0]})."
        for cell in cells
        for name, outcome in cell.outcomes.items()
        if outcome.slices and outcome.way
    }
    hiredis = importlib.util.find_spec("hiredis") is not None
    return [
        f"{REDIS_PY}: `redis.asyncio.Redis`, `redis.Redis` or `redis.asyncio.RedisCluster`, with orjson; replies are "
        f"parsed {'with hiredis' if hiredis else 'in Python, without hiredis'}.",
        *sorted(ways),
        *failures(cells),
    ]


def failures(cells: Sequence[Cell]) -> list[str]:
    """Who failed at which loads, and why: a sentence for each reason."""
    loads: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for name, outcome in cell.outcomes.items():
            if not outcome.slices:
                loads.setdefault((name, outcome.failures[-1]), []).append(str(cell.load))
    return [f"{name} {FAILS} ({why}): {'; '.join(found)}." for (name, why), found in loads.items()]
