"""A hundred thousand schedules without a broken law; and proof that each law can be broken.

``make simulate`` runs a million. What a seed did is printed by ``python -m tests.simulation SEED``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from fast_cache.backends.memory import MemoryStore
from fast_cache.backends.redis.invalidations import Invalidations, Owed
from fast_cache.backends.redis.lane import TaskLane
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import Command
from fast_cache.backends.redis.store import RedisStore
from fast_cache.backends.ten_methods import TenMethodStore
from fast_cache.entry import MISSING
from fast_cache.freshness import Found, Verdict
from fast_cache.serializers import unpack_stored
from fast_cache.single_flight import Flight, Flights, Signal
from tests.simulation.explore import Failure, attempt, attempted, explore, reduced
from tests.simulation.plan import draw
from tests.simulation.test_kept import KEPT, ORDERS
from tests.simulation.world import virtual

ROOT = Path(__file__).resolve().parents[2]

SCHEDULES = 100_000

SOON = 20_000
"""Within so many schedules most of what is broken is noticed, and the rest within those that broke a law once."""


def test_no_schedule_breaks_a_law() -> None:
    # Apart, on all processors, and out of the sight of what measures coverage: traced, it would take minutes.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "tests.simulation", "--schedules", str(SCHEDULES)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"


def test_a_seed_always_gives_the_same_run() -> None:
    def account(seed: int) -> str:
        return attempted(seed, draw(Random(seed)), seed).account()

    for seed in range(40):
        assert account(seed) == account(seed)


def test_what_is_drawn_has_everything_in_it() -> None:
    accounts = "\n".join(attempted(seed, draw(Random(seed)), seed).account() for seed in range(2000))
    for word in (
        *("memory", "redis", "ten methods", "thread of", "nested loads", "on its other loop", "one entry"),
        *(
            "is cancelled, at",
            "dies",
            "READONLY",
            "meets a silent server",
            "is evicted",
            "is lost",
            "connection closed",
        ),
        *("LoadTimeout", "LoadError", "returns None", "bound to its request", "leaves the source of", "refresh#"),
        *("WRITE-IF-FENCED", "ANNOUNCE", "PUT-IF-ANNOUNCED", "fails to write", "fails to delete", "background"),
        *("lock distributed", "lock False", "TAKE-LEASE", "EXTEND-LEASE", "RELEASE-LEASE", "(XREAD", "waits"),
        *("server 2 takes over", "(INFO server)", "(PING)", "NOSCRIPT", "in full", "(MGET"),
        *("declares ['both']", "adds ['both']", "invalidate tags", "(NEXT", "(SET-TAG", "sim:q: is evicted"),
        *(
            "sim:t:<both> is evicted",
            "is not to be stored",
            " batch#",
            "refresh batch#",
            "one element at a time",
            "finds nothing",
        ),
    ):
        assert word in accounts, word


class Break(NamedTuple):
    """A part of the engine made wrong: ``replacement`` is made from what stands under ``name`` in ``owner``."""

    owner: str
    name: str
    replacement: Callable[[Any], Any]
    law: str


def _unfenced_put(put: Callable[..., bool]) -> Callable[..., bool]:
    def unfenced(
        self: MemoryStore, key: Any, value: Any, life: Any, flight: Flight | None = None, tags: Sequence[str] = ()
    ) -> bool:
        if flight is not None:
            flight.moved = False
        return put(self, key, value, life, flight, tags)

    return unfenced


def _plain_set(_: Any) -> Callable[..., list[Command]]:
    def write(self: Layout, key: str, fence: bytes, data: bytes, lifetime_ms: int) -> list[Command]:
        return [("SET", self.value_key(key), data, "PX", lifetime_ms), ("GET", self._generation)]

    return write


def _believed_write(write: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
    async def believed(self: RedisStore, *args: Any) -> bool:
        await write(self, *args)
        return True

    return believed


def _unwoken(_: Any) -> Callable[..., None]:
    def abandon(self: Flights, flight: Flight) -> None:
        flight.ended = Signal.OVERTAKEN
        self._remove(flight)

    return abandon


def _any_generation(_: Any) -> Callable[..., Any]:
    return lambda key, data, generation: unpack_stored(key, data) if isinstance(data, bytes) else None


def _any_plain_value(plain_value: Callable[..., Any]) -> Callable[..., Any]:
    """Whoever wrote it has put the generation there, which is the one that lives then."""
    return lambda key, data, generation, codec, largest: plain_value(key, data, (data or b"")[57:73], codec, largest)


def _no_second_look(capture: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def captured(self: Any, *args: Any, **options: Any) -> Any:
        _, ticket = await capture(self, *args, **options)
        return MISSING, ticket

    return captured


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _undone_in_name(_: Any) -> Callable[..., Awaitable[None]]:
    async def undo(self: TenMethodStore, port: Any, key: str) -> None:
        self._overlooked.pop(key, None)

    return undo


def _value_only(_: Any) -> Callable[..., None]:
    def retire(self: Any) -> None:
        self.value = None

    return retire


def _always_leads(_: Any) -> Callable[..., tuple[Flight, bool]]:
    return lambda self, key, gone=None: (self.supersede(key, gone), True)


def _absent_as_none(find: Callable[..., Any]) -> Callable[..., Any]:
    def found(self: MemoryStore, key: Any) -> Any:
        there = find(self, key)
        return Found(None) if there is MISSING and self.evictions()["expired"] else there

    return found


def _one_token_for_all(take: Callable[..., list[Command]]) -> Callable[..., list[Command]]:
    return lambda self, key, token: take(self, key, b"everybody")


async def _as_it_was(self: RedisStore, port: Any, stored: Any, known: Any) -> Any:
    return stored


async def _certainly(self: RedisStore, *args: Any) -> bool:
    return True


def _without_a_word(stop: Callable[..., None]) -> Callable[..., None]:
    def stopped(strands: Sequence[Any], error: BaseException) -> None:
        with patch.object(Flights, "abandon", _nothing):
            stop(strands, error)

    return stopped


def _any_number(_: Any) -> Callable[..., list[Command]]:
    def set_tags(self: Layout, digests: Sequence[bytes], token: bytes) -> list[Command]:
        return [("SET", self.tag_key(digest), token, "PX", self._tag_ms) for digest in digests]

    return set_tags


def _only_its_own(leading: Callable[..., Any]) -> Callable[..., Any]:
    return lambda marks, others=(): leading(marks)


def _all_is_well(_: Any) -> Callable[..., Owed]:
    def owed(self: Invalidations) -> Owed:
        self.pending = False
        return Owed()

    return owed


async def _in_vain(self: Any, talk: Any) -> None:
    self._invalidations.delivered(self._invalidations.owed())


def _shared_out_backwards(shared_out: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, replies: shared_out(self, replies)[::-1]


def _without_texts(flush: Callable[..., None]) -> Callable[..., None]:
    def flushed(self: TaskLane) -> None:
        self._unloaded.clear()
        flush(self)

    return flushed


INVALIDATIONS = "fast_cache.backends.redis.invalidations.Invalidations"
FLIGHTS = "fast_cache.single_flight.Flights"
STORE = "fast_cache.backends.redis.store.RedisStore"

BREAKS = {
    "a load's late write undoes an invalidation": Break(
        "fast_cache.backends.memory.MemoryStore", "put", _unfenced_put, "law 1"
    ),
    "an invalidation leaves the loads in flight alone": Break(FLIGHTS, "invalidate", lambda _: _nothing, "law 1"),
    "a clear leaves the loads in flight alone": Break(FLIGHTS, "invalidate_all", lambda _: _nothing, "law 1"),
    "Redis stores without looking at the fence": Break(
        "fast_cache.backends.redis.layout.Layout", "write", _plain_set, "law 1"
    ),
    "a refused write is not noticed": Break(
        "fast_cache.backends.redis.store.RedisStore", "write", _believed_write, "law 1"
    ),
    "an invalidation that was not delivered is forgotten": Break(
        "fast_cache.backends.redis.invalidations.Invalidations", "owe", lambda _: _nothing, "law 1"
    ),
    "what is owed is delivered to nobody": Break(INVALIDATIONS, "owed", _all_is_well, "law 1"),
    "what another server confirmed is not repeated": Break(INVALIDATIONS, "repeat", lambda _: _nothing, "law 1"),
    "the breaker closes, and nobody was told what is owed": Break(
        "fast_cache.backends.redis.link.Link", "_deliver", lambda _: _in_vain, "law 1"
    ),
    "nobody asks whether the server is back": Break(
        "fast_cache.backends.redis.breaker.Prober", "awake", lambda _: _nothing, "law 4"
    ),
    "replies are shared out in a wrong order": Break(
        "fast_cache.backends.redis.batch.Batch", "shared_out", _shared_out_backwards, "law 5"
    ),
    "a caller is forgotten when the server knows a script no more": Break(
        "fast_cache.backends.redis.lane.TaskLane", "_flush", _without_texts, "law 4"
    ),
    "entries outlive a clear": Break("fast_cache.backends.redis.store", "opened", _any_generation, "law 1"),
    "entries that are read by the shortest way outlive a clear": Break(
        "fast_cache.backends.redis.store", "plain_value", _any_plain_value, "law 1"
    ),
    "a write that was fenced off is not undone": Break(
        "fast_cache.backends.ten_methods.TenMethodStore", "_undo", _undone_in_name, "law 1"
    ),
    "nothing is ever stale": Break(
        "fast_cache.freshness.Freshness", "judge", lambda _: lambda self, found: Verdict.FRESH, "law 2"
    ),
    "every error is forgiven": Break(
        "fast_cache.freshness.Freshness", "forgives", lambda _: lambda self, error, spare: True, "law 2"
    ),
    "everybody leads": Break(FLIGHTS, "board", _always_leads, "law 3"),
    "a leader does not look again": Break(
        "fast_cache.backends.redis.store.RedisStore", "capture", _no_second_look, "law 3"
    ),
    "a leader that is cancelled wakes nobody": Break(FLIGHTS, "abandon", _unwoken, "law 4"),
    "an entry is emptied before it is retired": Break("fast_cache.entry.Entry", "retire", _value_only, "law 5"),
    "an absent value is None": Break("fast_cache.backends.memory.MemoryStore", "find", _absent_as_none, "law 5"),
    "every process gets the lease": Break(
        "fast_cache.backends.redis.layout.Layout", "take_lease", _one_token_for_all, "law 7"
    ),
    "a flight that has ended is still there": Break(FLIGHTS, "_remove", lambda _: _nothing, "law 6"),
    "an invalidation of tags leaves the loads in flight alone": Break(FLIGHTS, "lose", lambda _: _nothing, "law 1"),
    "entries outlive their tags": Break(STORE, "living", lambda _: _as_it_was, "law 1"),
    "a tag that was added while loading always stood": Break(STORE, "_stood", lambda _: _certainly, "law 1"),
    "an owed invalidation of tags is delivered to nobody": Break(
        "fast_cache.backends.redis.layout.Layout", "forget_tags", lambda _: lambda self, digests: [], "law 1"
    ),
    "a batch goes away with the leads that it was chosen for": Break(
        "fast_cache.ports.Places", "leave_all", lambda _: _nothing, "law 6"
    ),
    "a batch that is cancelled forgets what it leads": Break("fast_cache.lockstep", "_stop", _without_a_word, "law 4"),
    "what a batch loads later does not wait for what it loads now": Break(
        "fast_cache.lockstep", "leading_all", _only_its_own, "law 4"
    ),
}


def kept(law: str) -> Failure | None:
    """The same of plans that broke a law once: the first that breaks this one."""
    with virtual():
        for plan in KEPT.values():
            for order in range(ORDERS):
                found = attempt(plan, order)
                if found and (failure := Failure(order, plan, order, found)).law == law:
                    return failure
    return None


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS.keys())
def test_what_is_broken_on_purpose_is_noticed(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = resolve_name(broken.owner)
    monkeypatch.setattr(owner, broken.name, broken.replacement(getattr(owner, broken.name)))
    failure = next((each for each in explore(range(SOON)) if each.law == broken.law), None) or kept(broken.law)
    assert failure is not None
    account = reduced(failure, tries=20).account()
    assert account.splitlines()[-1].startswith(broken.law)
    assert " begins" in account
