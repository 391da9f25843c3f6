"""The parameter that FastAPI sees and nobody else."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, Query, Request, Response, WebSocket, routing
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fast_cache.errors import ConfigurationError
from fast_cache.http.endpoint import REQUEST_PARAMETER, RESPONSE_PARAMETER, EndpointSignature

LAZY = hasattr(routing, "iter_route_contexts")
"""Whether FastAPI is one that keeps included routers as they are."""

OURS = [REQUEST_PARAMETER, RESPONSE_PARAMETER]


def observed(fn: Callable[..., Any], seen: list[Any] | None = None) -> Callable[..., Any]:
    """``fn`` with the signature of a cached function; what FastAPI hands over is put into ``seen``."""
    connections = seen if seen is not None else []

    @functools.wraps(fn)
    async def suspending(
        *args: Any, fast_cache_request__: Any = None, fast_cache_response__: Any = None, **kwargs: Any
    ) -> Any:
        connections.append(fast_cache_request__)
        return await fn(*args, **kwargs)

    @functools.wraps(fn)
    def blocking(*args: Any, fast_cache_request__: Any = None, fast_cache_response__: Any = None, **kwargs: Any) -> Any:
        connections.append(fast_cache_request__)
        return fn(*args, **kwargs)

    wrapper: Any = suspending if inspect.iscoroutinefunction(fn) else blocking
    wrapper.__signature__ = EndpointSignature.of(fn)
    return wrapper  # type: ignore[no-any-return]


class Item(BaseModel):
    name: str


async def _get_user(x_user: Annotated[str, Header()]) -> str:
    return x_user


async def _everything(
    item_id: int,
    item: Item,
    user: Annotated[str, Depends(_get_user)],
    tasks: BackgroundTasks,
    response: Response,
    *,
    q: Annotated[list[str] | None, Query()] = None,
    limit: int = 10,
) -> dict[str, Any]:
    response.headers["x-seen"] = "yes"
    return {"item_id": item_id, "item": item.name, "user": user, "q": q, "limit": limit}


def _plain(a: int, b: str = "b") -> str:
    return f"{a}{b}"


def _mixed(a: int, /, b: int, *args: int, c: int = 1, **kwargs: int) -> None: ...


class _Shop:
    @observed
    def price(self, item_id: int) -> int:
        return item_id


def as_fastapi_reads(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    """``signature.parameters`` as read by code that lives in FastAPI."""
    namespace: dict[str, Any] = {"__name__": "fastapi.dependencies.utils", "signature": signature}
    exec("parameters = signature.parameters", namespace)
    return dict(namespace["parameters"])


@pytest.mark.parametrize("fn", [_everything, _plain, _mixed, _Shop().price, len])
def test_introspection_sees_the_functions_own_signature(fn: Any) -> None:
    own, shown = inspect.signature(fn), EndpointSignature.of(fn)
    assert shown == own
    assert own == shown
    assert hash(shown) == hash(own)
    assert str(shown) == str(own)
    assert list(shown.parameters) == list(own.parameters)
    assert list(shown.parameters.values()) == list(own.parameters.values())
    assert shown.return_annotation == own.return_annotation
    assert inspect.signature(observed(fn)) == own


def test_bind_accepts_what_the_function_accepts() -> None:
    shown = EndpointSignature.of(_plain)
    assert shown.bind(1, b="c").arguments == {"a": 1, "b": "c"}
    with pytest.raises(TypeError):
        shown.bind(1, **{REQUEST_PARAMETER: None})


def test_fastapi_sees_two_more_keyword_only_parameters() -> None:
    read = as_fastapi_reads(EndpointSignature.of(_plain))
    assert list(read) == ["a", "b", *OURS]
    assert read[REQUEST_PARAMETER].kind is inspect.Parameter.KEYWORD_ONLY
    assert issubclass(read[REQUEST_PARAMETER].annotation, HTTPConnection)


def test_only_fastapi_itself_sees_it() -> None:
    for name in ("fastapi_users", "fastapix.utils", "starlette.routing", ""):
        namespace: dict[str, Any] = {"__name__": name, "signature": EndpointSignature.of(_plain)}
        exec("parameters = signature.parameters", namespace)
        assert list(namespace["parameters"]) == ["a", "b"], name


def test_it_stands_where_a_signature_allows_it() -> None:
    read = as_fastapi_reads(EndpointSignature.of(_mixed))
    assert list(read) == ["a", "b", "args", "c", *OURS, "kwargs"]
    inspect.Signature(list(read.values()))  # raises for a wrong order


def _takes_its_own(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(a: int, b: str = "b") -> Any:
        return fn(a, b)

    return wrapper


def test_a_decorator_with_no_room_for_it_is_refused_where_fastapi_reads_it() -> None:
    covered = _takes_its_own(observed(_plain))
    assert list(inspect.signature(covered).parameters) == ["a", "b"]
    with pytest.raises(ConfigurationError) as caught:
        FastAPI().get("/{a}")(covered)
    assert str(caught.value) == (
        f"{__name__}._takes_its_own.<locals>.wrapper is wrapped around a cached function and takes only parameters of "
        "its own, so the cache can't learn for which request it is called; let it take *args and **kwargs and pass "
        "them on, or put @cache.cached above it"
    )


def test_a_c_function_around_it_passes_it_on() -> None:
    seen: list[Any] = []
    app = FastAPI()
    app.get("/{a}")(functools.lru_cache(observed(_plain, seen)))
    assert TestClient(app).get("/1").json() == "1b"
    assert isinstance(seen[0], Request)


def test_copies_keep_the_class_and_the_secret() -> None:
    shown = EndpointSignature.of(_plain)
    for other in (pickle.loads(pickle.dumps(shown)), copy.copy(shown), copy.deepcopy(shown), shown.replace()):
        assert other == shown
        assert list(as_fastapi_reads(other)) == ["a", "b", *OURS]


def test_what_derives_a_signature_still_gets_the_request() -> None:
    shown = observed(_plain)
    partial = inspect.signature(functools.partial(shown, 1))
    assert list(partial.parameters) == ["b"]
    assert list(as_fastapi_reads(partial)) == ["b", *OURS]
    method = inspect.signature(_Shop().price)
    assert list(method.parameters) == ["item_id"]
    assert list(as_fastapi_reads(method)) == ["item_id", *OURS]


def test_a_signature_rebuilt_by_fastapi_has_it_once() -> None:
    shown = EndpointSignature.of(_plain)
    again = shown.replace(parameters=list(as_fastapi_reads(shown).values()))
    assert list(as_fastapi_reads(again)) == ["a", "b", *OURS]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in Python 3.13")
def test_copy_replace_keeps_the_class() -> None:
    other = vars(copy)["replace"](EndpointSignature.of(_plain), return_annotation=int)
    assert other.return_annotation is int
    assert list(as_fastapi_reads(other)) == ["a", "b", *OURS]


def test_an_endpoint_gets_its_request_and_its_arguments() -> None:
    seen: list[Any] = []
    app = FastAPI()
    app.post("/items/{item_id}")(observed(_everything, seen))
    answer = TestClient(app).post("/items/3?q=a&q=b&limit=5", json={"name": "pen"}, headers={"x-user": "ada"})
    assert answer.json() == {"item_id": 3, "item": "pen", "user": "ada", "q": ["a", "b"], "limit": 5}
    assert answer.headers["x-seen"] == "yes"
    [request] = seen
    assert isinstance(request, Request)
    assert request.url.path == "/items/3"


def test_a_plain_def_in_the_thread_pool_gets_its_request() -> None:
    seen: list[Any] = []
    app = FastAPI()
    app.get("/{a}")(observed(_plain, seen))
    assert TestClient(app).get("/1?b=x").json() == "1x"
    assert isinstance(seen[0], Request)


def test_a_dependency_gets_the_request_it_is_solved_for() -> None:
    seen: list[Any] = []
    app = FastAPI()

    app.get("/")(_depending_on(observed(_get_user, seen)))
    assert TestClient(app).get("/", headers={"x-user": "ada"}).json() == "ada"
    assert isinstance(seen[0], Request)


def test_a_method_of_an_instance_gets_its_request() -> None:
    seen: list[Any] = []

    class Shop:
        def price(self, item_id: int) -> int:
            return item_id * 2

    Shop.price = observed(Shop.price, seen)  # type: ignore[method-assign]
    app = FastAPI()
    app.get("/{item_id}")(Shop().price)
    assert TestClient(app).get("/4").json() == 8
    assert isinstance(seen[0], Request)


def test_a_call_of_the_function_carries_no_request() -> None:
    seen: list[Any] = []
    assert observed(_plain, seen)(1, b="c") == "1c"
    assert seen == [None]


def test_openapi_is_the_same_as_without() -> None:
    plain, cached = FastAPI(), FastAPI()
    for app, decorate in ((plain, lambda fn: fn), (cached, observed)):
        app.post("/items/{item_id}")(decorate(_everything))
        app.get("/plain/{a}")(decorate(_plain))
        app.get("/request")(decorate(_with_request))
        app.get("/both")(decorate(_with_both))
        app.get("/dependency")(_depending_on(decorate(_get_user)))
    assert cached.openapi() == plain.openapi()
    assert "fast_cache" not in str(cached.openapi())


def _depending_on(dependency: Callable[..., Any]) -> Callable[..., Any]:
    def read(user: str = Depends(dependency)) -> str:
        return user

    return read


def _with_request(request: Request, q: str = "") -> str:
    return request.url.path + q


def _with_connection(connection: HTTPConnection) -> str:
    return connection.url.path


def _with_both(request: Request, connection: HTTPConnection) -> bool:
    return request is connection


def _with_annotated(request: Annotated[Request, "doc"], connection: Annotated[HTTPConnection, "doc"]) -> bool:
    return request is connection


def _depending_connection(connection: Annotated[HTTPConnection, Depends(_with_request)]) -> str:
    return str(connection)


@pytest.mark.parametrize(
    ("fn", "answer"),
    [
        (_with_request, "/"),
        (_with_connection, "/"),
        (_with_both, True),
        (_with_annotated, True),
        pytest.param(
            *(_depending_connection, "/"),
            marks=pytest.mark.skipif(not LAZY, reason="this FastAPI allows no Depends on a parameter of that type"),
        ),
    ],
)
def test_nothing_is_taken_from_the_endpoints_own_request_parameters(fn: Callable[..., Any], answer: object) -> None:
    """FastAPI fills one parameter of a kind: a second ``Request`` would leave the user's own empty."""
    seen: list[Any] = []
    app = FastAPI()
    app.get("/")(observed(fn, seen))
    assert TestClient(app).get("/").json() == answer
    assert isinstance(seen[0], Request)


