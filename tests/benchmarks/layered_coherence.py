"""From an acknowledged write in one process to the drop of the copies in three others, on one machine.

The rounds with nothing else to do alternate with those in which both processors are half busy: by processes of their
own, or by what these processes do themselves, whose interpreters then have two threads that want to run.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.expiry import percentile
from tests.benchmarks.layered_members import BURST, KINDS, Load, Member, Process, ask_all, delays
from tests.benchmarks.report import Table, duration

LISTENERS = 3
WARM_UP = 20
"""Changes of each kind before the first round."""

IDLE = "idle"
BESIDE = "both CPUs half busy with other processes"
WITHIN = "both CPUs half busy with Python in these processes"


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``changes`` of each kind, in so many ``rounds`` of each setting."""

    rounds: int = 7
    changes: int = 150


@dataclass
class Seen:
    """The delays of one setting, in nanoseconds, round by round."""

    rounds: list[list[int]] = field(default_factory=list)

    def percentiles(self, share: float) -> list[int]:
        """One for each round."""
        return [percentile(sorted(taken), share) for taken in self.rounds]

    @property
    def longest(self) -> int:
        return max(map(max, self.rounds))


def coherence(url: str, effort: Effort) -> Table:
    """Four processes with a Redis at ``url``."""
    seen = observed(url, effort)
    rows = []
    for setting, found in seen.items():
        p99 = found.percentiles(0.99)
        rows.append(
            [
                setting,
                duration(statistics.median(found.percentiles(0.5))),
                f"{duration(statistics.median(p99))} ({duration(min(p99))} to {duration(max(p99))})",
                duration(found.longest),
            ]
        )
    changes = effort.rounds * effort.changes * len(KINDS)
    return Table(
        "From an acknowledged write to the drop in other processes",
        ["", "p50", "p99", "max"],
        rows,
        notes=[
            f"One process changes, {LISTENERS} have copies: {changes:,} changes in {effort.rounds} rounds, a third "
            "each by `invalidate` of a function, `set` and `invalidate_tags`; 0 is for copies that were gone before "
            "that was acknowledged. p50 and p99 are medians of the rounds, with the lowest and the highest p99.",
            f"Busy: in bursts of {BURST[0] * 1000:g} to {BURST[1] * 1000:g} ms. An interpreter lets its other threads "
            "run when one has worked for 5 ms.",
        ],
    )


def observed(url: str, effort: Effort) -> dict[str, Seen]:
    """By setting."""
    seen = {setting: Seen() for setting in (IDLE, BESIDE, WITHIN)}
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:
        machine = Machine(
            writer=_started(stack, Member, url),
            listeners=[_started(stack, Member, url) for _ in range(LISTENERS)],
            loads=[_started(stack, Load, cpu) for cpu in _cpus()],
        )
        machine.changes(IDLE, itertools.islice(numbers, WARM_UP), seed=0)
        for seed in range(effort.rounds):
            for setting, found in seen.items():
                found.rounds.append(machine.changes(setting, itertools.islice(numbers, effort.changes), seed))
    return seen


@dataclass(frozen=True)
class Machine:
    """The processes that take part; ``loads`` has one for each processor."""

    writer: Process
    listeners: Sequence[Process]
    loads: Sequence[Process]

    def changes(self, setting: str, numbers: Iterable[int], seed: int) -> list[int]:
        """Change what was never changed before, in each way; returns the delays of all copies."""
        some = list(numbers)
        taken: list[int] = []
        for kind in KINDS:
            ask_all([self.writer], "hold", kind, some)
            ask_all(self.listeners, "hold", kind, some)
            with self.busy(setting):
                (acknowledged,) = ask_all([self.writer], "change", kind, some, seed)
            for dropped in ask_all(self.listeners, "dropped", kind, some):
                taken += delays(acknowledged, dropped)
        return taken

    @contextlib.contextmanager
    def busy(self, setting: str) -> Iterator[None]:
        """Half of the time of all processors, as ``setting`` says."""
        who, share = {
            IDLE: ([], 0.0),
            BESIDE: (self.loads, 0.5),
            WITHIN: (self.listeners, min(0.9, 0.5 * len(self.loads) / len(self.listeners))),
        }[setting]
        ask_all(who, "busy", share)
        try:
            yield
        finally:
            ask_all(who, "busy", 0)


def _started(stack: contextlib.ExitStack, make: Callable[..., Any], *arguments: Any) -> Process:
    process = Process(make, *arguments)
    stack.callback(process.end)
    return process


def _cpus() -> list[int | None]:
    """Which there are; only how many, where the system can't pin."""
    if hasattr(os, "sched_getaffinity"):
        return [*os.sched_getaffinity(0)]
    return [None] * (os.cpu_count() or 1)
