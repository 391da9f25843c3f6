"""Plans that broke a law once, or would if a part of the engine were not as it is; each run in many orders, because it
takes a certain one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from tests.simulation.explore import attempt
from tests.simulation.history import Kind
from tests.simulation.plan import (
    LOCK_TIMEOUT,
    POLICIES,
    SHARED,
    Actor,
    Backend,
    Blow,
    Fate,
    Flavour,
    Plan,
    Step,
    Tagging,
)
from tests.simulation.world import virtual

ORDERS: Final = 2000

_BY_NAME: Final = {policy.name.removeprefix("simulated "): policy for policy in POLICIES}


def call(pause: float = 0.0, *, detachable: bool = True) -> Step:
    return Step(Kind.CALL, "a", pause, detachable)


def does(kind: Kind, pause: float = 0.0) -> Step:
    return Step(kind, "a", pause, True)


def of(process: int, *steps: Step, loop: int = 0) -> Actor:
    return Actor(process, Flavour.TASK, steps, loop)


def invalidate_tag(pause: float = 0.0) -> Step:
    return does(Kind.INVALIDATE_TAGS, pause)._replace(tags=(SHARED,))


DECLARED: Final = (Tagging(declared=(SHARED,)),) * 2
ADDED: Final = (Tagging(added=(SHARED,)),) * 2

KEPT: Final = {
    "a caller joins a load whose write the server has acknowledged, after an invalidation elsewhere": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 2,
        (of(0, call()), of(0, call(0.05)), of(1, does(Kind.INVALIDATE))),
        (),
        nothing=0.0,
    ),
    "the same, and the load takes its time": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 2,
        (of(0, call()), of(0, call(0.2)), of(1, does(Kind.INVALIDATE, 0.1))),
        (),
        nothing=0.0,
        slow=True,
    ),
    "a background load is cancelled before its first step": Plan(
        Backend.MEMORY, (_BY_NAME["hard timeout"],), (of(0, call()),), (Blow(Fate.SHUTDOWN, 0, 0.0),)
    ),
    "somebody writes between the value and its remaining lifetime": Plan(
        Backend.REDIS,
        (_BY_NAME["stale-if-error"],) * 2,
        (of(0, does(Kind.REFRESH), call(1.1)), of(1, call(1.1))),
        (),
        nothing=0.0,
    ),
    "a source rests, and a caller that must not be served stale is": Plan(
        Backend.MEMORY,
        (_BY_NAME["stale-while-revalidate"],),
        (of(0, call(), call(1.1)), of(0, call(1.1, detachable=False))),
        (),
        failures=0.3,
        nothing=0.0,
    ),
    "a load handed over from a loop that closed": Plan(
        Backend.MEMORY,
        (_BY_NAME["lasting"],),
        (
            of(0, call()),
            of(0, call(), loop=1),
            of(0, call(0.05), loop=1),
            of(0, does(Kind.INVALIDATE, 0.1), call(0.3), loop=1),
        ),
        (Blow(Fate.SHUTDOWN, 0, 0.02),),
        nothing=0.0,
        slow=True,
    ),
    "the fence is evicted between the two steps of a put, and a load brings another": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],),
        (of(0, does(Kind.PUT), does(Kind.PUT), call(0.3)), of(0, does(Kind.REFRESH))),
        (Blow(Fate.EVICTION, 0, 0.0),),
        nothing=0.0,
        slow=True,
    ),
    "of two invalidations of a tag the first arrives last": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 3,
        (of(0, call(), call(0.3)), of(1, invalidate_tag()), of(2, invalidate_tag(), call(0.3))),
        (),
        nothing=0.0,
        slow=True,
        keys=("a",),
        tagging=ADDED,
    ),
    "of two invalidations of a tag the first arrives twice": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 3,
        (of(0, call(), call(0.3)), of(1, invalidate_tag()), of(2, invalidate_tag(0.05), call(0.3))),
        (),
        loss=0.1,
        nothing=0.0,
        slow=True,
        keys=("a",),
        tagging=DECLARED,
    ),
    "a tag that is added while loading is invalidated, and then it or the last number is evicted": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 2,
        (of(0, invalidate_tag(), call(), call(0.3)), of(1, invalidate_tag(0.05), call(0.3))),
        (Blow(Fate.EVICTION, 0, 0.02), Blow(Fate.EVICTION, 0, 0.05)),
        nothing=0.0,
        slow=True,
        keys=("a",),
        tagging=ADDED,
    ),
    "what is not to be stored has a tag that was invalidated before a follower came": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 2,
        (of(0, call()), of(0, call(0.1)), of(1, invalidate_tag(0.05))),
        (),
        nothing=0.0,
        slow=True,
        keys=("a",),
        tagging=ADDED,
        skips=0.5,
    ),
    "two loads make one token of a tag, and one of them brings it after an invalidation": Plan(
        Backend.TEN_METHODS,
        (_BY_NAME["lasting"],),
        (
            of(0, call()),
            of(0, does(Kind.REFRESH)),
            of(0, does(Kind.REFRESH)),
            of(0, invalidate_tag(0.1), call(), call(0.05)),
        ),
        (),
        nothing=0.0,
        keys=("a",),
        tagging=DECLARED,
    ),
    "a batch loads one element at a time, and the first load needs the second element": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],),
        (of(0, does(Kind.BATCH)),),
        (),
        nests=True,
        most=1,
    ),
    "a batch holds one lease and waits for another, and its load needs what it waits for": Plan(
        Backend.REDIS,
        (replace(_BY_NAME["lasting"], lock="distributed", lock_timeout=LOCK_TIMEOUT),) * 2,
        (of(0, does(Kind.BATCH)), of(1, Step(Kind.CALL, "b", 0.0, detachable=True))),
        (),
        slow=True,
        nests=True,
    ),
    "a loop ends when a batch has just begun to load what it need not wait for to the end": Plan(
        Backend.MEMORY,
        (_BY_NAME["hard timeout"],),
        (of(0, does(Kind.BATCH)),),
        (Blow(Fate.SHUTDOWN, 0, 0.0),),
        nothing=0.0,
    ),
    "a server confirms an invalidation and is lost, and another connection finds the next one first": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],),
        (of(0, call(), does(Kind.INVALIDATE, 0.5), call()), of(0, call(0.5), call(), call())),
        (Blow(Fate.FAILOVER, 0, 0.45),),
        nothing=0.0,
    ),
    "a value arrives when whoever set it has given up, and somebody has invalidated its key": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 2,
        (of(0, does(Kind.PUT)), of(1, does(Kind.INVALIDATE, 0.6), call(0.25), call(0.1), call(0.1))),
        (),
        nothing=0.0,
        slow=True,
    ),
    "a value arrives when whoever set it was cancelled, and somebody has invalidated its key": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 2,
        (of(0, does(Kind.PUT)), of(1, does(Kind.INVALIDATE, 0.05), call(0.2))),
        (Blow(Fate.CANCEL, 0, 0.02),),
        nothing=0.0,
        slow=True,
    ),
}


def tiers(
    *actors: Actor, blows: tuple[Blow, ...] = (), tagging: tuple[Tagging, ...] = (), policy: str = "lasting"
) -> Plan:
    """Two processes with two tiers each, which have the key ``a``."""
    return Plan(
        Backend.LAYERED,
        (_BY_NAME[policy],) * 2,
        actors,
        blows,
        nothing=0.0,
        slow=True,
        keys=("a",),
        tagging=tagging,
    )


ORDERS_OF_TIERS: Final = 200
"""Fewer, because each of these is made to come about soon."""

OF_TIERS: Final = {
    "a value is invalidated while a copy of it is fetched": tiers(
        of(1, call()), of(1, does(Kind.INVALIDATE, 0.6)), of(0, call(0.6), call(0.3)), of(0, call(0.6), call(0.3))
    ),
    "a copy is fetched while its process invalidates the value": tiers(
        of(1, call()), of(0, does(Kind.INVALIDATE, 0.5), call()), of(0, call(0.5), call()), of(0, call(0.5), call())
    ),
    "a copy is held when the channel breaks, and the value invalidated before it is back": tiers(
        of(1, call()),
        of(0, call(0.4), *[call(0.1)] * 6),
        of(1, does(Kind.INVALIDATE, 0.6)),
        blows=(Blow(Fate.CUT, 0, 0.6),),
    ),
    "nothing comes through the channel for longer than a copy may be stale": tiers(
        of(0, call(), call(0.5), call(3.5), call(0.1)),
        of(1, does(Kind.INVALIDATE, 1.0)),
        blows=(Blow(Fate.DEAF, 0, 0.7),),
    ),
    "the same, and everything is cleared": tiers(
        of(0, call(), call(0.5), call(2.2), call(0.3), call(0.3)),
        of(1, does(Kind.CLEAR, 1.0)),
        blows=(Blow(Fate.DEAF, 0, 0.7),),
    ),
    "the same, and a tag is invalidated": tiers(
        of(0, call(), call(0.5), call(2.2), call(0.3), call(0.3)),
        of(1, invalidate_tag(1.0)),
        blows=(Blow(Fate.DEAF, 0, 0.7),),
        tagging=DECLARED,
    ),
    "the store is silent for a while, and the value invalidated when it is back": tiers(
        of(0, call(0.4), call(0.3), call(0.6), call(0.1), call(0.3), call(0.3)),
        of(0, call(1.2), Step(Kind.GET, "a", 0.2, detachable=True)),
        of(1, does(Kind.INVALIDATE, 1.5)),
        blows=(Blow(Fate.SILENCE, 0, 0.3),),
    ),
    "the store is silent for a while, and the value invalidated while it is loaded without a fence": tiers(
        of(1, call()),
        of(0, call(1.05), call(0.2), call(0.1)),
        of(1, does(Kind.INVALIDATE, 1.6)),
        blows=(Blow(Fate.SILENCE, 0, 1.0),),
    ),
    "a copy is fetched that has little time left": tiers(
        of(1, call()), of(0, call(0.8), *[call(0.05)] * 8), of(0, call(0.9), *[call(0.05)] * 6), policy="brief"
    ),
    "what is deleted by hand can't be delivered yet, and others ask a store that is back": tiers(
        of(1, call(), *[call(0.1)] * 20),
        of(0, call(0.4), *[does(Kind.DELETE, 0.1)] * 15),
        blows=(Blow(Fate.SILENCE, 0, 0.3),),
    ),
    "everything is flushed, and then the value invalidated": tiers(
        of(0, call(), call(0.2), call(0.6)),
        of(1, does(Kind.INVALIDATE, 0.6)),
        blows=(Blow(Fate.FLUSH, 0, 0.4),),
    ),
}


@pytest.mark.parametrize("plan", KEPT.values(), ids=KEPT)
def test_a_plan_that_broke_a_law_keeps_them_all_now(plan: Plan) -> None:
    assert failures(plan, ORDERS) == []


@pytest.mark.parametrize("plan", OF_TIERS.values(), ids=OF_TIERS)
def test_a_plan_that_would_break_a_law_of_two_tiers_keeps_them_all(plan: Plan) -> None:
    assert failures(plan, ORDERS_OF_TIERS) == []


def failures(plan: Plan, orders: int) -> list[list[str]]:
    with virtual():
        return [found for order in range(orders) if (found := attempt(plan, order))]
