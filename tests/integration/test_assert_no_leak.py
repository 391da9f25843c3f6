"""What ``assert_no_leak`` finds, what it leaves alone, and what it says."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import APIKeyQuery
from pydantic import BaseModel
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Host
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fast_cache import Cache, NotKeyed
from fast_cache.testing import Identity, Replayed, aassert_no_leak, assert_no_leak
from tests.support.pages import KINDS, STORES, Site, make_backend

TWO = {"ada": {"x-user": "secret-ada"}, "bob": {"x-user": "secret-bob"}}

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")


class Visitors:
    """Middleware that puts who asks where no graph of dependencies shows it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = visitor.set(dict(scope.get("headers", ())).get(b"x-user", b"nobody").decode())
        try:
            await self._app(scope, receive, send)
        finally:
            visitor.reset(token)


Served = tuple[FastAPI, Cache]


@pytest.fixture
def served() -> Served:
    cache, app = Cache(), FastAPI()
    app.add_middleware(Visitors)
    cache.init_app(app)
    return app, cache


def fault(app: FastAPI, identities: Any = TWO, **options: Any) -> str:
    with pytest.raises(AssertionError) as raised:
        assert_no_leak(app, identities, **options)
    return str(raised.value)


# What it finds.


def test_a_body_of_another_is_found_and_named_without_saying_what_was_in_it(served: Served) -> None:
    app, cache = served

    @app.get("/me")
    @cache.cached
    async def me() -> dict[str, str]:
        return {"user": visitor.get(), "same": "for everyone"}

    said = fault(app)
    assert "GET /me: 'bob' was sent what belongs to 'ada': the body" in said
    assert "GET /me: 'ada' was sent what belongs to 'bob'" in said
    assert "'ada' first" in said
    assert "all at once" in said
    assert "secret" not in said


def test_a_sync_endpoint_is_no_safer(served: Served) -> None:
    app, cache = served

    @app.get("/me")
    @cache.cached
    def me() -> dict[str, str]:
        return {"user": visitor.get()}

    assert "'bob' was sent what belongs to 'ada'" in fault(app)


def test_one_field_among_those_that_change_by_themselves_is_enough(served: Served) -> None:
    app, cache = served
    count = itertools.count()

    @app.get("/me")
    @cache.cached
    async def me() -> dict[str, Any]:
        return {"number": next(count), "users": [{"name": visitor.get()}]}

    assert "'bob' was sent what belongs to 'ada': the body" in fault(app)


def test_a_word_of_a_page_is_enough(served: Served) -> None:
    app, cache = served
    count = itertools.count()

    @cache.cached
    async def greeting() -> str:
        return f"<b>Hello, {visitor.get()}</b>"

    @app.get("/me", response_class=HTMLResponse)
    async def me(greeting: Annotated[str, Depends(greeting)]) -> str:
        return f"<p>{greeting}, for {visitor.get()}, the {next(count)}th</p>"

    assert "GET /me: 'bob' was sent what belongs to 'ada': the body" in fault(app)


def test_what_lacks_all_that_is_ones_own_is_found(served: Served) -> None:
    app, cache = served

    @app.get("/me")
    @cache.cached
    async def me() -> dict[str, Any]:
        return {"users": [name for name in [visitor.get()] if name != "secret-ada"], "number": next(count)}

    count = itertools.count()
    assert "'bob' was sent what belongs to 'ada': all that tells the two apart" in fault(app)


def test_what_another_function_of_the_cache_leaks_is_found(served: Served) -> None:
    app, cache = served

    async def load() -> str:
        return visitor.get()

    @app.get("/me")
    async def me(user: Annotated[str, Depends(cache.cached(load))], x_user: Annotated[str, Header()]) -> list[str]:
        return [user, x_user, await cache.aget_or_set("who", load)]

    asyncio.run(_ask(app, "carol"))  # not one of those who are asked about
    assert "'bob' was sent what belongs to 'ada': the body" in fault(app)


