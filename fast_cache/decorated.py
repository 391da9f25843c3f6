"""What a decorated function looks like to a type checker: exactly as undecorated, with a few operations more.

It also takes ``skip_cache``; the other arguments of such a call are not checked, since no type can say "these
parameters and one more".

On a method the operations are reached through the instance, ``shop.price.invalidate(1)``, or take it first,
``Shop.price.invalidate(shop, 1)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from fast_cache.explanation import Explanation
from fast_cache.stats import Stats

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Decorator(Protocol):
    """What ``cache.cached(...)`` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncCached[P, T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: Callable[P, T], /) -> SyncCached[P, T]: ...


class AsyncCached(Protocol[P, T_co]):
    """A decorated ``async def``."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]: ...
    @overload
    def __call__(self, *args: Any, skip_cache: bool, **kwargs: Any) -> Coroutine[Any, Any, T_co]:
        """With ``skip_cache=True`` the function runs, and nothing is read or stored."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> AsyncCached[P, T_co]: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[Any, Q], T_co], instance: object, owner: type | None = None, /
    ) -> AsyncCached[Q, T_co]: ...

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Explanation]:
        """Everything that is known of this call: its key, what is stored under it, and what a caller would meet."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[bool]:
        """Remove what is cached for these arguments, and fence off loads in flight. True if something was removed.

        Local memory is changed at once, also if the result is not awaited; a remote store when it is.

        Raises:
            UnkeyableError: these arguments have no key.
        """

    def invalidate_all(self) -> Awaitable[None]:
        """Remove what is cached of this function, whatever the arguments, and fence off its loads in flight.

        It takes the same time however much that is; of a method it is what all instances have. Local memory is changed
        at once, also if the result is not awaited; a remote store when it is.
        """

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]:
        """Call the function whatever is stored, store what it returns, and return it.

        Loads that are under way are fenced off: theirs would be older. Arguments that have no key, and an application
        that is not initialised, let the function run uncached. What the function raises is raised, and nothing stored.
        """

    def stats(self) -> Stats:
        """What this function was asked and what it did."""

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of these arguments, as :meth:`CacheBackend.get` takes it.

        Raises:
            UnkeyableError: these arguments have no key.
        """


class SyncCached(Protocol[P, T_co]):
    """A decorated ``def``."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload
    def __call__(self, *args: Any, skip_cache: bool, **kwargs: Any) -> T_co:
        """With ``skip_cache=True`` the function runs, and nothing is read or stored."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> SyncCached[P, T_co]: ...
    @overload
    def __get__(
        self: SyncCached[Concatenate[Any, Q], T_co], instance: object, owner: type | None = None, /
    ) -> SyncCached[Q, T_co]: ...

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Everything that is known of this call: its key, what is stored under it, and what a caller would meet."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove what is cached for these arguments, and fence off loads in flight. True if something was removed.

        Raises:
            UnkeyableError: these arguments have no key.
        """

    def invalidate_all(self) -> None:
        """Remove what is cached of this function, whatever the arguments, and fence off its loads in flight.

        It takes the same time however much that is; of a method it is what all instances have.
        """

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function whatever is stored, store what it returns, and return it.

        Loads that are under way are fenced off: theirs would be older. Arguments that have no key, and an application
        that is not initialised, let the function run uncached. What the function raises is raised, and nothing stored.
        """

    def stats(self) -> Stats:
        """What this function was asked and what it did."""

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of these arguments, as :meth:`CacheBackend.get` takes it.

        Raises:
            UnkeyableError: these arguments have no key.
        """


class ManyDecorator(Protocol):
    """What ``cache.cached_many(...)`` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, Mapping[K, V]]], /) -> AsyncCachedMany[P, K, V]: ...
    @overload
    def __call__(self, fn: Callable[P, Mapping[K, V]], /) -> SyncCachedMany[P, K, V]: ...


