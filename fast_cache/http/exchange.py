"""The innermost middleware: it offers each request an exchange, in which the endpoint's response can be kept as a page.

    outer middlewares ── Exchanges ── ExceptionMiddleware ── router ── dependencies ── decorated endpoint
                            │   ▲                                                          │
                            │   └── what is sent goes by here, and becomes a page ◄────────┘ it asks for that
                            └── a page that may be answered before routing, by its exact path and query

Innermost, so that every other middleware runs on every request. An exchange knows nothing of the scope that it hangs
on: it would make a ring of objects for the garbage collector of each request (+3 µs).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol
from weakref import ref

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fast_cache.backends.pending import enter_request
from fast_cache.http.aliases import Aliases
from fast_cache.http.page import Page, Unstorable
from fast_cache.http.replay import BodyAgain, Nobody
from fast_cache.http.routes import paths_to, route_path, steps_generators
from fast_cache.http.sending import Headers, send_page
from fast_cache.once import logger, warn_once

EXCHANGE: Final = "fast_cache.exchange"
"""Where a scope has its exchange."""

USES_EXCHANGE: Final = "__fast_cache_uses_exchange__"
"""What a dependency has that asks for the exchange of its request."""

BOUND: Final = "_fast_cache_exchanges"
"""Where the state of an application has its middleware."""

_STARTED: Final = "http.response.start"
_BODY: Final = "http.response.body"
_DEBUG: Final = "http.response.debug"

_PLAIN: Final = 4096
"""How many paths are remembered that lead to no cached endpoint."""

_COMPRESSORS: Final = ("gzip", "brotli", "compress", "zstd", "deflate")


class Load(Protocol):
    """Whoever waits for the response of an endpoint that has run."""

    streams: bool
    """Whether it is known to be streamed: then it is no page, and nothing of it is held back."""

    def page_of(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Page | Unstorable:
        """What the response is."""

    def settled(self, page: Page | Unstorable) -> Coroutine[Any, Any, tuple[Page | None, Headers, bool]]:
        """It has gone by. Returns the page to send (``None``: what came), its headers, and whether 304 will do."""

    def failed(self, error: Exception) -> Coroutine[Any, Any, tuple[Page, Headers, bool] | None]:
        """FastAPI raised instead of sending one. Returns what may be sent in its place."""

    def abandoned(self) -> None:
        """Nothing came, and nothing will."""


class Exchange:
    """What one request has of the cache.

    Most of it is never set: as attributes of the class these cost a request nothing.
    """

    watches = False
    """Whether anything is to be done about what is sent."""
    load: Load | None = None
    """Who waits for the response."""
    resumes: Any = None
    """In a request that is made again: the run that the endpoint's is to be."""
    _status: Headers | None = None
    taken = False
    """Whether a cached endpoint was reached."""
    used = False
    """Whether a dependency needs it though no cached endpoint was reached: see :meth:`after_success`."""
    ended = False
    """Whether the application has returned, or raised."""

    _start: Message | None = None
    _after: list[Callable[[], Awaitable[object]]] | None = None

    def __init__(self, outer: Exchanges, send: Send, scope: Scope) -> None:
        self._outer = outer
        self._send = send
        self._around = sys.exc_info()[1]
        """What is being handled by those who made the request."""
        self.path: str = scope["path"]
        self.root_path: str = scope.get("root_path", "")
        state = scope.get("state")
        self.state: dict[str, Any] | None = dict(state) if state else state
        """As the middleware outside left it: what dependencies put there ends with their request."""

    @property
    def outer(self) -> Exchanges:
        return self._outer

    def tell(self, status: Headers) -> None:
        """Add to the headers of a response that has nothing to do with the cache after all."""
        self.watches = True
        self._status = status

    def after_success(self, step: Callable[[], Awaitable[object]]) -> None:
        """Await ``step`` before a response is sent that is no error."""
        self.used = True
        self.watches = True
        self._after = [*(self._after or ()), step]

    def send(self, message: Message) -> Awaitable[None]:
        return self._gone_by(message) if self.watches else self._send(message)

    async def _gone_by(self, message: Message) -> None:
        kind = message["type"]
        if kind == _STARTED and self._after is not None:
            after, self._after = self._after, None
            if message["status"] < 400:
                for step in after:
                    await step()
        if self.load is None:
            if kind == _STARTED and self._status:
                message = _with(self._status, message)
            self._status = None
            await self._send(message)
            return
        if kind == _STARTED and self._start is None and not self.load.streams:
            self._start = message  # held until the body is there: it may become another one
            return
        if kind == _DEBUG:  # what templates tell a test client before they begin
            await self._send(message)
            return
        load, self.load = self.load, None
        start, self._start = self._start, None
        assert load is not None
        error: BaseException | None = None
        page: Page | Unstorable
        if load.streams:
            page = Unstorable("it is streamed")
        elif start is None:  # such as early hints, or something that is no response
            page = Unstorable(f"it begins with {kind}")
        elif kind != _BODY:
            page = Unstorable(f"it is sent by {kind}")
        elif message.get("more_body", False):
            page = Unstorable("it is streamed")
        elif start.get("trailers"):
            page = Unstorable("it has trailers")
        elif (error := sys.exc_info()[1]) is not self._around and error is not None:
            # Responses of exception handlers are sent while the exception is handled.
            page = Unstorable("an exception was turned into it", error if isinstance(error, Exception) else None)
        else:
            page = load.page_of(start["status"], list(start.get("headers", ())), bytes(message.get("body", b"")))
        del error  # its traceback may refer to this frame
        other, headers, known = await load.settled(page)
        if other is not None:
            await send_page(self._send, other, headers, known=known)
            return
        if start is not None:
            await self._send(_with(headers, start))
        await self._send(message if kind != _STARTED else _with(headers, message))

    def awaits(self, load: Load) -> None:
        """Let ``load`` have the response. From any thread: one that runs an endpoint goes on when its request was
        cancelled meanwhile, and is over."""
        self.watches = True
        self.load = load
        if self.ended:
            self.load = None
            load.abandoned()

    async def over(self, error: BaseException | None) -> bool:
        """The application has returned, or raised; true if that was dealt with."""
        load, self.load = self.load, None
        if load is None:
            return False
        if not isinstance(error, Exception):
            load.abandoned()
            return False
        instead = await load.failed(error)
        if instead is None:
            return False
        page, headers, known = instead
        await send_page(self._send, page, headers, known=known)
        return True


