"""How long small values take while large ones travel: readers with pauses, beside tasks that read 1 MiB all the time.

Readers have the same pauses with every contestant, so that none is asked for more by being faster.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from tests.benchmarks.expiry import percentile
from tests.benchmarks.redis_rounds import Troubles, payload, reason
from tests.benchmarks.redis_subjects import Contestant, NothingFound, Subject, fill, opened

READERS = 10
PAUSE = (0.005, 0.015)
"""Seconds, of random length, before each small read."""
SMALL = 150
LARGE = 2**20
LARGE_READERS = 4
LATE = 10_000_000
"""Nanoseconds from which a small read counts as late."""

KEYS = [f"small:{number}" for number in range(1000)]
LARGE_KEYS = [f"large:{number}" for number in range(8)]


@dataclass(frozen=True)
class Delays:
    """What small reads took.

    Args:
        taken: the nanoseconds of each, in order of size.
        large: how many large reads were done beside them in a second.
        failure: why nothing was taken.
    """

    taken: Sequence[int]
    large: float
    failure: str = ""

    @property
    def late(self) -> float:
        """The share of small reads that took longer than ``LATE``."""
        return sum(one > LATE for one in self.taken) / len(self.taken)

    def percentile(self, share: float) -> int:
        return percentile(list(self.taken), share)


def delays(url: str, contestants: Sequence[Contestant], seconds: float, rounds: int) -> dict[tuple[str, bool], Delays]:
    """By contestant, without large reads and with them; runs an event loop of its own.

    Args:
        seconds: how long each of the ``rounds`` lasts, in which each has its turn.
    """
    return asyncio.run(_delays(url, contestants, seconds, rounds))


async def _delays(
    url: str, contestants: Sequence[Contestant], seconds: float, rounds: int
) -> dict[tuple[str, bool], Delays]:
    found: dict[tuple[str, bool], Delays] = {}
    subjects: dict[str, Subject] = {}
    for contestant in contestants:
        subject = subjects[contestant.name] = await opened(contestant, "", url)
        for keys, size in ((KEYS, SMALL), (LARGE_KEYS, LARGE)):
            await fill(subject, keys, payload(size), blocking=False)
    turns = [(name, large) for name in subjects for large in (False, True)]
    taken: dict[tuple[str, bool], list[int]] = {turn: [] for turn in turns}
    counts = dict.fromkeys(turns, 0)
    with Troubles() as troubles:
        for number in range(rounds + 1):
            for turn in turns:
                if turn in found:
                    continue
                try:
                    small, count = await _round(subjects[turn[0]], seconds if number else min(0.1, seconds), turn[1])
                    troubles.check()
                except Exception as error:
                    found[turn] = Delays([], 0, reason(error))
                    continue
                if number:  # the first round connects, and shows which values are large
                    taken[turn] += small
                    counts[turn] += count
    for subject in subjects.values():
        await subject.close()
    return {turn: found.get(turn) or Delays(sorted(taken[turn]), counts[turn] / (seconds * rounds)) for turn in turns}


async def _round(subject: Subject, seconds: float, large: bool) -> tuple[list[int], int]:
    """The times of all small reads, and how many large ones were done."""
    taken: list[int] = []
    done = 0
    end = perf_counter_ns() + int(seconds * 1e9)

    async def read_small(pauses: random.Random) -> None:
        while perf_counter_ns() < end:
            await asyncio.sleep(pauses.uniform(*PAUSE))
            key = pauses.choice(KEYS)
            began = perf_counter_ns()
            found = await subject.read(key)
            taken.append(perf_counter_ns() - began)
            if found is None:
                raise NothingFound("a stored value is not found")

    async def read_large(choices: random.Random) -> None:
        nonlocal done
        while perf_counter_ns() < end:
            if await subject.read(choices.choice(LARGE_KEYS)) is None:
                raise NothingFound("a stored value is not found")
            done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(READERS):
            group.create_task(read_small(random.Random(number)))
        for number in range(LARGE_READERS if large else 0):
            group.create_task(read_large(random.Random(number)))
    return taken, done
