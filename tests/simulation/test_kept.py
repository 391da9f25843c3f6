"""Plans that broke a law once, each run in many orders, because it takes a certain one."""

from __future__ import annotations

from typing import Final

import pytest

from tests.simulation.explore import attempt
from tests.simulation.history import Kind
from tests.simulation.plan import POLICIES, Actor, Backend, Blow, Fate, Flavour, Plan, Step
from tests.simulation.world import virtual

ORDERS: Final = 1000

_BY_NAME: Final = {policy.name.removeprefix("simulated "): policy for policy in POLICIES}


def call(pause: float = 0.0, *, detachable: bool = True) -> Step:
    return Step(Kind.CALL, "a", pause, detachable)


def does(kind: Kind, pause: float = 0.0) -> Step:
    return Step(kind, "a", pause, True)


def of(process: int, *steps: Step, loop: int = 0) -> Actor:
    return Actor(process, Flavour.TASK, steps, loop)


KEPT: Final = {
    "a caller joins a load whose write the server has acknowledged, after an invalidation elsewhere": Plan(
        Backend.REDIS,
        (_BY_NAME["lasting"],) * 2,
        (of(0, call()), of(0, call(0.05)), of(1, does(Kind.INVALIDATE))),
        (),
        nothing=0.0,
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
}


@pytest.mark.parametrize("plan", KEPT.values(), ids=KEPT)
def test_a_plan_that_broke_a_law_keeps_them_all_now(plan: Plan) -> None:
    with virtual():
        failures = [failure for order in range(ORDERS) if (failure := attempt(plan, order))]
    assert failures == []
