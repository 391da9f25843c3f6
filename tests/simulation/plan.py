"""What is to happen in one run, drawn from a seed: who there is, what they do, and what befalls them.

In which order it happens is drawn separately, so that a plan that shows a fault can be made shorter and tried again
under many orders.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, NamedTuple

from fast_cache.freshness import Freshness
from fast_cache.policy import CachePolicy, Lock
from tests.simulation.history import Kind

KEYS: Final = ("a", "b")

SHARED: Final = "both"
"""The tag that both keys may have; beside it each may have one of its own."""

TAGS: Final = ("of a", "of b", SHARED)

STALENESS: Final = 2.0
"""Seconds: for so long a copy may be stale, where there are two tiers."""

LOCK_TIMEOUT: Final = 2.0
"""Seconds: longer than a load takes, and than a lease of which the holder died."""


class Backend(enum.Enum):
    """Where values are kept."""

    MEMORY = "memory"
    REDIS = "redis"
    TEN_METHODS = "ten methods"
    LAYERED = "two tiers"


class Flavour(enum.Enum):
    """How a caller waits."""

    TASK = "task"
    THREAD = "thread"
    THREAD_OF_LOOP = "thread with a running loop"


class Fate(enum.Enum):
    """What befalls everybody."""

    CANCEL = "an operation is cancelled"
    CRASH = "a process dies"
    SHUTDOWN = "a loop ends, and cancels its tasks"
    TIME = "time passes"
    SILENCE = "the server is silent for a while"
    READ_ONLY = "the server refuses changes for a while"
    EVICTION = "the server forgets a key"
    FAILOVER = "another server takes over, without the last changes"
    FLUSH = "everything on the server is flushed"
    DEAF = "nothing comes through the channel for a while"
    CUT = "the channel is cut"


class Step(NamedTuple):
    """One operation of an actor, after a pause in seconds."""

    kind: Kind
    key: str
    pause: float
    detachable: bool
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        about = "" if self.kind in (Kind.BATCH, Kind.REFRESH_BATCH) else ", ".join(self.tags) or self.key
        return f"[{self.pause} s] {self.kind.value} {about}".rstrip()


class Tagging(NamedTuple):
    """The tags of a key: those that its function declares, and those that each of its loads adds."""

    declared: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"declares {list(self.declared)}, adds {list(self.added)}"


class Actor(NamedTuple):
    """Somebody who does one thing after another."""

    process: int
    flavour: Flavour
    steps: tuple[Step, ...]
    loop: int = 0
    """Which of the two loops of its process it runs on."""


class Blow(NamedTuple):
    """Something that befalls a process, after a pause in seconds."""

    fate: Fate
    process: int
    pause: float


def _policy(name: str, expire: float, **options: float) -> CachePolicy:
    return CachePolicy(name=f"simulated {name}", expire=expire, freshness=Freshness(**options))  # type: ignore[arg-type]


POLICIES: Final = (
    _policy("lasting", 60.0),
    _policy("brief", 1.0),
    _policy("stale-while-revalidate", 1.0, stale_while_revalidate=1.0),
    _policy("stale-if-error", 1.0, stale_if_error=2.0, throttle=0.3),
    _policy("both stale options", 1.0, stale_while_revalidate=2.0, stale_if_error=1.0, throttle=0.3),
    _policy("refresh-ahead", 1.0, refresh_ahead_part=0.5),
    _policy("lasting, refreshed ahead", 60.0, refresh_ahead=59.9),
    _policy("early", 1.0, early=1.0),
    _policy("jitter", 1.0, jitter=0.5),
    _policy("timeout", 1.0, stale_if_error=2.0, throttle=0.3, timeout=0.05, hard_timeout=0.4),
    _policy("timeout while revalidating", 1.0, stale_while_revalidate=2.0, timeout=0.1),
    _policy("hard timeout", 60.0, hard_timeout=0.1),
)

_LONG: Final = (0.0, 0.0, 0.0, 0.0, 0.05, 0.3, 1.1, 1.6)
_SHORT: Final = (0.0, 0.0, 0.0, 0.02, 0.05, 0.1, 0.2, 1.1)
"""Pauses between operations: with a load that is slow, short ones make them meet."""

_KINDS: Final = (Kind.CALL,) * 11 + (Kind.INVALIDATE,) * 5 + (Kind.REFRESH, Kind.PUT, Kind.PUT, Kind.CLEAR)

_KINDS_OF_TIERS: Final = (*(Kind.CALL,) * 6, *(Kind.GET,) * 3, *(Kind.DELETE,) * 2)
_MORE_KINDS: Final = (Kind.INVALIDATE_TAGS,) * 9
_AT_ONCE: Final = (*(Kind.BATCH,) * 8, *(Kind.REFRESH_BATCH,) * 2)

_FATES: Final = {
    Backend.MEMORY: (Fate.CANCEL, Fate.CANCEL, Fate.SHUTDOWN, Fate.TIME),
    Backend.TEN_METHODS: (Fate.CANCEL, Fate.CANCEL, Fate.SHUTDOWN, Fate.TIME),
    Backend.REDIS: (
        *(Fate.CANCEL, Fate.CANCEL, Fate.CANCEL, Fate.SHUTDOWN, Fate.CRASH, Fate.TIME),
        *(Fate.SILENCE, Fate.READ_ONLY, Fate.EVICTION, Fate.FAILOVER, Fate.FAILOVER),
    ),
    Backend.LAYERED: (
        *(Fate.CANCEL, Fate.SHUTDOWN, Fate.CRASH, Fate.TIME, Fate.SILENCE, Fate.READ_ONLY, Fate.EVICTION),
        *(Fate.FAILOVER, Fate.FLUSH, Fate.DEAF, Fate.DEAF, Fate.DEAF, Fate.CUT, Fate.CUT),
    ),
}


@dataclass(frozen=True)
class Plan:
    """One run, apart from its order.

    ``policies`` has one for each process: mostly the same, as in one deployment; now and then an older one.
    """

    backend: Backend
    policies: tuple[CachePolicy, ...]
    actors: tuple[Actor, ...]
    blows: tuple[Blow, ...]
    loss: float = 0.0
    """How likely it is that a message is lost, or a method of a backend raises."""
    failures: float = 0.0
    """How likely it is that a load raises."""
    nothing: float = 0.1
    """How likely it is that a load returns ``None``."""
    slow: bool = False
    """Whether loads and messages take their time."""
    nests: bool = False
    """Whether loads call other cached functions, or themselves."""
    full: bool = False
    """Whether local memory has room for one entry only."""
    max_load_time: float = 60.0
    keys: tuple[str, ...] = KEYS
    tagging: tuple[Tagging, ...] = ()
    """One for each key; without any there are no tags."""
    skips: float = 0.0
    """How likely it is that a load says that its result is not to be stored."""
    most: int | None = None
    """How many elements of a batch are loaded at once, if that is limited."""

    def tagging_of(self, key: str) -> Tagging:
        return self.tagging[KEYS.index(key)] if self.tagging else _UNTAGGED

    def tagged(self, tags: tuple[str, ...]) -> list[str]:
        """The keys whose loaded values have one of ``tags``."""
        return [
            key
            for key in self.keys
            if not set(tags).isdisjoint((*self.tagging_of(key).declared, *self.tagging_of(key).added))
        ]

    def __str__(self) -> str:
        traits = {"slow": self.slow, "nested loads": self.nests, "one entry": self.full}
        traits |= {"results that are not to be stored": bool(self.skips), "one element at a time": bool(self.most)}
        lines = [
            f"{self.backend.value}, loss {self.loss}, failing loads {self.failures}, "
            f"max_load_time {self.max_load_time}" + "".join(f", {trait}" for trait, holds in traits.items() if holds)
        ]
        lines += [f"p{index}: {policy.name}, lock {policy.lock}" for index, policy in enumerate(self.policies)]
        lines += [f"{key}: {tagging}" for key, tagging in zip(KEYS, self.tagging, strict=False)]
        for actor in self.actors:
            steps = ", ".join(map(str, actor.steps))
            where = f"{actor.flavour.value} of p{actor.process}{', on its other loop' if actor.loop else ''}"
            lines.append(f"a {where}: {steps}")
        lines += [f"[{blow.pause} s] {blow.fate.value} (p{blow.process})" for blow in self.blows]
        return "\n".join(lines)


_UNTAGGED: Final = Tagging()


def draw(rng: Random, tiers: int = 1) -> Plan:
    """A plan of two to four callers and three to eight operations; with two ``tiers`` of two processes or three, and of
    five to ten operations."""
    random = rng.random

    def below(count: int) -> int:
        return int(random() * count)

    kind = random()
    backend = Backend.MEMORY if kind < 0.3 else Backend.TEN_METHODS if kind < 0.45 else Backend.REDIS
    if layered := tiers == 2:
        backend = Backend.LAYERED
    shared = backend in (Backend.REDIS, Backend.LAYERED)
    processes = 1 if not shared else 1 + int(layered or random() < 0.75) + int(random() < 0.15)
    slow = random() < 0.5
    pauses = (*(_SHORT if slow else _LONG), *([STALENESS + 0.1] if layered else []))
    policy = POLICIES[0 if layered and random() < 0.5 else below(len(POLICIES))]
    policies = [policy] * processes
    if processes > 1 and random() < 0.1:
        policies[-1] = POLICIES[below(len(POLICIES))]
    drawn = random()
    lock: Lock = "distributed" if drawn < 0.4 and shared else False if drawn > 0.9 else "local"
    policies = [replace(policy, lock=lock, lock_timeout=LOCK_TIMEOUT) for policy in policies]
    batches, tags = random() < 0.2, random() < 0.35
    keys = 2 if batches or random() < (0.5 if tags else 0.25) else 1
    kinds = (
        _KINDS + (_KINDS_OF_TIERS if layered else ()) + (_MORE_KINDS if tags else ()) + (_AT_ONCE if batches else ())
    )
    flavours, apart = random(), 0.0 if random() < 0.5 else 0.5
    actors = []
    left = 3 + 2 * layered + min(below(6), below(6))
    count = min(left, 2 + below(3))
    for index in range(count):
        share = left // (count - index)
        left -= share
        flavour = Flavour.TASK
        if flavours > 0.7:
            flavour = Flavour.THREAD if random() < 0.85 else Flavour.THREAD_OF_LOOP
        steps = tuple(
            Step(kinds[below(len(kinds))], KEYS[below(keys)], pauses[below(len(pauses))], random() < 0.85)
            for _ in range(share)
        )
        steps = tuple(
            step._replace(tags=_some_tags(step.key, random())) if step.kind is Kind.INVALIDATE_TAGS else step
            for step in steps
        )
        actors.append(Actor(below(processes), flavour, steps, int(random() < apart)))
    fates = _FATES[backend]
    blows = tuple(
        Blow(fates[below(len(fates))], below(processes), pauses[below(len(pauses))])
        for _ in range(below(3) if random() < 0.7 else 0)
    )
    return Plan(
        backend,
        tuple(policies),
        tuple(actors),
        blows,
        loss=0.0 if random() < 0.6 else 0.1,
        failures=0.0 if random() < 0.6 else 0.3,
        slow=slow,
        nests=random() < 0.1,
        full=random() < 0.1,
        max_load_time=60.0 if random() < 0.8 else 0.3,
        keys=KEYS[:keys],
        tagging=_tagging(random) if tags else (),
        skips=0.3 if tags and random() < 0.15 else 0.0,
        most=1 if batches and random() < 0.2 else None,
    )


def _tagging(random: Callable[[], float]) -> tuple[Tagging, ...]:
    """Each of the two tags that a key may have is declared, or added while loading, or not there."""
    declared = (1.0, 0.0, 0.0, 0.5)[int(random() * 4)]
    found = []
    for key in KEYS:
        tags = [tag for tag in (f"of {key}", SHARED) if random() < 0.75]
        early = [tag for tag in tags if random() < declared]
        found.append(Tagging(tuple(early), tuple(tag for tag in tags if tag not in early)))
    return tuple(found)


def _some_tags(key: str, lot: float) -> tuple[str, ...]:
    return (SHARED,) if lot < 0.45 else (f"of {key}",) if lot < 0.85 else (SHARED, f"of {key}")
