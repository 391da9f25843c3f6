"""Paths and queries that try to be taken for others: the answer is what it is without the cache.

Most tests ask two applications the same, of which only one is cached, by scopes as servers make them (``path``
decoded, ``raw_path`` as it came), in many orders: whatever is stored by then, both have to answer alike. Which of them
were answered before routing is seen by the scope: routing leaves its endpoint there.
"""

import asyncio
import functools
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote

import pytest
from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.routing import Host, Match, Mount, Route
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from fast_cache import Cache, InMemoryBackend
from fast_cache.http.exchange import EXCHANGE
from tests.support.uvicorn_server import ServedApp, serve

Decorator = Callable[..., Any]


@dataclass(frozen=True)
class Answer:
    """What came, without what the cache adds."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    routed: bool

    @property
    def told(self) -> tuple[Any, ...]:
        return self.status, self.body, self.headers


_COMPARED: Final = (b"allow", b"content-type", b"location", b"x-item")


def scope_of(target: str, method: str = "GET", *, root_path: str = "", **headers: str) -> Scope:
    """The scope that uvicorn makes of a request target."""
    raw_path, _, query = target.encode("latin-1").partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": root_path + unquote(raw_path.decode("ascii")),
        "raw_path": root_path.encode() + raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": [(b"host", b"test"), *((n.replace("_", "-").encode(), v.encode()) for n, v in headers.items())],
        "client": ("127.0.0.1", 50000),
        "server": ("test", 80),
        "state": {},
    }


async def ask(app: Any, target: str | Scope, method: str = "GET", **more: str) -> Answer:
    scope = scope_of(target, method, **more) if isinstance(target, str) else target
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *bodies = sent
    headers = tuple(sorted((name, value) for name, value in start["headers"] if name in _COMPARED))
    return Answer(start["status"], b"".join(m.get("body", b"") for m in bodies), headers, "endpoint" in scope)


# Two applications that differ in nothing but the cache.


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    first: int = 0
    second: str = ""


def uncached(fn: Any) -> Any:
    return fn


def suspending(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` as an ``async def``."""

    @functools.wraps(fn)
    async def suspends(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return fn(*args, **kwargs)

    return suspends


def build(cached: Decorator, runs: Counter[str], mode: str = "async") -> FastAPI:
    """An application whose every answer tells what was asked; ``cached`` makes endpoints of functions."""
    app, router = FastAPI(), APIRouter()

    def endpoint(fn: Any) -> Any:
        return cached(fn if mode == "sync" else suspending(fn))

    def told(name: str, response: Response | None = None, **what: Any) -> dict[str, Any]:
        runs[name] += 1
        if response is not None:
            response.headers["x-item"] = name
        return {name: what}

    def root() -> Any:
        return told("root")

    def item(item_id: str, response: Response) -> Any:
        return told("item", response, item_id=item_id)

    def number(number: int, page: int = 1) -> Any:
        return told("number", number=number, page=page)

    def pair(one: str, two: str) -> Any:
        return told("pair", one=one, two=two)

    def file(path: str) -> Any:
        return told("file", path=path)

    def search(q: str = "", page: int = 1, tags: Annotated[list[str], Query()] = []) -> Any:  # noqa: B006
        return told("search", q=q, page=page, tags=tags)

    def strict(filters: Annotated[Filters, Query()]) -> Any:
        return told("strict", **filters.model_dump())

    def aliased(q: Annotated[str, Query(alias="a b&c")] = "", order: Literal["up", "down"] = "up") -> Any:
        return told("aliased", q=q, order=order)

    def me(x_user: Annotated[str, Header()]) -> Any:
        return told("me", user=x_user)

    router.get("/items/{item_id}")(endpoint(item))
    router.get("/numbers/{number}")(endpoint(number))
    router.get("/pairs/{one}/{two}")(endpoint(pair))
    app.get("/")(endpoint(root))
    app.include_router(router)
    app.include_router(router, prefix="/v2")
    app.get("/files/{path:path}")(endpoint(file))
    app.get("/search")(endpoint(search))
    app.get("/strict")(endpoint(strict))
    app.get("/aliased")(endpoint(aliased))
    app.get("/me")(endpoint(me))
    app.get("/me/{path:path}")(endpoint(me))

    @app.post("/items/{item_id}")
    async def change(item_id: str) -> Any:
        return {"changed": item_id}

    @app.get("/plain/{path:path}")
    async def plain(path: str) -> Any:
        return {"plain": path}

    @app.get("/gone/{path:path}")
    async def gone(path: str) -> None:
        raise HTTPException(410, path)

    return app


class Pair:
    """A cached application and its twin."""

    def __init__(self, mode: str = "async") -> None:
        self.cache, self.backend, self.runs = Cache(), InMemoryBackend(), Counter[str]()
        self.cached = build(self.cache.cached(expire=600), self.runs, mode)
        self.cache.init_app(self.cached, self.backend)
        self.twin = build(uncached, Counter(), mode)

    def stored(self) -> int:
        return len(list(self.backend.scan()))


def words(text: str) -> list[str]:
    return text.split()


ITEMS: Final = words(
    """
    /items/a /items/A /Items/a /ITEMS/A /items/a/ /items/a// //items/a /items//a ///items/a /items/%61 /items/a%20
    /items/%20a /items/a+ /items/a%2B /items/a%2b /items/a. /items/a.. /items/a%2Fb /items/a%2fb /items/a%252Fb
    /items/a/b /items%2Fa /items%2fa /%69tems/a /items/a;b /items/a;b=c /items;x/a /items/a%3Bb /items/a.css
    /items/a/x.css /items/a%2Fx.css /items/. /items/.. /items/%2e /items/%2e%2e /items/%2E%2E /items/..%2Fitems
    /items/x/../a /items/x/%2e%2e/a /./items/a /%2e/items/a /items/./a /../items/a /items/a/.. /items/a/.
    /items/a%00 /items/%00 /items/a%0a /items/a%0d%0a /items/a%3F /items/a%3Fq=1 /items/a%23 /items/%ff /items/%fe
    /items/%C3%A9 /items/e%CC%81 /items/%EF%BD%81 /items/%c3%a9 /items/%E9 /items/a:b /items/a%3Ab /items/GET%20a
    /items/a%20GET /items/%7Ba%7D /items/{a} /items/a|b /items/ /items /v2/items/a /v2//items/a /v2/items/a/
    /v2%2Fitems/a /V2/items/a /v2/items/A /pairs/a/b /pairs/a%20b/c /pairs/a/b%20c /pairs/a%3Ab/c /pairs/a/b%3Ac
    /pairs/a%2Cb/c /pairs/a/b%2Cc /pairs/%22a%22/b /pairs/a/%22b%22 /v2/pairs/a/b /pairs/1/11 /pairs/11/1
    /numbers/1 /numbers/01 /numbers/+1 /numbers/%2B1 /numbers/1.0 /numbers/1_0 /numbers/%201 /numbers/1?page=1
    /numbers/1?page=01 /numbers/1?page=2 /numbers/1?page=x /numbers/%D9%A1 /files/a /files/a/b /files/a%2Fb
    /files//a /files/a//b /files/ /files /files/../a /files/%2e%2e/a /files/a/ /files/items/a
    /files/..%2f..%2fitems/a /files/a?x /files/a%3Fx / // /? /?q=1 /%2F /docs/../ /plain/a /plain/a%2Fb
    /plain/../items/a /gone/a
    """
)

QUERIES: Final = words(
    """
    ? ?q= ?q ?q=1 ?q=2 ?q=1&page=1 ?page=1&q=1 ?q=1&page=2 ?page=2&q=1 ?page=2 ?q=1&q=2 ?q=2&q=1 ?q=1&q=1 ?q=1&&
    ?&q=1 ?&&q=1& ?q=1& ?q==1 ?q=1= ?=1 ?= ?& ?Q=1 ?%71=1 ?q=%31 ?q=a+b ?q=a%20b ?q=a%2Bb ?q=a%26page=2
    ?q=a&page=2 ?q=1;page=2 ?tags=a ?tags=a&tags=b ?tags=b&tags=a ?tags=a,b ?tags=a%26tags=b ?tags= ?tags=a&tags=
    ?page=x ?page= ?page=1&page=2 ?page=2&page=1 ?page=01 ?page=%201 ?page=1&page=x ?page=x&page=1 ?utm=1 ?utm=2
    ?q=1&utm=1 ?utm=1&q=1 ?q=1&utm=1&q=2 ?q[]=1 ?q%00=1 ?q=%00 ?q=%ff ?q=%fe ?first=1 ?second=1 ?first=1&second=2
    ?second=2&first=1 ?first=1&first=2 ?filters=1 ?third=1 ?first=1&third=1 ?a%20b%26c=1 ?a+b%26c=1 ?a%20b&c=1
    ?order=down ?order=up&order=down ?order=sideways ?a%20b%26c=1&order=down ?order=down&a%20b%26c=1 ?q=%C3%A9
    ?q=%E9
    """
)

TARGETS = [
    *(*ITEMS, ""),
    *(f"{path}{query}" for path in ("/search", "/strict", "/aliased") for query in (*QUERIES, "", "?a b=1", "?q=\xe9")),
]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_stored_by_then_the_answer_is_what_it_is_without_the_cache(mode: str, seed: int) -> None:
    pair = Pair(mode)
    targets = [*TARGETS] * 3
    random.Random(seed).shuffle(targets)
    before_routing = 0

    async def ask_all() -> None:
        nonlocal before_routing
        for target in targets:
            cached, plain = await ask(pair.cached, target), await ask(pair.twin, target)
            assert cached.told == plain.told, target
            before_routing += cached.status == 200 and not cached.routed

    asyncio.run(ask_all())
    assert before_routing > 100, "few were answered before routing, so this tested little"


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "OPTIONS", "get", "GETS", "TRACE"])
def test_other_methods_are_not_answered_by_the_page_of_get(method: str) -> None:
    pair = Pair()

    async def ask_all() -> None:
        for target in ("/items/a", "/search?q=1", "/", "/files/a"):
            for _ in range(2):
                await ask(pair.cached, target)
            assert not (await ask(pair.cached, target)).routed
            for _ in range(2):
                cached, plain = await ask(pair.cached, target, method), await ask(pair.twin, target, method)
                assert cached.told == plain.told

    asyncio.run(ask_all())


