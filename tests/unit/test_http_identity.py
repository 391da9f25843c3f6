"""The verdict on a function: as an endpoint, as a dependency, behind other decorators, with credentials."""

import functools
from typing import Annotated, Any

import pytest
from fastapi import Cookie, Depends, FastAPI, Header, Request, WebSocket
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    HTTPBearer,
    OAuth2PasswordBearer,
)
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fast_cache.http.endpoint import EndpointSignature
from fast_cache.http.identity import Verdict, authorization_allowed, verdict
from fast_cache.keys.roles import Role
from tests.support.watched import (
    BEARER,
    COVERED,
    CREDENTIALS_COVERED,
    Endpoint,
    Session,
    Watched,
    get_agent,
    get_session,
    get_tenant,
    get_tenant_session,
    get_user,
    oauth2,
    reason,
    require_user,
)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_cached_dependency_is_judged_by_what_is_beneath_it(watched: Watched) -> None:
    def settings() -> str:
        return "settings"

    def items(session: Annotated[Session, Depends(get_tenant_session)]) -> str:
        return "items"

    cached_settings, cached_items = watched(settings), watched(items, session=Role.HANDLE)

    def read_settings(found: Annotated[str, Depends(cached_settings)]) -> str:
        return found

    def read_items(found: Annotated[str, Depends(cached_items)]) -> str:
        return found

    app = FastAPI(dependencies=[Depends(require_user)])
    app.get("/settings")(read_settings)
    app.get("/items")(read_items)
    assert watched.of(app, "/settings", headers=BEARER) == CREDENTIALS_COVERED
    assert "get_tenant reads header x-tenant, which no keyed parameter of items" in reason(
        watched.of(app, "/items", headers=BEARER)
    )


def test_the_parameter_of_a_cached_dependency_is_no_identity(watched: Watched) -> None:
    other = Watched()

    def settings() -> str:
        return "settings"

    def read(session: Annotated[Session, Depends(other(settings))]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert watched.of(app) == COVERED


def test_a_function_with_both_kinds_of_request_is_judged_by_its_own(watched: Watched) -> None:
    def read(request: Request, connection: HTTPConnection) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, request=Role.NOT_KEYED, connection=Role.NOT_KEYED))
    app.get("/unkeyed")(watched(read, request=Role.REQUEST, connection=Role.REQUEST))
    assert watched.of(app) == COVERED
    assert len(watched.of(app, "/unkeyed").reasons) == 2


def test_other_decorators_may_be_around_the_endpoint(watched: Watched) -> None:
    def read(session: Annotated[Session, Depends(get_session)]) -> str:
        return "read"

    def logged(fn: Endpoint) -> Endpoint:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return wrapper

    class View:
        def __init__(self, fn: Endpoint) -> None:
            self.fn = fn

        list = watched(lambda self: "list")
        __call__ = watched(lambda self: "called")

    app = FastAPI()
    app.get("/wrapped")(logged(logged(watched(read, session=Role.HANDLE))))
    app.get("/partial")(functools.partial(watched(read, session=Role.HANDLE)))
    app.get("/method")(View(read).list)
    app.get("/object")(View(read))
    for url in ("/wrapped", "/partial", "/method", "/object"):
        assert watched.of(app, url) == COVERED, url


def test_a_function_hidden_from_the_graph_is_not_cacheable(watched: Watched) -> None:
    inner = watched(lambda: "read")

    def outer(**kwargs: Any) -> Any:
        return inner(**kwargs)

    outer.__signature__ = EndpointSignature()  # type: ignore[attr-defined]
    app = FastAPI()
    app.get("/")(outer)
    assert "put functools.wraps on what is wrapped around it" in reason(watched.of(app))


def test_a_function_that_wraps_itself_is_not_followed_for_ever(watched: Watched) -> None:
    def outer(request: Request) -> str:
        watched.last = verdict(request, watched, {"request": Role.NOT_KEYED})
        return "read"

    app = FastAPI()
    app.get("/")(outer)
    outer.__wrapped__ = outer  # type: ignore[attr-defined]
    assert not watched.of(app).cacheable


def test_a_websocket_endpoint_is_not_cacheable(watched: Watched) -> None:
    class Talk:
        """Awaits, where ``Watched`` calls."""

        def __init__(self) -> None:
            self.verdict: Verdict | None = None

        async def __call__(self, websocket: WebSocket) -> None:
            await websocket.accept()
            self.verdict = watched.planner.verdict(websocket, talk, {})
            await websocket.close()

    talk = Talk()
    app = FastAPI()
    app.websocket("/")(talk)
    with TestClient(app).websocket_connect("/"):
        pass
    assert talk.verdict is not None
    assert reason(talk.verdict) == "Talk was called for a WebSocket, and only what HTTP requests call is cached"


# Authorization.


def get_cookie(authorization: Annotated[str, Cookie()] = "") -> str:
    return authorization


class FromCookie(OAuth2PasswordBearer):
    """A scheme that declares one thing and reads another, as many applications have it."""

    async def __call__(self, request: HTTPConnection) -> str | None:
        return request.cookies.get("token")


@pytest.mark.parametrize(
    ("dependency", "allowed"),
    [
        (oauth2, True),
        (get_user, True),
        (HTTPBearer(), True),
        (APIKeyHeader(name="Authorization"), True),
        (APIKeyHeader(name="x-key", auto_error=False), False),
        (APIKeyCookie(name="authorization", auto_error=False), False),
        (FromCookie("token"), False),
        (get_cookie, False),
        (get_tenant, False),
        (get_agent, False),
        (get_session, False),
    ],
)
def test_credentials_need_a_keyed_parameter_that_reads_them(
    watched: Watched, dependency: Endpoint, allowed: bool
) -> None:
    def read(who: Annotated[Any, Depends(dependency)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read))
    found = watched.of(app, headers=BEARER)
    assert found.cacheable
    assert authorization_allowed(found, Headers({"Authorization": "Bearer ada"})) is allowed
    assert authorization_allowed(found, Headers({"x-key": "ada"}))


def test_the_endpoints_own_authorization_header_is_enough(watched: Watched) -> None:
    def read(authorization: Annotated[str, Header()]) -> str:
        return authorization

    def read_alias(token: Annotated[str, Header(alias="Authorization")]) -> str:
        return token

    app = FastAPI()
    app.get("/own")(watched(read))
    app.get("/alias")(watched(read_alias, token=Role.HASHED))
    assert watched.of(app, "/own", headers=BEARER) == CREDENTIALS_COVERED
    assert watched.of(app, "/alias", headers=BEARER) == CREDENTIALS_COVERED


def test_an_endpoint_that_reads_nothing_has_no_say_over_credentials(watched: Watched) -> None:
    app = FastAPI()
    app.get("/")(watched(lambda: "read"))
    app.get("/shared")(watched(lambda: "read", shared=True))
    assert not watched.of(app, headers=BEARER).authorization
    assert watched.of(app, "/shared", headers=BEARER).authorization
