"""Contenders measured side by side, in one process.

Many short rounds; in each every contender makes the same number of calls, in an order that rotates and turns round.
Each call is written into a loop compiled for it, and the same loop without a call is measured along and subtracted.
Figures are medians over the rounds with quartiles; ratios are taken within each round, so that a slow moment of the
machine slows down both sides. The collector is off while a loop runs. A function that runs during the measurement
ends it: that was no hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from time import perf_counter_ns
from typing import Any

Clock = Callable[[], int]

CONTROL = "(empty loop)"


class NotAHit(RuntimeError):
    """A contender ran the cached function while its hits were being measured."""


@dataclass(frozen=True)
class Contender:
    """One way to do what is measured.

    Args:
        name: how tables call it.
        statement: the source of one call, such as ``fetch(7)`` or ``await fetch(item)``.
        names: the objects that the statement uses; ``item``, ``items``, ``clock`` and ``started`` are the loop's
            own.
        note: what a reader must know to compare it fairly.
        prepare: awaited once, before the first call.
    """

    name: str
    statement: str
    names: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    prepare: Callable[[], Awaitable[object]] | None = None

    @property
    def suspends(self) -> bool:
        return self.statement.startswith("await ")


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``calls`` per contender and round; where there are items, they set the number.

    Slices are short on purpose: one that lasts longer than a few milliseconds is interrupted by whatever else runs on
    the machine, and the slowest contenders would look slower than they are.

    Where a call does much, its code has left the processor's caches when its turn comes, the more so the more the one
    before it did: ``lead`` runs each slice once before it is timed.
    """

    rounds: int = 400
    calls: int = 100
    lead: bool = False


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(low, median, high)


@dataclass(frozen=True)
class Measurement:
    """What every contender took, in nanoseconds per call, round by round."""

    samples: Mapping[str, Sequence[float]]

    def per_call(self, name: str) -> Spread:
        return Spread.of(self.samples[name])

    def ratio(self, name: str, other: str) -> Spread:
        """How long ``name`` takes where ``other`` takes 1."""
        pairs = zip(self.samples[name], self.samples[other], strict=True)
        return Spread.of([own / theirs for own, theirs in pairs])

    def difference(self, name: str, other: str) -> Spread:
        """How many nanoseconds ``name`` takes more than ``other``."""
        pairs = zip(self.samples[name], self.samples[other], strict=True)
        return Spread.of([own - theirs for own, theirs in pairs])


def no_loads() -> int:
    """For contenders that have no function behind them."""
    return 0


def measure(
    contenders: Sequence[Contender],
    effort: Effort,
    *,
    items: Callable[[], Sequence[Any]] | None = None,
    loads: Callable[[], int] = no_loads,
    clock: Clock = perf_counter_ns,
) -> Measurement:
    """Measure all contenders; those that await do so in one coroutine of one event loop, without tasks of ours.

    Args:
        contenders: who takes part, under different names.
        effort: how many rounds, and how many calls in each.
        items: makes what is called with, one call for each in turn, in place of ``effort.calls`` calls. It is asked
            anew for each round and contender: as with requests, no key is found because it is the same object.
        loads: how often the functions behind the contenders have run so far.
        clock: integers that count nanoseconds.

    Raises:
        NotAHit: a function ran after the first pass.
    """
    steps = _measure(contenders, effort, items, loads, clock)
    if any(contender.suspends for contender in contenders):
        return asyncio.run(steps)
    return _run_without_loop(steps)


def running_order(round_number: int, contenders: int) -> list[int]:
    """Who is measured first, second, …: each place once in as many rounds, and each neighbour on both sides."""
    first = round_number // 2 % contenders
    order = [*range(first, contenders), *range(first)]
    return order[::-1] if round_number % 2 else order


async def _measure(
    contenders: Sequence[Contender],
    effort: Effort,
    items: Callable[[], Sequence[Any]] | None,
    loads: Callable[[], int],
    clock: Clock,
) -> Measurement:
    loops = [_Loop(contender) for contender in (*contenders, Contender(CONTROL, "pass"))]
    calls = effort.calls if items is None else len(items())

    def inputs() -> Iterable[Any]:
        return repeat(None, calls) if items is None else items()

    for contender in contenders:
        if contender.prepare is not None:
            await contender.prepare()
    for loop in loops:  # fills the caches, and lets the interpreter specialise the code
        await loop.run(inputs(), clock)
    taken: dict[str, list[int]] = {loop.name: [] for loop in loops}
    with quiet_collector():
        for round_number in range(effort.rounds):
            gc.collect()  # of what the last round left behind only: everything older is frozen
            for place in running_order(round_number, len(loops)):
                loop = loops[place]
                before = loads()
                if effort.lead:
                    await loop.run(inputs(), clock)
                taken[loop.name].append(await loop.run(inputs(), clock))
                if loads() != before:
                    raise NotAHit(f"{loop.name} ran the cached function {loads() - before} times in {calls} calls")
    control = statistics.median(taken.pop(CONTROL))
    return Measurement(
        # Something always remains, so that ratios exist.
        {name: [max(slice_ - control, 1) / calls for slice_ in slices] for name, slices in taken.items()}
    )


class _Loop:
    """One contender's calls in a loop of their own."""

    def __init__(self, contender: Contender) -> None:
        self.name = contender.name
        self._suspends = contender.suspends
        # As default arguments the objects are local variables: the fastest to reach, for every contender alike.
        names = "".join(f", {name}={name}" for name in contender.names)
        source = (
            f"{'async ' if self._suspends else ''}def loop(items, clock{names}):\n"
            f"    started = clock()\n"
            f"    for item in items:\n"
            f"        {contender.statement}\n"
            f"    return clock() - started\n"
        )
        scope = dict(contender.names)
        exec(compile(source, f"<benchmark: {self.name}>", "exec"), scope)
        self._loop: Callable[[Iterable[Any], Clock], Any] = scope["loop"]

    async def run(self, items: Iterable[Any], clock: Clock) -> int:
        """Return the nanoseconds that all calls took together."""
        taken: int | Awaitable[int] = self._loop(items, clock)
        return taken if isinstance(taken, int) else await taken


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """Nothing is collected inside, and what is there already is not looked at when the caller collects."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _run_without_loop(steps: Coroutine[Any, Any, Measurement]) -> Measurement:
    """Nobody awaits anything real here, so that sync contenders run where no event loop does."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: Measurement = end.value
        return result
    steps.close()
    raise RuntimeError("a contender suspended; its statement must begin with 'await '")