def test_pages_of_two_methods_are_two() -> None:
    app, cache = FastAPI(), Cache()
    cache.init_app(app)

    @app.api_route("/page", methods=["GET", "POST"])
    @cache.cached(methods=("GET", "POST"), key_builder=lambda: "one")
    async def page() -> int:
        runs["page"] += 1
        return runs["page"]

    runs: Counter[str] = Counter()

    async def ask_all() -> list[bytes]:
        return [(await ask(app, "/page", method)).body for method in ("GET", "POST", "GET", "POST")]

    assert asyncio.run(ask_all()) == [b"1", b"2", b"1", b"2"]


# Who fills the cache, and with what.


def asked(pair: Pair, targets: Iterable[str]) -> list[Answer]:
    async def ask_all() -> list[Answer]:
        return [await ask(pair.cached, target) for target in targets]

    return asyncio.run(ask_all())


def test_one_path_in_two_spellings_is_one_page() -> None:
    pair = Pair()
    answers = asked(pair, ["/items/a", "/items/%61", "/%69tems/a", "/items/a"])
    assert {answer.told for answer in answers} == {answers[0].told}
    assert pair.runs == {"item": 1}


def test_the_order_of_a_query_makes_no_other_page() -> None:
    pair = Pair()
    asked(pair, ["/search?q=1&page=2", "/search?page=2&q=1", "/search?page=2&q=1", "/search?q=1&page=02"])
    assert pair.runs == {"search": 1}
    assert pair.stored() == 1


