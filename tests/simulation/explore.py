"""Many seeds, one after another; and what to do with one that fails."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Final, NamedTuple

from tests.simulation.laws import violations
from tests.simulation.plan import Plan, draw
from tests.simulation.world import World, virtual

_COLLECTED: Final = 1000
"""After how many runs garbage is collected."""


class Failure(NamedTuple):
    """A run that broke a law."""

    seed: int
    plan: Plan
    order: int
    """The seed of the order in which things happened."""
    violations: list[str]

    @property
    def law(self) -> str:
        """Which one."""
        return self.violations[0].split(":")[0]

    def account(self) -> str:
        """What happened, line by line."""
        with virtual():
            world = World(self.plan, Random(self.order), told=True)
            world.run()
        lines = [f"seed {self.seed}, order {self.order}", str(self.plan), *world.history.lines]
        return "\n".join([*lines, *self.violations])


def explore(seeds: Iterable[int], tiers: int = 1) -> Iterator[Failure]:
    """Run what each seed draws; yield what fails."""
    with virtual(), _rare_collections():
        for count, seed in enumerate(seeds):
            plan = draw(Random(seed), tiers)
            found = attempt(plan, seed)
            if found:
                yield Failure(seed, plan, seed, found)
            if count % _COLLECTED == 0:
                gc.collect()


def failing_seeds(seeds: Iterable[int], tiers: int = 1) -> list[int]:
    """Those of ``seeds`` that fail: what travels between processes."""
    return [failure.seed for failure in explore(seeds, tiers)]


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for garbage between the runs only, and not among what was there before: it takes a sixth of the time."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def attempt(plan: Plan, order: int) -> list[str]:
    """Run ``plan`` in one order; what was wrong with it."""
    world = World(plan, Random(order))
    world.run()
    found = violations(world)
    world.dissolve()
    return found


def attempted(seed: int, plan: Plan, order: int) -> Failure:
    """The same of a single plan, whether it fails or not."""
    with virtual():
        return Failure(seed, plan, order, attempt(plan, order))


def reduced(failure: Failure, tries: int = 300) -> Failure:
    """The same fault in as short a history as is easily found: leave out what it does not take."""
    with virtual():
        progress = True
        while progress:
            progress = False
            for plan in _shorter(failure.plan):
                found = _fails(plan, failure.law, tries)
                if found is not None:
                    order, broken = found
                    failure = Failure(failure.seed, plan, order, broken)
                    progress = True
                    break
        return _shortest(failure, tries)


def _fails(plan: Plan, law: str, tries: int) -> tuple[int, list[str]] | None:
    for order in range(tries):
        found = attempt(plan, order)
        if found and found[0].startswith(law):
            return order, found
    return None


def _shortest(failure: Failure, tries: int) -> Failure:
    """Of several orders in which the plan fails, the one with the fewest events."""
    best, least = failure, 10**9
    for order in [failure.order, *range(tries)]:
        world = World(failure.plan, Random(order), told=True)
        world.run()
        found = violations(world)
        if found and found[0].startswith(failure.law) and len(world.history.lines) < least:
            best, least = failure._replace(order=order, violations=found), len(world.history.lines)
    return best


def _shorter(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less."""
    for index in range(len(plan.blows)):
        yield replace(plan, blows=plan.blows[:index] + plan.blows[index + 1 :])
    for index, actor in enumerate(plan.actors):
        if len(actor.steps) == 1:
            yield replace(plan, actors=plan.actors[:index] + plan.actors[index + 1 :])
            continue
        for position in range(len(actor.steps)):
            fewer = actor._replace(steps=actor.steps[:position] + actor.steps[position + 1 :])
            yield replace(plan, actors=(*plan.actors[:index], fewer, *plan.actors[index + 1 :]))
    if plan.loss:
        yield replace(plan, loss=0.0)
    if plan.failures:
        yield replace(plan, failures=0.0)
    if plan.nothing:
        yield replace(plan, nothing=0.0)
    if plan.slow:
        yield replace(plan, slow=False)
    if plan.nests:
        yield replace(plan, nests=False)
    if plan.skips:
        yield replace(plan, skips=0.0)
    if plan.most:
        yield replace(plan, most=None)
    for index in range(len(plan.tagging)):
        for part, tags in plan.tagging[index]._asdict().items():
            for tag in tags:
                fewer_tags = plan.tagging[index]._replace(**{part: tuple(other for other in tags if other != tag)})
                yield replace(plan, tagging=(*plan.tagging[:index], fewer_tags, *plan.tagging[index + 1 :]))
    if plan.max_load_time < 60:
        yield replace(plan, max_load_time=60.0)
    last = len(plan.policies) - 1
    if last not in {0, *(actor.process for actor in plan.actors), *(blow.process for blow in plan.blows)}:
        yield replace(plan, policies=plan.policies[:-1])
