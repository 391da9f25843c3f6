"""What happened, in order: operations, the loads they led to, what was stored, and what went wrong.

Everything has a number in one sequence, which says what came before what; and a time of the virtual clock, which says
how old a value was. With ``told`` on, a readable account is kept as well.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from fast_cache.freshness import Freshness
from tests.simulation.scheduler import Scheduler


class Kind(enum.Enum):
    """What somebody does."""

    CALL = "call"
    REFRESH = "refresh"
    INVALIDATE = "invalidate"
    PUT = "put"
    CLEAR = "clear"
    GET = "get"
    DELETE = "delete"
    INVALIDATE_TAGS = "invalidate tags"
    BATCH = "batch"
    REFRESH_BATCH = "refresh batch"
    """Calls, or refreshes, of all keys at once. In the history they are what they are alone: each one of its key."""


class Operation:
    """Something that a process does, from ``began`` to ``ended``.

    What changes the source raises the versions of the keys it concerns first, as an application would: ``versions``.
    """

    __slots__ = (
        "began",
        "began_at",
        "cancelled",
        "detachable",
        "ended",
        "ended_at",
        "error",
        "failed",
        "freshness",
        "hit",
        "key",
        "kind",
        "number",
        "outer",
        "parts",
        "process",
        "tags",
        "value",
        "versions",
        "waits",
    )

    def __init__(self, kind: Kind, process: str, key: str | None, freshness: Freshness) -> None:
        self.kind = kind
        self.process = process
        self.key = key
        self.freshness = freshness
        self.versions: dict[str, int] = {}
        self.began = self.number = 0
        self.began_at = self.ended_at = 0.0
        self.ended: int | None = None
        self.value: Any = None
        self.error: Exception | None = None
        self.cancelled = False
        self.hit = False
        """Whether somebody meant to cancel it."""
        self.failed = False
        """Whether a step of the store failed on the way."""
        self.detachable = True
        self.waits = True
        self.outer: Operation | None = None
        """The one whose load called this one."""
        self.tags: tuple[str, ...] = ()
        """What an invalidation of tags invalidates."""
        self.parts: tuple[Operation, ...] = ()
        """The calls of a batch."""

    def __str__(self) -> str:
        about = self.key or ", ".join(self.tags or [str(part.key) for part in self.parts])
        return f"{self.process} {self.kind.value}#{self.number}({about})"


_READING: Final = (Kind.CALL, Kind.GET)


class Load:
    """A run of the function. What it returns is its ``number``, or ``None``."""

    __slots__ = (
        "absent",
        "began",
        "began_at",
        "ended",
        "ended_at",
        "failed",
        "key",
        "leased",
        "nothing",
        "number",
        "operation",
        "process",
        "settled",
        "version",
    )

    def __init__(self, number: int, operation: Operation, began: int, began_at: float) -> None:
        self.number = number
        self.operation = operation
        self.process = operation.process
        self.key = operation.key
        self.began = began
        self.began_at = began_at
        self.ended: int | None = None
        self.ended_at = 0.0
        self.settled: int | None = None
        """When those were told who waited for it: until then one more may have joined."""
        self.version: int | None = None
        self.nothing = False
        """Whether it returns ``None``."""
        self.absent = False
        """Whether it is one of a batch that leaves out its key: there is no value."""
        self.failed = False
        self.leased = False
        """Whether the flight that it is for has the lease of the key, as far as its process knows."""

    def answers(self, operation: Operation) -> bool:
        """Whether ``operation`` was under way before the load was over for everybody, so that it may have shared it."""
        last = self.settled or self.ended
        return self.process == operation.process and (last is None or last > operation.began)


class Stored(NamedTuple):
    """When a value was stored, and until when it is fresh."""

    at: float
    fresh_until: float


class Trouble(NamedTuple):
    """A step of a process's store that failed."""

    number: int
    process: str


class Rest(NamedTuple):
    """A source that is left in peace."""

    process: str
    key: str
    at: float


class Disturbance(NamedTuple):
    """What makes another load of a key right; of every process or of every key where that is ``None``."""

    number: int
    process: str | None
    key: str | None


class Told:
    """What a server told over one connection: of changes to ``names``, or of everything there is."""

    __slots__ = ("learned", "names", "number")

    def __init__(self, number: int, names: frozenset[bytes] | None) -> None:
        self.number = number
        self.names = names
        self.learned: int | None = None
        """When the process knew."""


class Attachment:
    """A connection over which a process is told, from when on it listened there; ``cut``: when it broke; ``lost``: when
    the process knew."""

    __slots__ = ("cut", "lost", "number", "told")

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.cut: int | None = None
        self.lost: int | None = None
        self.told: list[Told] = []