def test_unknown_parameters_make_no_other_page_and_none_before_routing() -> None:
    pair = Pair()
    asked(pair, ["/search?q=1"])
    flood = asked(pair, [f"/search?q=1&utm={number}" for number in range(300)] * 2)
    assert {answer.body for answer in flood} == {b'{"search":{"q":"1","page":1,"tags":[]}}'}
    assert all(answer.routed for answer in flood)
    assert pair.runs == {"search": 1}
    assert pair.stored() == 1
    (known,) = asked(pair, ["/search?q=1"])
    assert not known.routed


@pytest.mark.parametrize("query", ["q=1&q=2", "tags=a&tags=b", "utm=1", "q=1&utm=1", "q=1&%71=2", "Q=1"])
def test_only_declared_and_unique_names_are_answered_before_routing(query: str) -> None:
    pair = Pair()
    assert all(answer.routed for answer in asked(pair, [f"/search?{query}"] * 4))


@pytest.mark.parametrize("target", ["/search", "/search?q=1", "/search?page=2&q=1", "/items/a", "/files/a/b", "/"])
def test_what_is_declared_is_answered_before_routing_by_its_exact_bytes(target: str) -> None:
    pair = Pair()
    first, *others = asked(pair, [target] * 3)
    assert first.routed
    assert not others[-1].routed