class Exchanges:
    """The middleware of one application."""

    def __init__(self, app: ASGIApp, *, owner: Callable[[], FastAPI | None]) -> None:
        self.app = app
        self._owner = owner
        self.aliases = Aliases()
        self._plain: dict[tuple[str, str], None] = {}
        self._uncached: dict[Any, None] = {}
        """Endpoints in which there is no cached function."""
        self._tells_plain = True
        """Whether paths tell which endpoints are cached."""
        self._routes: Sequence[Any] = ()
        self._counted = -1
        self._wanted: dict[str | None, re.Pattern[str]] | None = None
        """What the paths match that may lead to one, by method, as long as there are so many routes."""
        self._steps_generators = True
        """Whether threads may take the steps of generators, which have to be told which request it is: 1.2 µs."""
        self.innermost = isinstance(app, ExceptionMiddleware)
        """Whether nothing stands between us and the routes that every request has to pass."""
        self._weak: bool | None = None
        application = owner()
        if application is not None:
            setattr(application.state, BOUND, self)
        if not self.innermost:
            warn_once(
                f"{type(app).__name__} was added so that it stands inside of the cache's own middleware: no page is "
                "answered before routing; use app.add_middleware, or call cache.init_app after it was appended",
                "innermost",
                type(app).__name__,
            )

    @property
    def owner(self) -> FastAPI | None:
        return self._owner()

    @property
    def weak(self) -> bool:
        """Whether a middleware outside compresses what is sent."""
        if self._weak is None:
            owner = self._owner()
            outside = [] if owner is None else owner.user_middleware
            self._weak = any(word in _name(one.cls).lower() for one in outside for word in _COMPRESSORS)
        return self._weak

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own: requests that have nothing to do with the cache pay two lookups.
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                enter_request()
            return self.app(scope, receive, send)
        path, method = scope["path"], scope["method"]
        if self._counted != len(self._routes):
            self._look_at_routes()
        if method == "GET" and (alias := self.aliases.table.get((path, scope["query_string"]))) is not None:
            answer = alias.answer(scope, self)
            if answer is not None:
                page, headers, known = answer
                return send_page(send, page, headers, known=known)
        if self._steps_generators or self._is_overridden():
            enter_request()
        wanted = self._wanted
        # One look at a pattern: an exchange that is of no use would be 5 µs.
        if wanted is not None:
            pattern = wanted.get(method) or wanted[None]
            if not pattern.match(route_path(scope) if scope.get("root_path") else path):
                return self.app(scope, receive, send)
        if (method, path) in self._plain:
            return self.app(scope, receive, send)
        return self._exchanged(scope, receive, send, path)

    async def _exchanged(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        before = scope.get(EXCHANGE)
        exchange = scope[EXCHANGE] = Exchange(self, send, scope)
        try:
            try:
                await self.app(scope, receive, exchange.send)
            finally:
                exchange.ended = True
        except BaseException as error:
            if exchange.load is None or not await exchange.over(error):
                raise
        else:
            if exchange.load is not None:
                await exchange.over(None)
            elif not (exchange.taken or exchange.used) and before is None:
                self._learn_plain(scope, path)
        finally:
            # It refers to what sends, and that, in servers, to the scope.
            if before is None:
                scope.pop(EXCHANGE, None)
            else:
                scope[EXCHANGE] = before

    def _look_at_routes(self) -> None:
        """Find out which paths may lead to cached endpoints, and forget where some have led before."""
        self.aliases.clear()
        self._plain.clear()
        owner = self._owner()
        if owner is not None:
            self._routes = owner.router.routes
            self._counted = len(self._routes)
            self._wanted = _paths_with_use(owner) if self._tells_plain else None
            self._steps_generators = _may_step_generators(owner)

    def _is_overridden(self) -> bool:
        owner = self._owner()
        return owner is None or bool(owner.dependency_overrides)

    def _learn_plain(self, scope: Scope, path: str) -> None:
        """This path leads to an endpoint that is not cached."""
        endpoint = scope.get("endpoint")
        if not self._tells_plain:
            return
        try:
            if endpoint not in self._uncached:
                if endpoint is None or may_be_cached(endpoint):
                    return
                if len(self._uncached) >= _PLAIN:
                    self._uncached.clear()
                self._uncached[endpoint] = None
        except TypeError:  # an object that is called, and has no hash
            return
        if scope.get("app") is self._owner():
            if len(self._plain) >= _PLAIN:
                self._plain.clear()
            self._plain[(scope["method"], path)] = None

    def forget_plain(self) -> None:
        """A cached endpoint was reached by a path that led to another one: routes have changed, or something else than
        paths decides between them."""
        self._tells_plain = False
        self._wanted = None
        self._plain.clear()

    async def replay(self, scope: Scope, run: Load) -> None:
        """Make a request again, for nobody, as ``run``."""
        nobody = Nobody()
        await self.rerun(scope, nobody.receive, nobody.send, run)

    async def rerun(self, scope: Scope, receive: Receive, send: Send, run: Load) -> None:
        """Make a request again, as ``run``. Raises what the application raises, unless ``run`` has something to send in
        its place."""
        enter_request()
        exchange = scope[EXCHANGE] = Exchange(self, send, scope)
        exchange.resumes = run
        try:
            try:
                await self.app(scope, BodyAgain(receive), exchange.send)
            finally:
                exchange.ended = True
        except BaseException as raised:
            if not await exchange.over(raised):
                raise
        else:
            await exchange.over(None)
        finally:
            if exchange.resumes is not None:  # its endpoint was not reached
                run.abandoned()
            scope.pop(EXCHANGE, None)

    def serves(self, scope: Scope) -> bool:
        """Whether a request is one of this application, and not of one that is mounted in it."""
        return scope.get("app") is self._owner()


def _with(headers: Headers, start: Message) -> Message:
    """The beginning of a response, with more headers."""
    return {**start, "headers": [*start.get("headers", ()), *headers]} if headers else start


def install(app: FastAPI) -> None:
    """Put the middleware into ``app``, once, as its innermost: also where the application has begun to run."""
    if hasattr(app.state, BOUND):
        return
    owner = ref(app)
    setattr(app.state, BOUND, None)  # until the application puts its middleware together
    stack: Any = app.middleware_stack
    if stack is None:
        app.user_middleware.append(Middleware(Exchanges, owner=owner))
        return
    while stack is not None:  # built already: it is in use, and must not be built again
        inner = getattr(stack, "app", None)
        if isinstance(inner, ExceptionMiddleware):
            stack.app = Exchanges(inner, owner=owner)
            return
        stack = inner
    warn_once(
        "cache.init_app was called when the application was running, and its middleware is not of the known shape: "
        "cached endpoints run uncached; call it before the first request",
        "install",
    )


def _paths_with_use(app: FastAPI) -> dict[str | None, re.Pattern[str]] | None:
    """What the paths match on which an exchange may be of use."""
    try:
        return paths_to(app, lambda call: may_be_cached(call) or getattr(call, USES_EXCHANGE, False))
    except Exception:
        # FastAPI's routes are not ours: whatever shape they take one day, requests are answered.
        logger.exception("the routes of the application could not be examined; every request pays for the cache")
        return None


def _may_step_generators(app: FastAPI) -> bool:
    try:
        return steps_generators(app)
    except Exception:  # as above
        return True


def _name(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__name__', '')}"


def may_be_cached(endpoint: Any) -> bool:
    """Whether there is a cached function in ``endpoint``, be it beneath other decorators."""
    for _ in range(100):
        if hasattr(endpoint, "invalidate_all"):
            return True
        inner = getattr(endpoint, "__wrapped__", None) or getattr(endpoint, "func", None)
        if inner is None:
            return False
        endpoint = inner
    return True