class Hearsay:
    """What one process heard of the changes by others."""

    def __init__(self) -> None:
        self.attachments: list[Attachment] = []
        self.sure: list[tuple[int, bool]] = [(0, False)]
        """From when on it believed its copies, or did not."""
        self.alone: dict[tuple[str, int | None], list[int]] = {}
        """When it kept what it had loaded while the store was away: by key and value."""
        self.answers: list[int] = []
        """When the store answered."""

    def attached_between(self, begin: int, end: int) -> bool:
        return any(begin < each.number < end for each in self.attachments)

    def caught_up(self, number: int) -> float:
        """From when on it must know of all that had been changed by ``number``."""
        times: list[float] = [each.number for each in self.attachments if each.number > number]
        there = [each for each in self.attachments if each.number <= number]
        if there and (there[-1].cut is None or there[-1].cut > number):
            told = [each for each in there[-1].told if each.number <= number]
            if not told:
                return number
            if told[-1].learned is not None:
                times.append(told[-1].learned)
        return min(times, default=float("inf"))

    def is_unsure(self, begin: int, end: int) -> bool:
        """Whether in all this time it believed no copy, or knew that it heard nothing."""
        there = [each for each in self.attachments if each.number <= end]
        lost = there[-1].lost if there else 0
        if lost is not None and lost <= begin:
            return True
        before = [sure for number, sure in self.sure if number <= begin]
        return not before[-1] and not any(sure for number, sure in self.sure if begin < number <= end)

    def heard_of(self, name: bytes, begin: int, end: int) -> list[int]:
        """When it learned of the changes to ``name`` that were told between ``begin`` and ``end``."""
        return [
            told.learned
            for each in self.attachments
            for told in each.told
            if begin < told.number <= end and told.learned is not None and (told.names is None or name in told.names)
        ]


class History:
    """The record of one run."""

    def __init__(self, scheduler: Scheduler, *, told: bool = False) -> None:
        self._scheduler = scheduler
        self._number = 0
        self.told = told
        self.lines: list[str] = []
        self.operations: list[Operation] = []
        self.loads: dict[int, Load] = {}
        self.puts: dict[int, Operation] = {}
        self.keeps: dict[int | None, list[Stored]] = {}
        self.troubles: list[Trouble] = []
        self.rests: list[Rest] = []
        self.disturbances: list[Disturbance] = []
        self.crashed: dict[str, int] = {}
        self.failovers: list[int] = []
        """When another server took over, which lacks what was changed last."""
        self.healed: int | None = None
        """From when on whatever was owed has been delivered."""
        self.hearsay: dict[str, Hearsay] = {}
        """By process, where there are two tiers."""

    def next(self) -> int:
        """The next number of the sequence."""
        self._number += 1
        return self._number

    def tell(self, line: str) -> None:
        """Add to the account."""
        self.lines.append(f"{self._number:5}  {self._scheduler.now:9.3f} s  {line}")

    def begin(self, operation: Operation) -> Operation:
        operation.began = operation.number = self.next()
        operation.began_at = self._scheduler.now
        self.operations.append(operation)
        if operation.kind not in _READING:
            self.disturb(operation.process, operation.key)
        if self.told:
            written = "".join(f", {key} is now v{version}" for key, version in operation.versions.items())
            self.tell(f"{operation} begins{written}{'' if operation.detachable else ', bound to its request'}")
        return operation

    def end(self, operation: Operation) -> None:
        operation.ended = self.next()
        operation.ended_at = self._scheduler.now
        if operation.kind not in _READING:
            self.disturb(operation.process, operation.key)
        if self.told:
            self.tell(f"{operation} {self._ending(operation)}")

    def begin_load(self, operation: Operation) -> Load:
        number = self.next()
        load = self.loads[number] = Load(number, operation, number, self._scheduler.now)
        if self.told:
            self.tell(f"{load.process} load {number} of {load.key} begins, for {operation}")
        return load

    def end_load(self, load: Load, how: str) -> None:
        load.ended = self.next()
        load.ended_at = self._scheduler.now
        if load.absent:
            self.disturb(None, load.key)  # what was stored before is removed
        if self.told:
            self.tell(f"{load.process} load {load.number} of {load.key} {how}")

    def settle(self, load: Load) -> None:
        load.settled = self.next()

    def stored(self, data: bytes, kept: float | None) -> None:
        """A store of bytes takes an entry: an envelope with the stale part of its lifetime."""
        payload = data[49 + 24 * data[48] : -4]
        stale = int.from_bytes(data[12:20], "big") / 1000
        self.kept(orjson.loads(payload), None if kept is None else kept - stale)

    def kept(self, value: int | None, fresh: float | None) -> None:
        """A store takes a value that is to be fresh for so long."""
        now = self._scheduler.now
        until = float("inf") if fresh is None else now + fresh
        self.keeps.setdefault(value, []).append(Stored(now, until))
        if self.told:
            self.tell(f"stored: {value}, fresh until {until:.3f}")

    def trouble(self, process: str, step: str, error: Exception) -> None:
        number = self.next()
        self.troubles.append(Trouble(number, process))
        self.disturb(process, None)
        if self.told:
            self.tell(f"{process} fails to {step}: {error}")

    def rest(self, process: str, key: str) -> None:
        self.rests.append(Rest(process, key, self._scheduler.now))
        if self.told:
            self.tell(f"{process} leaves the source of {key} in peace")

    def disturb(self, process: str | None, key: str | None) -> None:
        self.disturbances.append(Disturbance(self.next(), process, key))

    def crash(self, process: str) -> None:
        self.crashed[process] = self.next()
        self.disturb(None, None)
        if self.told:
            self.tell(f"{process} dies")

    def fail_over(self) -> None:
        self.failovers.append(self.next())
        self.disturb(None, None)

    def returned_nothing(self, key: str) -> Sequence[Load]:
        """The loads of ``key`` that returned ``None``."""
        return [load for load in self.loads.values() if load.nothing and load.key == key and load.ended is not None]

    def _ending(self, operation: Operation) -> str:
        if operation.cancelled:
            return "is cancelled"
        if operation.error is not None:
            return f"raises {type(operation.error).__name__}"
        if operation.kind in (Kind.CALL, Kind.REFRESH, Kind.GET):
            load = self.loads.get(operation.value)
            source = "" if load is None else f" (v{load.version} of {load.key})"
            return f"returns {operation.value}{source}"
        return "fails" if operation.failed else "is complete"
