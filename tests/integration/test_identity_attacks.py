"""Endpoints from whose cache one visitor, tenant or caller could get what another one caused."""

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, Query, Request, Response, Security, routing
from fastapi.security import HTTPBearer, SecurityScopes
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from fast_cache import Cache, ConfigurationError, NotKeyed

Served = tuple[FastAPI, Cache, TestClient]

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")

TWO_VISITORS = ("ada", "bob")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once in a process; each of these tests is to hear its own."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@pytest.fixture
def served() -> Served:
    cache, app = Cache(), FastAPI()
    cache.init_app(app)
    return app, cache, TestClient(app)


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def answers(client: TestClient, url: str = "/", visitors: tuple[str, ...] = TWO_VISITORS) -> list[Any]:
    return [client.get(url, headers={"x-user": name}).json() for name in visitors]


def x_user(x_user: Annotated[str, Header()] = "") -> str:
    return x_user


# What an endpoint does to its Response.


def test_status_headers_and_cookies_are_the_same_on_every_request(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    app, cache, client = served

    @app.get("/{item_id}")
    @cache.cached
    def read(item_id: int, response: Response) -> str:
        response.status_code = 404
        response.headers["x-made-by"] = "read"
        response.set_cookie("seen", "yes")
        return "none"

    for _ in range(2):
        answer = client.get("/1")
        assert (answer.status_code, answer.headers["x-made-by"], answer.cookies["seen"]) == (404, "read", "yes")
    assert "is not stored: its status is 404" in said(caplog)


@pytest.mark.skipif(
    not hasattr(routing, "iter_route_contexts"), reason="this FastAPI allows no Depends on a parameter of that type"
)
def test_a_response_that_a_dependency_hands_on_is_the_endpoints_too(served: Served) -> None:
    app, cache, client = served

    def handed_on(response: Response) -> Response:
        return response

    @app.get("/", response_model=None)
    @cache.cached
    def read(answer: Annotated[Response, Depends(handed_on)]) -> str:
        answer.status_code = 404
        return "none"

    assert [client.get("/").status_code for _ in range(2)] == [404, 404]


def test_a_key_builder_does_not_answer_for_the_response(served: Served) -> None:
    app, cache, client = served

    @app.get("/")
    @cache.cached(key_builder=lambda response: "all")
    def read(response: Response) -> str:
        response.status_code = 404
        return "none"

    assert [client.get("/").status_code for _ in range(2)] == [404, 404]


def test_a_response_that_the_author_answers_for_and_one_of_a_dependency_leave_the_endpoint_cached(
    served: Served,
) -> None:
    app, cache, client = served
    loads: list[str] = []

    def stamp(response: Response) -> None:
        response.headers["x-stamp"] = "yes"

    @app.get("/", dependencies=[Depends(stamp)])
    @cache.cached
    def read(response: Annotated[Response, NotKeyed], tasks: BackgroundTasks) -> int:
        loads.append("read")
        return len(loads)

    for _ in range(2):
        answer = client.get("/")
        assert (answer.json(), answer.headers["x-stamp"]) == (1, "yes")


def test_request_response_tasks_and_a_session_all_arrive(served: Served) -> None:
    app, cache, client = served
    done: list[int] = []

    def session() -> Iterator[Session]:
        with Session() as opened:
            yield opened

    @app.get("/{item_id}")
    @cache.cached
    def read(
        item_id: int,
        request: Request,
        response: Response,
        tasks: BackgroundTasks,
        session: Annotated[Session, Depends(session)],
    ) -> str:
        response.headers["x-path"] = request.url.path
        tasks.add_task(done.append, item_id)
        return f"{type(session).__name__} {item_id}"

    for _ in range(2):
        answer = client.get("/3")
        assert (answer.json(), answer.headers["x-path"]) == ("Session 3", "/3")
    assert done == [3, 3]


# What tells no two visitors apart covers nothing.


async def lays_down_and_returns(user: Annotated[str, Depends(x_user)]) -> None:
    visitor.set(user)


async def lays_down_and_says_yes(user: Annotated[str, Depends(x_user)]) -> bool:
    visitor.set(user)
    return True


async def lays_down_and_yields(user: Annotated[str, Depends(x_user)]) -> AsyncIterator[None]:
    visitor.set(user)
    yield


async def lays_down_unannotated(user=Depends(x_user)):  # type: ignore[no-untyped-def]  # noqa: B008
    if not user:
        return False
    visitor.set(user)
    return None


async def lays_down_and_says_anything(user: Annotated[str, Depends(x_user)]) -> Any:
    visitor.set(user)
    return bool(user)


async def lays_down_with_scopes(scopes: SecurityScopes, user: Annotated[str, Depends(x_user)]) -> None:
    visitor.set(user)


class LaysDown:
    async def __call__(self, user: Annotated[str, Depends(x_user)]) -> bool | None:
        visitor.set(user)
        return None


@pytest.mark.parametrize(
    "guard",
    [
        Annotated[None, Depends(lays_down_and_returns)],
        Annotated[Any, Depends(lays_down_and_returns)],
        Annotated[bool, Depends(lays_down_and_says_yes)],
        Annotated[Any, Depends(lays_down_and_says_yes)],
        Annotated[bool | None, Depends(lays_down_and_says_anything)],
        Annotated[Any, Depends(lays_down_and_yields)],
        Annotated[Any, Depends(lays_down_unannotated)],
        Annotated[None, Security(lays_down_with_scopes, scopes=["read"])],
        Annotated[Any, Depends(LaysDown())],
    ],
)
def test_a_result_of_nothing_or_a_bool_covers_no_identity(
    served: Served, guard: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app, cache, client = served

    for path in ("/own", "/shared"):
        app.get(path)(_annotated(cache, guard, shared=path == "/shared"))
    assert answers(client, "/own") == ["ada", "bob"]
    assert "runs uncached: guard " in said(caplog)
    assert answers(client, "/shared") == ["ada", "ada"]


def _annotated(cache: Cache, guard: Any, *, shared: bool) -> Any:
    async def read(_: guard) -> str:
        return visitor.get()

    return cache.cached(shared=shared)(read)


def test_a_session_beneath_a_result_of_nothing_is_not_covered_by_it(served: Served) -> None:
    app, cache, client = served

    def session(_: Annotated[bool, Depends(lays_down_and_says_yes)], user: Annotated[str, Depends(x_user)]) -> Session:
        opened = Session()
        opened.info["user"] = user
        return opened

    @app.get("/")
    @cache.cached
    async def read(
        _: Annotated[bool, Depends(lays_down_and_says_yes)], session: Annotated[Session, Depends(session)]
    ) -> Any:
        return session.info["user"]

    assert answers(client) == ["ada", "bob"]


def test_none_is_a_visitor_where_a_user_is_optional(served: Served) -> None:
    app, cache, client = served
    loads: list[str | None] = []

    def optional_user(user: Annotated[str, Depends(x_user)]) -> str | None:
        return user or None

    @app.get("/")
    @cache.cached
    def read(user: Annotated[str | None, Depends(optional_user)]) -> int:
        loads.append(user)
        return len(loads)

    assert answers(client, visitors=("ada", "", "ada", "")) == [1, 2, 1, 2]


def test_a_scheme_that_lets_everyone_in_tells_who_did_not_say(served: Served) -> None:
    app, cache, client = served
    loads: list[Any] = []

    @app.get("/")
    @cache.cached
    def read(credentials: Annotated[Any, Depends(HTTPBearer(auto_error=False))]) -> int:
        loads.append(credentials)
        return len(loads)

    tokens: tuple[dict[str, str], ...] = ({"authorization": "Bearer ada"}, {"authorization": "Bearer bob"}, {})
    assert [client.get("/", headers=headers).json() for headers in (*tokens, *tokens)] == [1, 2, 3, 1, 2, 3]


def test_a_bool_and_a_result_of_nothing_that_read_nothing_leave_the_endpoint_cached(served: Served) -> None:
    app, cache, client = served
    loads: list[bool] = []

    async def count() -> None: ...

    @app.get("/")
    @cache.cached
    def read(_: Annotated[None, Depends(count)], fast: Annotated[bool, Query()] = False) -> int:
        loads.append(fast)
        return len(loads)

    assert [client.get(url).json() for url in ("/", "/?fast=1", "/", "/?fast=1")] == [1, 2, 1, 2]


# One application for each tenant.


def get_db() -> Session:
    raise NotImplementedError


def tenants_db(name: str) -> Callable[[], Session]:
    def db() -> Session:
        opened = Session()
        opened.info["tenant"] = name
        return opened

    return db


def app_of(name: str, cache: Cache, router: APIRouter) -> TestClient:
    app = FastAPI()
    cache.init_app(app)
    app.include_router(router)
    app.dependency_overrides[get_db] = tenants_db(name)
    return TestClient(app)


@pytest.mark.parametrize("options", [{}, {"shared": True}, {"key": "all"}])
@pytest.mark.parametrize("deep", [False, True])
def test_applications_that_override_a_handle_share_nothing(
    options: dict[str, Any], deep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cache, router = Cache(), APIRouter()

    def through(db: Annotated[Session, Depends(get_db)]) -> Session:
        return db

    @router.get("/")
    @cache.cached(**options)
    def read(db: Annotated[Session, Depends(through if deep else get_db)]) -> Any:
        return db.info["tenant"]

    clients = [app_of(name, cache, router) for name in TWO_VISITORS]
    assert [client.get("/").json() for client in clients] == list(TWO_VISITORS)
    assert "dependency_overrides puts db beneath db of read" in said(caplog)


def test_the_author_answers_for_a_handle_that_applications_override() -> None:
    cache, router = Cache(), APIRouter()

    @router.get("/")
    @cache.cached
    def read(db: Annotated[Session, Depends(get_db), NotKeyed]) -> Any:
        return db.info["tenant"]

    clients = [app_of(name, cache, router) for name in TWO_VISITORS]
    assert [client.get("/").json() for client in clients] == ["ada", "ada"]


def test_an_override_of_what_is_in_the_key_leaves_the_endpoint_cached() -> None:
    cache, router = Cache(), APIRouter()
    loads: list[str] = []

    @router.get("/")
    @cache.cached
    def read(user: Annotated[str, Depends(get_db)]) -> int:
        loads.append(user)
        return len(loads)

    clients = [app_of(name, cache, router) for name in TWO_VISITORS]
    for client, name in zip(clients, TWO_VISITORS, strict=True):
        assert isinstance(client.app, FastAPI)
        client.app.dependency_overrides[get_db] = functools.partial(lambda name: name, name)
    assert [client.get("/").json() for client in (*clients, *clients)] == [1, 2, 1, 2]


# Endpoints that are called as functions.


def visitors_session(user: Annotated[str, Depends(x_user)]) -> Session:
    opened = Session()
    opened.info["user"] = user
    return opened


def test_a_visitors_session_has_no_key_in_a_plain_call(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    app, cache, client = served

    @cache.cached
    async def read(session: Annotated[Session, Depends(visitors_session)]) -> Any:
        return session.info["user"]

    @cache.cached
    async def read_any(session=Depends(visitors_session)) -> Any:  # type: ignore[no-untyped-def]  # noqa: B008
        return session.info["user"]

    @app.get("/")
    async def through(session: Annotated[Session, Depends(visitors_session)]) -> Any:
        return [await read(session), await read(session=session), await read_any(session)]

    assert answers(client) == [["ada"] * 3, ["bob"] * 3]
    assert "a dependency makes it of who asks" in said(caplog)


def test_a_session_that_is_nobodys_is_left_out_of_plain_calls() -> None:
    cache = Cache()
    cache.init_app(FastAPI())
    loads: list[int] = []

    @cache.cached
    async def read(item: int, session: Annotated[Session, Depends(get_db)]) -> int:
        loads.append(item)
        return len(loads)

    assert [asyncio.run(read(1, Session())) for _ in range(2)] == [1, 1]


def test_a_visitors_session_is_covered_by_the_visitor_in_the_key(served: Served) -> None:
    app, cache, client = served
    loads: list[str] = []

    @app.get("/")
    @cache.cached
    def read(user: Annotated[str, Depends(x_user)], session: Annotated[Session, Depends(visitors_session)]) -> int:
        loads.append(session.info["user"])
        return len(loads)

    assert answers(client, visitors=("ada", "bob", "ada", "bob")) == [1, 2, 1, 2]


# Decorators above the cache.


def takes_its_own(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(item_id: int) -> Any:
        return await fn(item_id)

    return wrapper


def passes_on(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


class TakesItsOwn:
    def __init__(self, fn: Any) -> None:
        functools.update_wrapper(self, fn)

    async def __call__(self, item_id: int) -> Any: ...


@pytest.mark.parametrize(
    "above",
    [
        takes_its_own,
        lambda fn: passes_on(takes_its_own(fn)),
        lambda fn: takes_its_own(passes_on(fn)),
        lambda fn: functools.partial(takes_its_own(fn)),
        TakesItsOwn,
    ],
)
@pytest.mark.parametrize("dependency", [False, True])
def test_a_decorator_that_does_not_pass_the_request_on_is_refused_at_once(
    served: Served, above: Callable[[Any], Any], dependency: bool
) -> None:
    app, cache, _ = served

    @cache.cached
    async def read(item_id: int) -> int:
        return item_id

    covered = above(read)

    async def depending(item: Annotated[Any, Depends(covered)]) -> Any:
        return item

    with pytest.raises(ConfigurationError, match=r"\*args and \*\*kwargs and pass them on, or put @cache.cached above"):
        app.get("/{item_id}")(depending if dependency else covered)


@pytest.mark.parametrize(
    "above",
    [
        passes_on,
        lambda fn: passes_on(passes_on(fn)),
        lambda fn: functools.partial(fn),
        lambda fn: functools.partial(passes_on(fn)),
    ],
)
def test_a_decorator_that_passes_everything_on_is_served_from_the_cache(
    served: Served, above: Callable[[Any], Any]
) -> None:
    app, cache, client = served
    loads: list[int] = []

    @cache.cached
    async def read(item_id: int) -> int:
        loads.append(item_id)
        return len(loads)

    class Shop:
        @cache.cached
        def price(self: Annotated[Any, NotKeyed], item_id: int) -> int:
            loads.append(item_id)
            return len(loads)

    app.get("/{item_id}")(above(read))
    app.get("/shop/{item_id}")(Shop().price)
    assert [client.get(url).json() for url in ("/1", "/shop/1", "/1", "/shop/1")] == [1, 2, 1, 2]


def test_decorators_beneath_the_cache_may_take_what_they_like(served: Served) -> None:
    app, cache, client = served
    loads: list[int] = []

    async def read(item_id: int) -> int:
        loads.append(item_id)
        return len(loads)

    app.get("/{item_id}")(cache.cached(takes_its_own(read)))
    assert [client.get("/1").json() for _ in range(2)] == [1, 1]


# One function on several terms.


def test_two_wrappers_of_one_function_on_one_route_are_judged_apart(served: Served) -> None:
    app, cache, client = served

    async def whose(session: Annotated[Session, Depends(visitors_session)]) -> Any:
        return session.info["user"]

    for_all, for_one = cache.cached(shared=True, namespace="all")(whose), cache.cached(namespace="one")(whose)

    @app.get("/")
    async def read(a: Annotated[str, Depends(for_all)], b: Annotated[str, Depends(for_one)]) -> list[str]:
        return [a, b]

    assert answers(client) == [["ada", "ada"], ["ada", "bob"]]