async def _ask(app: FastAPI, user: str) -> None:
    await aassert_no_leak(app, {"one": {"x-user": user}, "the same": {"x-user": user}})


def test_a_header_and_a_status_are_compared_too() -> None:
    """What is around the cache may leak as well: here by a key that the author answers for."""
    app, cache = FastAPI(), Cache()
    cache.init_app(app)

    @cache.cached(key_builder=lambda x_user: "all")
    async def right(x_user: Annotated[str, Header()]) -> str:
        return x_user

    @app.get("/me")
    async def me(response: Response, name: Annotated[str, Depends(right)]) -> str:
        response.headers["x-name"] = name
        if name == "secret-ada":
            response.status_code = 202
        return "the same"

    said = fault(app)
    assert "'bob' was sent what belongs to 'ada': the header x-name, the status" in said


def test_routes_of_routers_and_of_mounted_applications_are_asked() -> None:
    app, sub, cache, router = FastAPI(), FastAPI(), Cache(), APIRouter(prefix="/inner")
    app.add_middleware(Visitors)
    cache.init_app(app)
    cache.init_app(sub)

    @router.get("/me/{number:int}")
    @cache.cached
    async def me(number: int) -> str:
        return visitor.get()

    sub.include_router(router)
    app.include_router(router, prefix="/outer")
    app.mount("/sub/{tenant}", sub)
    said = fault(app)
    assert {line.split(":")[0] for line in said.splitlines()} == {
        "GET /outer/inner/me/{number}",
        "GET /sub/{tenant}/inner/me/{number}",
    }


def test_three_orders_of_three_identities(served: Served) -> None:
    """One who is refused warms nothing; the others cross all the same."""
    app, cache = served

    def known(x_user: Annotated[str, Header()] = "") -> None:
        if not x_user:
            raise HTTPException(401)

    @app.get("/me", dependencies=[Depends(known)])
    @cache.cached(shared=True)
    async def me() -> str:
        return visitor.get()

    said = fault(app, {"nobody": {}, **TWO})
    assert "'bob' was sent what belongs to 'ada'" in said
    assert "'nobody' was sent" not in said


# What it leaves alone.


def test_pages_of_each_are_no_leak_and_it_says_that_they_were_told_apart(served: Served) -> None:
    app, cache = served

    @app.get("/me")
    @cache.cached
    async def me(x_user: Annotated[str, Header()]) -> str:
        return x_user

    @app.get("/news")
    @cache.cached
    async def news() -> str:
        return "the same for everyone"

    assert assert_no_leak(app, TWO) == [Replayed("/me", "/me", True), Replayed("/news", "/news", False)]


def test_what_changes_by_itself_accuses_nobody(served: Served) -> None:
    app, cache = served
    count = itertools.count()
    two = itertools.cycle([0, 0, 1])

    @app.get("/json")
    @cache.cached
    async def as_json(response: Response) -> dict[str, Any]:
        response.headers["x-number"] = str(next(count))
        return {"number": next(count), "odd": next(two), "same": 1}

    @app.get("/text", response_class=PlainTextResponse)
    @cache.cached
    async def as_text() -> str:
        return f"the {next(count)}th, {next(two)}"

    assert [one.differs for one in assert_no_leak(app, TWO)] == [False, False]


def test_what_looks_like_a_leak_once_has_to_do_so_again(served: Served) -> None:
    """A value that moves from one to the other while they are asked: no cache did that."""
    app, cache = served
    asked = itertools.count()

    @app.get("/turn")
    @cache.cached
    async def turn(x_user: Annotated[str, Header()]) -> bool:
        return (x_user == "secret-ada") == (next(asked) < 4)

    assert assert_no_leak(app, TWO)


