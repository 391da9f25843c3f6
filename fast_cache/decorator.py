"""A function becomes a cached function: the wrapper for hits, and the operations for everything else.

What hangs on the function (`invalidate`, `refresh`, `key`, `stats`) and what happens when the wrapper finds nothing is
in :class:`Operations`: it makes the key and hands the call over to the flow, on the port of the function's kind.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Coroutine, Generator, Hashable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from starlette.requests import HTTPConnection
from starlette.responses import Response

from fast_cache.backends.pending import Change, current, deferred
from fast_cache.backends.store import Store
from fast_cache.binding import Binding, OwnerShelves
from fast_cache.errors import ConfigurationError, UnkeyableError
from fast_cache.explanation import explain
from fast_cache.flow import (
    Call,
    answer,
    invalidate,
    invalidate_tags,
    refresh,
    removal,
    removal_of_groups,
    removal_of_tags,
)
from fast_cache.http.coverage import Terms as Rules
from fast_cache.http.endpoint import REQUEST_PARAMETER, RESPONSE_PARAMETER, EndpointSignature, takes_dependencies
from fast_cache.http.options import PageOptions
from fast_cache.keys import KeyMaker, Role, call_tag
from fast_cache.method import Binds, CachedMethod
from fast_cache.once import warn_once
from fast_cache.outcome import Outcome
from fast_cache.pages import NO_ENDPOINT, EndpointPages
from fast_cache.policy import CachePolicy
from fast_cache.ports import ASYNCIO, BLOCKING, Port, run_blocking, suspended
from fast_cache.single_flight import apart, innermost
from fast_cache.stats import FunctionStats, Stats
from fast_cache.wrapper import BYPASS_PARAMETER, compile_wrapper

Step = Callable[[Port, Store, Call], Coroutine[Any, Any, Outcome]]
Detaches = Callable[[tuple[Any, ...], dict[str, Any]], bool]


def decorate(operations: Operations, binds: Binds | None) -> Any:
    """Return the cached form of a function: a function again, or a descriptor where it stands in a class."""
    fn = operations.fn
    wrapper: Any = compile_wrapper(operations)
    operations.wrapper = wrapper
    functools.update_wrapper(wrapper, fn)
    if binds is not None:
        method = CachedMethod.of(wrapper, operations, binds)
        operations.signature = method.__signature__
        return method
    operations.signature = wrapper.__signature__ = EndpointSignature.of(fn)
    wrapper.invalidate = operations.invalidate
    wrapper.invalidate_all = operations.invalidate_all
    wrapper.refresh = operations.refresh
    wrapper.key = operations.key
    wrapper.explain = operations.explain
    wrapper.stats = operations.stats
    return wrapper


class Operations:
    """One cached function, apart from its hits."""

    call_type: ClassVar[type[Call]] = Call

    wrapper: Callable[..., Any]
    """What stands in place of the function."""
    signature: EndpointSignature | None = None
    """What FastAPI reads; ``None`` for what can't be an endpoint."""

    def __init__(
        self,
        fn: Callable[..., Any],
        make_keys: Callable[..., KeyMaker],
        policy: CachePolicy,
        binding: Binding,
        page: PageOptions | None = None,
    ) -> None:
        self.fn = fn
        self.page = PageOptions() if page is None else page
        self.keys = make_keys()
        self._make_keys = make_keys
        self.policy = replace(policy, groups=self.keys.groups)
        self.binding = binding
        self.suspends = inspect.iscoroutinefunction(fn)
        parameters = inspect.signature(fn).parameters
        self._declares_bypass = BYPASS_PARAMETER in parameters
        for reserved in (REQUEST_PARAMETER, RESPONSE_PARAMETER):
            if reserved in parameters:
                raise ConfigurationError(f"{policy.name} has a parameter named {reserved}, which is reserved")
        self.counted = FunctionStats()
        self.hit = self.counted.hit
        self.shelves = OwnerShelves()
        self.pages = EndpointPages(self)
        self.at_hand = self.pages.at_hand
        self.shelf, self.texts = binding.register(self)
        self.missed = self._missed_suspending if self.suspends else self._missed_blocking

    @property
    def shelf_name(self) -> str | None:
        """Which shelf of local memory holds this function's slots; ``None`` if it has none."""
        return None if self.keys.shape is None else self.keys.shape.shelf

    def key(self, *args: Any, **kwargs: Any) -> str:
        return self.keys.key(args, kwargs)

    def stats(self) -> Stats:
        return self.counted.snapshot()

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        store, keys = self.binding.store, self.keys
        inputs = keys.explain(args, kwargs)
        address: Hashable | None
        tags: tuple[str, ...] = ()
        try:
            key: str | None = keys.key(args, kwargs)
            tags = keys.tags(args, kwargs)
            address = self._address(store, keys, args, kwargs)
        except UnkeyableError:
            key = address = None
        if self.suspends:
            return explain(ASYNCIO, store, self.policy, address, key, inputs, tags)
        return run_blocking(explain(BLOCKING, store, self.policy, address, key, inputs, tags))

    def veil(self) -> None:
        self.binding.veil(self)

    def unveil(self) -> None:
        self.binding.unveil(self)

    def removals(self, store: Store, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Change]:
        """What removes what is cached for these arguments.

        Raises:
            UnkeyableError: they have no key.
            TypeError: the function does not accept them.
        """
        changes = [removal(store, self._address(store, self.keys, args, kwargs), self)]
        return changes + self.removal_of_pages(store, self.endpoint_keys.key(args, kwargs))

    def removal_of_pages(self, store: Store, key: str) -> list[Change]:
        """What removes the pages that show what lies under ``key``; nothing if there can't be any."""
        return [removal_of_tags(store, (call_tag(key),), veiled=self)] if self.is_endpoint else []

    @property
    def is_endpoint(self) -> bool:
        """Whether FastAPI knows it, as an endpoint or a dependency: there may be pages that show what it returns."""
        return self.signature is not None and self.signature.was_read

    def _tag(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return call_tag(self.endpoint_keys.key(args, kwargs))

    def removal_of_all(self, store: Store) -> Change:
        """What removes everything that is cached of this function."""
        return removal_of_groups(store, self.policy.groups[:1], self)

    def invalidate_all(self) -> Any:
        store = self.binding.store
        if current() is not None and deferred(self.removal_of_all(store)):
            return Done(None) if self.suspends else None
        own = self.policy.groups[:1]
        if self.suspends and not store.local:
            return invalidate_tags(ASYNCIO, store, own)
        run_blocking(invalidate_tags(BLOCKING, store, own))
        return Done(None) if self.suspends else None

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        store = self.binding.store
        if current() is not None and deferred(*self.removals(store, args, kwargs)):
            return Done(False) if self.suspends else False
        address = self._address(store, self.keys, args, kwargs)
        pages = (self._tag(args, kwargs),) if self.is_endpoint else ()
        there = bool(pages) and self.pages.hold(args, kwargs)
        if self.suspends and not store.local:
            return _invalidated(ASYNCIO, store, address, pages)
        removed = run_blocking(_invalidated(BLOCKING, store, address, pages)) or there
        return Done(removed) if self.suspends else removed

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        store = self.binding.store
        call = self._call(store, self.keys, args, kwargs)
        if self.suspends:
            return self._suspending(self._refreshed, store, call, args, kwargs)
        return self._blocking(self._refreshed, store, call, args, kwargs)

    async def _refreshed(self, port: Port, store: Store, call: Call) -> Outcome:
        outcome = await refresh(port, store, call)
        if self.is_endpoint and outcome.error is None:
            # Pages show what it returned before; they are made by requests.
            await self._without_pages(port, store, call)
        try:
            return outcome
        finally:
            del outcome  # its traceback refers to this frame

    async def _without_pages(self, port: Port, store: Store, call: Call) -> None:
        change = removal_of_tags(store, (self._tag(call.args, call.kwargs),), veiled=self)
        if call.pending is None or not call.pending.add([change]):
            await change.step(port)

    # The wrapper found nothing at a glance; ``text`` is the key if it made one. The blocking one calls nothing that it
    # could do itself: a memoised recursion goes through here at every step, and Python counts its frames.

    def _missed_blocking(self, args: tuple[Any, ...], kwargs: dict[str, Any], text: str | None = None) -> Any:
        store = self.binding.store
        call = self._call(store, self.keys, args, kwargs, text)
        if call is None:
            return self._apart(args, kwargs)
        step = answer(BLOCKING, store, call)
        try:
            step.send(None)
        except StopIteration as end:
            outcome: Outcome = end.value
        else:
            raise suspended(step)
        try:
            return outcome.unwrap()
        finally:
            del outcome, step, call  # the traceback of an error refers to this frame

    def _missed_suspending(self, args: tuple[Any, ...], kwargs: dict[str, Any], text: str | None = None) -> Any:
        store = self.binding.store
        return self._suspending(answer, store, self._call(store, self.keys, args, kwargs, text), args, kwargs)

    def directed(
        self,
        skip_cache: Any,
        request: HTTPConnection | None,
        response: Response | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The caller says that it wants no cache, or for which request it calls."""
        if request is not None and not skip_cache:
            entered = self.pages.enter(request, response, args, kwargs)
            if entered is not NO_ENDPOINT:
                return entered
        keys = self._admitted(skip_cache, request)
        if keys is None:
            return self.apart(args, kwargs)
        store = self.binding.store
        detaches = self._detaches_from if request is not None else None
        call = self._call(store, keys, args, kwargs, detaches=detaches)
        if self.suspends:
            return self._suspending(answer, store, call, args, kwargs)
        return self._blocking(answer, store, call, args, kwargs)

    def _blocking(
        self, step: Step, store: Store, call: Call | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if call is None:
            return self._apart(args, kwargs)
        return run_blocking(step(BLOCKING, store, call)).unwrap()

    async def _suspending(
        self, step: Step, store: Store, call: Call | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if call is None:
            return await self._apart_suspending(args, kwargs)
        return (await step(ASYNCIO, store, call)).unwrap()

    def _apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function uncached: what it says of its result is not about a load that it is called in."""
        if innermost() is None:
            return self.fn(*args, **kwargs)
        with apart():
            return self.fn(*args, **kwargs)

    async def _apart_suspending(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if innermost() is None:
            return await self.fn(*args, **kwargs)
        with apart():
            return await self.fn(*args, **kwargs)

    def _call(
        self,
        store: Store,
        keys: KeyMaker,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        address: Hashable | None = None,
        detaches: Detaches | None = None,
    ) -> Call | None:
        """A call for the flow; ``None`` if it runs uncached: before ``init_app``, and where it has no key."""
        if not store.caches:
            return None
        watched = self.binding.is_watched
        if watched and self.binding.watching.is_disabled(self.policy.namespace):
            return None
        try:
            if address is None:
                address = self._address(store, keys, args, kwargs)
            tags = keys.tags(args, kwargs) if keys.has_tags else ()
        except Exception as error:
            self.unkeyed(error, args, kwargs)
            return None
        binding = self.binding
        detaches = detaches or self.keys.outlives_request
        call = self.call_type(
            address,
            self.fn,
            args,
            kwargs,
            self.policy,
            binding.default_expire,
            self.counted,
            binding.background,
            detaches,
            tags,
        )
        if watched:
            call.logs = binding.watching.logs()
        return call

    def _detaches_from(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an endpoint may run again when the request is over that called it."""
        return not self._takes_dependencies and self.keys.outlives_request(args, kwargs)

    @cached_property
    def _takes_dependencies(self) -> bool:
        return takes_dependencies(self.fn)

    def _address(self, store: Store, keys: KeyMaker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """Where ``store`` keeps a call: local memory needs no text where the arguments are simple."""
        if not store.slotted:
            return keys.compiled(*args, **kwargs)
        address = keys.address(args, kwargs)
        if keys.owners is not None:
            holder = keys.owners.holder(keys.bind(*args, **kwargs)[0])
            if holder is not None and id(holder) not in self.shelves.table:
                shape = keys.owners.shape(holder)
                self.binding.shelve(self, holder, None if shape is None else shape.shelf, store)
        return address

    def apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function uncached."""
        return self._apart_suspending(args, kwargs) if self.suspends else self._apart(args, kwargs)

    def _admitted(self, skip_cache: Any, request: HTTPConnection | None) -> KeyMaker | None:
        """What makes the key of this call; ``None`` if it runs uncached, because its caller asks for it or because the
        identity of the request it belongs to is not in the key."""
        if skip_cache:
            return None
        if request is None:
            return self.keys
        return self.endpoint_keys if self.binding.admits(request, self) else None

    @property
    def roles(self) -> Mapping[str, Role]:
        """What each parameter is to the key of a request."""
        return self.endpoint_keys.parameters

    @property
    def rules(self) -> Rules:
        """What the author said of its pages, for the coverage rule."""
        policy, page = self.policy, self.page
        vary = frozenset(page.vary_on)
        return Rules(self.roles, policy.shared, policy.author_keyed, page=True, public=page.public, vary_on=vary)

    @cached_property
    def endpoint_keys(self) -> KeyMaker:
        """What makes the keys of calls by FastAPI."""
        # Whether a request may be cached was decided by the roles, before any value was seen. A handle that only its
        # value shows to be one would be left out of the key against that decision.
        return self._make_keys(handles_by_value=False)

    def unkeyed(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The call has no key and runs uncached; say so once, unless the call itself is wrong and will say so."""
        name = self.policy.name
        if isinstance(error, UnkeyableError):
            parameter = re.split(r"[.\[]", error.path, maxsplit=1)[0]
            warn_once(f"{name} runs uncached: {error}", "unkeyable", name, parameter)
            return
        try:
            inspect.signature(self.fn).bind(*args, **kwargs)
        except TypeError:
            return
        # The message of a user's own exception may quote values.
        warn_once(f"{name} runs uncached: making its key raised {type(error).__name__}", "unkeyable", name)


async def _invalidated(port: Port, store: Store, address: Hashable, pages: tuple[str, ...]) -> bool:
    """Remove a value, and the pages that show it."""
    removed = await invalidate(port, store, address)
    if pages:
        await invalidate_tags(port, store, pages)
    return removed


class Done:
    """What has happened already, for those who await it."""

    __slots__ = ("_result",)

    def __init__(self, result: Any) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result
        yield

    def __bool__(self) -> bool:
        return bool(self._result)
