"""Requests that nobody in good faith sends, to an application with a cache and to the same one without.

Whatever comes in, as raw ASGI: both answer the same, apart from the headers that the cache adds, and 304 to those who
have the page. So no request is ever sent what another one asked for, and none fails that would not have failed anyway.
"""

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Final, NamedTuple, cast

import pytest
from fastapi import APIRouter, Body, Cookie, Depends, FastAPI, Header, HTTPException, Query, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials, HTTPBearer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from fast_cache import Cache, DecodeError, EncodeError, HTTPOptions, InMemoryBackend, NotKeyed
from fast_cache.entry import NEVER
from fast_cache.http.conditional import etag_of
from fast_cache.http.page import Page, PageCodec
from fast_cache.serializers import Codec

Decorate = Callable[..., Callable[[Any], Any]]

ADDED: Final = {b"etag", b"cache-control", b"age", b"vary", b"cache-status", b"cache-groups"}
"""Headers that the cache adds; the endpoints here have none of their own, but for one."""

MAX_BODY: Final = 3000

MOUNT: Final = "/mounted"
"""Where the application is found once more."""


class Filter(BaseModel, extra="forbid"):
    q: str = ""
    limit: float = 1
    tags: list[str] = []


class Search(BaseModel):
    words: list[str] = []
    exact: bool = False
    rest: Any = None


def bare(**options: Any) -> Callable[[Any], Any]:
    return lambda fn: fn


def language_of(accept_language: Annotated[list[str] | None, Header()] = None) -> list[str] | None:
    return accept_language


def guard(x_token: Annotated[str, Header()] = "") -> None:
    if x_token != "right":
        raise HTTPException(401)


def stamp(response: Response, x_request: Annotated[str, Header()] = "") -> None:
    response.headers["x-stamp"] = x_request.encode("ascii", "backslashreplace").decode().translate({10: None, 13: None})


