"""A decorated function as an endpoint: which of its routes a request has come by, and how it is answered there."""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Union
from weakref import ref

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from fast_cache.http.coverage import Verdict
from fast_cache.http.directives import cache_status
from fast_cache.http.endpoint import RESPONSE_PARAMETER, response_parameter
from fast_cache.http.exchange import BOUND, EXCHANGE, Exchange, Exchanges
from fast_cache.http.identity import judge
from fast_cache.http.replay import has_body, repeated
from fast_cache.http.routes import effective_routes, route_path
from fast_cache.http.sending import Headers, PageResponse, with_own
from fast_cache.method import BoundCachedMethod, CachedMethod
from fast_cache.once import logger, warn_once
from fast_cache.pages.route import RoutePages, asked_in, wish_of
from fast_cache.pages.visit import Repetition, Visit, call_of

if TYPE_CHECKING:
    from fast_cache.binding import Binding
    from fast_cache.decorator import Operations

_ROUTES: Final = 64
"""How many routes are remembered for a function: tests make many applications of one endpoint."""

_PATHS: Final = 1024
"""Of how many paths it is remembered which of a function's routes they are on."""


class AsValue(enum.Enum):
    """The type of :data:`AS_VALUE`, for annotations."""

    AS_VALUE = "as a value"


AS_VALUE: Final = AsValue.AS_VALUE
"""Of a route that does something to responses: on a hit it would be done to a page, to which it was done already."""

Kept = Union["RoutePages", AsValue, None]
"""How the endpoint of a route is cached; ``None``: not at all."""


NO_ENDPOINT: Final = object()
"""What :meth:`EndpointPages.enter` returns where it is no endpoint that was called."""


