"""``python -m tests.simulation``: run many schedules, on all processors; or look at single seeds.

Without seeds, ``--schedules`` are run from ``--first`` on: half of them with one tier, and half with two, which take
four times as long. If one breaks a law, its history is printed, as short as it could be made, and the exit code is 1.
With seeds, the history of each is printed, whole.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from random import Random
from time import perf_counter
from typing import Final

from tests.simulation.explore import Failure, attempted, explore, failing_seeds, reduced
from tests.simulation.plan import draw

_CHUNK: Final = 1000

NAMES: Final = {1: "one tier", 2: "two tiers"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="The engine under any schedule.")
    parser.add_argument("seeds", nargs="*", type=int, metavar="seed", help="print what happens with these seeds")
    parser.add_argument("--schedules", type=int, default=100_000, help="how many to run (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--tiers", type=int, choices=NAMES, help="1: memory or Redis; 2: memory before Redis (both)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes to use (%(default)s)")
    chosen = parser.parse_args(arguments)
    played = [chosen.tiers] if chosen.tiers else list(NAMES)
    if chosen.seeds:
        broken = [attempted(seed, draw(Random(seed), tiers), seed) for seed in chosen.seeds for tiers in played]
        print("\n\n".join(each.account() for each in broken))
        return int(any(each.violations for each in broken))
    share = -(-chosen.schedules // len(played))
    breaks = [_breaks(chosen.first, share, chosen.jobs, tiers) for tiers in played]
    return int(any(breaks))


def _breaks(first: int, count: int, jobs: int, tiers: int) -> bool:
    """Run so many schedules, and tell of those that break a law, if any do."""
    began = perf_counter()
    failing = _failing(first, count, jobs, tiers)
    seconds = perf_counter() - began
    print(f"{count} schedules with {NAMES[tiers]} in {seconds:.0f} s, {count / seconds:.0f} a second", flush=True)
    laws: dict[str, list[Failure]] = {}
    for failure in failing:
        laws.setdefault(failure.law, []).append(failure)
    for law, failures in sorted(laws.items()):
        seeds = ", ".join(str(failure.seed) for failure in failures[:20])
        print(f"\n{law} is broken by {len(failures)} schedules with {NAMES[tiers]}: {seeds}")
        print(f"{reduced(failures[0]).account()}\n")
    return bool(failing)


def _failing(first: int, count: int, jobs: int, tiers: int) -> list[Failure]:
    """What fails among so many seeds, in their order."""
    chunks = [range(start, min(start + _CHUNK, first + count)) for start in range(first, first + count, _CHUNK)]
    if jobs == 1:
        return [failure for chunk in chunks for failure in explore(chunk, tiers)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        seeds = [seed for found in pool.map(partial(failing_seeds, tiers=tiers), chunks) for seed in found]
    return list(explore(seeds, tiers))


if __name__ == "__main__":
    sys.exit(main())
