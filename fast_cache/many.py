"""A cached function that loads many: it takes several elements, and returns a dict of those that there are.

Each element has a key of its own, under which it is stored, invalidated and coalesced; what is missing of a call is
loaded by one call of the function.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any, get_args, get_origin

from fast_cache.backends.pending import Change, current, deferred
from fast_cache.backends.store import Store
from fast_cache.batches import Batch, ElementCall, Outcomes, elements_of, found_in, invalidate_each
from fast_cache.binding import Binding
from fast_cache.counts import optional_count
from fast_cache.decorator import Done, Operations
from fast_cache.durations import Duration, optional_seconds
from fast_cache.entry import MISSING
from fast_cache.errors import ConfigurationError
from fast_cache.flow import Call, answer, refresh, removal
from fast_cache.grouping import AsyncGroups, ThreadGroups
from fast_cache.http.endpoint import NoEndpointSignature
from fast_cache.keys import KeyMaker, resolve_hints
from fast_cache.keys.binder import POSITIONAL
from fast_cache.method import Binds
from fast_cache.outcome import Absent, Outcome
from fast_cache.policy import CachePolicy
from fast_cache.ports import ASYNCIO, BLOCKING, BatchPort, run_blocking
from fast_cache.single_flight import led
from fast_cache.stats import Stats
from fast_cache.wrapper import BYPASS_PARAMETER

_PLAIN = (int, str, bool, bytes, type(None))
"""What can be compared to tell whether two calls are alike; everything else has to be the same object."""


class Asked:
    """The arguments of one call: the elements, and what stands around them."""

    __slots__ = ("_after", "_before", "elements", "kwargs")

    def __init__(
        self, elements: list[Hashable], before: tuple[Any, ...], after: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.elements = elements
        self.kwargs = kwargs
        self._before = before
        self._after = after

    def of(self, elements: list[Hashable]) -> Asked:
        """The same call, for other elements."""
        return Asked(elements, self._before, self._after, self.kwargs)

    def args(self, instead: Any) -> tuple[Any, ...]:
        """The positional arguments with ``instead`` in the place of the elements."""
        return (*self._before, instead, *self._after)

    def alike(self) -> Hashable:
        """What two calls have in common whose elements may be loaded together."""
        others = (*self._before, *self._after, *(part for item in sorted(self.kwargs.items()) for part in item))
        return tuple((type(other), _comparable(other)) for other in others)


def _comparable(argument: Any) -> Hashable:
    if type(argument) is float:
        return argument.hex()  # 0.0 equals -0.0
    return argument if type(argument) in _PLAIN else id(argument)


class ManyOperations(Operations):
    """One cached function that loads many."""

    call_type = ElementCall

    def __init__(
        self,
        fn: Callable[..., Any],
        make_keys: Callable[..., KeyMaker],
        policy: CachePolicy,
        binding: Binding,
        *,
        window: Duration | None,
        max_batch: int | None,
    ) -> None:
        super().__init__(fn, make_keys, policy, binding)
        self._signature = inspect.signature(fn)
        self._place = 1 if self.keys.kind in ("method", "classmethod") else 0
        parameters = list(self._signature.parameters.values())
        if len(parameters) <= self._place or parameters[self._place].kind not in POSITIONAL:
            raise ConfigurationError(
                f"{policy.name} must take the elements as its first parameter: def load(ids: Iterable[int]) -> "
                "dict[int, Item]"
            )
        self._most = optional_count(max_batch, option="max_batch")
        pause = optional_seconds(window, option="window")
        self._task_groups = AsyncGroups(pause, self._most) if pause is not None else None
        self._thread_groups = ThreadGroups(pause, self._most) if pause is not None else None

    # All of a call.

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the decorated function returns."""
        bypassed = kwargs.get(BYPASS_PARAMETER, False)
        if not self._declares_bypass:
            kwargs = {name: value for name, value in kwargs.items() if name != BYPASS_PARAMETER}
        if bypassed or not self._caches(self.binding.store):
            return self._apart_suspending(args, kwargs) if self.suspends else self._apart(args, kwargs)
        asked = self._asked(args, kwargs)  # not before: it may be a generator, which is read once
        return self._suspending_many(answer, asked) if self.suspends else self._blocking_many(answer, asked)

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        if not self._caches(self.binding.store):
            return self._apart_suspending(args, kwargs) if self.suspends else self._apart(args, kwargs)
        asked = self._asked(args, kwargs)
        return self._suspending_many(refresh, asked) if self.suspends else self._blocking_many(refresh, asked)

    def removals(self, store: Store, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Change]:
        asked = self._asked(args, kwargs)
        return [
            removal(store, self._address(store, self.keys, asked.args(element), asked.kwargs), self)
            for element in asked.elements
        ]

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        store = self.binding.store
        removals = self.removals(store, args, kwargs)
        if deferred(*removals):
            return Done(0) if self.suspends else 0
        addresses = [change.address for change in removals]
        if self.suspends and not store.local:
            return invalidate_each(ASYNCIO, store, addresses)
        removed = run_blocking(invalidate_each(BLOCKING, store, addresses))
        return Done(removed) if self.suspends else removed

    # One element.

    def get(self, args: tuple[Any, ...], kwargs: dict[str, Any], default: Any) -> Any:
        """The value of one element, given in the place of them all."""
        asked = self._asked_for_one(args, kwargs)
        elements_of(asked.elements, self.policy.name)
        return self._get_suspending(asked, default) if self.suspends else self._get_blocking(asked, default)

    def _get_blocking(self, asked: Asked, default: Any) -> Any:
        (element,) = asked.elements
        store = self.binding.store
        outcome = self._look(store, self._near(store, asked, element))
        if outcome is None and (self._thread_groups is None or not BLOCKING.can_wait()):
            outcome = run_blocking(self._outcomes(BLOCKING, store, asked, answer))[element]
        elif outcome is None:
            assert self._thread_groups is not None

            def run(elements: list[Hashable]) -> Outcomes:
                return run_blocking(self._outcomes(BLOCKING, store, asked.of(elements), answer))

            again = functools.partial(self._again, store)
            outcome = self._thread_groups.answer(self._alike(asked, element), element, run, again)
        try:
            return default if type(outcome.error) is Absent else outcome.unwrap()
        finally:
            del outcome  # the traceback of an error refers to this frame

    async def _get_suspending(self, asked: Asked, default: Any) -> Any:
        (element,) = asked.elements
        store = self.binding.store
        outcome = self._look(store, self._near(store, asked, element))
        if outcome is None and self._task_groups is None:
            outcome = (await self._outcomes(ASYNCIO, store, asked, answer))[element]
        elif outcome is None:
            assert self._task_groups is not None

            async def run(elements: list[Hashable]) -> Outcomes:
                return await self._outcomes(ASYNCIO, store, asked.of(elements), answer)

            again = functools.partial(self._again, store)
            outcome = await self._task_groups.answer(self._alike(asked, element), element, run, again)
        try:
            return default if type(outcome.error) is Absent else outcome.unwrap()
        finally:
            del outcome  # the traceback of an error refers to this frame

    def _alike(self, asked: Asked, element: Hashable) -> Hashable:
        """What calls have in common that may be answered as one.

        That they are made by the same loads too: what one of these waits for is then waited for by all.
        """
        watching: Hashable = None
        if self.binding.is_watched:
            open_ = self.binding.watching
            watching = (open_.is_disabled(self.policy.namespace), *map(id, open_.logs()))
        return type(element), asked.alike(), led(), watching, current()

    def _again(self, store: Store, outcome: Outcome) -> Outcome:
        """The outcome for one more caller: where values are copied or held as bytes each gets an object of its own."""
        if outcome.error is not None:
            return outcome
        copy = store.copier(outcome.value, self.policy.codec)
        return outcome if copy is None else Outcome(copy())

    # How.

    def _blocking_many(self, step: Any, asked: Asked) -> dict[Any, Any]:
        return found_in(run_blocking(self._outcomes(BLOCKING, self.binding.store, asked, step)))

    async def _suspending_many(self, step: Any, asked: Asked) -> dict[Any, Any]:
        return found_in(await self._outcomes(ASYNCIO, self.binding.store, asked, step))

    async def _outcomes(self, port: BatchPort, store: Store, asked: Asked, step: Any) -> Outcomes:
        """What became of each element; those without a key are loaded with the others' and not stored."""
        outcomes: Outcomes = dict.fromkeys(asked.elements, _NOT_YET)
        calls: dict[Hashable, Call] = {}
        for element in asked.elements:
            address = self._near(store, asked, element) if step is answer else None
            seen = self._look(store, address)
            if seen is not None:
                outcomes[element] = seen
                continue
            call = self._call(store, self.keys, asked.args(element), asked.kwargs, address)
            if call is not None:
                calls[element] = call
        batch = Batch(
            self.policy.name, lambda part: self.fn(*asked.args(part), **asked.kwargs), self.counted, self._most
        )
        if calls:
            outcomes |= zip(calls, await batch.collect(port, store, calls, step), strict=True)
        outcomes |= await batch.load_apart(port, [name for name in outcomes if outcomes[name] is _NOT_YET])
        try:
            return outcomes
        finally:
            del outcomes  # the traceback of an error may refer to this frame

    def _near(self, store: Store, asked: Asked, element: Hashable) -> Hashable | None:
        """Where an element would lie in local memory that may be looked into; ``None`` if nowhere."""
        if not store.slotted or self.binding.is_watched or current() is not None:
            return None
        try:
            return self._address(store, self.keys, asked.args(element), asked.kwargs)
        except Exception:
            return None  # there is no key; whoever makes the call will say so

    def _look(self, store: Store, address: Hashable | None) -> Outcome | None:
        """What lies there, and has nothing to be decided about."""
        value = MISSING if address is None else store.glance(address)
        if value is MISSING:
            return None
        self.hit()
        return Outcome(value)

    def _caches(self, store: Store) -> bool:
        binding = self.binding
        return store.caches and not (binding.is_watched and binding.watching.is_disabled(self.policy.namespace))

    def _asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asked:
        asked = self._asked_for_one(args, kwargs)
        return asked.of(elements_of(asked.elements[0], self.policy.name))

    def _asked_for_one(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asked:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        place = self._place
        return Asked([bound.args[place]], bound.args[:place], bound.args[place + 1 :], bound.kwargs)


_NOT_YET = Outcome()


class CachedMany:
    """The cached function; in a class it is the method, and reached through an instance it carries that along."""

    def __init__(self, operations: ManyOperations, binds: Binds | None, first: tuple[Any, ...] = ()) -> None:
        functools.update_wrapper(self, operations.fn)
        self._operations = operations
        self._binds = binds
        self._first = first
        signature = NoEndpointSignature.of(operations.fn)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[len(first) :])

    @staticmethod
    def of(operations: ManyOperations, binds: Binds | None) -> CachedMany:
        flavour = AsyncCachedMany if operations.suspends else CachedMany
        return flavour(operations, binds)

    def __get__(self, instance: object, owner: type | None = None) -> CachedMany:
        if self._binds is Binds.CLASS:
            return type(self)(self._operations, None, (type(instance) if owner is None else owner,))
        if instance is None or self._binds is not Binds.INSTANCE:
            return self
        return type(self)(self._operations, None, (instance,))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._operations.answer((*self._first, *args), kwargs)

    def get(self, *args: Any, default: Any = None, **kwargs: Any) -> Any:
        return self._operations.get((*self._first, *args), kwargs, default)

    def key(self, *args: Any, **kwargs: Any) -> str:
        return self._operations.key(*self._first, *args, **kwargs)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        return self._operations.explain(*self._first, *args, **kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        return self._operations.invalidate(*self._first, *args, **kwargs)

    def invalidate_all(self) -> Any:
        return self._operations.invalidate_all()

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        return self._operations.refresh(*self._first, *args, **kwargs)

    def stats(self) -> Stats:
        return self._operations.stats()

    def __repr__(self) -> str:
        return f"<cached {self._operations.policy.name}>"


class AsyncCachedMany(CachedMany):
    """The same for an ``async def``: frameworks look at ``__call__`` to know that it has to be awaited."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self._operations.answer((*self._first, *args), kwargs)


def element_of(fn: Callable[..., Any], *, method: bool) -> Callable[..., Any]:
    """``fn`` as keys are made for it: with one element in the place of the elements. It is never called."""
    assert isinstance(fn, types.FunctionType)
    view = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    functools.update_wrapper(view, fn)
    signature = inspect.signature(fn)
    parameters = list(signature.parameters.values())
    place = 1 if method else 0
    # What is annotated is the type of them all; that of one is what it is.
    parameters[place : place + 1] = [one.replace(annotation=one.empty) for one in parameters[place : place + 1]]
    view.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return view


def values_of(fn: Callable[..., Any]) -> Any:
    """The annotation of the values in the dict that ``fn`` returns; nothing if it does not say."""
    returned = resolve_hints(fn).get("return", inspect.Signature.empty)
    arguments = get_args(returned)
    origin = get_origin(returned)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
        return arguments[1]
    return inspect.Signature.empty
