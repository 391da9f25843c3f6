"""A hundred thousand schedules without a broken law, some more of two tiers; and proof that each law can be broken.

``make simulate`` runs a million: half of them with one tier, half with two. What a seed did is printed by
``python -m tests.simulation SEED``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from fast_cache.backends.channel import News
from fast_cache.backends.layered.store import LayeredStore
from fast_cache.backends.memory import MemoryStore
from fast_cache.backends.redis.hearing import Pulse, Tracking
from fast_cache.backends.redis.invalidations import Invalidations, Owed
from fast_cache.backends.redis.lane import TaskLane
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import Command
from fast_cache.backends.redis.store import RedisStore
from fast_cache.backends.ten_methods import TenMethodStore
from fast_cache.entry import MISSING
from fast_cache.freshness import Found, Verdict
from fast_cache.serializers import unpack_head, unpack_stored, version_of
from fast_cache.single_flight import Flight, Flights, Signal
from tests.simulation import __main__ as program
from tests.simulation.explore import Failure, attempt, attempted, explore, reduced
from tests.simulation.plan import Plan, draw
from tests.simulation.test_kept import KEPT, OF_TIERS, ORDERS
from tests.simulation.world import virtual

ROOT = Path(__file__).resolve().parents[2]

SCHEDULES = {1: 100_000, 2: 8_000}
"""With one tier, and with two: those take four times as long each, and a third of the time of the others in all."""

SOON = 20_000
"""Within so many schedules most of what is broken is noticed, and the rest within those that broke a law once."""


@pytest.mark.parametrize("tiers", SCHEDULES)
def test_no_schedule_breaks_a_law(tiers: int) -> None:
    # Apart, on all processors, and out of the sight of what measures coverage: traced, it would take minutes.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", "tests.simulation", "--tiers", str(tiers), "--schedules", str(SCHEDULES[tiers])]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"


def test_both_are_run_unless_one_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*options: str) -> list[str]:
        assert program.main([*options, "--schedules", "19", "--jobs", "1"]) == 0
        return [line.partition(" in ")[0] for line in capsys.readouterr().out.splitlines()]

    assert told() == ["10 schedules with one tier", "10 schedules with two tiers"]
    assert told("--tiers", "1") == ["19 schedules with one tier"]
    assert told("--tiers", "2") == ["19 schedules with two tiers"]


def test_a_law_that_is_broken_with_two_tiers_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LayeredStore, "_drop", _nothing)
    monkeypatch.setattr(program, "reduced", lambda failure: failure)
    assert program.main(["--schedules", "200", "--jobs", "1"]) == 1
    one, two, *told = capsys.readouterr().out.splitlines()
    assert one.startswith("100 schedules with one tier"), "where nothing is broken"
    assert two.startswith("100 schedules with two tiers")
    assert any("is broken by" in line and "schedules with two tiers: " in line for line in told)


@pytest.mark.parametrize("tiers", SCHEDULES)
def test_a_seed_always_gives_the_same_run(tiers: int) -> None:
    def account(seed: int) -> str:
        return attempted(seed, draw(Random(seed), tiers), seed).account()

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
        *("WRITE-IF-FENCED", "PUT-IN-TIME", "fails to put", "fails to write", "fails to delete", "background"),
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


def test_what_is_drawn_for_two_tiers_has_everything_in_it() -> None:
    accounts = "\n".join(attempted(seed, draw(Random(seed), 2), seed).account() for seed in range(250))
    for word in (
        *("two tiers", "one entry", "thread of", " get#", " delete#", " batch#", "invalidate tags", "clear#"),
        *("channel of p1 is attached", "channel of p1 is lost", "sim:v:{a} has changed", "sim:g: has changed"),
        *("sim:t:", "everything has changed", "no longer believes its copies", "believes its copies"),
        *("(STRLEN", "everything is flushed", "nothing comes through the channel", "the channel is cut"),
        *("server 2 takes over", "fails to capture", "keeps"),
    ):
        assert word in accounts, word


class Break(NamedTuple):
    """A part of the engine made wrong: ``replacement`` is made from what stands under ``name`` in ``owner``."""

    owner: str
    name: str
    replacement: Callable[[Any], Any]
    law: str
    plan: str = ""
    """A kept plan that shows it soon, of what is rarely drawn."""


def _unfenced_put(put: Callable[..., bool]) -> Callable[..., bool]:
    def unfenced(self: MemoryStore, key: Any, value: Any, life: Any, flight: Flight | None = None, *rest: Any) -> bool:
        if flight is not None:
            flight.moved = False
        return put(self, key, value, life, flight, *rest)

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
    return lambda key, data, generation, *rest: plain_value(key, data, (data or b"")[57:73], *rest)


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


def _in_any_time(made: Callable[..., bytes]) -> Callable[..., bytes]:
    def far_off(self: Any, clock: Any) -> bytes:
        return made(self, clock) + b"0"

    return far_off


def _shared_out_backwards(shared_out: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, replies: shared_out(self, replies)[::-1]


def _without_texts(flush: Callable[..., None]) -> Callable[..., None]:
    def flushed(self: TaskLane) -> None:
        self._unloaded.clear()
        flush(self)

    return flushed


def _fetching(*, registered: bool) -> Callable[[Any], Callable[..., Awaitable[Any]]]:
    """As if no time had passed since the far store was asked, with a copy that is ``registered`` before, or not."""

    def replacement(_: Any) -> Callable[..., Awaitable[Any]]:
        async def fetched(self: LayeredStore, port: Any, key: Any, text: str, terms: Any) -> Any:
            assert self._channel is not None
            self._channel.awake()
            flights = self._near.flights
            fill = flights.lone(key) if registered else None
            try:
                found = await self._asked(self._far.read(port, text, terms._replace(soft=True, copies=True)))
                fill = flights.lone(key) if fill is None else fill
                if found is not MISSING and found.fresh_for > 0:
                    self._hold(key, found, found.fresh_for, terms, fill)
                return found
            finally:
                if fill is not None:
                    flights.abandon(fill)

        return fetched

    return replacement


async def _dropped_before(
    self: LayeredStore, port: Any, news: Any, step: Any, *, decided: bool = False
) -> tuple[Any, bool]:
    return await step, True


def _not_dropping(attached: Callable[..., None]) -> Callable[..., None]:
    def begun(self: LayeredStore) -> None:
        with patch.object(MemoryStore, "clear", _nothing):
            attached(self)

    return begun


def _of_any_generation(confirm: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """As if what stands in the entry were what lives."""

    async def confirmed(self: RedisStore, port: Any, key: str, version: bytes, tags: Sequence[bytes]) -> Any:
        left, head, tail, size, *_ = await self._link.exchange(
            port, self._layout.left(key) + self._layout.version(key, 1 + len(tags))
        )
        if not isinstance(head, bytes) or (known := unpack_head(head)) is None:
            return None
        return left / 1000 - known.stale_ms / 1000 if version_of(head, tail, size) == version else None

    return confirmed


def _of_any_tag(confirm: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def confirmed(self: RedisStore, port: Any, key: str, version: bytes, tags: Sequence[bytes]) -> Any:
        left, head, tail, size, generation = await self._link.exchange(
            port, self._layout.left(key) + self._layout.version(key, 1 + len(tags))
        )
        if not isinstance(head, bytes) or (known := unpack_head(head)) is None:
            return None
        if known.generations[0][1] != generation or version_of(head, tail, size) != version:
            return None
        return left / 1000 - known.stale_ms / 1000

    return confirmed


async def _kept_on_return(self: LayeredStore, step: Awaitable[Any]) -> Any:
    return await step


def _trusting(init: Callable[..., None]) -> Callable[..., None]:
    def begin(self: Pulse, *args: Any) -> None:
        init(self, *args)
        self._given_up = 1e9
        self.__class__ = Trusting

    class Trusting(Pulse):
        heard = property(lambda self: 1e9, lambda self, at: None)

    return begin


def _uncounted(learn: Callable[..., None]) -> Callable[..., None]:
    def learned(self: LayeredStore, *args: Any) -> None:
        learn(self, *args)
        self._told -= 1

    return learned


def _not_everything(news: Callable[..., Any]) -> Callable[..., Any]:
    def told(self: Tracking, said: Any) -> Any:
        return News() if said == [b"invalidate", None] else news(self, said)

    return told


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
        STORE, "write", _believed_write, "law 1", "the same, and the load takes its time"
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
    "what is late is stored all the same": Break(
        "fast_cache.backends.redis.deadlines.Deadline", "made", _in_any_time, "law 1"
    ),
    "whoever is cancelled does not wait for what is on its way": Break(
        "tests.simulation.wires", "time_left", lambda _: lambda packet: 0.0, "law 1"
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
        "fast_cache.freshness.Freshness",
        "forgives",
        lambda _: lambda self, error, spare: True,
        "law 2",
        "a source rests, and a caller that must not be served stale is",
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
    "a tag that was added while loading always stood": Break(
        STORE,
        "_stood",
        lambda _: _certainly,
        "law 1",
        "what is not to be stored has a tag that was invalidated before a follower came",
    ),
    "an owed invalidation of tags is delivered to nobody": Break(
        "fast_cache.backends.redis.layout.Layout", "forget_tags", lambda _: lambda self, digests: [], "law 1"
    ),
    "a batch goes away with the leads that it was chosen for": Break(
        "fast_cache.ports.Places",
        "leave_all",
        lambda _: _nothing,
        "law 6",
        "a loop ends when a batch has just begun to load what it need not wait for to the end",
    ),
    "a batch that is cancelled forgets what it leads": Break("fast_cache.lockstep", "_stop", _without_a_word, "law 4"),
    "what a batch loads later does not wait for what it loads now": Break(
        "fast_cache.lockstep", "leading_all", _only_its_own, "law 4"
    ),
}


LAYERED = "fast_cache.backends.layered.store.LayeredStore"
HEARING = "fast_cache.backends.redis.hearing"

BREAKS_OF_TIERS = {
    "a copy is registered when it has come": Break(
        LAYERED,
        "_fetched",
        _fetching(registered=False),
        "law 8",
        "a value is invalidated while a copy of it is fetched",
    ),
    "the time of a copy counts from when it has come": Break(
        LAYERED, "_fetched", _fetching(registered=True), "law 2", "a copy is fetched that has little time left"
    ),
    "copies are dropped before a change, and not behind it": Break(
        LAYERED,
        "_carried",
        lambda _: _dropped_before,
        "law 1",
        "a copy is fetched while its process invalidates the value",
    ),
    "copies outlive an attachment": Break(
        LAYERED,
        "attached",
        _not_dropping,
        "law 8",
        "a copy is held when the channel breaks, and the value invalidated before it is back",
    ),
    "silence is taken for no news": Break(
        f"{HEARING}.Pulse", "__init__", _trusting, "law 8", "the same, and everything is cleared"
    ),
    "a channel that is lost is not missed": Break(
        LAYERED,
        "lost",
        lambda _: _nothing,
        "law 8",
        "a copy is held when the channel breaks, and the value invalidated before it is back",
    ),
    "a copy is confirmed that outlived a clear": Break(
        STORE, "confirm", _of_any_generation, "law 8", "the same, and everything is cleared"
    ),
    "a copy is confirmed that outlived its tags": Break(
        STORE, "confirm", _of_any_tag, "law 8", "the same, and a tag is invalidated"
    ),
    "what was loaded while the store was away is kept on its return": Break(
        LAYERED,
        "_asked",
        lambda _: _kept_on_return,
        "law 8",
        "the store is silent for a while, and the value invalidated when it is back",
    ),
    "what was told while a load had no fence is forgotten": Break(
        LAYERED,
        "learn",
        _uncounted,
        "law 8",
        "the store is silent for a while, and the value invalidated while it is loaded without a fence",
    ),
    "a flush is not heard of": Break(
        f"{HEARING}.Tracking", "news", _not_everything, "law 8", "everything is flushed, and then the value invalidated"
    ),
}


def kept(law: str, plans: Iterable[Plan] = KEPT.values()) -> Failure | None:
    """The same of plans that broke a law once: the first that breaks this one."""
    with virtual():
        for plan in plans:
            for order in range(ORDERS):
                found = attempt(plan, order)
                if found and (failure := Failure(order, plan, order, found)).law == law:
                    return failure
    return None


@pytest.mark.parametrize("broken", [*BREAKS.values(), *BREAKS_OF_TIERS.values()], ids=[*BREAKS, *BREAKS_OF_TIERS])
def test_what_is_broken_on_purpose_is_noticed(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = resolve_name(broken.owner)
    monkeypatch.setattr(owner, broken.name, broken.replacement(getattr(owner, broken.name)))
    if broken.plan:
        failure = kept(broken.law, [(KEPT | OF_TIERS)[broken.plan]])
    else:
        failure = next((each for each in explore(range(SOON)) if each.law == broken.law), None) or kept(broken.law)
    assert failure is not None
    account = (failure if broken.plan else reduced(failure, tries=20)).account()
    assert account.splitlines()[-1].startswith(broken.law)
    assert " begins" in account
