"""One request on its way through the flow, and the same request made again for nobody."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fast_cache.entry import MISSING, NEVER
from fast_cache.flow import Call, answer, refresh
from fast_cache.freshness import Found
from fast_cache.http.exchange import Exchange, Exchanges
from fast_cache.http.page import Page, Unstorable
from fast_cache.http.passage import LOAD, PAGES, WAIT, Flow, ThreadPort, advance, advance_on_thread
from fast_cache.http.sending import Headers, PageResponse, has_it, send_page, with_own
from fast_cache.keys import CALL, call_tag
from fast_cache.outcome import Outcome
from fast_cache.pages.route import NotRepeated, RoutePages
from fast_cache.ports import Port
from fast_cache.single_flight import Mark, innermost


class PageCall(Call):
    """A call for the flow that remembers how it was answered."""

    __slots__ = ("found", "source")

    source: str
    found: Found | None

    def answered(self, source: str, found: Found | None = None) -> None:
        self.source = source
        self.found = found
        super().answered(source, found)


class Run:
    """The run of an endpoint, whose response may become a page: nobody is told of it but by subclasses."""

    def __init__(self, pages: RoutePages, key: str, headers: list[tuple[bytes, bytes]]) -> None:
        self.pages = pages
        self.key = key
        self.headers = headers
        """Those that dependencies set, which belong to the request."""
        self.tags: tuple[str, ...] = ()
        self.mark: Mark | None = None
        self.whole = False
        """Whether the endpoint returned a response, to which FastAPI adds nothing of the dependencies'."""
        self.streams = False
        self._strays = False

    def resume(
        self,
        scope: Scope,
        exchange: Exchange,
        headers: list[tuple[bytes, bytes]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The endpoint is reached by the same request once more, with dependencies of its own: what they put into the
        key is another visitor's business if it is not the same."""
        self.headers = headers
        try:
            self._strays = self.pages.key(scope, args, kwargs) != self.key
        except Exception:
            self._strays = True
        return self.run(exchange, args, kwargs)

    def run(self, exchange: Exchange, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the endpoint, and wait for its response."""
        if self.pages.function.suspends:
            return self._run(exchange, args, kwargs)
        return self._run_on_thread(exchange, args, kwargs)

    async def _run(self, exchange: Exchange, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            result = await self.pages.function.fn(*args, **kwargs)
        except BaseException as error:
            instead = await self.raised(error)
            if instead is None:
                raise
            return instead
        return self._ran(exchange, result, args, kwargs)

    def _run_on_thread(self, exchange: Exchange, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            result = self.pages.function.fn(*args, **kwargs)
        except BaseException as error:
            self.raised_on_thread(exchange, error)
            raise
        return self._ran(exchange, result, args, kwargs)

    def _ran(self, exchange: Exchange, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.consider(result, args, kwargs)
        exchange.awaits(self)
        return result

    async def raised(self, error: BaseException) -> Response | None:
        """The endpoint raised ``error``. Returns what it may be answered with in its place."""
        return None

    def raised_on_thread(self, exchange: Exchange, error: BaseException) -> None:
        """The same on a thread, where nothing can be answered in its place."""

    async def settled(self, page: Page | Unstorable) -> tuple[Page | None, Headers, bool]:
        """The response has gone by; see :class:`fast_cache.http.exchange.Load`."""
        return None, [], False

    async def failed(self, error: Exception) -> tuple[Page, Headers, bool] | None:
        """FastAPI raised instead of sending one."""
        return None

    def abandoned(self) -> None:
        """Nothing came, and nothing will."""

    def page_of(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Page | Unstorable:
        if self._strays:
            return Unstorable("its dependencies gave other results when the request was made again")
        said = () if self.mark is None else tuple(self.mark.tags)
        tags = [tag for tag in dict.fromkeys((*self.tags, *said)) if not tag.startswith(CALL)]
        return self.pages.page_of(status, headers, body, None if self.whole else self.headers, tags)

    def consider(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Ask what the author wants to be asked of a result, before it becomes a page."""
        mark, function = self.mark, self.pages.function
        self.whole = isinstance(result, Response)
        self.streams = isinstance(result, StreamingResponse)
        if mark is None:
            return
        policy = function.policy
        if not policy.wanted(result):
            mark.skipped = True
        elif callable(policy.expire) and mark.expire is None:
            lifetime = policy.lifetime(result, args, kwargs, function.binding.default_expire)
            if lifetime is MISSING:
                mark.skipped = True
            else:
                mark.expire = lifetime


class Visit(Run):
    """One request on its way through the flow."""

    def __init__(
        self,
        pages: RoutePages,
        call: PageCall,
        exchange: Exchange,
        scope: Scope,
        asked: list[tuple[bytes, bytes]],
        headers: list[tuple[bytes, bytes]],
        repeat: Repetition | None,
        *,
        reload: bool,
    ) -> None:
        super().__init__(pages, str(call.key), headers)
        self.tags = call.terms.tags
        self._error: Exception | None = None
        self._call = call
        self._exchange: Exchange | None = exchange
        self._outer = exchange.outer
        self._place = ((exchange.path, exchange.root_path), scope["query_string"], scope["method"])
        self._asked = asked
        self._repeat = repeat
        self._reload = reload
        store = pages.function.binding.store
        step = refresh if reload else answer
        self._port: Port = PAGES if pages.function.suspends else ThreadPort(waits=repeat is not None)
        self._flow: Flow = step(self._port, store, call)

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.pages.function.suspends:
            return self._begin(args, kwargs)
        around = innermost()
        stop = advance_on_thread(self._flow)
        if stop is WAIT:
            return _Waiting(self)
        if stop is LOAD:
            self.mark = None if (mark := innermost()) is around else mark
            return self._run_on_thread(self._taken(), args, kwargs)
        if _is_nobodys(stop):
            return self._apart(args, kwargs)
        return self._response(stop)

    async def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        around = innermost()
        stop = await advance(self._flow)
        if stop is LOAD:
            self.mark = None if (mark := innermost()) is around else mark
            return await self._run(self._taken(), args, kwargs)
        if _is_nobodys(stop):
            return await self._apart(args, kwargs)
        return self._response(stop)

    def _apart(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the endpoint for this request alone: what was made behind it can't be its answer."""
        self.pages.pass_on(self.key)
        self._taken().tell(self.pages.sender.status(fwd=self._forwarded))
        return self.pages.function.apart(args, kwargs)

    def _taken(self) -> Exchange:
        """The exchange, which may refer to this visit from now on."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        return exchange

    async def raised(self, error: BaseException) -> Response | None:
        try:
            if isinstance(error, Exception):
                return self._response(await advance(self._flow, Outcome(error=error)))
            await advance(self._flow, error=error)
            return None
        finally:
            del error  # its traceback refers to this frame

    def raised_on_thread(self, exchange: Exchange, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._error = error  # for the flow, when FastAPI has made a response of it on the loop
            exchange.awaits(self)
        else:
            self._flow.close()

    # What becomes of the response: the exchange calls this, on the loop.

    async def settled(self, page: Page | Unstorable) -> tuple[Page | None, Headers, bool]:
        error, self._error = self._error, None
        if error is None and isinstance(page, Unstorable):
            error = page.error
        self._move()
        outcome = await self._told(Outcome(page) if error is None else Outcome(error=error))
        del error
        pages, call = self.pages, self._call
        if outcome.error is not None:
            return None, pages.sender.status(fwd=self._forwarded, detail=type(outcome.error).__name__), False
        made = outcome.value
        if type(made) is not Page:
            pages.pass_on(call.key)
            pages.say_unstorable(made)
            return None, pages.sender.status(fwd=self._forwarded), False
        if made is not page:  # the spare, in the place of an error
            return self._answer(made)
        self._learn()
        lifetime = made.lifetime
        headers = pages.sender.other(
            made,
            NEVER if lifetime is None else lifetime,
            call.key,
            fwd=self._forwarded,
            stored=call.stored,
        )
        return made, self._merged(made, headers), self._known(made)

    async def failed(self, error: Exception) -> tuple[Page, Headers, bool] | None:
        own, self._error = self._error, None
        self._move()
        outcome = await self._told(Outcome(error=own or error))
        del own
        return None if outcome.error is not None else self._answer(outcome.value)

    def abandoned(self) -> None:
        self._error = None
        with suppress(ValueError):  # the thread of the endpoint and the loop may come to it at once
            self._flow.close()

    async def _told(self, outcome: Outcome) -> Outcome:
        ended = await advance(self._flow, outcome)
        assert isinstance(ended, Outcome), "a load has one outcome"
        return ended

    def _move(self) -> None:
        if isinstance(self._port, ThreadPort):
            self._port.move()

    # What is answered without a run of the endpoint for this request.

    def _response(self, outcome: Any) -> PageResponse:
        page, headers, known = self._answer(outcome.unwrap())
        return PageResponse(page, headers, known=known)

    def _answer(self, page: Page) -> tuple[Page, Headers, bool]:
        call, sender = self._call, self.pages.sender
        found, source = call.found, call.source
        if found is not None:
            left = found.fresh_for
            lifetime = next((one for one in (found.lifetime, page.lifetime) if one is not None and one < NEVER), NEVER)
            if lifetime == NEVER and left < NEVER:
                lifetime = max(0.0, left)
            headers = sender.hit(page, left, lifetime, call.key)
        else:
            lifetime = NEVER if page.lifetime is None else page.lifetime
            collapsed = source == "coalesced"
            headers = sender.other(page, lifetime, call.key, fwd=self._forwarded, collapsed=collapsed)
        self._learn()
        return page, self._merged(page, headers), self._known(page)

    def _merged(self, page: Page, headers: Headers) -> Headers:
        return headers if page.whole else with_own(headers, self.headers)

    def _known(self, page: Page) -> bool:
        return bool(self._asked) and has_it(self._place[2], self._asked, page)

    @property
    def _forwarded(self) -> str:
        return "request" if self._reload else "uri-miss"

    def _learn(self) -> None:
        path, query, method = self._place
        self.pages.learn(self._outer, path, query, method, self._call.key)

    async def waited(self, receive: Receive, send: Send) -> None:
        """Wait for somebody else's load, and send what comes of it. If it is to be loaded here, dependencies are made
        anew: FastAPI has done with those that were."""
        self._move()
        around = innermost()
        stop = await advance(self._flow)
        assert self._repeat is not None
        if stop is LOAD:
            self.mark = None if (mark := innermost()) is around else mark
            await self._outer.rerun(self._repeat.scope, receive, send, self)
            return
        if _is_nobodys(stop):
            self.pages.pass_on(self.key)
            await self._outer.rerun(self._repeat.scope, receive, send, _Apart(self.pages, self.key, []))
            return
        assert isinstance(stop, Outcome)
        page, headers, known = self._answer(stop.unwrap())
        await send_page(send, page, headers, known=known)


class _Waiting(Response):
    """The response of a sync endpoint whose page is being made for somebody else: it waits on the event loop.

    On the thread it would keep those from running whom it waits for: 60 requests at once would wait for ever.
    """

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self._visit: Visit | None = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit, self._visit = self._visit, None
        assert visit is not None
        await visit.waited(receive, send)
        if self.background is not None:
            await self.background()


class _Apart(Run):
    """The run of an endpoint whose response is that of one request, and no page."""

    def run(self, exchange: Exchange, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        exchange.tell(self.pages.sender.status(fwd="uri-miss"))
        return self.pages.function.apart(args, kwargs)


class Repetition:
    """A request made again behind its visitor, for the flow to call: it returns the page, or raises what the endpoint
    raised."""

    def __init__(self, pages: RoutePages, outer: Exchanges, scope: Scope, key: str) -> None:
        self.pages = pages
        self.key = key
        self.tags: tuple[str, ...] = ()
        self.scope = scope
        self._outer = outer

    async def __call__(self) -> Page | Unstorable:
        run = _Repeated(self.pages, self.key, self.tags)
        await self._outer.replay(dict(self.scope), run)
        return run.result()


class _Repeated(Run):
    """One such run."""

    def __init__(self, pages: RoutePages, key: str, tags: tuple[str, ...]) -> None:
        super().__init__(pages, key, [])
        self.tags = tags
        self._page: Page | Unstorable | None = None
        self._error: Exception | None = None

    def run(self, exchange: Exchange, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.mark = innermost()
        return super().run(exchange, args, kwargs)

    async def raised(self, error: BaseException) -> Response | None:
        self._note(error)
        return None

    def raised_on_thread(self, exchange: Exchange, error: BaseException) -> None:
        self._note(error)

    def _note(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._error = error

    async def settled(self, page: Page | Unstorable) -> tuple[Page | None, Headers, bool]:
        if isinstance(page, Unstorable) and page.error is not None:
            self._error = page.error
        else:
            self._page = page
        return None, [], False

    async def failed(self, error: Exception) -> tuple[Page, Headers, bool] | None:
        self._error = error
        return None

    def result(self) -> Page | Unstorable:
        """The page; raises what the endpoint raised, or that it was not reached."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error
        if self._page is None:
            raise NotRepeated("the repeated request did not reach its endpoint: a dependency or a route refused it")
        return self._page


def _is_nobodys(outcome: Any) -> bool:
    """Whether what was made behind a visitor is not to be shown to any: who was let in is answered by a run of his."""
    return type(outcome.value) is Unstorable or type(outcome.error) is NotRepeated


def _no_repetition() -> None:
    raise NotRepeated("a request that may change something is not repeated")


def call_of(
    pages: RoutePages, key: str, repeat: Repetition | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PageCall:
    """The call for the flow. Behind its visitor the request is repeated, if it may be."""
    function = pages.function
    keys, binding = function.endpoint_keys, function.binding
    tags = keys.tags(args, kwargs) if keys.has_tags else ()
    policy = pages.unshared if pages.passes(key) else pages.policy
    tags = (*tags, call_tag(keys.compiled(*args, **kwargs)))
    if repeat is not None:
        repeat.tags = tags
    call = PageCall(
        key,
        repeat or _no_repetition,
        (),
        {},
        policy,
        binding.default_expire,
        pages.counted,
        binding.background,
        lambda *_: repeat is not None,
        tags,
    )
    call.source, call.found = "", None
    if binding.store.tells_age:
        call.terms = call.terms._replace(soft=True)  # how old a page is stands in its headers
    if binding.is_watched:
        call.logs = binding.watching.logs()
    return call