def test_a_failure_that_nobody_has_by_himself_is_nobodys(served: Served) -> None:
    """Both lack what a failure lacks, but it has another status."""
    app, cache = served
    asked = itertools.count()

    @app.get("/me")
    @cache.cached
    async def me(x_user: Annotated[str, Header()]) -> dict[str, Any]:
        if next(asked) % 20 >= 8:  # four without the cache succeed, by two each; the twelve with it fail
            raise HTTPException(503, "unavailable")
        return {"number": next(asked), "shown": ["more"] if x_user == "secret-bob" else []}

    assert [one.differs for one in assert_no_leak(app, TWO)] == [True]


def test_an_application_that_raises_has_answered(served: Served) -> None:
    app, cache = served

    @app.get("/me")
    @cache.cached
    async def me(x_user: Annotated[str, Header()]) -> str:
        if x_user == "secret-ada":
            raise RuntimeError("on purpose")
        return x_user

    assert [one.differs for one in assert_no_leak(app, TWO)] == [True]


def test_identities_have_headers_cookies_and_queries_and_clients_have_logged_in(served: Served) -> None:
    app, cache = served

    @app.post("/login")
    def login(response: Response, name: Annotated[str, Body(embed=True)]) -> None:
        response.set_cookie("session", name)

    key = APIKeyQuery(name="api_key", auto_error=False)
    asked: list[tuple[str | None, str | None, str | None]] = []

    @app.get("/me")
    @cache.cached
    async def me(request: Request, api_key: Annotated[str | None, Depends(key)]) -> str:
        seen = (api_key, request.cookies.get("session"), request.headers.get("x-user"))
        asked.append(seen)
        return str(seen)

    client = TestClient(app)
    client.post("/login", json={"name": "carol"})
    identities: dict[str, Any] = {
        "ada": {"X-User": "ada"},
        "bob": Identity(cookies={"session": "bob"}, headers={"cookie": "other=1"}),
        "carol": client,
        "dave": Identity(query={"api_key": "d&v=e"}),
    }
    assert_no_leak(app, identities, paths={"/me": ["/me", "/me?api_key="]})
    assert set(asked) >= {(None, None, "ada"), (None, "bob", None), (None, "carol", None), ("d&v=e", None, None)}


# Whatever stores the pages, and whoever signs the cookies.


@pytest.fixture(params=itertools.product(KINDS, STORES), ids="-".join)
def lasting(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Site]:
    """A site whose visitors have sessions, over each of the backends."""
    kind, store = request.param
    site = Site(kind, make_backend(store, redis_url))
    site.app.add_middleware(SessionMiddleware, secret_key="of the application")

    @site.app.post("/login")
    def login(request: Request, name: Annotated[str, Body(embed=True)]) -> None:
        request.session["name"] = name

    yield site
    site.backend.close()


def logged_in(site: Site, name: str) -> TestClient:
    client = TestClient(site.app)
    assert client.post("/login", json={"name": name}).is_success
    return client


def name_in_session(request: Request) -> str:
    return str(request.session["name"])


def test_sessions_that_are_told_apart_are_no_leak(lasting: Site) -> None:
    runs: list[str] = []

    @lasting.page("/me", expire=60)
    def me(name: Annotated[str, Depends(name_in_session)]) -> str:
        runs.append(name)
        return name

    clients = {name: logged_in(lasting, name) for name in ("ada", "bob")}
    assert assert_no_leak(lasting.app, clients) == [Replayed("/me", "/me", True)]
    # Twice without the cache, once for each who may come first, and once for all at the same time.
    assert sorted(runs) == ["ada"] * 5 + ["bob"] * 5


def test_a_session_that_no_key_holds_is_found_whatever_was_stored_before(lasting: Site) -> None:
    @lasting.page("/me", expire=60)
    def me(request: Annotated[Request, NotKeyed]) -> str:
        return name_in_session(request)

    clients = {name: logged_in(lasting, name) for name in ("ada", "bob")}
    with logged_in(lasting, "carol") as carol:  # whose page would be anybody's, and nobody's of the two
        assert [carol.get("/me").json() for _ in range(2)] == ["carol"] * 2
    said = fault(lasting.app, clients)
    assert "'bob' was sent what belongs to 'ada': the body" in said
    assert "'ada' was sent what belongs to 'bob': the body" in said