def make_app(cached: Decorate) -> tuple[FastAPI, list[Any]]:
    """An application whose answers are made of nothing but their request, and its decorated functions."""
    app = FastAPI()
    made: list[Any] = []

    def page(
        path: str, *, method: str = "get", route: dict[str, Any] | None = None, **options: Any
    ) -> Callable[[Any], Any]:
        def add(fn: Any) -> Any:
            fn = cached(**options)(fn)
            made.append(fn)
            app.api_route(path, methods=[method.upper()], **(route or {}))(fn)
            return fn

        return add

    @page("/items/{item_id}")
    def items(
        item_id: int,
        q: str | None = None,
        flag: bool = False,
        size: Annotated[float, Query(alias="Size-In m²")] = 1.0,
    ) -> Any:
        return {"items": [item_id, q, flag, repr(size)]}

    @page("/files/{path:path}")
    async def files(path: str, version: str = "", tags: Annotated[list[str] | None, Query()] = None) -> Any:
        return {"files": [path, version, tags]}

    @page("/texts/{text}")
    async def texts(text: str, text2: str = "a") -> Any:
        return {"texts": [text, text2]}

    @page("/header")
    async def header(x_user: Annotated[str, Header()] = "", x_tag: Annotated[list[str] | None, Header()] = None) -> Any:
        return {"header": [x_user, x_tag]}

    @page("/cookie")
    def cookie(visit: Annotated[str | None, Cookie()] = None, other: Annotated[str, Cookie()] = "") -> Any:
        return {"cookie": [visit, other]}

    @page("/public/{day}", public=True, tags=["day:{day}"])
    async def public(day: date, price: Decimal | None = None, x: float = 0.5) -> Any:
        return {"public": [str(day), repr(price), repr(x)]}

    @page("/varies", public=True, vary_on=("Accept-Language", "X-Mode"))
    def varies(
        accept_language: Annotated[list[str] | None, Header(), NotKeyed] = None,
        x_mode: Annotated[str | None, Header(), NotKeyed] = None,
    ) -> Any:
        return {"varies": [accept_language, x_mode]}

    @page("/varies-beneath/{number}", vary_on="accept-language")
    async def varies_beneath(number: int, language: Annotated[Any, Depends(language_of), NotKeyed]) -> Any:
        return {"varies beneath": [number, language]}

    @page("/search", method="post", methods=("POST",))
    async def search(search: Search, page: int = 1) -> Any:
        return {"search": [search.words, search.exact, repr(search.rest), page]}

    @page("/sum", method="post", methods=("POST", "GET"))
    def total(numbers: Annotated[list[int | float | bool | str], Body()]) -> Any:
        return {"sum": [repr(number) for number in numbers]}

    @page("/guarded/{name}", shared=True, route={"dependencies": [Depends(guard)]}, client_control=True)
    async def guarded(name: str) -> Any:
        return {"guarded": name}

    @page("/account")
    def account(credentials: Annotated[Any, Depends(HTTPBearer(auto_error=False))]) -> Any:
        return {"account": None if credentials is None else [credentials.scheme, credentials.credentials]}

    @page("/basic")
    async def basic(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> Any:
        return {"basic": [credentials.username, credentials.password]}

    @page("/stamped/{name}", shared=True, route={"dependencies": [Depends(stamp)]})
    async def stamped(name: str) -> Any:
        return {"stamped": name}

    @page("/stamped-whole/{name}", shared=True, route={"dependencies": [Depends(stamp)]})
    def stamped_whole(name: str) -> Any:
        return JSONResponse({"stamped whole": name}, headers={"x-own": "yes"})

    @page("/restamped/{name}", shared=True, route={"dependencies": [Depends(stamp)]})
    async def restamped(name: str, response: Response, own: str = "") -> Any:
        if own:
            response.headers["x-stamp"] = "own"
        return {"restamped": [name, own]}

    @page("/raw/{name}", statuses=(200, 203, 404))
    async def raw(name: str, status: int = 200, repeat: Annotated[int, Query(ge=0, le=5000)] = 1) -> Any:
        return Response(name.encode("utf-8", "replace") * repeat, status, media_type="text/x-raw")

    @page("/status/{code}", statuses=(200, 203, 404))
    def status(code: int, response: Response, error: bool = False) -> Any:
        if error:
            raise HTTPException(404, str(code), headers={"x-error": "yes"})
        response.status_code = code if 200 <= code < 600 and code not in (204, 205, 304) else 200
        return {"status": code}

    @page("/fails/{name}")
    async def fails(name: str) -> Any:
        if "a" in name:
            raise LookupError(name)
        return {"fails": name}

    @page("/filter", client_control=True)
    def filtered(filter: Annotated[Filter, Query()]) -> Any:
        return {"filter": [filter.q, repr(filter.limit), filter.tags]}

    @page("/cookies-set/{name}")
    async def sets(name: str, response: Response) -> Any:
        response.set_cookie("name", "a" if name.isascii() else "b")
        return {"sets": name}

    router = APIRouter()

    async def who(name: str = "nobody", x_user: Annotated[str, Header()] = "") -> Any:
        return {"who": [name, x_user]}

    who = cached()(who)
    made.append(who)
    router.get("/who")(who)
    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b", dependencies=[Depends(stamp)])

    @app.get("/plain/{name:path}")
    async def plain(name: str) -> Any:
        return {"plain": name}

    return app, made


def mounted_too(app: FastAPI) -> ASGIApp:
    """The application where it is, and below a mount."""
    outside = Starlette(routes=[Mount(MOUNT, app)])

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        inside = scope["path"].startswith(f"{MOUNT}/") and not scope["root_path"]
        await (outside if inside else app)(scope, receive, send)

    return serve


class Sent(NamedTuple):
    """A request, as a server hands it on."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""
    root_path: str = ""

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode("utf-8", "surrogatepass"),
            "query_string": self.query,
            "root_path": self.root_path,
            "headers": list(self.headers),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }

    def values(self, name: bytes) -> list[bytes]:
        return [value for one, value in self.headers if one == name]


class Got(NamedTuple):
    """What came back: a response, an exception, or both."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    raised: str

    def value(self, name: bytes) -> bytes:
        return b", ".join(value for one, value in self.headers if one == name)

    @property
    def own_headers(self) -> list[tuple[bytes, bytes]]:
        return sorted(header for header in self.headers if header[0] not in ADDED)


async def ask(app: ASGIApp, sent: Sent) -> Got:
    messages: list[Any] = []
    bodies = [{"type": "http.request", "body": sent.body, "more_body": False}]

    async def receive() -> Any:
        return bodies.pop() if bodies else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        messages.append(message)

    raised = ""
    try:
        await app(sent.scope(), receive, send)
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    starts = [message for message in messages if message["type"] == "http.response.start"]
    assert len(starts) <= 1, "one response is begun"
    assert messages[:1] == starts, "and by nothing else"
    if not starts:
        return Got(0, (), b"", raised)
    assert [message.get("more_body", False) for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return Got(starts[0]["status"], tuple((name, value) for name, value in starts[0]["headers"]), body, raised)


def compare(sent: Sent, plain: Got, cached: Got) -> None:
    """Whether an answer is the one that this request gets without a cache."""
    assert cached.raised == plain.raised
    if cached.status == 304 != plain.status:
        assert (plain.status, sent.method) == (200, "GET")
        asked = b", ".join(sent.values(b"if-none-match"))
        assert asked.strip(b" \t") == b"*" or etag_of(plain.body) in asked
        assert cached.body == b""
        about_bytes = {b"content-type", b"content-length", b"content-language", b"content-encoding"}
        assert cached.own_headers == sorted(one for one in plain.own_headers if one[0] not in about_bytes)
    else:
        assert (cached.status, cached.body) == (plain.status, plain.body)
        assert cached.own_headers == plain.own_headers
    for name in ADDED:
        lines = [value for one, value in cached.headers if one == name]
        assert len(lines) <= 1
        assert all(b"\r" not in line and b"\n" not in line and line.isascii() for line in lines)
    if b"; hit" in cached.value(b"cache-status"):
        assert cached.value(b"etag") == etag_of(plain.body)
    if cached.status >= 500:
        assert not cached.value(b"etag")


BARE: Final = mounted_too(make_app(bare)[0])


class Pair:
    """The application with a cache, the one without, and one event loop for both."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.bare_app = BARE
        app, self.functions = make_app(self._cached)
        self.app = mounted_too(app)
        options = HTTPOptions(max_body=MAX_BODY, max_variants=8, cache_status_key=True, cache_groups=True)
        self.backend = InMemoryBackend(max_size=50)
        self.cache.init_app(app, self.backend, http=options)
        self.runner = asyncio.Runner()
        self.hits = 0

    def _cached(self, **options: Any) -> Callable[[Any], Any]:
        options = {"expire": 60, "stale_while_revalidate": 30, **options}
        return cast(Callable[[Any], Any], self.cache.cached(**options))

    def ask(self, *all_sent: Sent) -> None:
        """Send requests, all at once, and look at each answer."""

        async def both() -> None:
            cached = await asyncio.gather(*(ask(self.app, sent) for sent in all_sent))
            for sent, got in zip(all_sent, cached, strict=True):
                compare(sent, await ask(self.bare_app, sent), got)
                self.hits += b"; hit" in got.value(b"cache-status")

        self.runner.run(both())

    def close(self) -> None:
        self.runner.close()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is said about endpoints that can't be cached is tested elsewhere, and kept for every example here."""
    caplog.set_level(logging.CRITICAL + 1, logger="fast_cache")


# Strategies.

few_texts: Final = st.sampled_from(
    ["", "a", "b", "A", "a,b", " a", "a ", "ä", "1", "01", "true", "null", "0.1", "\x00"]
)
texts: Final = st.one_of(few_texts, st.text(max_size=8))
octets: Final = st.one_of(few_texts.map(lambda text: text.encode("utf-8")), st.binary(max_size=12))

segments: Final = st.one_of(
    st.sampled_from(["1", "01", "+1", " 1", "1_0", "2024-02-29", "2024-02-29T00:00:00", "-0", "%2e", "..", ".", "a"]),
    texts,
)
PREFIXES: Final = [
    *("/items/", "/files/", "/texts/", "/header", "/cookie", "/public/", "/varies", "/varies-beneath/", "/search"),
    *("/sum", "/guarded/", "/account", "/basic", "/stamped/", "/stamped-whole/", "/restamped/", "/raw/", "/status/"),
    *(
        "/fails/",
        "/filter",
        "/cookies-set/",
        "/a/who",
        "/b/who",
        "/plain/",
        "/nothing",
        "//items/",
        "",
        "/openapi.json",
    ),
]
NEED_SEGMENT: Final = tuple(prefix for prefix in PREFIXES if prefix.endswith("/"))
paths: Final = st.one_of(
    st.builds(
        lambda prefix, segment, rest: prefix + segment + rest if prefix in NEED_SEGMENT else prefix + rest,
        st.sampled_from(PREFIXES),
        segments,
        st.sampled_from(["", "", "", "", "", "", "/", "/b", "?", "x" * 5000, "%00"]),
    ),
    st.text(max_size=20).map(lambda text: "/" + text),
)

NAMES: Final = ["q", "flag", "Size-In m²", "version", "tags", "text2", "price", "x", "page", "own", "status"]
MORE_NAMES: Final = ["repeat", "error", "limit", "name", "undeclared", "", "q[]", "Q"]
quoted: Final = st.binary(max_size=5).map(lambda data: "".join(f"%{octet:02X}" for octet in data).encode())
parts: Final = st.builds(
    lambda name, equals, value: name + equals + value,
    st.one_of(st.sampled_from([name.encode() for name in NAMES + MORE_NAMES]), st.sampled_from([b"%71", b"t%61gs"])),
    st.sampled_from([b"=", b"=", b"=", b"", b"=="]),
    st.one_of(
        octets, quoted, st.sampled_from([b"nan", b"-0.0", b"0", b"1e400", b"%C3%A4", b"+", b"%zz", b"%", b"404"])
    ),
)
queries: Final = st.one_of(
    st.just(b""),
    st.lists(parts, max_size=4).map(b"&".join),
    st.lists(parts, max_size=4).map(b";".join),
    st.binary(max_size=20),
    st.just(b"&" * 500 + b"q=1"),
)

TAGS: Final = [etag_of(body) for body in (b'{"header":["",null]}', b'{"varies":[null,null]}', b'{"guarded":"a"}', b"a")]
etags: Final = st.one_of(
    st.sampled_from(
        [*TAGS, *(b"W/" + tag for tag in TAGS), b"*", b'"', b"W/", b'""', b'"*"', b"'a'", b"*,*", b'"\xff"']
    ),
    octets,
)
conditions: Final = st.one_of(
    etags,
    st.lists(etags, max_size=5).map(b", ".join),
    st.builds(lambda tag: b'"a",' * 3000 + tag, etags),
    st.just(b"," * 9000),
)
directives: Final = st.one_of(
    st.sampled_from([b"no-cache", b"no-store", b"max-age=0", b"max-age=", b"max-age=-1", b"max-age=" + b"9" * 5000]),
    st.sampled_from([b'max-age="0"', b"only-if-cached", b"min-fresh=x", b"private", b'no-cache="', b",,,", b"=", b'"']),
    octets,
)
dates: Final = st.sampled_from([b"Sun, 06 Nov 1994 08:49:37 GMT", b"Fri, 31 Feb 99999 25:61:61 XXX", b"0", b"-1", b""])
credentials: Final = st.one_of(
    st.sampled_from([b"Bearer a", b"bearer a", b"Bearer", b"Basic YTpi", b"Basic YTo=", b"Basic \xff", b"Basic", b" "]),
    octets.map(lambda data: b"Bearer " + data),
)
cookies: Final = st.one_of(
    st.sampled_from([b"visit=a", b"visit=b", b'visit="a"', b"visit=a; visit=b", b"visit", b"=a", b"other=a;visit="]),
    octets.map(lambda data: b"visit=" + data),
)
VALUES: Final = {
    b"if-none-match": conditions,
    b"if-modified-since": dates,
    b"if-match": conditions,
    b"if-range": st.one_of(conditions, dates),
    b"range": st.sampled_from([b"bytes=0-0", b"bytes=-1", b"x", b""]),
    b"cache-control": directives,
    b"pragma": st.sampled_from([b"no-cache", b"NO-CACHE", b"x", b"\xff"]),
    b"authorization": credentials,
    b"cookie": cookies,
    b"x-user": octets,
    b"x-tag": octets,
    b"accept-language": octets,
    b"x-mode": octets,
    b"x-token": st.sampled_from([b"right", b"wrong", b"right ", b""]),
    b"x-request": octets,
    b"content-type": st.sampled_from(
        [b"application/json", b"text/plain", b"\xff", b"application/x-www-form-urlencoded"]
    ),
    b"host": st.sampled_from([b"a", b"b", b"", b"\xff", b"a:b", b"[::1"]),
    b"vary": octets,
    b"etag": etags,
    b"date": dates,
    b"X-User": octets,  # which no server would send
}
header_lines: Final = st.one_of(
    *(st.tuples(st.just(name), values) for name, values in VALUES.items()),
    st.tuples(st.binary(max_size=8), st.binary(max_size=8)),
)
headers: Final = st.lists(header_lines, max_size=5).map(tuple)

bodies: Final = st.one_of(
    st.sampled_from(
        [b"", b"{}", b"[]", b"[1]", b"[1.0]", b"[true]", b'["1"]', b"[-0.0]", b"[NaN]", b"[1e400]", b"\xff"]
    ),
    st.sampled_from([b'{"words":["a"]}', b'{"words":["a"],"rest":[1]}', b'{"rest":[true]}', b'{"rest":[1.0]}']),
    st.sampled_from(
        [b'{"rest":{"a":1,"a":2}}', b'{"rest":"\\ud800"}', b'{"rest":"\\u0000"}', b'{"rest":' + b"[" * 2000]
    ),
    st.binary(max_size=10),
)
methods: Final = st.sampled_from(["GET"] * 8 + ["POST", "POST", "HEAD", "PUT", "OPTIONS", "get", "", "G\xcbT"])

roots: Final = st.sampled_from([""] * 9 + ["/root", "/", "/items", MOUNT])
places: Final = st.tuples(st.sampled_from([""] * 9 + [MOUNT, MOUNT * 2, "/root"]), paths).map("".join)

requests: Final = st.builds(Sent, methods, places, queries, headers, bodies, roots)
good_requests: Final = st.builds(
    Sent,
    st.sampled_from(["GET"] * 7 + ["POST"]),
    st.builds(
        lambda mount, prefix, segment: mount + (prefix + segment if prefix in NEED_SEGMENT else prefix),
        st.sampled_from(["", "", "", MOUNT]),
        st.sampled_from(PREFIXES[:-4]),
        st.sampled_from(["1", "01", "2024-02-29", "a", "ä", "203", "404", "b/c"]),
    ),
    st.one_of(st.just(b""), st.lists(parts, max_size=2).map(b"&".join)),
    headers,
    bodies,
    st.just(""),
)


# Single requests.


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with closing(Pair()) as pair:
        yield pair


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=requests)
@example(Sent("GET", "/varies", b"", ()))
@example(Sent("GET", "/varies", b"", ((b"accept-language", b""),)))
@example(Sent("GET", "/varies", b"", ((b"accept-language", b"a"), (b"accept-language", b"b"))))
@example(Sent("GET", "/varies", b"", ((b"accept-language", b"a,b"),)))
@example(Sent("GET", "/restamped/a", b"own=1", ((b"x-request", b"a"),)))
@example(Sent("GET", "/stamped-whole/a", b"", ((b"x-request", b"a"),)))
@example(Sent("POST", "/sum", b"", ((b"if-none-match", b"*"), (b"content-type", b"application/json")), b"[1]"))
@example(Sent("GET", "/items/1", b"q=\xff", ()))
@example(Sent("GET", "/items/1" + "0" * 5000, b"", ()))
@example(Sent("GET", "/texts/\ud800", b"", ()))
@example(Sent("GET", "/header", b"", ((b"if-none-match", b'"a", ' * 100_000),)))
def test_any_request_is_answered_as_without_a_cache(pair: Pair, sent: Sent) -> None:
    """Twice, so that what the first one left behind is met by the second one."""
    pair.ask(sent)
    pair.ask(sent)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(all_sent=st.lists(good_requests, min_size=2, max_size=6))
def test_requests_at_once_are_answered_as_without_a_cache(pair: Pair, all_sent: list[Sent]) -> None:
    pair.ask(*all_sent, all_sent[0])


# Requests one after another, with changes in between.


class Pages(RuleBasedStateMachine):
    """Requests of all kinds to one application, while time passes and things are invalidated."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.now, real = time.monotonic(), time.monotonic
        for name, module in list(sys.modules.items()):
            if name.startswith("fast_cache") and getattr(module, "monotonic", None) is real:
                self.patch.setattr(module, "monotonic", lambda: self.now)
        self.pair = Pair()
        self.asked: list[Sent] = []

    def teardown(self) -> None:
        self.pair.close()
        self.patch.undo()

    @rule(sent=good_requests)
    def one_asks(self, sent: Sent) -> None:
        self.asked.append(sent)
        self.pair.ask(sent)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), more=headers)
    def another_asks_for_that(self, data: st.DataObject, more: tuple[tuple[bytes, bytes], ...]) -> None:
        before = data.draw(st.sampled_from(self.asked))
        self.pair.ask(before._replace(headers=(*more, *before.headers)))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), query=queries)
    def another_asks_otherwise(self, data: st.DataObject, query: bytes) -> None:
        before = data.draw(st.sampled_from(self.asked))
        self.pair.ask(before._replace(query=query))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), count=st.integers(1, 4))
    def some_ask_at_once(self, data: st.DataObject, count: int) -> None:
        self.pair.ask(*(data.draw(st.sampled_from(self.asked)) for _ in range(count)))

    @rule(seconds=st.sampled_from([0.5, 20, 59, 70, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def a_function_is_invalidated(self, data: st.DataObject) -> None:
        fn = data.draw(st.sampled_from(self.pair.functions))

        async def invalidate() -> None:
            gone = fn.invalidate_all()
            if inspect.isawaitable(gone):
                await gone

        self.pair.runner.run(invalidate())

    @rule()
    def all_is_cleared(self) -> None:
        self.pair.backend.clear()


TestPages = Pages.TestCase
TestPages.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_what_is_compared_is_answered_from_the_cache_too() -> None:
    """The tests above would pass if nothing ever were."""
    sent = [
        Sent("GET", path, b"", ((b"x-token", b"right"), (b"x-user", b"a")))
        for path in ("/items/1", "/files/a/b", "/header", "/cookie", "/public/2024-02-29", "/varies", "/guarded/a")
    ]
    sent += [Sent("GET", path, b"q=1&text2=b", ()) for path in ("/texts/a", "/varies-beneath/1", "/account")]
    sent += [Sent("GET", "/filter", b"q=1", ())]
    sent += [Sent("GET", path, b"", ()) for path in ("/stamped/a", "/stamped-whole/a", "/restamped/a", "/raw/a")]
    sent += [Sent("GET", path, b"", ()) for path in ("/status/404", "/status/203", "/fails/b", "/a/who")]
    json = (b"content-type", b"application/json")
    sent += [Sent("POST", "/search", b"page=2", (json,), b"{}"), Sent("POST", "/sum", b"", (json,), b"[1]")]
    sent += [one._replace(path=MOUNT + one.path) for one in sent]
    with closing(Pair()) as pair:
        for one in sent:
            before = pair.hits
            pair.ask(one)
            pair.ask(one)
            assert pair.hits > before, one


# Bytes of a store.

names: Final = st.binary(max_size=6)
pages: Final = st.builds(
    Page,
    st.integers(200, 599),
    st.lists(st.tuples(names, st.binary(max_size=10)), max_size=5).map(tuple),
    st.binary(max_size=40),
    st.binary(min_size=1, max_size=20),
    whole=st.booleans(),
)


class Rot(Codec):
    """Somebody's own, such as one that encrypts."""

    def __init__(self) -> None:
        super().__init__("rot")

    def encode(self, value: Any, context: bytes = b"") -> bytes:
        return bytes(octet ^ 0x55 for octet in value)

    def decode(self, payload: bytes, context: bytes = b"") -> Any:
        return bytes(octet ^ 0x55 for octet in payload)


CODECS: Final = [PageCodec(), PageCodec(Rot())]
codecs: Final = pytest.mark.parametrize("codec", CODECS, ids=["plain", "inner"])


@codecs
@given(page=pages, lifetime=st.sampled_from([None, 1.5, NEVER]))
def test_a_page_comes_back_as_it_was(codec: PageCodec, page: Page, lifetime: float | None) -> None:
    page.lifetime = lifetime
    found = codec.decode(codec.encode(page))
    assert found == page
    assert (found.etag, found.whole, found.own_control) == (page.etag, page.whole, page.own_control)
    assert found.lifetime == (NEVER if lifetime == NEVER else None)


def decoded_or_refused(codec: PageCodec, data: bytes) -> None:
    try:
        page = codec.decode(data)
    except DecodeError:
        return
    assert codec.encode(page) == data, "one page has one form"
    assert codec.decode(codec.encode(page)) == page


@codecs
@settings(max_examples=1000, deadline=None)
@given(data=st.binary(max_size=60))
@example(b"\x00\xc8\x00\x00\x00\x01a")
@example(b"\x00\xc8\xff\xff" + b"\x00" * 6 * 0xFFFF + b"\x00\x01a")
def test_arbitrary_bytes_are_a_page_or_refused(codec: PageCodec, data: bytes) -> None:
    decoded_or_refused(codec, data)


@codecs
@settings(max_examples=1000, deadline=None)
@given(page=pages, data=st.data())
def test_bytes_that_were_changed_are_a_page_or_refused(codec: PageCodec, page: Page, data: st.DataObject) -> None:
    changed = bytearray(codec.encode(page))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        how = data.draw(st.sampled_from(["cut", "put", "change", "double"]))
        if how == "cut":
            del changed[at:]
        elif how == "put":
            changed[at:at] = data.draw(st.binary(max_size=4))
        elif how == "double":
            changed += changed[at:]
        elif at < len(changed):
            changed[at] = data.draw(st.integers(0, 255))
    decoded_or_refused(codec, bytes(changed))


@pytest.mark.parametrize(
    "page",
    [
        Page(200, ((b"x" * 0x10000, b""),), b"", b'"a"'),
        Page(200, (), b"", b"x" * 0x10000),
        Page(200, ((b"a", b""),) * 0x10000, b"", b'"a"'),
    ],
)
def test_a_page_that_is_too_large_for_the_form_is_refused(page: Page) -> None:
    with pytest.raises(EncodeError):
        PageCodec().encode(page)