def test_what_is_refused_or_not_found_fills_nothing() -> None:
    pair = Pair()
    bad = [f"/numbers/x{number}" for number in range(50)] + [f"/nowhere/{number}" for number in range(50)]
    bad += [f"/search?page=x{number}" for number in range(50)] + [f"/strict?x{number}=1" for number in range(50)]
    assert {answer.status for answer in asked(pair, bad * 2)} == {404, 422}
    assert pair.stored() == 0


@pytest.mark.parametrize("target", ["/late", "/plain/late"])
def test_a_path_that_led_to_no_cached_endpoint_is_cached_when_it_does(target: str) -> None:
    """Such paths are remembered, and forgotten when one is seen to lead elsewhere."""
    pair = Pair()
    asked(pair, [target, "/gone/a"] * 2)

    async def late() -> str:
        pair.runs["late"] += 1
        return "late"

    pair.cached.get(target)(pair.cache.cached(late))
    routes = pair.cached.router.routes
    routes.insert(0, routes.pop())
    assert [answer.body for answer in asked(pair, [target] * 4)] == [b'"late"'] * 4
    assert pair.runs["late"] <= 2


def test_a_route_that_is_put_in_front_is_not_passed_by() -> None:
    """Where paths have led before is forgotten when there are more routes."""
    pair = Pair()
    asked(pair, ["/items/1"] * 3)

    async def in_front() -> str:
        return "in front"

    pair.cached.get("/items/1")(in_front)
    routes = pair.cached.router.routes
    routes.insert(0, routes.pop())
    assert asked(pair, ["/items/1"])[0].body == b'"in front"'


def test_requests_by_another_method_than_that_of_the_cached_endpoint_have_no_exchange() -> None:
    app, cache = FastAPI(), Cache()
    cache.init_app(app)
    had: list[bool] = []

    @app.put("/items/{number}")
    async def change(number: int, request: Request) -> None:
        had.append(EXCHANGE in request.scope)

    @app.get("/items/{number}")
    @cache.cached
    async def read(number: int) -> int:
        return number

    @app.delete("/items/{number}")
    async def remove(number: int, request: Request, invalidated: Annotated[None, cache.invalidating(read)]) -> None:
        had.append(EXCHANGE in request.scope)

    client = TestClient(app)
    for number in range(3):
        assert client.put(f"/items/{number}").status_code == 200
        assert client.get(f"/items/{number}").json() == number
        assert client.delete(f"/items/{number}").status_code == 200
    assert had == [False, True] * 3


# The page of one visitor under the name of a file (web cache deception).

