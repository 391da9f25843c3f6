"""The object that users hold: it binds to an app, is a dependency, and decorates functions.

No algorithm is here. `init_app` puts a backend behind the decorators and hooks into the app's lifespan; `cached`
checks its options and chooses a wrapper; `get_cache` hands out the backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, overload

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.memory import InMemoryBackend
from fast_cache.binding import Binding
from fast_cache.decorator import Done, Operations, decorate
from fast_cache.durations import Duration, optional_seconds
from fast_cache.errors import InvalidTypeError, NotInitialisedError
from fast_cache.http.identity import Planner, authorization_allowed
from fast_cache.http.lifespan import bind_lifespan
from fast_cache.http.refuse import refuse_generators
from fast_cache.keys import KeyMaker, Twins, resolve_hints
from fast_cache.method import place_of
from fast_cache.once import warn_once
from fast_cache.policy import CachePolicy
from fast_cache.stats import Stats

if TYPE_CHECKING:
    from fast_cache.decorated import AsyncCached, Decorator, SyncCached

P = ParamSpec("P")
T = TypeVar("T")


class Cache:
    """A cache for FastAPI applications.

    Most applications need one, and use the instance ``fast_cache.cache``. Until :meth:`init_app` has run, decorated
    functions run as if undecorated.
    """

    def __init__(self) -> None:
        self._backend: CacheBackend | None = None
        self._planner = Planner()
        self._twins = Twins()
        self._binding = Binding(self._admits)

    def init_app(
        self, app: FastAPI, backend: CacheBackend | None = None, default_expire: Duration | None = None
    ) -> None:
        """Put ``backend`` behind this cache and tie its connections to the lifespan of ``app``.

        May be called before or after routes are added, again with another backend, and for several apps, which then
        share the backend. The app's own lifespan and its state are kept.

        Args:
            app: the application. ``app.state.cache_handler`` is set on it.
            backend: where values are kept; without one, an :class:`InMemoryBackend`.
            default_expire: lifetime of entries whose function names none (seconds, ``timedelta`` or text such as
                ``"5m"``); without it such entries never expire.

        Raises:
            ConfigurationError: not an app, not a backend, or not a duration.
        """
        if not isinstance(app, FastAPI):
            raise InvalidTypeError(f"init_app takes the FastAPI application first, not a {type(app).__name__}")
        if backend is None:
            backend = InMemoryBackend()
        elif not isinstance(backend, CacheBackend):
            raise InvalidTypeError(
                f"backend must be an instance of a CacheBackend, such as InMemoryBackend(), not {_described(backend)}"
            )
        self._bind(backend, optional_seconds(default_expire, option="default_expire"))
        app.state.cache_handler = self._handler
        bind_lifespan(app, self._start, self._stop)

    def get_cache(self) -> CacheBackend:
        """Return the backend. Use it as ``Depends(cache.get_cache)``, or call it.

        As a dependency it runs in a worker thread, like every plain function; :meth:`aget_cache` does not.

        Raises:
            NotInitialisedError: :meth:`init_app` has not been called.
        """
        if self._backend is None:
            raise NotInitialisedError("the cache has no backend yet; call cache.init_app(app) when the app is made")
        return self._backend

    async def aget_cache(self) -> CacheBackend:
        """Return the backend, like :meth:`get_cache`, without the hop to a worker thread."""
        return self.get_cache()

    def stats(self) -> Stats:
        """What the backend was asked, by the functions of this cache and by whoever else uses it, and what it holds."""
        return self._binding.store.stats()

    @overload
    def cached(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncCached[P, T]: ...  # type: ignore[overload-overlap]
    @overload
    def cached(self, fn: Callable[P, T], /) -> SyncCached[P, T]: ...
    @overload
    def cached(
        self,
        expire: Duration | None = None,
        key_builder: Callable[..., Any] | None = None,
        namespace: str | None = None,
        key: str | None = None,
        version: str | int | None = None,
        condition: Callable[[Any], Any] | None = None,
        shared: bool = False,
    ) -> Decorator: ...
    def cached(
        self,
        expire: Any = None,
        key_builder: Callable[..., Any] | None = None,
        namespace: str | None = None,
        key: str | None = None,
        version: str | int | None = None,
        condition: Callable[[Any], Any] | None = None,
        shared: bool = False,
    ) -> Any:
        """Cache the results of a function, sync or async: an endpoint, a plain function, a method.

        Use it as ``@cache.cached``, ``@cache.cached()`` or with options.

        Args:
            expire: lifetime of a result (seconds, ``timedelta`` or text such as ``"5m"``); ``None`` for the default
                given to :meth:`init_app`.
            key_builder: makes the argument part of the key; called with the function's arguments, defaults applied.
            namespace: the first part of this function's keys.
            key: the argument part as a template over the arguments, ``"user:{user.id}"``.
            version: part of the key; change it to leave old entries behind.
            condition: called with the result; only what it says yes to is stored.
            shared: your word that an endpoint answers everyone alike whom its guards let in. Guards always run.

        Raises:
            ConfigurationError: an option that can't work, or a generator function: its result can be read only once.
        """

        bare = callable(expire) or isinstance(expire, (classmethod, staticmethod, property, cached_property))
        lifetime = None if bare else optional_seconds(expire, option="expire")

        def decorator(fn: Any) -> Any:
            function, kind, binds = place_of(fn)
            refuse_generators(function)
            make_keys = partial(
                KeyMaker,
                function,
                namespace=namespace,
                version=version,
                key=key,
                key_builder=key_builder,
                kind=kind,
                twins=self._twins,
            )
            policy = CachePolicy.of(
                name=f"{function.__module__}.{function.__qualname__}",
                expire=lifetime,
                condition=condition,
                annotation=lambda: resolve_hints(function).get("return", inspect.Signature.empty),
                shared=shared,
                author_keyed=key is not None or key_builder is not None,
            )
            return decorate(Operations(function, make_keys, policy, self._binding), binds)

        return decorator(expire) if bare else decorator

    def _bind(self, backend: CacheBackend, default_expire: float | None) -> None:
        self._backend = backend
        self._binding.bind(backend.engine_store(), default_expire)

    def _admits(self, request: HTTPConnection, operations: Operations) -> bool:
        """Whether the answer to ``request`` may come from the cache: everything that identifies it is in the key."""
        policy = operations.policy
        verdict = self._planner.verdict(
            request, operations.fn, operations.roles, shared=policy.shared, author_keyed=policy.author_keyed
        )
        if not verdict.cacheable:
            reasons = "; ".join(verdict.reasons)
            warn_once(f"{policy.name} runs uncached: {reasons}", "identity", policy.name, reasons)
            return False
        if not authorization_allowed(verdict, request.headers):
            warn_once(
                f"{policy.name} runs uncached for requests with an Authorization header, because nothing in its key "
                "comes from it; take what the result depends on as a parameter, or pass shared=True",
                "authorization",
                policy.name,
            )
            return False
        return True

    def _handler(self, app: FastAPI) -> Done:
        """What ``app.state.cache_handler`` is: binds ``app`` to the backend this cache has, plainly or awaited."""
        self.init_app(app, self._backend, self._binding.default_expire)
        return Done(None)

    async def _start(self) -> None:
        """Nothing to do: connections are opened when they are needed, so that a start never waits for a server."""

    async def _stop(self) -> None:
        if self._backend is not None:
            await self._backend.aclose()


def _described(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


cache = Cache()
"""The cache of the application."""

CacheDep = Annotated[CacheBackend, Depends(cache.aget_cache)]
"""The backend of the global :data:`cache` as a parameter of an endpoint: ``async def read(store: CacheDep)``."""