# What it asks for.


class Colour(Enum):
    RED = "red"


class Filters(BaseModel):
    first: int
    second: Annotated[str, Query(alias="zweite", min_length=3)]
    third: str = ""


def of_dependency(size: Annotated[int, Query(ge=20)]) -> None:
    """Wants a parameter too."""


@pytest.mark.parametrize(
    "declare",
    [
        lambda app, c: app.get("/{a}/{b}/{c}/{d}/{e}")(c(_five)),
        lambda app, c: app.get("/q")(c(_queries)),
        lambda app, c: app.get("/m")(c(_model)),
        lambda app, c: app.get("/d", dependencies=[Depends(of_dependency)])(c(_nothing)),
        lambda app, c: app.get("/p/{rest:path}/{number:int}")(c(_convertors)),
        lambda app, c: app.get("/o")(c(_optional)),
    ],
)
def test_values_are_made_up_by_what_is_declared(declare: Callable[[FastAPI, Any], Any]) -> None:
    app, cache = FastAPI(), Cache()
    cache.init_app(app)
    declare(app, cache.cached)
    assert len(assert_no_leak(app, TWO)) == 1


async def _five(a: int, b: str, c: float, d: UUID, e: Colour) -> str:
    return "five"


async def _queries(
    a: bool, b: Annotated[int, Query(alias="bee", gt=50)], c: Annotated[list[int], Query()], e: Colour
) -> str:
    return "queries"


async def _model(filters: Annotated[Filters, Query()]) -> str:
    return "model"


async def _nothing() -> str:
    return "nothing"


async def _convertors(rest: str, number: int) -> str:
    return "convertors"


async def _optional(a: int | None = None, b: Annotated[str, Query(pattern="^z+$")] = "zz") -> str:
    return "optional"


def test_an_example_of_the_author_comes_first(served: Served) -> None:
    app, cache = served

    @app.get("/{code}")
    @cache.cached
    async def read(code: Annotated[str, Path(pattern="^z/?z+$", examples=["zz"])]) -> str:
        return code

    assert [one.url for one in assert_no_leak(app, TWO)] == ["/zz"]


def test_urls_are_given_where_they_matter(served: Served) -> None:
    app, cache = served

    @app.get("/items/{number}")
    @cache.cached
    async def item(number: int) -> str:
        if number < 100:
            raise HTTPException(404)
        return visitor.get()

    said = fault(app)
    assert said == "GET /items/{number}: not tested, everybody is answered with 404; give URLs that exist by paths="
    said = fault(app, paths={"/items/{number}": ["/items/100", "http://shop.example/items/101?x=1"]})
    assert "GET /items/{number}: 'bob'" in said
    assert "GET /items/{number} (its URL number 2): 'bob'" in said
    assert assert_no_leak(app, TWO, paths={"/items/{number}": ()}) == []


def test_a_redirection_that_no_route_made_proves_nothing(served: Served) -> None:
    app, cache = served
    app.add_middleware(HTTPSRedirectMiddleware)

    @app.get("/me")
    @cache.cached
    async def me() -> str:
        return visitor.get()

    assert "not tested, everybody is answered with 307" in fault(app)
    assert "'bob' was sent" in fault(app, paths={"/me": "https://shop.example/me"})


def test_what_cannot_be_made_up_is_a_fault_and_the_others_are_asked(served: Served) -> None:
    app, cache = served

    @app.get("/codes/{code}")
    @cache.cached
    async def code(code: Annotated[str, Path(pattern="^z+$")]) -> str:
        return code

    @app.get("/search")
    @cache.cached
    async def search(code: Annotated[str, Query(pattern="^z+$")]) -> str:
        return code

    @app.get("/me")
    @cache.cached
    async def me() -> str:
        return visitor.get()

    said = fault(app)
    assert "/codes/{code}: not tested, there is no value for the path parameter code; give URLs by paths=" in said
    assert "/search: not tested, there is no value for the query parameter code" in said
    assert "GET /me: 'bob' was sent" in said