DECEPTIONS: Final = words(
    """
    /me/x.css /me/x.js /me;x.css /me%3Bx.css /me%2Fx.css /me%00.css /me%0A.css /me.css /me/..%2Fx.css
    /me/%2e%2e/static/x.css /static/..%2Fme /static/%2e%2e/me /me// /me/ /ME /me?x.css /me?x=.css /me%3Fx.css
    /me#x.css /me%23x.css /me/.well-known/x.txt /me/favicon.ico
    """
)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("target", DECEPTIONS)
def test_the_page_of_one_is_nobody_elses_whatever_the_path_looks_like(target: str, mode: str) -> None:
    pair = Pair(mode)

    async def ask_all() -> None:
        for order in (("ada", "bob", ""), ("", "bob", "ada")) * 2:
            for user in order:
                headers = {"x_user": user} if user else {}
                cached = await ask(pair.cached, target, **headers)
                assert cached.told == (await ask(pair.twin, target, **headers)).told
                assert cached.routed or cached.status == 404

    asyncio.run(ask_all())


@pytest.mark.parametrize("target", ["/me/x.css", "/me", "/me/favicon.ico"])
def test_caches_outside_are_told_that_it_is_private_also_under_the_name_of_a_file(target: str) -> None:
    pair = Pair()

    async def control() -> bytes:
        scope = scope_of(target, x_user="ada")
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await pair.cached(scope, receive, send)
        headers: dict[bytes, bytes] = dict(sent[0]["headers"])
        return headers[b"cache-control"]

    for _ in range(2):
        assert b"private" in asyncio.run(control())


# Mounts and root paths.


def test_pages_of_mounted_applications_are_found_by_their_whole_path() -> None:
    cached_parent, plain_parent, cache = FastAPI(), FastAPI(), Cache()
    for parent, cached in ((cached_parent, cache.cached(expire=600)), (plain_parent, uncached)):
        one, two = build(cached, Counter()), build(cached, Counter())

        async def extra(name: str) -> str:
            return name

        two.get("/extra/{name}")(cached(extra))

        parent.mount("/one", one)
        parent.mount("/items", two)
        parent.include_router(build(cached, Counter()).router)
        if parent is cached_parent:
            for app in (one, two, parent):
                cache.init_app(app)
    targets = ["/items/a", "/one/items/a", "/items/items/a", "/one/items/items/a", "/one//items/a", "/items/extra/a"]
    targets += ["/one", "/one/", "/items/", "/items", "/one/search?q=1", "/items/search?q=1", "/search?q=1", "/one/one"]

    async def ask_all() -> None:
        for seed in range(3):
            order = targets * 3
            random.Random(seed).shuffle(order)
            for target in order:
                assert (await ask(cached_parent, target)).told == (await ask(plain_parent, target)).told, target

    asyncio.run(ask_all())


def test_a_path_below_another_root_is_another_path() -> None:
    """``/a/b`` is ``/b`` below the root path ``/a`` and something else below none; middlewares set it by a header."""
    cached_app, plain_app, cache = FastAPI(), FastAPI(), Cache()
    for app, cached in ((cached_app, cache.cached(expire=600)), (plain_app, uncached)):

        async def short(name: str) -> list[str]:
            return ["short", name]

        app.get("/{name}")(cached(short))

        async def long(name: str) -> list[str]:
            return ["long", name]

        app.get("/a/{name}")(cached(long))

    cache.init_app(cached_app)
    scopes = [("/b", "/a"), ("/a/b", ""), ("/a/b", "/a"), ("/b", ""), ("/a/b", "/b")]

    async def ask_all() -> None:
        for seed in range(5):
            order = scopes * 3
            random.Random(seed).shuffle(order)
            for path, root_path in order:
                answers = [await ask(app, scope_of(path, root_path=root_path)) for app in (cached_app, plain_app)]
                assert answers[0].told == answers[1].told, (path, root_path)

    asyncio.run(ask_all())


# Over a real server.

