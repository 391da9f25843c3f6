"""Values that are loaded under a key of the caller's choosing: ``get_or_set``.

The same flow as that of decorated functions, with a key that is given instead of made.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from time import monotonic
from typing import Any, Final

from fast_cache.backends.keyspace import check_key
from fast_cache.backends.store import Address, Store
from fast_cache.batches import Batch, ElementCall, Outcomes, elements_of, found_in
from fast_cache.binding import Binding
from fast_cache.entry import MAX_VISITS, MISSING, MissingType
from fast_cache.errors import InvalidTypeError
from fast_cache.flow import Call, answer
from fast_cache.keys import address_of, check_tags, groups_of_key, outlive_request
from fast_cache.outcome import Outcome
from fast_cache.policy import CachePolicy
from fast_cache.ports import ASYNCIO, BLOCKING, BatchPort, run_blocking

Loader = Callable[[], Any]
ManyLoader = Callable[[list[Any]], Any]

_POLICIES: Final = 256
"""How many combinations of options are remembered; validating one takes 10 µs."""


class Loading:
    """``get_or_set`` and ``aget_or_set`` of one cache."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._policies: OrderedDict[Any, CachePolicy] = OrderedDict()

    def load(self, key: str, loader: Loader, options: dict[str, Any]) -> Any:
        """Answer from the cache, or by calling ``loader``."""
        if inspect.iscoroutinefunction(loader):
            raise InvalidTypeError(
                "get_or_set takes a plain function as its loader; await aget_or_set for an async one"
            )
        store = self._binding.store
        tags = _tags(options)
        value = self._glance(store, key, tags)
        if value is not MISSING:
            return value
        policy = self._policy(loader, options)
        policy.check(store)
        if not self._caches(store):
            return loader()
        return run_blocking(answer(BLOCKING, store, self._call(store, key, loader, policy, tags))).unwrap()

    async def aload(self, key: str, loader: Loader, options: dict[str, Any]) -> Any:
        """The same, awaiting what ``loader`` returns."""
        store = self._binding.store
        tags = _tags(options)
        value = self._glance(store, key, tags)
        if value is not MISSING:
            return value
        policy = self._policy(loader, options)
        policy.check(store)
        if not self._caches(store):
            result = loader()
            return await result if inspect.isawaitable(result) else result
        return (await answer(ASYNCIO, store, self._call(store, key, loader, policy, tags))).unwrap()

    def load_many(self, keys: Iterable[str], loader: ManyLoader, options: dict[str, Any]) -> dict[str, Any]:
        """Answer for each key from the cache, and for what is missing by calling ``loader``."""
        if inspect.iscoroutinefunction(loader):
            raise InvalidTypeError("many takes a plain function as its loader; await amany for an async one")
        return found_in(run_blocking(self._outcomes(BLOCKING, keys, loader, options)))

    async def aload_many(self, keys: Iterable[str], loader: ManyLoader, options: dict[str, Any]) -> dict[str, Any]:
        """The same, awaiting what ``loader`` returns."""
        return found_in(await self._outcomes(ASYNCIO, keys, loader, options))

    async def _outcomes(
        self, port: BatchPort, keys: Iterable[str], loader: ManyLoader, options: dict[str, Any]
    ) -> Outcomes:
        if not callable(loader):
            raise InvalidTypeError(f"the loader must be a function of a list of keys, not a {type(loader).__name__}")
        store = self._binding.store
        tags = _tags(options)
        policy = self._policy(loader, options)
        policy.check(store)
        outcomes: Outcomes = {}
        calls: dict[Hashable, Call] = {}
        wanted = elements_of(keys, "many")
        batch = Batch(policy.name, loader, store.direct)
        if not self._caches(store):
            return await batch.load_apart(port, wanted)
        for key in wanted:
            value = self._glance(store, key, tags)
            outcomes[key] = Outcome(value)
            if value is MISSING:
                calls[key] = self._call(store, key, loader, policy, tags, ElementCall)
        if calls:
            outcomes |= zip(calls, await batch.collect(port, store, calls), strict=True)
        try:
            return outcomes
        finally:
            del outcomes  # the traceback of an error may refer to this frame

    def check(self, options: dict[str, Any]) -> None:
        """Raise if the options can't work, before anything is loaded."""
        _tags(options)
        _make_policy("", options).check(self._binding.store)

    def _glance(self, store: Store, key: Any, tags: tuple[str, ...]) -> Any | MissingType:
        """The hit path: what lies in local memory, and has nothing to be decided about."""
        entry = self._binding.texts.table.get(key) if type(key) is str else None
        if entry is None:
            return MISSING
        value = entry.value  # before the expiry: an entry is retired in the opposite order
        if entry.expires <= monotonic() or (tags and not store.has_tags(entry, tags)):
            return MISSING
        if entry.visits < MAX_VISITS:
            entry.visits += 1
        store.direct.hit()
        return value

    def _caches(self, store: Store) -> bool:
        return store.caches and not (self._binding.is_watched and self._binding.watching.is_disabled(None))

    def _call(
        self,
        store: Store,
        key: Any,
        loader: Callable[..., Any],
        policy: CachePolicy,
        tags: tuple[str, ...],
        kind: type[Call] = Call,
    ) -> Call:
        check_key(key)
        address: Address = address_of(key) if store.slotted else key
        binding = self._binding
        call = kind(
            address,
            loader,
            (),
            {},
            policy,
            binding.default_expire,
            store.direct,
            binding.background,
            _detaches(loader),
            tags,
        )
        if groups := groups_of_key(key):  # it ends with what the function returns whose key it is
            call.terms = call.terms._replace(groups=groups)
        if binding.is_watched:
            call.logs = binding.watching.logs()
        return call

    def _policy(self, loader: Callable[..., Any], options: dict[str, Any]) -> CachePolicy:
        if not callable(loader):
            raise InvalidTypeError(f"the loader must be a function without arguments, not a {type(loader).__name__}")
        name = getattr(loader, "__qualname__", type(loader).__name__)
        given = {**options, **options["freshness"]}
        del given["freshness"]
        if not _holds_nothing(given):
            return _make_policy(name, options)
        try:
            memo = (name, *((option, type(value), value) for option, value in given.items()))
            known = self._policies.get(memo)
        except TypeError:  # an option that has no hash
            return _make_policy(name, options)
        if known is None:
            known = self._policies[memo] = _make_policy(name, options)
            if len(self._policies) > _POLICIES:
                self._policies.popitem(last=False)
        return known


def _tags(options: dict[str, Any]) -> tuple[str, ...]:
    """The tags among the options, which are none of the policy's."""
    tags = options.pop("tags")
    return () if tags is None else check_tags(tags)


def _make_policy(name: str, options: dict[str, Any]) -> CachePolicy:
    return CachePolicy.of(name=f"the loader {name}", author_keyed=True, **options).checked(inspect.Signature())


def _detaches(loader: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], bool]:
    """Whether a loader may run when the request is over that brought it: it holds nothing that ends with one."""
    return lambda args, kwargs: outlive_request((loader,))


def _holds_nothing(options: dict[str, Any]) -> bool:
    """Whether options can be kept: functions among them may hold the request that brought them."""
    return not any(
        isinstance(option, Mapping) or (callable(option) and not isinstance(option, type))
        for option in options.values()
    )
