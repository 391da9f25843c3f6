"""A function becomes a cached function: a look at local memory, and everything else handed over to the flow.

The wrapper is chosen once, at decoration. It is spelled twice, for ``def`` and ``async def``, and contains nothing but
the way out for a hit. What hangs on the function (`invalidate`, `refresh`, `key`) is in :class:`Operations`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from functools import cached_property
from time import monotonic
from typing import Any

from starlette.requests import HTTPConnection

from fast_cache.binding import Binding
from fast_cache.errors import ConfigurationError, UnkeyableError
from fast_cache.flow import Call, answer, invalidate, refresh
from fast_cache.http.endpoint import REQUEST_PARAMETER, EndpointSignature
from fast_cache.keys import KeyMaker, Role
from fast_cache.method import Binds, CachedMethod
from fast_cache.once import warn_once
from fast_cache.policy import CachePolicy
from fast_cache.ports import ASYNCIO, BLOCKING, run_blocking

BYPASS_PARAMETER = "skip_cache"


def decorate(operations: Operations, binds: Binds | None) -> Any:
    """Return the cached form of a function: a function again, or a descriptor where it stands in a class."""
    fn = operations.fn
    wrapper: Any = _suspending(operations) if operations.suspends else _blocking(operations)
    functools.update_wrapper(wrapper, fn)
    if binds is not None:
        return CachedMethod.of(wrapper, operations, binds)
    wrapper.__signature__ = EndpointSignature.of(fn)
    wrapper.invalidate = operations.invalidate
    wrapper.refresh = operations.refresh
    wrapper.key = operations.key
    return wrapper


def _suspending(operations: Operations) -> Callable[..., Any]:
    fn, binding, declares_bypass = operations.fn, operations.binding, operations.declares_bypass
    make_key = operations.keys.compiled

    async def cached(
        *args: Any, skip_cache: Any = False, fast_cache_request__: HTTPConnection | None = None, **kwargs: Any
    ) -> Any:
        keyed = make_key
        if skip_cache or declares_bypass or fast_cache_request__ is not None:
            admitted = operations.admitted(skip_cache, fast_cache_request__, kwargs)
            if admitted is None:
                return await fn(*args, **kwargs)
            keyed = admitted
        try:
            key = keyed(*args, **kwargs)
        except Exception as error:
            operations.unkeyed(error, args, kwargs)
            return await fn(*args, **kwargs)
        entry = binding.table.get(key)
        if entry is not None:
            value = entry.value
            if entry.expires > monotonic():
                entry.visits = 1
                return value
        store = binding.store
        if not store.caches:
            return await fn(*args, **kwargs)
        return (await answer(ASYNCIO, store, operations.call(key, args, kwargs))).unwrap()

    return cached


def _blocking(operations: Operations) -> Callable[..., Any]:
    fn, binding, declares_bypass = operations.fn, operations.binding, operations.declares_bypass
    make_key = operations.keys.compiled

    def cached(
        *args: Any, skip_cache: Any = False, fast_cache_request__: HTTPConnection | None = None, **kwargs: Any
    ) -> Any:
        keyed = make_key
        if skip_cache or declares_bypass or fast_cache_request__ is not None:
            admitted = operations.admitted(skip_cache, fast_cache_request__, kwargs)
            if admitted is None:
                return fn(*args, **kwargs)
            keyed = admitted
        try:
            key = keyed(*args, **kwargs)
        except Exception as error:
            operations.unkeyed(error, args, kwargs)
            return fn(*args, **kwargs)
        entry = binding.table.get(key)
        if entry is not None:
            value = entry.value
            if entry.expires > monotonic():
                entry.visits = 1
                return value
        store = binding.store
        if not store.caches:
            return fn(*args, **kwargs)
        return run_blocking(answer(BLOCKING, store, operations.call(key, args, kwargs))).unwrap()

    return cached


class Operations:
    """One cached function, apart from its hit path."""

    def __init__(
        self, fn: Callable[..., Any], make_keys: Callable[..., KeyMaker], policy: CachePolicy, binding: Binding
    ) -> None:
        self.fn = fn
        self.keys = make_keys()
        self._make_keys = make_keys
        self.policy = policy
        self.binding = binding
        self.suspends = inspect.iscoroutinefunction(fn)
        parameters = inspect.signature(fn).parameters
        self.declares_bypass = BYPASS_PARAMETER in parameters
        if REQUEST_PARAMETER in parameters:
            raise ConfigurationError(f"{policy.name} has a parameter named {REQUEST_PARAMETER}, which is reserved")

    def key(self, *args: Any, **kwargs: Any) -> str:
        return self.keys.key(args, kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        key = self.keys.key(args, kwargs)
        store = self.binding.store
        if self.suspends and not store.local:
            return invalidate(ASYNCIO, store, key)
        removed = run_blocking(invalidate(BLOCKING, store, key))
        return Done(removed) if self.suspends else removed

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        if self.suspends:
            return self._refresh_suspending(args, kwargs)
        key = self._key_or_none(args, kwargs)
        if key is None:
            return self.fn(*args, **kwargs)
        return run_blocking(refresh(BLOCKING, self.binding.store, self.call(key, args, kwargs))).unwrap()

    async def _refresh_suspending(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = self._key_or_none(args, kwargs)
        if key is None:
            return await self.fn(*args, **kwargs)
        return (await refresh(ASYNCIO, self.binding.store, self.call(key, args, kwargs))).unwrap()

    def _key_or_none(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        try:
            return self.keys.key(args, kwargs)
        except Exception as error:
            self.unkeyed(error, args, kwargs)
            return None

    def call(self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """This call, for the flow."""
        policy = self.policy
        expire = policy.expire if policy.expire is not None else self.binding.default_expire
        return Call(key, self.fn, args, kwargs, policy, expire)

    def admitted(
        self, skip_cache: Any, request: HTTPConnection | None, kwargs: dict[str, Any]
    ) -> Callable[..., str] | None:
        """What makes the key of this call; ``None`` if it runs uncached, because its caller asks for it or because the
        identity of the request it belongs to is not in the key."""
        if self.declares_bypass and skip_cache is not False:
            kwargs[BYPASS_PARAMETER] = skip_cache
        if skip_cache:
            return None
        if request is None:
            return self.keys.compiled
        return self._endpoint_keys.compiled if self.binding.admits(request, self) else None

    @property
    def roles(self) -> Mapping[str, Role]:
        """What each parameter is to the key of a request."""
        return self._endpoint_keys.parameters

    @cached_property
    def _endpoint_keys(self) -> KeyMaker:
        # Whether a request may be cached was decided by the roles, before any value was seen. A handle that only its
        # value shows to be one would be left out of the key against that decision.
        return self._make_keys(handles_by_value=False)

    def unkeyed(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The call has no key and runs uncached; say so once, unless the call itself is wrong and will say so."""
        name = self.policy.name
        if isinstance(error, UnkeyableError):
            warn_once(f"{name} runs uncached: {error}", "unkeyable", name, error.path)
            return
        try:
            inspect.signature(self.fn).bind(*args, **kwargs)
        except TypeError:
            return
        # The message of a user's own exception may quote values.
        warn_once(f"{name} runs uncached: making its key raised {type(error).__name__}", "unkeyable", name)


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
