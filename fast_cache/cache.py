"""The object that users hold: it binds to an app, is a dependency, and decorates functions.

No algorithm is here. `init_app` puts a backend behind the decorators and hooks into the app's lifespan; `cached`
checks its options and chooses a wrapper; `get_cache` hands out the backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Final, ForwardRef, ParamSpec, TypeVar, Unpack, overload
from weakref import WeakSet

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.from_url import backend_from_url
from fast_cache.backends.keyspace import check_namespace
from fast_cache.backends.memory import InMemoryBackend
from fast_cache.batches import with_missing
from fast_cache.binding import Binding
from fast_cache.current import CurrentLoad
from fast_cache.decorator import Done, Operations, decorate
from fast_cache.durations import Duration, optional_seconds
from fast_cache.errors import ConfigurationError, InvalidTypeError, NotInitialisedError
from fast_cache.flow import removal_of_namespace, removal_of_tags
from fast_cache.http.exchange import install
from fast_cache.http.identity import Planner, authorization_allowed
from fast_cache.http.lifespan import bind_lifespan
from fast_cache.http.options import PAGE_OPTIONS, HTTPOptions, page_options
from fast_cache.http.refuse import refuse_generators
from fast_cache.invalidating import invalidates, invalidating
from fast_cache.keys import KeyMaker, Twins, check_tags, code_digest, resolve_hints
from fast_cache.loading import Loading
from fast_cache.many import CachedMany, ManyOperations, element_of, values_of
from fast_cache.method import place_of
from fast_cache.naming import named_changes
from fast_cache.once import warn_once
from fast_cache.policy import CachePolicy
from fast_cache.presets import Presets
from fast_cache.route_table import RouteTable, route_table, say_what_is_uncached
from fast_cache.serializers import schema_digest
from fast_cache.stats import Stats
from fast_cache.transactions import Transaction, make_blocking, make_suspending
from fast_cache.warming import WarmupReport, awarm, warm
from fast_cache.watching import ALL, Detection

if TYPE_CHECKING:
    from fast_cache.decorated import AsyncCached, AsyncCachedMany, Decorator, ManyDecorator, SyncCached, SyncCachedMany
    from fast_cache.pages import EndpointOptions
    from fast_cache.policy import LoadOptions

_DRAIN: Final = 5.0
"""Seconds that an application which stops gives its refreshes to end."""

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]")
P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Cache(Presets):
    """A cache for FastAPI applications.

    Most applications need one, and use the instance ``fast_cache.cache``. Until :meth:`init_app` has run, decorated
    functions run as if undecorated.
    """

    def __init__(self) -> None:
        self._backend: CacheBackend | None = None
        self._planner = Planner()
        self._twins = Twins()
        self._binding = Binding(self._admits)
        self._loading = Loading(self._binding)
        self._apps: WeakSet[FastAPI] = WeakSet()

    def init_app(
        self,
        app: FastAPI,
        backend: CacheBackend | str | None = None,
        default_expire: Duration | None = None,
        *,
        http: HTTPOptions | None = None,
    ) -> None:
        """Put ``backend`` behind this cache and tie its connections to the lifespan of ``app``.

        May be called before or after routes are added, again with another backend, and for several apps, which then
        share the backend. The app's own lifespan and its state are kept.

        Args:
            app: the application. ``app.state.cache_handler`` is set on it.
            backend: where values are kept; without one, an :class:`InMemoryBackend`. Or the URL of one that is made for
                this cache, such as ``os.environ["CACHE_URL"]``: ``memory://?max_size=10000``,
                ``redis://localhost:6379/0?namespace=shop``, or for two tiers
                ``layered://localhost:6379/0?namespace=shop&l1_expire=30s``; see :func:`backend_from_url`.
            default_expire: lifetime of entries whose function names none (seconds, ``timedelta`` or text such as
                ``"5m"``); without it such entries never expire.
            http: how the responses of cached endpoints are stored and sent, see :class:`HTTPOptions`; without it as
                before, or by default.

        Raises:
            ConfigurationError: not an app, not a backend, a URL that :func:`backend_from_url` refuses, or not a
                duration; or a decorated function asks for something that the backend can't do, such as
                ``lock="distributed"``: then nothing has changed.
        """
        if not isinstance(app, FastAPI):
            raise InvalidTypeError(f"init_app takes the FastAPI application first, not a {type(app).__name__}")
        if backend is None:
            backend = InMemoryBackend()
        elif isinstance(backend, str):
            backend = backend_from_url(backend)
        elif not isinstance(backend, CacheBackend):
            raise InvalidTypeError(
                "backend must be an instance of a CacheBackend, such as InMemoryBackend(), or the URL of one, not "
                f"{_described(backend)}"
            )
        if http is not None and not isinstance(http, HTTPOptions):
            raise InvalidTypeError(f"http must be HTTPOptions(...), not {_described(http)}")
        self._bind(backend, optional_seconds(default_expire, option="default_expire"))
        if http is not None:
            self._binding.http = http
        app.state.cache_handler = self._handler
        install(app)
        self._apps.add(app)
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

    def explain(self, app: FastAPI) -> RouteTable:
        """Where each endpoint of ``app`` that this cache decorates is answered from, what its key contains, and why:
        ``print(cache.explain(app))`` draws a table. Nothing is called or stored.

        Raises:
            InvalidTypeError: not an application.
        """
        if not isinstance(app, FastAPI):
            raise InvalidTypeError(f"explain takes the FastAPI application, not {_described(app)}")
        return route_table(app, self._binding.functions)

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
        integrity: bool = False,
        tags: str | Iterable[str] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[EndpointOptions],
    ) -> Decorator: ...
    @overload
    def cached(
        self,
        *,
        expire: Callable[..., Duration | None],
        key_builder: Callable[..., Any] | None = None,
        namespace: str | None = None,
        key: str | None = None,
        version: str | int | None = None,
        condition: Callable[[Any], Any] | None = None,
        shared: bool = False,
        integrity: bool = False,
        tags: str | Iterable[str] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[EndpointOptions],
    ) -> Decorator: ...
    def cached(  # type: ignore[misc]  # a function by position is decorated, one by name says how long
        self,
        fn_or_expire: Any = None,
        /,
        key_builder: Callable[..., Any] | None = None,
        namespace: str | None = None,
        key: str | None = None,
        version: str | int | None = None,
        condition: Callable[[Any], Any] | None = None,
        shared: bool = False,
        *,
        expire: Any = None,
        integrity: bool = False,
        tags: str | Iterable[str] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Any,
    ) -> Any:
        """Cache the results of a function, sync or async: an endpoint, a plain function, a method.

        Use it as ``@cache.cached``, ``@cache.cached()`` or with options.

        Args:
            expire: lifetime of a result (seconds, ``timedelta`` or text such as ``"5m"``); ``None`` for the default
                given to :meth:`init_app`. Or a plain function that is called with the result and then the call's
                arguments, and returns it; for 0 or less the result is not stored.
            key_builder: makes the argument part of the key; called with the function's arguments, defaults applied.
            namespace: the first part of this function's keys.
            key: the argument part as a template over the arguments, ``"user:{user.id}"``.
            version: part of the key; change it to leave old entries behind.
            condition: called with the result; only what it says yes to is stored.
            integrity: let the version also depend on the function's code and on the fields of the classes that it
                returns, so that after a change nothing is read that was written before. Of the functions that it calls
                it knows nothing, and each version of Python has code of its own.
            shared: your word that an endpoint answers everyone alike whom its guards let in. Guards always run.
            tags: names under which results can be invalidated together, templates over the arguments among them:
                ``("user:{user_id}", "catalogue")``. See :meth:`invalidate_tags`.
            cache_errors: exceptions that are stored too, each type with its own lifetime, and raised again with a
                traceback of their own: ``{LookupError: 5}``. Other exceptions never are.
            stale_while_revalidate: for how long after it has expired a result is still served while one refresh runs
                behind the callers (RFC 5861, section 3). Where the call holds something that ends with the request,
                such as a database session or a dependency's result, the function runs at once instead.
            stale_if_error: for how long after it has expired a result is served if the function raises (RFC 5861,
                section 4).
            errors: the exceptions for which that holds; by default every ``Exception`` but those with a ``status_code``
                below 500.
            throttle: for how long a function that raised is left in peace while a stale result is served; 1 s.
            refresh_ahead: how long before it expires a result that is asked for is refreshed behind the callers: a
                duration, or a part of the lifetime as a float below 1.
            early: the same at a time drawn by lot, more likely the nearer the expiry and the slower the function; 1.0
                is a good value, more is earlier (XFetch). Processes that share a store hardly ever do it at once.
            jitter: shortens each lifetime by a random part of it, up to this (a number up to 1), so that what was
                stored together does not expire together.
            hits: how often a result is served before the function runs again, whatever its lifetime.
            refresh_after: after how many of these a refresh runs behind the callers.
            timeout: how long to wait for the function where a stale result could be served instead.
            hard_timeout: how long to wait at all; then :class:`LoadTimeout` is raised. The function goes on in both
                cases, and what it returns is stored.
            lock: who shares a load of the same arguments: ``"local"``, concurrent callers in this process (the
                default); ``"distributed"``, those in all processes that share the backend, which must be a
                :class:`RedisBackend`; ``False``, nobody: each caller who finds nothing runs the function.
            lock_timeout: with ``lock="distributed"``: how long to wait for the load of another process; then the
                function runs here too. 30 s.
            public: your word that an endpoint answers everyone alike, with or without guards. It may then be answered
                before routing, without its dependencies.
            vary_on: names of request headers whose values are part of the key, and stand in ``Vary``:
                ``("Accept-Language",)``.
            methods: the HTTP methods whose answers are stored; ``("GET",)``. The body is in the key by its parameters.
            statuses: the statuses of responses that are stored; ``(200,)``.
            cache_control: the header that is sent with a page, in place of one that is made from the lifetime; ``""``
                for none.
            client_control: whether a request's own ``Cache-Control`` is honoured: ``no-cache`` and ``max-age=0`` run
                the endpoint and store what it returns, ``no-store`` runs it and stores nothing. Anybody can send them.
            serializer: makes bytes of results, in place of the return annotation and of the backend's serializer, for
                backends that hold bytes: :class:`PickleSerializer`, or one of yours, see :class:`Serializer`. An entry
                that another serializer wrote is a miss.

        Raises:
            ConfigurationError: an option that can't work, or a generator function: its result can be read only once.
        """

        bare = fn_or_expire is not None and (
            callable(fn_or_expire) or isinstance(fn_or_expire, (classmethod, staticmethod, property, cached_property))
        )
        if not bare and fn_or_expire is not None:
            if expire is not None:
                raise InvalidTypeError("expire was given twice: by position and by name")
            expire = fn_or_expire
        options = CachePolicy.of(
            expire=expire,
            condition=condition,
            cache_errors=cache_errors,
            namespace=namespace,
            shared=shared,
            author_keyed=key is not None or key_builder is not None,
            freshness={name: value for name, value in freshness.items() if name not in PAGE_OPTIONS},
        )
        page = page_options(freshness)

        def decorator(fn: Any) -> Any:
            function, kind, binds = place_of(fn)
            refuse_generators(function)
            make_keys = partial(
                KeyMaker,
                function,
                namespace=namespace,
                version=_versioned(function, version, integrity=integrity),
                key=key,
                key_builder=key_builder,
                kind=kind,
                twins=self._twins,
                tags=tags,
            )
            policy = options.of_function(
                function, lambda: resolve_hints(function).get("return", inspect.Signature.empty)
            )
            return decorate(Operations(function, make_keys, policy, self._binding, page), binds)

        return decorator(fn_or_expire) if bare else decorator

    @overload
    def cached_many(self, fn: Callable[P, Coroutine[Any, Any, Mapping[K, V]]], /) -> AsyncCachedMany[P, K, V]: ...
    @overload
    def cached_many(self, fn: Callable[P, Mapping[K, V]], /) -> SyncCachedMany[P, K, V]: ...
    @overload
    def cached_many(
        self,
        *,
        expire: Duration | Callable[..., Duration | None] | None = None,
        missing_expire: Duration | None = None,
        window: Duration | None = None,
        max_batch: int | None = None,
        key_builder: Callable[..., Any] | None = None,
        namespace: str | None = None,
        key: str | None = None,
        version: str | int | None = None,
        condition: Callable[[Any], Any] | None = None,
        integrity: bool = False,
        tags: str | Iterable[str] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> ManyDecorator: ...
    def cached_many(  # type: ignore[misc]  # mypy does not match unpacked options with themselves
        self,
        fn: Any = None,
        /,
        *,
        expire: Any = None,
        missing_expire: Duration | None = None,
        window: Duration | None = None,
        max_batch: int | None = None,
        key_builder: Callable[..., Any] | None = None,
        namespace: str | None = None,
        key: str | None = None,
        version: str | int | None = None,
        condition: Callable[[Any], Any] | None = None,
        integrity: bool = False,
        tags: str | Iterable[str] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> Any:
        """Cache a function that loads many, each element by itself: it takes several ids, and returns a dict of those
        that it found.

        What is there of a call is read in one round trip, and what is missing is loaded by one call of the function,
        with a list. Calls that overlap load each element once. Elements that the function does not return are missing
        from the caller's dict too. Arguments after the first are part of each element's key.

        Args:
            expire, condition, cache_errors, freshness: as in :meth:`cached`, for each element; functions among them are
                called with one value, and with one element in the place of the elements.
            missing_expire: for how long it is remembered that there is nothing of an element; by default it is not.
            window: for how long ``get`` waits for other calls, to load their elements together (seconds or another
                duration). Calls are grouped that agree in all other arguments.
            max_batch: with how many elements the function is called at most, and a group is full.
            key_builder, namespace, key, version, integrity, tags: as in :meth:`cached`, for each element.

        Raises:
            ConfigurationError: an option that can't work, or a function whose first parameter can't be the elements.
        """

        def decorator(fn: Any) -> Any:
            function, kind, binds = place_of(fn)
            refuse_generators(function)
            element = element_of(function, method=kind in ("method", "classmethod"))
            make_keys = partial(
                KeyMaker,
                element,
                namespace=namespace,
                version=_versioned(function, version, integrity=integrity),
                key=key,
                key_builder=key_builder,
                kind=kind,
                twins=self._twins,
                tags=tags,
            )
            policy = options.of_function(function, lambda: values_of(function))
            operations = ManyOperations(function, make_keys, policy, self._binding, window=window, max_batch=max_batch)
            return CachedMany.of(operations, binds)

        options = CachePolicy.of(
            expire=expire,
            condition=condition,
            cache_errors=with_missing(cache_errors, missing_expire),
            namespace=namespace,
            author_keyed=key is not None or key_builder is not None,
            freshness=freshness,
        )
        return decorator if fn is None else decorator(fn)

    def invalidate_tags(self, *tags: str, soft: bool = False) -> None:
        """Let everything end that has one of ``tags``, at once and however much it is; loads under way are fenced off.

        A store that can't be told now is told before it is asked for anything else; that is never soft.

        Args:
            soft: let it become stale instead: what has ``stale_while_revalidate`` is served once more while it is
                refreshed, what has ``stale_if_error`` if the function raises. Everything else ends all the same.

        Raises:
            ConfigurationError: no tag, or one that is empty or too long.
        """
        make_blocking([removal_of_tags(self._binding.store, check_tags(tags), soft=soft)])

    async def ainvalidate_tags(self, *tags: str, soft: bool = False) -> None:
        """The same, awaiting a store that is not local memory."""
        await make_suspending([removal_of_tags(self._binding.store, check_tags(tags), soft=soft)])

    def clear(self, namespace: str | None = None) -> None:
        """Remove everything that is cached, at once and however much it is; loads under way are fenced off.

        Args:
            namespace: only the results of functions that are decorated with this namespace. Without it everything in
                the backend goes, what was set by hand too.

        Raises:
            ConfigurationError: what no namespace can be.
        """
        if namespace is None:
            if self._backend is not None:
                self._backend.clear()
        else:
            make_blocking([removal_of_namespace(self._binding.store, namespace)])

    async def aclear(self, namespace: str | None = None) -> None:
        """The same, awaiting a store that is not local memory."""
        if namespace is None:
            if self._backend is not None:
                await self._backend.aclear()
        else:
            await make_suspending([removal_of_namespace(self._binding.store, namespace)])

    def invalidates(
        self,
        *targets: Any,
        tags: str | Iterable[str] | None = None,
        everything: Any = None,
    ) -> Callable[[F], F]:
        """Invalidate what a function changes, each time that it has: ``@cache.invalidates(read_item)``.

        The decorated function may be sync or async, an endpoint or a method. It has succeeded if it raised nothing, and
        did not return a response with a status of 400 or more. Then what is named here is invalidated before its caller
        goes on, also if that one is cancelled meanwhile; trouble in the store does not reach the caller. In a
        transaction it is done at the end.

        Args:
            targets: cached functions and key templates. The results of a cached function are meant whose arguments are
                those of the decorated function that have the same names. Or a plain function behind it says which:
                called with the arguments that it has parameters for, and with ``result``, what was returned, it returns
                arguments as a tuple, a dict of keywords or a single value, a list of these, or ``None`` for nothing.
                A key template is one that :meth:`invalidate` takes, with the arguments for its fields.
            tags: as in :meth:`cached`, over the arguments of the decorated function.
            everything: a cached function or several, of which all results are meant.

        Where a write has happened and what is meant of a cached function can't be told, because its arguments have no
        key or the function that names them raises, all its results are invalidated, with one warning.

        Raises:
            ConfigurationError: nothing is named, or what is no cached function or template, or what depends on
                arguments that the decorated function does not have; or that is a generator function, or cached itself.
        """
        return invalidates(self._binding, targets, tags, everything)

    def invalidating(
        self,
        *targets: Any,
        tags: str | Iterable[str] | None = None,
        everything: Any = None,
    ) -> Any:
        """Invalidate what an endpoint changes, as a dependency of it: ``dependencies=[cache.invalidating(read_item)]``.

        It is a ``Depends`` already. What is named is invalidated when the endpoint has returned, and before the
        response is sent where FastAPI can do that (from 0.121 on, and before 0.118). It is not if the endpoint raised,
        an ``HTTPException`` too, or the response has a status of 400 or more, also one that the endpoint returned.

        Args:
            targets, tags, everything: as in :meth:`invalidates`, with the path and query parameters of the request as
                arguments, of the types by which the endpoint takes them. Nothing of the body is among them, and no
                ``result``. Names are checked when a request comes.

        Raises:
            ConfigurationError: nothing is named, or what is no cached function or template.
        """
        return invalidating(self._binding, targets, tags, everything)

    def invalidate(self, template: str, /, **values: Any) -> None:
        """Invalidate by the key templates of functions that are decorated with ``key="items:{item_id}"``.

        Args:
            template: the template itself, with a value for each of its fields by name, ``"items:{item_id}"``; or what
                it makes, ``"items:5"``; or the beginning of either, ``"items:*"``: all that begins so. In what it makes
                a value stands as it does in the key, or as one would write it down for the type of the parameter. Where
                no type says which, ``5`` is both a number and a text.
            values: by the names that the fields begin with: ``"user:{user.id}"`` takes ``user``.

        What is named by a ``*`` and fixed text only goes in one step; what has values before the ``*`` is looked for
        among the keys, as by :meth:`CacheBackend.delete_match`, and where a backend can't list its keys all results of
        the function go.

        Raises:
            ConfigurationError: no function's template reads so or makes such a key; a value is missing or is none of
                the template's; a pattern other than one ``*`` at the end.
            UnkeyableError: a value can't be in a key.
        """
        make_blocking(named_changes(self._binding, template, values))

    async def ainvalidate(self, template: str, /, **values: Any) -> None:
        """The same, awaiting a store that is not local memory."""
        await make_suspending(named_changes(self._binding, template, values))

    def transaction(self) -> Transaction:
        """Change the cache when a block ends, and not at all if it raises: ``with`` or ``async with
        cache.transaction(): ...``, or ``@cache.transaction()`` above a function.

        Inside, in this task or thread and in what it starts, invalidations of every kind and writes by hand on any
        backend (``set``, ``delete``, ``clear``, ``expire``, ``touch``, ``set_many``, ``delete_many``,
        ``delete_match``) are collected, and made in order at the end; until then they return what they would if there
        were nothing. What is wrong with their arguments is said at once; what a store raises, at the end, when all have
        been made. A transaction inside another leaves what it has collected to that one.

        Not put off are calls whose answer is needed: ``incr``, ``decr``, ``add`` and locks. Reads by hand find what was
        there before. Cached functions are answered from the cache, but for what was invalidated or written inside; what
        they load is not stored and not shared, since it may be of rows that are rolled back, and options of waiting
        (``timeout``, ``hard_timeout``, ``lock``) have no effect on it.

        Let it surround the transaction of the database, so that it ends after that. What was started inside and goes on
        after the end changes the cache at once. While one is open that has invalidated something, hits of the functions
        concerned cost 0.1 µs more everywhere.
        """
        return Transaction()

    @contextmanager
    def disabled(self, namespace: str | None = None) -> Iterator[None]:
        """Do without the cache: ``with cache.disabled(): ...``, in this task or thread and in what it starts, until the
        block ends.

        Decorated functions and loaders run, and nothing is read or stored; ``invalidate`` works as ever. While such a
        context is open anywhere, hits cost a few microseconds everywhere.

        Args:
            namespace: only for functions that are decorated with this namespace.

        Raises:
            ConfigurationError: what no namespace can be.
        """
        which = ALL if namespace is None else check_namespace(namespace)
        with self._binding.watched() as watching, watching.disabled(which):
            yield

    @contextmanager
    def detect(self) -> Iterator[list[Detection]]:
        """Collect how each call is answered: ``with cache.detect() as calls: ...``, in this task or thread.

        The list grows by a :class:`Detection` for each call, also of those that tasks and threads make which were
        started inside, until the block ends. A plain generator dependency runs in a context of its own: what is opened
        there does not reach the endpoint. While such a context is open anywhere, hits cost a few microseconds
        everywhere.
        """
        with self._binding.watched() as watching, watching.detecting() as log:
            yield log

    @property
    def current(self) -> CurrentLoad:
        """What the running cached function can say about its own result: ``cache.current.expire = 5``, ``.skip()``."""
        return CurrentLoad()

    def get_or_set(
        self,
        key: str,
        loader: Callable[[], T],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> T:
        """Return what is stored under ``key``, or call ``loader``, store what it returns, and return it.

        Concurrent callers of one key share one call of the loader, and a value that was removed meanwhile is not
        stored, as for decorated functions. Before :meth:`init_app` the loader is called.

        Args:
            key: as in :meth:`CacheBackend.get`, which finds the value.
            loader: a plain function without arguments.
            tags: names under which the value can be invalidated with others.
            expire, condition, cache_errors, freshness: as in :meth:`cached`.

        Raises:
            ConfigurationError: an option that can't work.
        """
        result: T = self._loading.load(key, loader, _options(expire, condition, cache_errors, tags, freshness))
        return result

    @overload
    async def aget_or_set(
        self,
        key: str,
        loader: Callable[[], Awaitable[T]],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> T: ...
    @overload
    async def aget_or_set(
        self,
        key: str,
        loader: Callable[[], T],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> T: ...
    async def aget_or_set(
        self,
        key: str,
        loader: Callable[[], Any],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> Any:
        """The same, awaiting; ``loader`` may be an ``async def`` or a plain function."""
        return await self._loading.aload(key, loader, _options(expire, condition, cache_errors, tags, freshness))

    def many(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Mapping[str, T]],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        missing_expire: Duration | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> dict[str, T]:
        """Return what is stored under ``keys``, and what ``loader`` finds of those that are missing.

        They are read in one round trip, and loaded by one call. Calls that overlap load each key once. A key that the
        loader does not find is missing from the result.

        Args:
            keys: as in :meth:`CacheBackend.get`, which finds each value.
            loader: a plain function of a list of keys, that returns a dict of those it found.
            missing_expire: for how long it is remembered that nothing was found of a key; by default it is not.
            tags: those of each value.
            expire, condition, cache_errors, freshness: as in :meth:`cached`, for each key.

        Raises:
            ConfigurationError: an option that can't work.
        """
        options = _options(expire, condition, with_missing(cache_errors, missing_expire), tags, freshness)
        return self._loading.load_many(keys, loader, options)

    @overload
    async def amany(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Awaitable[Mapping[str, T]]],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        missing_expire: Duration | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> dict[str, T]: ...
    @overload
    async def amany(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Mapping[str, T]],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        missing_expire: Duration | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> dict[str, T]: ...
    async def amany(
        self,
        keys: Iterable[str],
        loader: Callable[[list[str]], Any],
        expire: Any = None,
        *,
        missing_expire: Duration | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> Any:
        """The same, awaiting; ``loader`` may be an ``async def`` or a plain function."""
        options = _options(expire, condition, with_missing(cache_errors, missing_expire), tags, freshness)
        return await self._loading.aload_many(keys, loader, options)

    def warmup(
        self,
        loaders: Mapping[str, Callable[[], Any]],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        concurrency: int = 10,
        progress: Callable[[int, int], object] | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> WarmupReport:
        """Load many keys before anybody asks, as :meth:`get_or_set` would, on threads.

        A loader that raises stops nothing: its key and exception are in the report. Keys that are there already are
        not loaded.

        Args:
            loaders: plain functions without arguments, by key.
            concurrency: how many are loaded at once.
            progress: called with how many keys are done and how many there are, each time one is, on one thread.
            expire, tags, condition, cache_errors, freshness: as in :meth:`get_or_set`.

        Raises:
            ConfigurationError: an option that can't work.
        """
        options = _options(expire, condition, cache_errors, tags, freshness)
        self._loading.check(dict(options))
        return warm(lambda key, loader: self._loading.load(key, loader, dict(options)), loaders, concurrency, progress)

    async def awarmup(
        self,
        loaders: Mapping[str, Callable[[], Any]],
        expire: Duration | Callable[..., Duration | None] | None = None,
        *,
        concurrency: int = 10,
        progress: Callable[[int, int], object] | None = None,
        tags: str | Iterable[str] | None = None,
        condition: Callable[[Any], Any] | None = None,
        cache_errors: Mapping[type[Exception], Duration] | None = None,
        **freshness: Unpack[LoadOptions],
    ) -> WarmupReport:
        """The same in tasks; loaders may be ``async def`` or plain functions."""
        options = _options(expire, condition, cache_errors, tags, freshness)
        self._loading.check(dict(options))
        return await awarm(
            lambda key, loader: self._loading.aload(key, loader, dict(options)), loaders, concurrency, progress
        )

    def _bind(self, backend: CacheBackend, default_expire: float | None) -> None:
        self._binding.bind(backend.engine_store(), default_expire)
        self._binding.backend = self._backend = backend

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
        """Look at the endpoints. Connections are opened when they are needed: a start never waits for a server."""
        for app in list(self._apps):
            say_what_is_uncached(app, self._binding.functions)

    async def _stop(self) -> None:
        await self._binding.background.drain(_DRAIN)
        if self._backend is not None:
            await self._backend.aclose()


def _versioned(function: Callable[..., Any], version: str | int | None, *, integrity: bool) -> str | int | None:
    if not isinstance(integrity, bool):
        raise InvalidTypeError(f"integrity must be True or False, not {type(integrity).__name__}")
    if not integrity:
        return version
    returned = resolve_hints(function).get("return", inspect.Signature.empty)
    if isinstance(returned, (str, ForwardRef)):
        raise ConfigurationError(
            f"integrity=True needs the return type of {function.__qualname__} to be defined above it, not below"
        )
    return f"{1 if version is None else version}+{code_digest(function)}{schema_digest(returned)}"


def _options(expire: Any, condition: Any, cache_errors: Any, tags: Any, freshness: Any) -> dict[str, Any]:
    return {
        "expire": expire,
        "condition": condition,
        "cache_errors": cache_errors,
        "tags": tags,
        "freshness": freshness,
    }


def _described(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


cache = Cache()
"""The cache of the application."""

CacheDep = Annotated[CacheBackend, Depends(cache.aget_cache)]
"""The backend of the global :data:`cache` as a parameter of an endpoint: ``async def read(store: CacheDep)``."""
