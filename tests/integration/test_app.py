"""The cache in a FastAPI application: bound, injected, decorating endpoints, through several lives of the app."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from fast_cache import Cache, CacheBackend, CacheDep, InMemoryBackend, RedisBackend
from fast_cache import cache as global_cache
from tests.support.uvicorn_server import serve


class Item(BaseModel):
    id: int
    name: str = "Kettle"


def make_app(cache: Cache, backend: CacheBackend | None = None, *, late: bool = False) -> tuple[FastAPI, list[int]]:
    """A small application that counts the loads of its one cached endpoint."""
    app, loads = FastAPI(), []

    if not late:
        cache.init_app(app, backend)

    @app.get("/items/{item_id}")
    @cache.cached(expire=60)
    async def read_item(item_id: int) -> Item:
        loads.append(item_id)
        return Item(id=item_id)

    if late:
        cache.init_app(app, backend)
    return app, loads


@pytest.mark.parametrize("late", [False, True], ids=["before the routes", "after the routes"])
@pytest.mark.parametrize("lives", [False, True], ids=["without lifespan", "with lifespan"])
@pytest.mark.parametrize("store", ["memory", "redis"])
def test_an_endpoint_is_cached_as_the_type_it_returns(store: str, lives: bool, late: bool, redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="app") if store == "redis" else None
    app, loads = make_app(Cache(), backend, late=late)
    client = TestClient(app)
    if lives:
        with client:
            answers = [client.get("/items/1").json() for _ in range(3)]
    else:
        answers = [client.get("/items/1").json() for _ in range(3)]
    assert answers == [{"id": 1, "name": "Kettle"}] * 3
    assert loads == [1]


def test_the_quick_start_answers_over_a_real_wire() -> None:
    app, loads = make_app(Cache())
    with serve(app) as served, served.client() as client:
        assert [client.get("/items/1").json()["name"] for _ in range(3)] == ["Kettle"] * 3
        assert client.get("/items/2").json() == {"id": 2, "name": "Kettle"}
    assert loads == [1, 2]


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_one_app_lives_several_times(store: str, redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="app") if store == "redis" else None
    app, loads = make_app(Cache(), backend)
    for _ in range(3):
        with TestClient(app) as client:
            assert client.get("/items/1").json() == {"id": 1, "name": "Kettle"}
    assert loads == [1]


def test_the_lifespan_of_the_user_and_its_state_are_kept() -> None:
    told = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        told.append("up")
        yield {"name": "state of the user"}
        told.append("down")

    app = FastAPI(lifespan=lifespan)
    Cache().init_app(app)

    @app.get("/")
    def read(request: Request) -> str:
        return str(request.state.name)

    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").json() == "state of the user"
    assert told == ["up", "down"] * 2


def test_a_mounted_application_is_cached_though_its_lifespan_never_runs() -> None:
    cache = Cache()
    inner, loads = make_app(cache)
    outer = FastAPI()
    outer.mount("/inner", inner)
    with TestClient(outer) as client:
        assert [client.get("/inner/items/1").status_code for _ in range(2)] == [200, 200]
    assert loads == [1]


def test_the_handler_of_the_app_may_be_called_plainly_or_awaited() -> None:
    cache = Cache()
    app, other, third = FastAPI(), FastAPI(), FastAPI()
    backend = InMemoryBackend()
    cache.init_app(app, backend)
    app.state.cache_handler(other)

    async def awaited() -> None:
        await app.state.cache_handler(third)

    asyncio.run(awaited())
    assert cache.get_cache() is backend
    assert callable(other.state.cache_handler)
    assert callable(third.state.cache_handler)


def test_the_last_backend_counts() -> None:
    cache, app = Cache(), FastAPI()
    first, second = InMemoryBackend(), InMemoryBackend()
    loads = []

    @cache.cached
    def load() -> int:
        loads.append(1)
        return len(loads)

    cache.init_app(app, first)
    assert load() == 1
    cache.init_app(app, second)
    assert load() == 2
    cache.init_app(app, first)
    assert load() == 1


def test_the_backend_is_a_dependency_in_three_spellings() -> None:
    app = FastAPI()
    backend = InMemoryBackend()
    global_cache.init_app(app, backend)

    @app.get("/threaded")
    def threaded(store: Annotated[CacheBackend, Depends(global_cache.get_cache)]) -> bool:
        return store is backend

    @app.get("/awaited")
    async def awaited(store: Annotated[CacheBackend, Depends(global_cache.aget_cache)]) -> bool:
        return store is backend

    @app.get("/alias")
    async def alias(store: CacheDep) -> bool:
        return store is backend

    client = TestClient(app)
    assert [client.get(path).json() for path in ("/threaded", "/awaited", "/alias")] == [True, True, True]


def test_the_dependency_can_be_overridden() -> None:
    cache, app = Cache(), FastAPI()
    mine, theirs = InMemoryBackend(), InMemoryBackend()
    cache.init_app(app, mine)
    theirs.set("key", "of the test")

    @app.get("/")
    def read(store: Annotated[CacheBackend, Depends(cache.get_cache)]) -> Any:
        return store.get("key")

    client = TestClient(app)
    app.dependency_overrides[cache.get_cache] = lambda: theirs
    assert client.get("/").json() == "of the test"
    app.dependency_overrides.clear()
    assert client.get("/").json() is None


def test_before_init_app_there_is_no_backend_and_the_error_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"cache\.init_app\(app\)"):
        Cache().get_cache()


def test_two_users_of_one_endpoint_never_see_each_others_data() -> None:
    cache, app = Cache(), FastAPI()
    cache.init_app(app)
    loads = []

    def user(x_token: Annotated[str, Header()]) -> str:
        return {"a": "ada", "b": "bob"}[x_token]

    @app.get("/me")
    @cache.cached
    async def me(name: Annotated[str, Depends(user)]) -> dict[str, str]:
        loads.append(name)
        return {"name": name}

    client = TestClient(app)
    for _ in range(2):
        for token, name in (("a", "ada"), ("b", "bob")):
            assert client.get("/me", headers={"x-token": token}).json() == {"name": name}
    assert loads == ["ada", "bob"]


def test_an_endpoint_that_takes_the_request_is_answered_afresh_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    cache, app = Cache(), FastAPI()
    cache.init_app(app)

    @app.get("/me")
    @cache.cached
    async def who_takes_the_request(request: Request) -> str:
        return request.headers["x-user"]

    client = TestClient(app)
    answers = [client.get("/me", headers={"x-user": user}).json() for user in ("ada", "bob", "ada")]
    assert answers == ["ada", "bob", "ada"]
    warnings = [record.getMessage() for record in caplog.records if record.name == "fast_cache"]
    assert len(warnings) == 1
    assert "request" in warnings[0]


def test_an_endpoint_with_a_session_is_cached_past_the_session() -> None:
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
    cache, app = Cache(), FastAPI()
    cache.init_app(app)
    asked = []

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    @app.get("/sum/{number}")
    @cache.cached
    def total(number: int, database: Annotated[Session, Depends(session)]) -> int:
        asked.append(number)
        return int(database.execute(text("select :n + 1"), {"n": number}).scalar_one())

    client = TestClient(app)
    assert [client.get(f"/sum/{number}").json() for number in (1, 1, 2, 2)] == [2, 2, 3, 3]
    assert asked == [1, 2]
    engine.dispose()


def test_background_tasks_and_the_injected_response_do_their_work() -> None:
    cache, app = Cache(), FastAPI()
    cache.init_app(app)
    done: list[int] = []

    @app.get("/tasks/{number}")
    @cache.cached
    async def with_tasks(number: int, tasks: BackgroundTasks) -> int:
        tasks.add_task(done.append, number)
        return number

    @app.get("/response/{number}")
    @cache.cached
    async def with_response(number: int, response: Response) -> int:
        response.headers["x-number"] = str(number)
        return number

    client = TestClient(app)
    assert [client.get("/tasks/1").json() for _ in range(2)] == [1, 1]
    assert done == [1], "the tasks belong to the run of the endpoint"
    assert [client.get("/response/1").headers["x-number"] for _ in range(2)] == ["1", "1"]


def test_the_openapi_document_is_that_of_the_undecorated_endpoints() -> None:
    async def read(item_id: int, q: str = "x", name: Annotated[str | None, Header()] = None) -> Item:
        """Read it."""
        return Item(id=item_id)

    def document(endpoint: Any) -> Any:
        app = FastAPI()
        app.get("/items/{item_id}")(endpoint)
        return app.openapi()

    assert document(Cache().cached(read)) == document(read)


@pytest.mark.parametrize("kind", ["endpoint", "dependency"])
def test_what_yields_is_refused_at_decoration(kind: str) -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    def dependency() -> Iterator[int]:
        yield 1

    with pytest.raises(ValueError, match="read only once"):
        Cache().cached(stream if kind == "endpoint" else dependency)
