"""Contestants for one Redis side by side, in rounds: what an operation takes them, and what it costs client and server.

In each round every contestant does the same operations on the same keys with as many tasks (or threads), in an order
that rotates and turns round. Everything is measured around the whole slice: starting the tasks, which all contestants
need alike, is contained. A contestant fails where it raises, finds nothing, or logs a warning: ours answers as if
nothing had been stored when it can't reach Redis, which is fast, and no measurement.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter_ns, process_time_ns
from typing import Any

import orjson

from tests.benchmarks.harness import Measurement, Spread, quiet_collector, running_order
from tests.benchmarks.redis_counters import Gauge
from tests.benchmarks.redis_subjects import Contestant, NothingFound, Subject, Value, fill, opened

READS, WRITES, MIXED = "reads", "writes", "90/10"

OPERATIONS = {1: 400, 8: 80, 10: 80, 32: 20, 100: 20, 500: 6, 5000: 2}
"""By the number of tasks or threads: how many operations each of them does in a slice."""


@dataclass(frozen=True)
class Load:
    """What is done at once.

    Args:
        kind: ``READS``, ``WRITES``, or ``MIXED``: nine reads, then a write.
        size: bytes of a value as JSON.
        callers: tasks of one loop, or threads.
        blocking: the callers are threads.
    """

    kind: str
    size: int
    callers: int
    blocking: bool = False

    def __str__(self) -> str:
        size = f"{self.size // 1024} KiB" if self.size >= 1024 else f"{self.size} B"
        return f"{self.kind}, {size}, {self.who}"

    @property
    def who(self) -> str:
        """How many do it at once."""
        who = "thread" if self.blocking else "task"
        return f"{self.callers:,} {who}{'s' if self.callers > 1 else ''}"

    @property
    def operations(self) -> int:
        """In one slice, of all callers together."""
        return self.callers * OPERATIONS[self.callers]

    def shares(self, keys: Sequence[str], slice_number: int) -> list[Sequence[str]]:
        """Which keys each caller uses: different ones, as far as there are enough, and others in the next slice."""
        each = OPERATIONS[self.callers]
        wheel = [*keys] * (2 + self.operations // len(keys))
        first = slice_number * self.operations % len(keys)
        return [wheel[start : start + each] for start in range(first, first + self.operations, each)]


@dataclass(frozen=True)
class Effort:
    """How long each load is measured: until ``seconds`` are over, and ``rounds`` at least (two or more)."""

    seconds: float
    rounds: int


@dataclass(frozen=True)
class Slice:
    """What one operation took, as a mean over a slice; times in nanoseconds."""

    wall: float
    client_cpu: float
    server_cpu: float
    round_trips: float
    commands: float


@dataclass
class Outcome:
    """What was measured of one contestant.

    Args:
        way: the name of what is not its default, where that failed.
        slices: round by round; empty where it failed.
        failures: what went wrong, in the order of the ways.
    """

    way: str = ""
    slices: list[Slice] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def median(self, figure: Callable[[Slice], float]) -> float:
        return Spread.of([figure(one) for one in self.slices]).median


@dataclass(frozen=True)
class Cell:
    """One load, and the outcome of each contestant that takes part in it."""

    load: Load
    outcomes: dict[str, Outcome]

    @property
    def measurement(self) -> Measurement:
        """The times of all that did not fail."""
        measured = {name: outcome for name, outcome in self.outcomes.items() if outcome.slices}
        return Measurement({name: [one.wall for one in outcome.slices] for name, outcome in measured.items()})


@dataclass(frozen=True)
class Plan:
    """What one process measures.

    Args:
        loads: all of one flavour; those of a size follow each other.
        effort: how long each of them is measured.
        keys: how many there are.
    """

    loads: Sequence[Load]
    effort: Effort
    keys: int


class Failed(RuntimeError):
    """A contestant could not do what was asked, and said so in the log only."""


def payload(size: int, mark: int = 0) -> Value:
    """A dictionary of ``size`` bytes as JSON (150 at least), which ``mark`` tells from others."""
    value: Value = {
        "id": 48_151_623,
        "name": "Lamp of brass",
        "price": 19.9,
        "tags": ["home", "light"],
        "in_stock": True,
        "mark": 1_000_000 + mark,
        "text": "",
    }
    return value | {"text": "x" * (size - len(orjson.dumps(value)))}


def measured(url: str, nodes: Sequence[str], contestants: Sequence[Contestant], plan: Plan) -> list[Cell]:
    """Measure all loads of a plan; runs an event loop of its own.

    Args:
        url: of the server, or of a Cluster.
        nodes: the URLs of all servers behind it.
    """
    with Gauge(nodes) as gauge:
        return asyncio.run(_measured(url, gauge, contestants, plan))


async def _measured(url: str, gauge: Gauge, contestants: Sequence[Contestant], plan: Plan) -> list[Cell]:
    cells = []
    keys = [f"item:{number}" for number in range(plan.keys)]
    filled = 0
    for number, load in enumerate(plan.loads):
        if load.size != filled:
            for contestant in contestants:
                await _fill(contestant, url, load, keys)
            filled = load.size
        with Troubles() as troubles, ThreadPoolExecutor(load.callers if load.blocking else 1) as pool:
            course = _Course(load, keys, payload(load.size, number), gauge, troubles, pool)
            cells.append(await course.run(url, contestants, plan.effort))
    return cells


async def _fill(contestant: Contestant, url: str, load: Load, keys: Sequence[str]) -> None:
    with contextlib.suppress(Exception):  # what can't be filled fails in its first slice, where that is written down
        subject = await opened(contestant, "", url)
        try:
            await fill(subject, keys, payload(load.size), blocking=load.blocking)
        finally:
            await subject.close()


class _Course:
    """One load, done by all contestants."""

    def __init__(
        self,
        load: Load,
        keys: Sequence[str],
        value: Value,
        gauge: Gauge,
        troubles: Troubles,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._load = load
        self._keys = keys
        self._value = value
        self._gauge = gauge
        self._troubles = troubles
        self._pool = pool

    async def run(self, url: str, contestants: Sequence[Contestant], effort: Effort) -> Cell:
        outcomes: dict[str, Outcome] = {}
        subjects: dict[str, Subject] = {}
        for contestant in contestants:
            found = await self._warm(contestant, url)
            if found is not None:
                outcomes[contestant.name], subject = found
                if subject is not None:
                    subjects[contestant.name] = subject
        running = dict(subjects)
        end = perf_counter_ns() + int(effort.seconds * 1e9)
        number = 0
        with quiet_collector():
            while running and (number < effort.rounds or perf_counter_ns() < end):
                gc.collect()
                names = list(running)
                for place in running_order(number, len(names)):
                    outcome = outcomes[names[place]]
                    try:
                        outcome.slices.append(await self._slice(running[names[place]], number + 1))
                    except Exception as error:
                        outcome.slices.clear()
                        outcome.failures.append(reason(error))
                        del running[names[place]]
                number += 1
        for subject in subjects.values():
            await subject.close()
        return Cell(self._load, outcomes)

    async def _warm(self, contestant: Contestant, url: str) -> tuple[Outcome, Subject | None] | None:
        """The first way that bears the load, after a slice of it; nothing where the load is not for this contestant."""
        failures: list[str] = []
        for way in contestant.ways:
            try:
                subject = await opened(contestant, way, url)
            except Exception as error:
                failures.append(reason(error))
                continue
            if subject.write is None and self._load.kind != READS:
                await subject.close()
                return None
            try:
                await self._slice(subject, 0)
                await self._check(subject)
            except Exception as error:
                failures.append(reason(error))
                await subject.close()
            else:
                return Outcome(way, failures=failures), subject
        return Outcome(failures=failures), None

    async def _check(self, subject: Subject) -> None:
        """What the first slice wrote is there."""
        if self._load.kind != WRITES:
            return
        for key in sorted({key for share in self._load.shares(self._keys, 0) for key in share})[:500]:
            found = subject.read(key)
            if (found if self._load.blocking else await found) != self._value:
                raise NothingFound("what was written can't be read")

    async def _slice(self, subject: Subject, number: int) -> Slice:
        load = self._load
        shares = load.shares(self._keys, number)
        steps = self._in_threads if load.blocking else self._in_tasks
        before = self._gauge.read()
        wall, cpu = perf_counter_ns(), process_time_ns()
        await steps(subject, shares)
        wall, cpu = perf_counter_ns() - wall, process_time_ns() - cpu
        counted = self._gauge.since(before)
        self._troubles.check()
        figures = (wall, cpu, counted.cpu, counted.reads, counted.commands)
        return Slice(*(figure / load.operations for figure in figures))

    async def _in_tasks(self, subject: Subject, shares: Sequence[Sequence[str]]) -> None:
        read, write, value = subject.read, subject.write or _refuse, self._value

        async def reads(keys: Sequence[str], _: int) -> None:
            for key in keys:
                if await read(key) is None:
                    raise NothingFound("a stored value is not found")

        async def writes(keys: Sequence[str], _: int) -> None:
            for key in keys:
                await write(key, value)

        async def mixed(keys: Sequence[str], caller: int) -> None:
            for turn, key in enumerate(keys, caller):  # callers write at different times
                if turn % 10 == 0:
                    await write(key, value)
                elif await read(key) is None:
                    raise NothingFound("a stored value is not found")

        work = {READS: reads, WRITES: writes, MIXED: mixed}[self._load.kind]
        async with asyncio.TaskGroup() as group:
            for caller, keys in enumerate(shares):
                group.create_task(work(keys, caller))

    async def _in_threads(self, subject: Subject, shares: Sequence[Sequence[str]]) -> None:
        read, write, value = subject.read, subject.write or _refuse, self._value
        together = threading.Barrier(len(shares))

        def reads(keys: Sequence[str]) -> None:
            together.wait()
            for key in keys:
                if read(key) is None:
                    raise NothingFound("a stored value is not found")

        def writes(keys: Sequence[str]) -> None:
            together.wait()
            for key in keys:
                write(key, value)

        work = {READS: reads, WRITES: writes}[self._load.kind]
        for future in [self._pool.submit(work, keys) for keys in shares]:
            future.result()


def _refuse(key: str, value: Value) -> Any:
    raise TypeError("this subject only reads")


def reason(error: BaseException) -> str:
    """Why a contestant failed: of many errors at once the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class Troubles(logging.Handler):
    """Takes warnings of ours out of the log, and holds them against us."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger("fast_cache")
        self._seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.append(record.getMessage())

    def check(self) -> None:
        """Raise what was logged since the last look.

        Raises:
            Failed: something was.
        """
        if self._seen:
            seen, self._seen = self._seen, []
            raise Failed(seen[0])

    def __enter__(self) -> Troubles:
        self._logger.addHandler(self)
        self._logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True