def test_nothing_is_taken_from_a_methods_own_request_parameter() -> None:
    """Its signature is derived from the function's, and its annotations are text."""

    class Page:
        def path(self, connection: HTTPConnection) -> str:
            return connection.url.path

    seen: list[Any] = []
    Page.path = observed(Page.path, seen)  # type: ignore[method-assign]
    app = FastAPI()
    app.get("/")(Page().path)
    assert TestClient(app).get("/").json() == "/"
    assert isinstance(seen[0], Request)


def test_a_websocket_endpoint_gets_its_websocket() -> None:
    seen: list[Any] = []

    async def talk(websocket: WebSocket, q: str = "") -> None:
        await websocket.accept()
        await websocket.send_text(q)
        await websocket.close()

    app = FastAPI()
    app.websocket("/")(observed(talk, seen))
    with TestClient(app).websocket_connect("/?q=hello") as socket:
        assert socket.receive_text() == "hello"
    assert isinstance(seen[0], WebSocket)


def test_annotations_that_are_text_are_resolved_as_without() -> None:
    """This module postpones its annotations; these name what only the module's globals know."""
    assert isinstance(_everything.__annotations__["item"], str)
    app = FastAPI()
    app.post("/{item_id}")(observed(_everything))
    answer = TestClient(app).post("/1", json={"wrong": 1}, headers={"x-user": "ada"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "name"]


def _local_model() -> Callable[..., Any]:
    class Local(BaseModel):
        name: str

    def create(item: Local) -> str:
        return item.name

    return create


def _local_request() -> Callable[..., Any]:
    from starlette.requests import Request as Incoming

    def read(request: Incoming) -> str:
        return "read"

    return read


@pytest.mark.parametrize("make", [_local_model, _local_request])
def test_annotations_that_name_locals_fare_as_without(make: Callable[[], Callable[..., Any]]) -> None:
    """FastAPI can't resolve them, decorated or not: whatever it does then, it does the same."""

    def outcome(fn: Callable[..., Any]) -> Any:
        app = FastAPI()
        try:
            app.post("/")(fn)
            answer = TestClient(app).post("/", json={"name": "pen"})
            return answer.status_code, answer.json(), app.openapi()
        except Exception as error:
            return type(error), str(error)

    assert outcome(observed(make())) == outcome(make())
