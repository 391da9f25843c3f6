"""Several values at once: what a loader of many is asked for, and what becomes of its answer.

The loader is called with a list of what is missing and returns a dict of what it found. What is not in that dict is
absent: no value, and no error that its caller would see.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from fast_cache.backends.store import Address, Store
from fast_cache.durations import Duration, seconds
from fast_cache.errors import InvalidTypeError
from fast_cache.flow import Call, answer, invalidate
from fast_cache.lockstep import Lockstep
from fast_cache.once import warn_once
from fast_cache.outcome import Absent, Outcome
from fast_cache.ports import BatchPort
from fast_cache.single_flight import apart
from fast_cache.stats import FunctionStats

Outcomes = dict[Hashable, Outcome]
"""What became of each element, in the order in which they were asked for."""

Step = Callable[..., Any]


class ElementCall(Call):
    """The call for one element of a batch. Runs of the loader are counted by the batch, not by its elements."""

    __slots__ = ()

    def loaded(self, outcome: Outcome) -> Outcome:
        return outcome


class Batch:
    """One call of a loader of many.

    Args:
        name: the loader's, for messages.
        loader: called with a list of elements, returns a dict of those found; sync or async.
        most: how many elements it is given at once, if that is limited.
        stats: where its runs are counted.
    """

    def __init__(
        self, name: str, loader: Callable[[list[Any]], Any], stats: FunctionStats, most: int | None = None
    ) -> None:
        self._name = name
        self._loader = loader
        self._stats = stats
        self._most = most

    async def collect(
        self, port: BatchPort, store: Store, calls: Mapping[Hashable, Call], step: Step = answer
    ) -> list[Outcome]:
        """Let each call take ``step`` of the flow, all of them together."""
        for element, call in calls.items():
            call.fn = _Element(element)
        together = Lockstep(port, self._load, self._most)
        return await together.run([step(together, store, call) for call in calls.values()])

    async def load_apart(self, port: BatchPort, elements: Iterable[Hashable]) -> Outcomes:
        """Load, and store nothing."""
        wanted = list(elements)
        if not wanted:
            return {}
        with apart():
            return await self._load_each(port, wanted)

    async def _load(self, port: BatchPort, wanted: list[_Element]) -> list[Outcome]:
        outcomes = await self._load_each(port, list(dict.fromkeys(element.name for element in wanted)))
        try:
            return [outcomes[element.name] for element in wanted]
        finally:
            del outcomes  # the traceback of an error may refer to this frame

    async def _load_each(self, port: BatchPort, elements: list[Hashable]) -> Outcomes:
        most = self._most or len(elements)
        outcomes: Outcomes = {}
        for begin in range(0, len(elements), most):
            part = elements[begin : begin + most]
            outcome = await port.call(self._loader, (list(part),), {})
            self._stats.loaded(outcome.seconds, failed=outcome.error is not None)
            outcomes |= self._taken_apart(part, outcome)
            del outcome
        try:
            return outcomes
        finally:
            del outcomes  # the traceback of an error may refer to this frame

    def _taken_apart(self, elements: list[Hashable], outcome: Outcome) -> Outcomes:
        """What became of each element, by what became of them together."""
        error, found, seconds = outcome.error, outcome.value, outcome.seconds
        if error is None and not isinstance(found, Mapping):
            error = InvalidTypeError(
                f"{self._name} returned a {type(found).__name__}; a loader of many returns a dict of what it found"
            )
        if error is not None:
            return {element: Outcome(error=error, seconds=seconds) for element in elements}
        try:
            if found and not any(element in found for element in elements):
                kinds = sorted({type(name).__name__ for group in (elements, found) for name in group})
                warn_once(
                    f"{self._name} returned nothing that it was asked for, but other keys; are they of another type "
                    f"({', '.join(kinds)})?",
                    "other keys",
                    self._name,
                )
            return {
                element: Outcome(found[element], seconds=seconds)
                if element in found
                else Outcome(error=Absent(), seconds=seconds)
                for element in elements
            }
        except Exception as failure:  # a mapping of the user's own making
            return {element: Outcome(error=failure, seconds=seconds) for element in elements}


class _Element:
    """What stands in the place of the function of a call that is loaded with others."""

    __slots__ = ("name",)

    def __init__(self, name: Hashable) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an element is loaded by its batch")


def elements_of(given: Any, name: str) -> list[Hashable]:
    """The elements that are asked for, each once, in order.

    Raises:
        InvalidTypeError: not several elements, or such that can't be the keys of a dict.
    """
    if isinstance(given, (str, bytes, bytearray)):
        raise InvalidTypeError(f"{name} takes several elements, such as a list of them, not {type(given).__name__}")
    refusal = f"{name} takes an iterable of elements that can be the keys of a dict, not this {type(given).__name__}"
    try:
        several = iter(given)
    except TypeError:
        raise InvalidTypeError(refusal) from None
    elements = list(several)  # what a generator raises is its own affair
    try:
        return list(dict.fromkeys(elements))
    except TypeError:
        raise InvalidTypeError(refusal) from None


async def invalidate_each(port: BatchPort, store: Store, addresses: Iterable[Address]) -> int:
    """Remove what is stored under several addresses, together, and fence off its loads; how many were there."""

    async def nothing(port: BatchPort, wanted: list[Any]) -> list[Outcome]:
        raise AssertionError("an invalidation loads nothing")

    together = Lockstep(port, nothing)
    return sum(await together.run([invalidate(together, store, address) for address in addresses]))


def found_in(outcomes: Outcomes) -> dict[Any, Any]:
    """What was found; an error of any element is raised.

    Raises:
        Exception: what the loader raised.
    """
    found = {}
    outcome: Outcome | None = None
    try:
        for element, outcome in outcomes.items():
            if type(outcome.error) is not Absent:
                found[element] = outcome.unwrap()
        return found
    finally:
        del outcomes, outcome  # the traceback of an error refers to this frame


def with_missing(
    errors: Mapping[type[Exception], Duration] | None, missing_expire: Duration | None
) -> Mapping[type[Exception], Duration] | None:
    """``cache_errors`` with ``missing_expire`` among them: that there is nothing is met as an exception."""
    if missing_expire is None:
        return errors
    lifetime = seconds(missing_expire, option="missing_expire")
    if errors is not None and not isinstance(errors, Mapping):
        return errors  # to be refused with the other options
    return {**(errors or {}), Absent: lifetime}