class EndpointPages:
    """The pages of one function, by the routes that it serves."""

    def __init__(self, function: Operations) -> None:
        self._function = function
        self._known: dict[int, _Known] = {}
        self._response = response_parameter(function.fn)
        self._learning = threading.Lock()  # sync endpoints learn on threads

    @property
    def routes(self) -> list[RoutePages]:
        kept = [pages for known in list(self._known.values()) for pages in known.kept]
        return [pages for pages in kept if isinstance(pages, RoutePages)]

    def of(self, scope: Scope, exchange: Exchange) -> Kept:
        """How the route is kept that a request has come by."""
        known = self._known.get(id(scope.get("route")))
        if known is None or not known.holds(scope, exchange):
            with self._learning:
                known = self._learn(scope, exchange)
        return known.at(scope)

    def _learn(self, scope: Scope, exchange: Exchange) -> _Known:
        function = self._function
        app, route = scope.get("app"), scope.get("route")
        rules = function.rules
        overrides = dict(getattr(app, "dependency_overrides", None) or {})  # as they are before they are read
        pages: list[tuple[re.Pattern[str], Kept]] = []
        try:
            for effective in effective_routes(app, route):
                verdict = judge(effective, function.fn, rules)
                if not effective.straight:
                    pages.append((effective.path_regex, AS_VALUE))
                elif verdict.cacheable:
                    pages.append((effective.path_regex, RoutePages(function, effective, verdict, exchange.outer)))
                else:
                    pages.append((effective.path_regex, None))
                    say_uncached(function.policy.name, verdict)
        except Exception:
            # FastAPI's graphs are not ours: whatever shape they take one day, requests are answered, without the cache.
            logger.exception("the dependencies of %s could not be examined; it runs uncached", function.policy.name)
            pages = []
        if not pages:
            warn_once(
                f"{function.policy.name} runs uncached, because its route was not found among those of its application "
                "or is not of a known kind; add it with a decorator of the application or of an included router",
                "route",
                function.policy.name,
            )
        known = _Known(scope, exchange.outer, function.binding, overrides, pages)
        self._known = dict(list(self._known.items())[1 - _ROUTES :]) | {id(route): known}
        return known

    def hold(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether local memory has a page that shows this call."""
        keys = self._function.endpoint_keys
        rest = keys.key(args, kwargs)[len(keys.prefix) :]
        return any(
            pages.holds(f"{pages.prefix}{verb} {rest}") for pages in self.routes for verb in pages.options.methods
        )

    # A request comes in.

    def at_hand(
        self,
        skip_cache: Any,
        request: HTTPConnection | None,
        response: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> PageResponse | None:
        """A response that need not be waited for; whatever else there is to be done is for :meth:`enter`."""
        if skip_cache or request is None:
            return None
        scope = request.scope
        exchange: Exchange | None = scope.get(EXCHANGE)
        known = self._known.get(id(scope.get("route")))  # of a route that it is the endpoint of
        if exchange is None or known is None or exchange.taken or exchange.resumes is not None:
            return None
        pages = known.at(scope) if known.holds(scope, exchange) else None
        if type(pages) is not RoutePages:
            return None
        method = scope["method"]
        if response is None:
            response = self._response_in(response, args, kwargs)
        if method not in pages.options.methods or (response is not None and response.status_code is not None):
            return None
        try:
            key = pages.key(scope, args, kwargs)
        except Exception:  # there is none; whoever handles the miss will say so
            return None
        served = None if key is None else pages.serve(key, method, scope["headers"])
        if served is None or key is None:
            return None
        exchange.taken = True
        page, headers, is_known = served
        if response is not None and response.raw_headers and not page.whole:
            headers = with_own(headers, response.raw_headers)
        if pages.before_routing:
            place = exchange.path, exchange.root_path
            pages.learn(exchange.outer, place, scope["query_string"], method, key)
        return PageResponse(page, headers, known=is_known)

    def enter(self, request: HTTPConnection, response: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the wrapper returns to FastAPI; ``NO_ENDPOINT`` if it was not called as the endpoint of ``request``."""
        scope = request.scope
        if scope["type"] != "http" or not self._is_endpoint(scope.get("endpoint")):
            return NO_ENDPOINT
        function = self._function
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None or not exchange.outer.serves(scope):
            self._say_no_exchange(scope)
            return function.apart(args, kwargs)
        if exchange.taken:  # it is a dependency of its own route too
            return NO_ENDPOINT
        exchange.taken = True
        if exchange.resumes is not None:
            run, exchange.resumes = exchange.resumes, None
            own = _headers_of(self._response_in(response, args, kwargs))
            return run.resume(scope, exchange, own, args, kwargs)
        pages = self.of(scope, exchange)
        if pages is AS_VALUE:
            return NO_ENDPOINT
        visit = None if pages is None else self._visit(pages, scope, exchange, response, args, kwargs)
        if visit is None:
            name = function.binding.http.cache_status
            exchange.tell([] if name is None else [(b"cache-status", cache_status(name, fwd="bypass"))])
            return function.apart(args, kwargs)
        return visit.begin(args, kwargs)

    def _visit(
        self,
        pages: RoutePages,
        scope: Scope,
        exchange: Exchange,
        response: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Visit | None:
        """What becomes of a request; ``None`` if it has nothing to do with the cache."""
        function = self._function
        store, binding = function.binding.store, function.binding
        if not store.caches or (binding.is_watched and binding.watching.is_disabled(function.policy.namespace)):
            return None
        method = scope["method"]
        if method not in pages.options.methods:
            if method != "HEAD":
                warn_once(
                    f"{function.policy.name} runs uncached for {method}: name it in methods= if what one request was "
                    "answered may answer another one",
                    "method",
                    function.policy.name,
                    method,
                )
            return None
        asked = asked_in(scope["headers"])
        wish = wish_of(pages.options, asked)
        of_request = self._response_in(response, args, kwargs)
        if (
            wish == "bypass"
            or not pages.admits(asked)
            or (of_request is not None and of_request.status_code is not None)
        ):
            return None  # a status that a dependency has set is the request's, and can't be told from the page's
        try:
            key = pages.key(scope, args, kwargs)
            if key is None:
                return None
            repeat = None
            if method == "GET" and not has_body(scope["headers"]):
                made = repeated(scope, path=exchange.path, root_path=exchange.root_path, state=exchange.state)
                repeat = Repetition(pages, exchange.outer, made, key)
            call = call_of(pages, key, repeat, args, kwargs)
        except Exception as error:
            function.unkeyed(error, args, kwargs)
            return None
        return Visit(pages, call, exchange, scope, asked, _headers_of(of_request), repeat, reload=wish == "reload")

    def _is_endpoint(self, endpoint: Any) -> bool:
        """Whether it is this very function that serves the request, with nothing around it that looks at results."""
        if endpoint is self._function.wrapper:
            return True
        return isinstance(endpoint, (CachedMethod, BoundCachedMethod)) and endpoint._operations is self._function

    def _say_no_exchange(self, scope: Scope) -> None:
        name = self._function.policy.name
        app = scope.get("app")
        exchanges: Exchanges | None = getattr(getattr(app, "state", None), BOUND, None)
        if exchanges is not None:
            exchanges.forget_plain()
            return
        warn_once(
            f"{name} runs uncached: the application that it is an endpoint of was never initialised; call "
            "cache.init_app for it too, also if it is mounted in one that was",
            "exchange",
            name,
        )

    def _response_in(self, response: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Response | None:
        """The one that dependencies set headers on."""
        if response is None:
            response = kwargs.get(self._response)
            if response is None and self._response != RESPONSE_PARAMETER:
                response = next((one for one in args if isinstance(one, Response)), None)
        return response if isinstance(response, Response) else None


def say_uncached(name: str, verdict: Verdict) -> None:
    """Say once of an endpoint why it can't be cached, and what to write."""
    reasons = "; ".join(verdict.reasons)
    warn_once(f"{name} runs uncached: {reasons}", "identity", name, reasons)


def _headers_of(response: Response | None) -> Headers:
    """Those that dependencies have set so far."""
    return [] if response is None else list(response.raw_headers)


class _Known:
    """What is known of a route, in one application."""

    __slots__ = ("_app", "_at", "_binding", "_http", "_outer", "_overrides", "_pages", "_root", "_route", "kept")

    def __init__(
        self,
        scope: Scope,
        outer: Exchanges,
        binding: Binding,
        overrides: Mapping[Any, Any],
        pages: list[tuple[re.Pattern[str], Kept]],
    ) -> None:
        self._binding = binding
        self._http = binding.http
        self._route = scope.get("route")
        self._app: ref[Any] = ref(scope["app"])
        self._outer = ref(outer)
        self._overrides = overrides
        self._pages = pages
        self.kept = [kept for _, kept in pages]
        self._root = ""
        self._at: dict[str, Kept] = {}

    def holds(self, scope: Scope, exchange: Exchange) -> bool:
        """Whether this is about these very objects, and nothing was overridden since."""
        app: Any = scope["app"]
        return (
            self._route is scope.get("route")
            and self._overrides == app.dependency_overrides
            and self._app() is app
            and self._outer() is exchange.outer
            and self._http is self._binding.http
        )

    def at(self, scope: Scope) -> Kept:
        """How the page of a request is kept, by its path, as it stays; to match it anew would be 0.7 µs of a hit."""
        path, root = scope["path"], scope.get("root_path", "")
        if root == self._root and path in self._at:
            return self._at[path]
        below = route_path(scope)
        found = [kept for pattern, kept in self._pages if pattern.match(below)]
        kept = found[0] if len(found) == 1 else None  # of several nobody can tell which it was
        if len(self._at) >= _PATHS or root != self._root:
            self._root, self._at = root, {}
        self._at[path] = kept
        return kept