class AsyncCachedMany(Protocol[P, K, V]):
    """A decorated ``async def`` that loads many."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, dict[K, V]]: ...
    @overload
    def __call__(self, *args: Any, skip_cache: bool, **kwargs: Any) -> Coroutine[Any, Any, dict[K, V]]:
        """With ``skip_cache=True`` the function runs, and nothing is read or stored."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> AsyncCachedMany[P, K, V]: ...
    @overload
    def __get__(
        self: AsyncCachedMany[Concatenate[Any, Q], K, V], instance: object, owner: type | None = None, /
    ) -> AsyncCachedMany[Q, K, V]: ...

    @overload
    def get(self, element: K, /, *args: Any, default: None = None, **kwargs: Any) -> Coroutine[Any, Any, V | None]: ...
    @overload
    def get(self, element: K, /, *args: Any, default: D, **kwargs: Any) -> Coroutine[Any, Any, V | D]:
        """The value of one element, or ``default`` where there is none.

        It stands in the place of the elements; the other arguments are those of the function. With ``window=`` calls
        that come together are answered together.
        """

    def explain(self, element: K, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Explanation]:
        """Everything that is known of one element: its key, what is stored under it, and what a caller would meet."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[int]:
        """Remove what is cached of these elements, and fence off loads in flight. How many were there?

        Local memory is changed at once, also if the result is not awaited; a remote store when it is.

        Raises:
            UnkeyableError: an element has no key.
        """

    def invalidate_all(self) -> Awaitable[None]:
        """Remove what is cached of this function, whatever the arguments, and fence off its loads in flight.

        It takes the same time however much that is; of a method it is what all instances have. Local memory is changed
        at once, also if the result is not awaited; a remote store when it is.
        """

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, dict[K, V]]:
        """Call the function for all of these elements, store what it returns, and return it.

        Elements that there are no longer are removed.
        """

    def stats(self) -> Stats:
        """What this function was asked, by element, and what it did: ``loads`` are its runs."""

    def key(self, element: K, /, *args: Any, **kwargs: Any) -> str:
        """The key of one element, as :meth:`CacheBackend.get` takes it.

        Raises:
            UnkeyableError: it has none.
        """


class SyncCachedMany(Protocol[P, K, V]):
    """A decorated ``def`` that loads many."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]: ...
    @overload
    def __call__(self, *args: Any, skip_cache: bool, **kwargs: Any) -> dict[K, V]:
        """With ``skip_cache=True`` the function runs, and nothing is read or stored."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> SyncCachedMany[P, K, V]: ...
    @overload
    def __get__(
        self: SyncCachedMany[Concatenate[Any, Q], K, V], instance: object, owner: type | None = None, /
    ) -> SyncCachedMany[Q, K, V]: ...

    @overload
    def get(self, element: K, /, *args: Any, default: None = None, **kwargs: Any) -> V | None: ...
    @overload
    def get(self, element: K, /, *args: Any, default: D, **kwargs: Any) -> V | D:
        """The value of one element, or ``default`` where there is none.

        It stands in the place of the elements; the other arguments are those of the function. With ``window=`` calls
        that come together are answered together.
        """

    def explain(self, element: K, /, *args: Any, **kwargs: Any) -> Explanation:
        """Everything that is known of one element: its key, what is stored under it, and what a caller would meet."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Remove what is cached of these elements, and fence off loads in flight. How many were there?

        Raises:
            UnkeyableError: an element has no key.
        """

    def invalidate_all(self) -> None:
        """Remove what is cached of this function, whatever the arguments, and fence off its loads in flight.

        It takes the same time however much that is; of a method it is what all instances have.
        """

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> dict[K, V]:
        """Call the function for all of these elements, store what it returns, and return it.

        Elements that there are no longer are removed.
        """

    def stats(self) -> Stats:
        """What this function was asked, by element, and what it did: ``loads`` are its runs."""

    def key(self, element: K, /, *args: Any, **kwargs: Any) -> str:
        """The key of one element, as :meth:`CacheBackend.get` takes it.

        Raises:
            UnkeyableError: it has none.
        """
