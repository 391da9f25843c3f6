"""What the README says of this package beside others: the same scenarios, done to it alone. No peer is needed."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.benchmarks import survival, survival_scenarios
from tests.benchmarks.survival import NOT_OFFERED, cell, observed, outcome
from tests.benchmarks.survival_peers import PEERS, Cached, FastCache, Function, NotOffered, Peer, Wish
from tests.benchmarks.survival_scenarios import HANGS, SCENARIOS, Answer, Scenario

README = Path(__file__).resolve().parents[2] / "README.md"

EACH_SCENARIO = pytest.mark.parametrize("number", range(len(SCENARIOS)), ids=lambda number: SCENARIOS[number].title)

Found = tuple[str, Answer] | None


@pytest.fixture(scope="module")
def ours() -> Sequence[Found]:
    """What is observed of this package, by the number of the scenario."""
    number = list(PEERS).index(FastCache)
    seen = observed(range(len(SCENARIOS)), [number])
    return [seen[scenario, number] for scenario in range(len(SCENARIOS))]


@EACH_SCENARIO
def test_we_survive(ours: Sequence[Found], number: int) -> None:
    found = ours[number]
    assert found is not None, "this package offers everything that is compared"
    _, answer = found
    assert answer.good, answer.text


@EACH_SCENARIO
def test_the_readme_says_of_us_what_is_so(ours: Sequence[Found], number: int) -> None:
    [line] = [line for line in README.read_text().splitlines() if line.startswith(f"| {SCENARIOS[number].title} |")]
    assert without_times(line.split(" | ")[1]) == without_times(cell(ours[number]))


def without_times(text: str) -> str:
    return re.sub(r"[\d.]+ s", "some s", text)


class Naive(Peer):
    """A cache without any protection: what scenarios must see through."""

    name = "naive"
    distribution = "naive"

    def cached(self, function: Function, wish: Wish) -> Cached:
        if wish.stale or wish.on_error:
            raise NotOffered
        values: dict[Any, Any] = {}

        async def call(*args: Any, **kwargs: Any) -> Any:
            key = (args, tuple(kwargs.items()))
            if values.get(key) is None:
                values[key] = await function(*args, **kwargs)
            return values[key]

        async def delete(*args: Any) -> None:
            values.pop((args, ()), None)

        async def clear() -> None:
            values.clear()

        return Cached(call, delete, clear)

    def endpoint(self, function: Callable[..., Any], app: FastAPI) -> Callable[..., Any]:
        cached = self.cached(function, Wish())

        @functools.wraps(function)
        async def of_the_first_user(**kwargs: Any) -> Any:
            self.first = self.first or kwargs
            return await cached.call(**self.first)

        return of_the_first_user

    first: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (survival_scenarios.callers_share_a_load, "no, 100 loads"),
        (survival_scenarios.a_cancelled_leader_harms_nobody, "yes, 9 more loads"),
        (survival_scenarios.an_error_is_shared_and_not_kept, "no, 100 runs"),
        (survival_scenarios.a_delete_is_not_undone, "no"),
        (survival_scenarios.a_clear_is_not_undone, "no"),
        (survival_scenarios.none_is_a_value, "no, 2 loads for 2 calls"),
        (survival_scenarios.arguments_that_are_equal_are_told_apart, "no, 2 of 4 right"),
        (survival_scenarios.ways_to_say_a_call_are_one, "no, 3 loads"),
        (survival_scenarios.what_a_caller_changes_is_its_own, "no"),
        (survival_scenarios.nobody_waits_for_a_refresh, NOT_OFFERED),
        (survival_scenarios.an_old_value_is_better_than_an_error, NOT_OFFERED),
        (survival_scenarios.threads_share_a_load, NOT_OFFERED),
        (survival_scenarios.users_have_pages_of_their_own, "no, users get each other's"),
        (survival_scenarios.users_have_pages_of_their_own_by_request, "no, users get each other's"),
    ],
)
def test_a_cache_without_protection_does_not_survive(check: survival_scenarios.Check, said: str) -> None:
    answer = asyncio.run(outcome(Scenario("", check), Naive(), Wish()))
    assert cell(None if answer is None else ("", answer)) == said


def test_a_library_that_waits_for_ever_is_said_to_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    async def waits(peer: Peer, wish: Wish) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(survival, "LIMIT", 0.01)
    assert asyncio.run(outcome(Scenario("", waits), Naive(), Wish())) == HANGS
    assert cell(("", HANGS)) == "hangs"


def test_a_failure_and_a_configuration_are_named() -> None:
    async def fails(peer: Peer, wish: Wish) -> Answer:
        raise LookupError

    answer = asyncio.run(outcome(Scenario("", fails), Naive(), Wish()))
    assert answer is not None
    assert cell(("lock=True", answer)) == "no, LookupError (`lock=True`)"