ON_THE_WIRE: Final = words(
    """
    /items/a /items/%61 /items/a%2Fb /items/a%252Fb /items/A /items/a;b /items/a.css /items/a. //items/a /items//a
    /./items/a /items/../items/a /items/%2e%2e /items/a/ /items/a?utm=1 /search?q=1&page=2 /search?page=2&q=1
    /search?q=1&q=2 /search?q=2&q=1 /search?q=1 /search?%71=1 http://test/items/a http://other/items/a /items/a%00
    /items/%ff /files/a%2Fb /files/a/b /files//a
    """
)


def on_the_wire(served: ServedApp, target: str) -> bytes:
    """The answer to a request target that no client has tidied up: its status and its body."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        request = f"GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        parts = []
        while data := connection.recv(65536):
            parts.append(data)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    return head.splitlines()[0] + b"\n" + body


def test_over_a_server_the_answers_are_what_they_are_without_the_cache() -> None:
    pair = Pair()
    targets = [*ON_THE_WIRE] * 3
    random.Random(1).shuffle(targets)
    with serve(pair.cached) as cached, serve(pair.twin) as plain:
        for target in targets:
            assert on_the_wire(cached, target) == on_the_wire(plain, target), target


# Other ways than paths to decide where a request goes.


class Versioned(Route):
    """A route for those who ask for it by a header."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        wanted = (b"x-version", b"2") in scope.get("headers", ())
        return (match, child) if wanted else (Match.NONE, {})


class VersionedAPIRoute(APIRoute):
    """The same for one of FastAPI's."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        wanted = (b"x-version", b"2") in scope.get("headers", ())
        return (match, child) if wanted else (Match.NONE, {})


async def second(request: Request) -> PlainTextResponse:
    return PlainTextResponse("second")


def by_starlette(app: FastAPI) -> None:
    app.router.routes.append(Versioned("/page", second))


def by_fastapi(app: FastAPI) -> None:
    app.router.add_api_route("/page", second, route_class_override=VersionedAPIRoute)


def by_included_router(app: FastAPI) -> None:
    router = APIRouter(route_class=VersionedAPIRoute)
    router.get("/page")(second)
    app.include_router(router)


def by_host(app: FastAPI) -> None:
    app.router.routes.append(Host("second", Starlette(routes=[Route("/page", second)])))


def by_mount(app: FastAPI) -> None:
    class VersionedMount(Mount):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            match, child = super().matches(scope)
            wanted = (b"x-version", b"2") in scope.get("headers", ())
            return (match, child) if wanted else (Match.NONE, {})

    app.router.routes.append(VersionedMount("/", Starlette(routes=[Route("/page", second)])))


@pytest.mark.parametrize("install", [by_starlette, by_fastapi, by_included_router, by_host, by_mount])
def test_a_route_that_matches_by_something_else_is_not_passed_by(install: Callable[[FastAPI], None]) -> None:
    app, cache = FastAPI(), Cache()
    cache.init_app(app)
    install(app)

    async def first() -> str:
        return "first"

    app.get("/page")(cache.cached(public=True)(first))

    async def ask_all() -> None:
        for _ in range(3):
            assert (await ask(app, "/page")).body == b'"first"'
            assert (await ask(app, scope_for_second())).body == b"second"

    asyncio.run(ask_all())


def scope_for_second() -> Scope:
    scope = scope_of("/page", x_version="2")
    scope["headers"][0] = (b"host", b"second")
    return scope


class OnlyAda(APIRoute):
    """A guard in the class of a route."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        inner = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            if request.headers.get("x-user") != "ada":
                raise HTTPException(403)
            return await inner(request)

        return guarded


def test_a_guard_in_the_class_of_a_route_runs_before_a_public_page() -> None:
    app, cache, runs = FastAPI(), Cache(), Counter[str]()
    cache.init_app(app)
    router = APIRouter(route_class=OnlyAda)

    async def page() -> str:
        runs["page"] += 1
        return "page"

    router.get("/page")(cache.cached(public=True)(page))
    app.include_router(router)

    async def ask_all() -> None:
        for _ in range(3):
            assert (await ask(app, "/page", x_user="ada")).status == 200
            assert (await ask(app, "/page", x_user="bob")).status == 403

    asyncio.run(ask_all())
    assert runs == {"page": 1}
