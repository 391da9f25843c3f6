"""How often an entry is still there when it is asked for: recorded traces, replayed over eviction policies.

A miss stores the key at once. Ours is driven through the public methods of ``InMemoryBackend``, so the figures hold for
whatever policy it has. theine maintains itself on a thread of its own: its figures differ a little from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fast_cache import InMemoryBackend
from tests.benchmarks.peers import library, made
from tests.benchmarks.policies import LRU, Replayed, Sieve
from tests.benchmarks.report import OURS, Options, Skipped, Table
from tests.benchmarks.traces import MAX_ACCESSES, read_trace

CAPACITIES = {
    "web07.trace.xz": (500, 1000, 4000),
    "orm-night.trace.xz": (1000, 4000),
    "multi1.trace.gz": (500, 1000),
    "multi2.trace.gz": (1000, 1500),
    "multi3.trace.gz": (1000, 2000),
    "2_pools.trace.gz": (500, 5000),
    "loop.trace.gz": (500, 900),
}
"""In entries, for each trace."""


class Ours:
    """The memory backend, through its public methods."""

    def __init__(self, capacity: int) -> None:
        self._backend = InMemoryBackend(max_size=capacity)

    def access(self, key: str) -> bool:
        if self._backend.get(key) is not None:
            return True
        self._backend.set(key, True)
        return False


class Theine:
    """W-TinyLFU, in Rust."""

    def __init__(self, capacity: int) -> None:
        self._cache = library("theine").Cache(capacity)

    def access(self, key: str) -> bool:
        _, found = self._cache.get(key)
        if not found:
            self._cache.set(key, True)
        return bool(found)


POLICIES: dict[str, Callable[[int], Replayed]] = {"LRU": LRU, "SIEVE": Sieve, "theine": Theine, OURS: Ours}


def hit_ratio(cache: Replayed, keys: list[str]) -> float:
    """The share of accesses that were hits, between 0 and 1."""
    return sum(map(cache.access, keys)) / len(keys)


def run(options: Options) -> Iterator[Table]:
    present = [name for name in CAPACITIES if (options.traces / name).is_file()]
    if not present:
        raise Skipped("there are no traces in the folder named by --traces or TRACES; see the README there for formats")
    yield replayed(options.traces, present, 20_000 if options.quick else MAX_ACCESSES)


def replayed(folder: Path, names: list[str], limit: int) -> Table:
    """The hit ratios of every policy on every trace, in per cent."""
    _, absent = made([lambda: Theine(1)])
    policies = {name: policy for name, policy in POLICIES.items() if not (absent and policy is Theine)}
    rows = []
    for name in names:
        keys = [str(key) for key in read_trace(folder / name, limit)]
        for capacity in CAPACITIES[name]:
            shares = [hit_ratio(policy(capacity), keys) for policy in policies.values()]
            best = max(shares)
            rows.append(
                [name.partition(".")[0], f"{len(keys):,}", f"{capacity:,}"]
                + [f"{100 * share:.2f}{' *' if share == best else ''}" for share in shares]
            )
    return Table(
        "Hit ratio on recorded traces, in %",
        ["trace", "accesses", "capacity", *policies],
        rows,
        notes=[
            "* is the best of its row; a miss stores the key.",
            "The traces come from the simulator of the Caffeine project: web07 and orm-night recorded by the cache2k "
            "project, the others by the authors of LIRS.",
            *absent,
        ],
    )