def test_other_methods_are_asked_for_by_name(served: Served) -> None:
    app, cache = served

    @app.post("/search")
    @cache.cached
    async def search() -> str:
        return "found"

    @app.post("/with-body")
    @cache.cached
    async def with_body(name: Annotated[str, Body()]) -> str:
        return name

    assert fault(app) == "no route of the application for GET is cached, so nothing was tested"
    assert "/with-body: not tested, it wants a body" in fault(app, method="POST")
    assert len(assert_no_leak(app, TWO, method="POST", paths={"/with-body": ()})) == 1


def test_a_host_is_not_made_up() -> None:
    app, sub, cache = FastAPI(), FastAPI(), Cache()
    cache.init_app(sub)

    @sub.get("/me")
    @cache.cached
    async def me(x_user: Annotated[str, Header()]) -> str:
        return x_user

    app.router.routes.append(Host("{shop}.example", sub))
    assert "/me: not tested, it lies below a Host" in fault(app)
    assert [one.differs for one in assert_no_leak(app, TWO, paths={"/me": "https://a.example/me"})] == [True]


def test_a_cache_without_a_backend_proves_nothing() -> None:
    app, cache = FastAPI(), Cache()

    @app.get("/me")
    @cache.cached
    async def me() -> str:
        return "me"

    assert "the cache has no backend" in fault(app)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"app": object()}, TypeError, "takes the FastAPI application first, not a object"),
        ({"identities": {"ada": {}}}, ValueError, "at least two identities"),
        ({"identities": {"ada": {}, "bob": 5}}, TypeError, "not a int"),
        (
            {"paths": {"/you": "/you"}},
            ValueError,
            re.escape("no cached route has the path /you for GET; there are: /me"),
        ),
    ],
)
def test_what_is_wrong_with_its_arguments_is_said(
    served: Served, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    app, cache = served
    app.get("/me")(cache.cached(_nothing))
    with pytest.raises(error, match=words):
        assert_no_leak(**{"app": app, "identities": TWO, **given})


# How it asks.


def test_it_may_be_awaited_and_says_so() -> None:
    app, cache = FastAPI(), Cache()
    cache.init_app(app)
    app.get("/")(cache.cached(_nothing))

    async def test() -> None:
        with pytest.raises(RuntimeError, match="await aassert_no_leak"):
            assert_no_leak(app, TWO)
        assert len(await aassert_no_leak(app, TWO)) == 1

    asyncio.run(test())


@pytest.fixture
def lived() -> tuple[FastAPI, list[str]]:
    lives: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        lives.append("begins")
        yield {"name": "state"}
        lives.append("ends")

    app, cache = FastAPI(lifespan=lifespan), Cache()
    cache.init_app(app)

    def state(request: Request) -> str:
        lives.append("asked")
        return str(request.state.name)

    @app.get("/")
    @cache.cached(shared=True)
    async def read(name: Annotated[str, Depends(state)]) -> str:
        return name

    return app, lives


def test_the_lifespan_is_entered(lived: tuple[FastAPI, list[str]]) -> None:
    app, lives = lived
    for _ in range(2):
        lives.clear()
        assert_no_leak(app, TWO)
        assert (lives[0], lives[-1], set(lives[1:-1])) == ("begins", "ends", {"asked"})


def test_a_lifespan_that_runs_is_not_entered_again(lived: tuple[FastAPI, list[str]]) -> None:
    app, lives = lived
    with TestClient(app):
        assert_no_leak(app, TWO)
    assert (lives.count("begins"), lives.count("ends")) == (1, 1)
    lives.clear()
    assert_no_leak(app, TWO)
    assert (lives.count("begins"), lives.count("ends")) == (1, 1)
