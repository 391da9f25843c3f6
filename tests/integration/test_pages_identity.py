"""Two visitors never get each other's page, however they say who they are: status, headers and body.

Every way of saying it runs over real applications, with sync and async endpoints, whoever comes first, and all at
once. And the cache is not idle: an endpoint runs once for each visitor, or it says why it is not cached.
"""

import asyncio
import base64
import functools
import hashlib
import hmac
import itertools
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2 as httpx
import itsdangerous
import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import JSONResponse
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
    OAuth2PasswordBearer,
    SecurityScopes,
)
from pydantic import BaseModel, Field, SecretStr
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fast_cache import Cache, InMemoryBackend, NotKeyed
from fast_cache.testing import Identity, assert_no_leak

MODES = ("sync", "async")

BEFORE_ROUTING, AFTER_DEPENDENCIES, UNCACHED = "before routing", "after dependencies", "uncached"

TOKENS = {"token-of-ada": "ada", "token-of-bob": "bob"}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once in a process; each of these tests is to hear its own."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


class World:
    """An application with a cache, whose endpoints are counted when they run."""

    def __init__(self, mode: str = "async", **options: Any) -> None:
        self.cache = Cache()
        self.backend = InMemoryBackend()
        self.app = FastAPI(**options)
        self.cache.init_app(self.app, self.backend, default_expire=60)
        self.mode = mode
        self.runs: Counter[str] = Counter()

    def cached(self, fn: Callable[..., Any], **options: Any) -> Any:
        """``fn`` as an endpoint of this world's mode that is cached."""
        if self.mode == "sync":
            return self.cache.cached(**options)(fn)

        @functools.wraps(fn)
        async def suspending(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return fn(*args, **kwargs)

        return self.cache.cached(**options)(suspending)

    def page(self, user: str, response: Response) -> dict[str, str]:
        """What an endpoint does: a body, a header, and for some a status of their own."""
        self.runs[user] += 1
        response.headers["x-page-of"] = user
        return {"user": user}

    def row(self, path: str = "/me") -> Any:
        (row,) = [row for row in self.cache.explain(self.app) if row.path == path]
        return row


def get(client: TestClient, identity: Identity, url: str = "/me", **headers: str) -> Any:
    return client.get(url, params=dict(identity.query) or None, headers={**sent(identity), **headers})


def sent(identity: Identity) -> dict[str, str]:
    cookie = "; ".join(f"{name}={value}" for name, value in identity.cookies.items())
    return {**identity.headers, **({"cookie": cookie} if cookie else {})}


def bearer(token: str) -> Identity:
    return Identity(headers={"authorization": f"Bearer {token}"})


def x_user(name: str) -> Identity:
    return Identity(headers={"x-user": name})


# The ways of saying who one is.

BEARERS = {user: bearer(token) for token, user in TOKENS.items()}
X_USERS = {user: x_user(user) for user in TOKENS.values()}

oauth2 = OAuth2PasswordBearer(tokenUrl="token")


def user_of_token(token: Annotated[str, Depends(oauth2)]) -> str:
    if token not in TOKENS:
        raise HTTPException(403)
    return TOKENS[token]


def user_in_header(x_user: Annotated[str, Header()]) -> str:
    return x_user


def of_header(world: World) -> None:
    def me(x_user: Annotated[str, Header()], response: Response) -> Any:
        return world.page(x_user, response)

    world.app.get("/me")(world.cached(me))


def of_header_by_dependency(world: World) -> None:
    def user(x_user: Annotated[str, Header()]) -> str:
        return x_user.title()

    def me(user: Annotated[str, Depends(user)], response: Response) -> Any:
        return world.page(user.lower(), response)

    world.app.get("/me")(world.cached(me))


SECRET = b"of the application"


def signed(user: str) -> str:
    return f"{user}.{hmac.new(SECRET, user.encode(), hashlib.sha256).hexdigest()}"


class Sessions:
    """A session in a signed cookie, as middlewares make it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user = HTTPConnection(scope).cookies.get("session", "").partition(".")[0]
            known = hmac.compare_digest(HTTPConnection(scope).cookies.get("session", ""), signed(user))
            scope["session"] = {"user": user} if known else {}
        await self._app(scope, receive, send)


def of_session(world: World) -> None:
    world.app.add_middleware(Sessions)
    by_session(world)


def of_starlettes_session(world: World) -> None:
    world.app.add_middleware(SessionMiddleware, secret_key=SECRET.decode())
    by_session(world)


def logged_in(user: str, secret: str = SECRET.decode()) -> Identity:
    """With the cookie of ``SessionMiddleware``."""
    session = base64.b64encode(json.dumps({"user": user}).encode())
    return Identity(cookies={"session": itsdangerous.TimestampSigner(secret).sign(session).decode()})


def by_session(world: World) -> None:
    def user(request: Request) -> str:
        if "user" not in request.session:
            raise HTTPException(401)
        return str(request.session["user"])

    def me(user: Annotated[str, Depends(user)], response: Response) -> Any:
        return world.page(user, response)

    world.app.get("/me")(world.cached(me))


def of_cookie(world: World) -> None:
    def user(session: Annotated[str, Cookie()]) -> str:
        return session.partition(".")[0]

    def me(user: Annotated[str, Depends(user)], response: Response) -> Any:
        return world.page(user, response)

    world.app.get("/me")(world.cached(me))


def of_token_at_endpoint(world: World) -> None:
    def me(user: Annotated[str, Depends(user_of_token)], response: Response) -> Any:
        return world.page(user, response)

    world.app.get("/me")(world.cached(me))


def of_token_at_router(world: World) -> None:
    """The guard stands on the router, and the endpoint asks for the user as well."""
    router = APIRouter(dependencies=[Depends(oauth2)])

    def me(user: Annotated[str, Depends(user_of_token)], response: Response) -> Any:
        return world.page(user, response)

    router.get("/me")(world.cached(me))
    world.app.include_router(router, dependencies=[Depends(user_of_token)])


def of_token_at_app(world: World) -> None:
    world.app.router.dependencies.append(Depends(user_of_token))
    of_token_at_endpoint(world)


class States:
    """Puts who asks into the state of a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["user"] = HTTPConnection(scope).headers.get("x-user", "")
        await self._app(scope, receive, send)


def of_state(world: World) -> None:
    world.app.add_middleware(States)

    def user(request: Request) -> str:
        if not request.state.user:
            raise HTTPException(401)
        return str(request.state.user)

    def me(user: Annotated[str, Depends(user)], response: Response) -> Any:
        return world.page(user, response)

    world.app.get("/me")(world.cached(me))


SCOPES = {"ada": {"read", "write"}, "bob": {"read"}}


def user_with_scopes(scopes: SecurityScopes, token: Annotated[str, Depends(oauth2)]) -> str:
    user = user_of_token(token)
    if not SCOPES[user].issuperset(scopes.scopes):
        raise HTTPException(403)
    return user


def of_scopes(world: World) -> None:
    def me(user: Annotated[str, Security(user_with_scopes, scopes=["read"])], response: Response) -> Any:
        return world.page(user, response)

    world.app.get("/me")(world.cached(me))


def of_basic(world: World) -> None:
    def me(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())], response: Response) -> Any:
        if credentials.password != f"secret of {credentials.username}":
            raise HTTPException(401)
        return world.page(credentials.username, response)

    world.app.get("/me")(world.cached(me))


def of_api_key(scheme: Any) -> Callable[[World], None]:
    def install(world: World) -> None:
        def me(key: Annotated[str, Depends(scheme)], response: Response) -> Any:
            if key not in TOKENS:
                raise HTTPException(403)
            return world.page(TOKENS[key], response)

        world.app.get("/me")(world.cached(me))

    return install


class Account(BaseModel):
    """A user whose telling fields are those that ``model_dump`` hides."""

    name: str = "somebody"
    token: SecretStr
    number: Annotated[str, Field(exclude=True)]


def of_secret(world: World) -> None:
    def account(x_user: Annotated[str, Header()]) -> Account:
        return Account(token=SecretStr(x_user), number="same")

    def me(account: Annotated[Account, Depends(account)], response: Response) -> Any:
        return world.page(account.token.get_secret_value(), response)

    world.app.get("/me")(world.cached(me))


def of_excluded(world: World) -> None:
    def account(x_user: Annotated[str, Header()]) -> Account:
        return Account(token=SecretStr("same"), number=x_user)

    def me(account: Annotated[Account, Depends(account)], response: Response) -> Any:
        return world.page(account.number, response)

    world.app.get("/me")(world.cached(me))


def of_request_by_builder(world: World) -> None:
    def me(request: Request, response: Response) -> Any:
        return world.page(request.headers["x-user"], response)

    world.app.get("/me")(world.cached(me, key_builder=lambda request, response: request.headers["x-user"]))


def of_varying(world: World) -> None:
    def me(x_user: Annotated[str, Header(), NotKeyed], response: Response) -> Any:
        return world.page(x_user, response)

    world.app.get("/me")(world.cached(me, vary_on=("X-User",)))


def of_request_unseen(world: World) -> None:
    def me(request: Request, response: Response) -> Any:
        return world.page(request.headers["x-user"], response)

    world.app.get("/me")(world.cached(me))


def of_guard(install_guard: Callable[[World, APIRouter], None]) -> Callable[[World], None]:
    """The endpoint learns who asks from what a guard left behind: the key has nothing of it."""

    def install(world: World) -> None:
        router = APIRouter()
        install_guard(world, router)

        def me(response: Response) -> Any:
            return world.page(guarded.get(), response)

        router.get("/me")(world.cached(me))
        world.app.include_router(router)

    return install


guarded: ContextVar[str] = ContextVar("guarded", default="nobody")


async def guard(token: Annotated[str, Depends(oauth2)]) -> None:
    guarded.set(user_of_token(token))


def on_router(world: World, router: APIRouter) -> None:
    router.dependencies.append(Depends(guard))


def on_app(world: World, router: APIRouter) -> None:
    world.app.router.dependencies.append(Depends(guard))


@dataclass(frozen=True)
class Way:
    """A way of saying who one is."""

    install: Callable[[World], None]
    identities: dict[str, Identity]
    answered: str = AFTER_DEPENDENCIES
    reason: str = ""
    in_key: str = ""
    """What a row of ``explain`` has among its key."""
    control: str = "private"
    """What its pages tell to caches outside."""
    stranger: Identity = field(default_factory=Identity)
    """Somebody who is turned away, or gets no page."""


def basic(user: str) -> Identity:
    credentials = base64.b64encode(f"{user}:secret of {user}".encode()).decode()
    return Identity(headers={"authorization": f"Basic {credentials}"})


KEYS = {user: token for token, user in TOKENS.items()}

WAYS = {
    "header": Way(of_header, X_USERS, in_key="x_user"),
    "header by dependency": Way(of_header_by_dependency, X_USERS, in_key="user"),
    "session": Way(
        of_session,
        {user: Identity(cookies={"session": signed(user)}) for user in X_USERS},
        in_key="user",
        stranger=Identity(cookies={"session": "ada.forged"}),
    ),
    "session of Starlette": Way(
        of_starlettes_session,
        {user: logged_in(user) for user in X_USERS},
        in_key="user",
        stranger=logged_in("ada", "of another"),
    ),
    "cookie": Way(of_cookie, {user: Identity(cookies={"session": signed(user)}) for user in X_USERS}, in_key="user"),
    "bearer on the endpoint": Way(of_token_at_endpoint, BEARERS, in_key="user", stranger=bearer("stolen")),
    "bearer on the router": Way(of_token_at_router, BEARERS, in_key="user", stranger=bearer("stolen")),
    "bearer on the app": Way(of_token_at_app, BEARERS, in_key="user", stranger=bearer("stolen")),
    "state": Way(of_state, X_USERS, in_key="user"),
    "scopes": Way(of_scopes, BEARERS, in_key="user"),
    "basic": Way(of_basic, {user: basic(user) for user in X_USERS}, in_key="credentials"),
    "key in query": Way(
        of_api_key(APIKeyQuery(name="key")), {user: Identity(query={"key": key}) for user, key in KEYS.items()}
    ),
    "key in cookie": Way(
        of_api_key(APIKeyCookie(name="key")), {user: Identity(cookies={"key": key}) for user, key in KEYS.items()}
    ),
    "key in header": Way(
        of_api_key(APIKeyHeader(name="x-key")), {user: Identity(headers={"x-key": key}) for user, key in KEYS.items()}
    ),
    "secret of a model": Way(of_secret, X_USERS, in_key="account"),
    "excluded field of a model": Way(of_excluded, X_USERS, in_key="account"),
    "request by builder": Way(of_request_by_builder, X_USERS),
    "varying": Way(of_varying, X_USERS, control="public"),
    "request unseen": Way(of_request_unseen, X_USERS, UNCACHED, "request"),
    "guard of the router": Way(of_guard(on_router), BEARERS, UNCACHED, "guard"),
    "guard of the app": Way(of_guard(on_app), BEARERS, UNCACHED, "guard"),
}

every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
every_mode = pytest.mark.parametrize("mode", MODES)


def is_page_of(user: str, answer: Any) -> bool:
    return (answer.status_code, answer.headers.get("x-page-of"), answer.json()) == (200, user, {"user": user})


@every_mode
@every_way
def test_nobody_gets_the_page_of_another_whoever_comes_first(way: Way, mode: str) -> None:
    for order in itertools.permutations(way.identities):
        world = World(mode)
        way.install(world)
        client = TestClient(world.app, raise_server_exceptions=False)
        for user in (*order, *order, *reversed(order)):
            assert is_page_of(user, get(client, way.identities[user])), (order, user)
            stranger = get(client, way.stranger)
            assert stranger.status_code >= 400
            assert "x-page-of" not in stranger.headers
        expected = 1 if way.answered != UNCACHED else 3
        assert world.runs == dict.fromkeys(order, expected)


@every_mode
@every_way
def test_nobody_gets_the_page_of_another_who_asks_at_the_same_time(way: Way, mode: str) -> None:
    world = World(mode)
    way.install(world)

    async def ask_all() -> None:
        transport = httpx.ASGITransport(app=world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def ask(user: str) -> None:
                identity = way.identities[user]
                answer = await client.get("/me", params=dict(identity.query) or None, headers=sent(identity))
                assert is_page_of(user, answer)

            await asyncio.gather(*(ask(user) for user in [*way.identities] * 20))

    asyncio.run(ask_all())
    expected = 1 if way.answered != UNCACHED else 20
    assert world.runs == dict.fromkeys(way.identities, expected)


@every_way
def test_what_is_not_cached_says_why(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    way.install(world)
    client = TestClient(world.app)
    for identity in way.identities.values():
        get(client, identity)
    assert ("me runs uncached" in said(caplog)) == (way.answered == UNCACHED)
    assert way.reason in said(caplog)


@every_mode
@every_way
def test_no_leak_is_found_and_they_were_told_apart(way: Way, mode: str) -> None:
    world = World(mode)
    way.install(world)
    (replayed,) = assert_no_leak(world.app, {**way.identities, "stranger": way.stranger})
    assert replayed.differs


@every_way
def test_it_is_explained_where_the_page_comes_from(way: Way) -> None:
    world = World()
    way.install(world)
    row = world.row()
    assert row.answered == way.answered
    if way.answered == UNCACHED:
        assert any(way.reason in reason for reason in row.reasons), row.reasons
    else:
        assert any(way.in_key in part for part in row.key), row.key


@pytest.mark.parametrize("way", [way for way in WAYS.values() if way.answered != UNCACHED])
def test_caches_outside_are_told_whose_a_page_is_and_no_token_stands_in_the_store(way: Way) -> None:
    world = World()
    way.install(world)
    client = TestClient(world.app)
    for identity in way.identities.values():
        for _ in range(2):
            answer = get(client, identity)
            control = answer.headers["cache-control"]
            assert ("private" in control, "public" in control) == (way.control == "private", way.control == "public")
            assert way.control == "private" or answer.headers["vary"] == "x-user"
    keys = list(world.backend.scan())
    assert keys
    secrets = [value for identity in way.identities.values() for value in (*identity.headers.values(), *KEYS.values())]
    secrets += [value for identity in way.identities.values() for value in identity.cookies.values()]
    assert not [secret for secret in secrets if len(secret) > 3 and any(secret in key for key in keys)]


# What no graph shows.

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")


class Visitors:
    """Puts who asks into a context variable."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor.set(HTTPConnection(scope).headers.get("x-user", "nobody") if scope["type"] == "http" else "nobody")
        await self._app(scope, receive, send)


@every_mode
def test_an_identity_in_a_context_variable_is_invisible_and_assert_no_leak_finds_it(mode: str) -> None:
    """As it is documented: the remedy is a dependency that reads the variable, and whose result is in the key."""
    world = World(mode)
    world.app.add_middleware(Visitors)

    def me(response: Response) -> Any:
        return world.page(visitor.get(), response)

    world.app.get("/me")(world.cached(me))
    with pytest.raises(
        AssertionError, match="GET /me: 'bob' was sent what belongs to 'ada': the body, the header x-page-of"
    ):
        assert_no_leak(world.app, X_USERS)


@every_mode
def test_a_dependency_that_reads_the_variable_is_the_remedy(mode: str) -> None:
    world = World(mode)
    world.app.add_middleware(Visitors)

    def user() -> str:
        return visitor.get()

    def me(user: Annotated[str, Depends(user)], response: Response) -> Any:
        return world.page(user, response)

    world.app.get("/me")(world.cached(me))
    assert [one.differs for one in assert_no_leak(world.app, X_USERS)] == [True]


# Guards.


def shared_page(world: World, router: APIRouter, **options: Any) -> None:
    """The same for everyone whom the guards let in."""

    def news(response: Response) -> Any:
        return world.page("all", response)

    router.get("/news")(world.cached(news, **options))


GUARDS: dict[str, Callable[[World], None]] = {}


def guard_of(name: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    def named(install: Callable[[World], None]) -> Callable[[World], None]:
        GUARDS[name] = install
        return install

    return named


@guard_of("endpoint")
def _(world: World) -> None:
    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news", dependencies=[Depends(user_of_token)])(world.cached(news, shared=True))


@guard_of("router")
def _(world: World) -> None:
    router = APIRouter(dependencies=[Depends(user_of_token)])
    shared_page(world, router, shared=True)
    world.app.include_router(router)


@guard_of("include_router")
def _(world: World) -> None:
    router = APIRouter()
    shared_page(world, router, shared=True)
    world.app.include_router(router, dependencies=[Depends(user_of_token)])


@guard_of("router in a router")
def _(world: World) -> None:
    inner, outer = APIRouter(), APIRouter()
    shared_page(world, inner, shared=True)
    outer.include_router(inner, dependencies=[Depends(user_of_token)])
    world.app.include_router(outer)


@guard_of("app")
def _(world: World) -> None:
    world.app.router.dependencies.append(Depends(user_of_token))
    shared_page(world, world.app.router, shared=True)


every_guard = pytest.mark.parametrize("install", GUARDS.values(), ids=GUARDS.keys())


@every_mode
@every_guard
def test_guards_run_before_a_shared_page_also_when_it_is_there(install: Callable[[World], None], mode: str) -> None:
    world = World(mode)
    install(world)
    client = TestClient(world.app)
    for _ in range(2):
        for identity in BEARERS.values():
            assert is_page_of("all", get(client, identity, "/news"))
        assert get(client, bearer("stolen"), "/news").status_code == 403
        assert get(client, Identity(), "/news").status_code == 401
    assert world.runs == {"all": 1}


@every_guard
def test_it_is_explained_that_a_shared_page_waits_for_its_guards(install: Callable[[World], None]) -> None:
    world = World()
    install(world)
    assert world.row("/news").answered == AFTER_DEPENDENCIES


@every_guard
def test_nobody_is_told_by_304_what_a_guard_keeps_from_him(install: Callable[[World], None]) -> None:
    world = World()
    install(world)
    client = TestClient(world.app)
    etag = get(client, BEARERS["ada"], "/news").headers["etag"]
    assert get(client, BEARERS["bob"], "/news", **{"if-none-match": etag}).status_code == 304
    assert get(client, bearer("stolen"), "/news", **{"if-none-match": etag}).status_code == 403
    assert get(client, Identity(), "/news", **{"if-none-match": "*"}).status_code == 401


@every_guard
def test_a_page_behind_guards_is_private(install: Callable[[World], None]) -> None:
    world = World()
    install(world)
    client = TestClient(world.app)
    for _ in range(2):
        control = get(client, BEARERS["ada"], "/news").headers["cache-control"]
        assert "private" in control
        assert "public" not in control


def test_scopes_are_looked_at_on_every_request() -> None:
    world = World()

    def secrets(response: Response) -> Any:
        return world.page("all", response)

    guards = [Security(user_with_scopes, scopes=["write"])]
    world.app.get("/me", dependencies=guards)(world.cached(secrets, shared=True))
    client = TestClient(world.app)
    for _ in range(2):
        assert get(client, BEARERS["ada"]).status_code == 200
        assert get(client, BEARERS["bob"]).status_code == 403
    assert world.runs == {"all": 1}


@every_mode
@pytest.mark.parametrize("options", [{}, {"shared": True}])
def test_a_dependency_that_looks_at_nobody_runs_on_every_request_too(options: dict[str, Any], mode: str) -> None:
    """It may count, or refuse everyone from now on."""
    world = World(mode)
    asked: list[str] = []

    def limited() -> None:
        asked.append("once more")
        if len(asked) > 3:
            raise HTTPException(429)

    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news", dependencies=[Depends(limited)])(world.cached(news, **options))
    client = TestClient(world.app)
    assert [client.get("/news").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert world.runs == {"all": 1}


@every_mode
def test_one_router_included_twice_has_two_pages_and_keeps_its_guards(mode: str) -> None:
    """The route that FastAPI puts into the scope is the same, and has the guards of neither."""
    world = World(mode)
    router = APIRouter()

    def read(request: Annotated[Request, NotKeyed], response: Response) -> Any:
        return world.page(request.url.path, response)

    router.get("/page")(world.cached(read, shared=True))
    world.app.include_router(router, prefix="/open")
    world.app.include_router(router, prefix="/closed", dependencies=[Depends(user_of_token)])
    client = TestClient(world.app)
    for _ in range(2):
        assert is_page_of("/open/page", client.get("/open/page"))
        assert client.get("/closed/page").status_code == 401
        assert is_page_of("/closed/page", get(client, BEARERS["ada"], "/closed/page"))
    assert world.runs == {"/open/page": 1, "/closed/page": 1}
    assert client.get("/open/page").headers["etag"] != get(client, BEARERS["ada"], "/closed/page").headers["etag"]


@every_mode
def test_an_endpoint_that_serves_two_guards_by_hand_keeps_both(mode: str) -> None:
    """Two routes for one decorated function: what one route stored is no answer to the other."""
    world = World(mode)

    def read(request: Annotated[Request, NotKeyed], response: Response) -> Any:
        return world.page(request.url.path, response)

    endpoint = world.cached(read, shared=True)
    world.app.get("/open")(endpoint)
    world.app.get("/closed", dependencies=[Depends(user_of_token)])(endpoint)
    client = TestClient(world.app)
    for _ in range(2):
        assert is_page_of("/open", client.get("/open"))
        assert client.get("/closed").status_code == 401
        assert is_page_of("/closed", get(client, BEARERS["bob"], "/closed"))


# Requests with credentials, and pages that look at none (RFC 9111, section 3.5).


@every_mode
def test_a_page_that_never_looks_at_authorization_is_not_for_requests_that_have_it(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(mode)

    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news")(world.cached(news))
    client = TestClient(world.app)
    for _ in range(3):
        client.get("/news")
    assert world.runs == {"all": 1}
    for identity in BEARERS.values():
        assert get(client, identity, "/news").status_code == 200
    assert world.runs == {"all": 3}
    assert "Authorization" in said(caplog)
    client.get("/news")
    assert world.runs == {"all": 3}


@every_mode
@pytest.mark.parametrize("option", ["public", "shared"])
def test_public_and_shared_pages_are_for_requests_with_authorization_too(mode: str, option: str) -> None:
    world = World(mode)

    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news")(world.cached(news, **{option: True}))
    client = TestClient(world.app)
    for identity in (Identity(), *BEARERS.values(), Identity()):
        assert is_page_of("all", get(client, identity, "/news"))
    assert world.runs == {"all": 1}


# What belongs to the request and not to the page.


@every_mode
@pytest.mark.parametrize("option", ["public", "shared"])
def test_headers_that_a_dependency_sets_are_of_the_request(mode: str, option: str) -> None:
    """Public pages may be answered before the dependency runs: then there is no such header, and never another's."""
    world = World(mode)

    def greet(response: Response, x_user: Annotated[str, Header()]) -> None:
        response.headers["x-hello"] = x_user
        response.set_cookie("seen", x_user)

    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news", dependencies=[Depends(greet)])(world.cached(news, **{option: True}))
    client = TestClient(world.app)
    for user in ("ada", "bob", "ada", "bob"):
        answer = get(client, X_USERS[user], "/news")
        assert is_page_of("all", answer)
        told = (answer.headers.get("x-hello"), answer.headers.get("set-cookie", "").partition(";")[0])
        assert told in ([(user, f"seen={user}")] if option == "shared" else [(user, f"seen={user}"), (None, "")])
    assert world.runs == {"all": 1}


@every_mode
def test_a_page_that_sets_a_cookie_is_not_stored(mode: str) -> None:
    world = World(mode)

    def login(response: Response) -> Any:
        count = sum(world.runs.values())
        response.set_cookie("session", f"number {count}")
        return world.page("all", response)

    world.app.get("/login")(world.cached(login))
    client = TestClient(world.app)
    cookies = [client.get("/login").headers["set-cookie"].partition(";")[0] for _ in range(3)]
    assert len(set(cookies)) == 3


class Marks:
    """Changes the list of headers that goes by, as compressing middlewares do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = HTTPConnection(scope).headers.get("x-user", "") if scope["type"] == "http" else ""

        async def marking(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"set-cookie", b"session=" + user.encode()))
            await send(message)

        await self._app(scope, receive, marking)


@every_mode
def test_what_middlewares_add_to_one_answer_is_in_no_other(mode: str) -> None:
    world = World(mode)
    world.app.add_middleware(Marks)

    def news(response: Response) -> Any:
        return world.page("all", response)

    def guarded_news(x_user: Annotated[str, Header()], response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news")(world.cached(news))
    world.app.get("/shared", dependencies=[Depends(user_in_header)])(world.cached(news, shared=True))
    world.app.get("/user")(world.cached(guarded_news))
    client = TestClient(world.app)
    for url in ("/news", "/shared", "/user"):
        for user in ("ada", "bob", "ada", "bob"):
            answer = get(client, X_USERS[user], url)
            assert answer.headers.get_list("set-cookie") == [f"session={user}"], (url, user)


class Refused(Exception):
    """With what only its cause may read."""


@every_mode
def test_an_exception_that_became_a_200_is_nobody_elses_page(mode: str) -> None:
    world = World(mode)
    world.app.add_middleware(Visitors)

    @world.app.exception_handler(Refused)
    async def handled(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"refused": str(error)})

    def me() -> Any:
        world.runs["me"] += 1
        raise Refused(visitor.get())

    world.app.get("/me")(world.cached(me))
    client = TestClient(world.app)
    for user in ("ada", "bob", "ada"):
        assert get(client, X_USERS[user]).json() == {"refused": user}
    assert world.runs == {"me": 3}


@every_mode
def test_what_a_handler_made_of_a_result_that_fastapi_refused_is_nobody_elses_page(mode: str) -> None:
    """The endpoint has not raised, and what goes by has the status of a page."""
    world = World(mode)
    world.app.add_middleware(Visitors)

    @world.app.exception_handler(ResponseValidationError)
    async def handled(request: Request, error: ResponseValidationError) -> JSONResponse:
        return JSONResponse({"refused": visitor.get()})

    def me() -> Any:
        world.runs["me"] += 1
        return visitor.get()

    world.app.get("/me", response_model=int)(world.cached(me))
    client = TestClient(world.app)
    for user in ("ada", "bob", "ada"):
        assert get(client, X_USERS[user]).json() == {"refused": user}
    assert world.runs == {"me": 3}


# Who is not the application that was initialised.


@every_mode
def test_a_mounted_application_that_was_never_initialised_runs_uncached(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(mode)
    sub = FastAPI()

    def me(x_user: Annotated[str, Header()]) -> Response:
        world.runs[x_user] += 1
        return JSONResponse({"user": x_user}, headers={"x-page-of": x_user})

    sub.get("/me")(world.cached(me))
    world.app.mount("/sub", sub)
    client = TestClient(world.app)
    for user in ("ada", "bob", "ada", "bob"):
        assert is_page_of(user, get(client, X_USERS[user], "/sub/me"))
    assert world.runs == {"ada": 2, "bob": 2}
    assert "init" in said(caplog)


class OnlyAda:
    """A guard that is a middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and HTTPConnection(scope).headers.get("x-user") != "ada":
            await JSONResponse({"detail": "refused"}, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


@every_mode
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_guard_that_is_a_middleware_runs_wherever_it_stands(
    mode: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Inside of the cache's own it would be passed by, if pages were answered before routing."""
    world = World(mode)
    if where == "outside":
        world.app.add_middleware(OnlyAda)
    else:
        world.app.user_middleware.append(Middleware(OnlyAda))

    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news")(world.cached(news, public=True))
    client = TestClient(world.app)
    for _ in range(3):
        assert is_page_of("all", get(client, X_USERS["ada"], "/news"))
        assert get(client, X_USERS["bob"], "/news").status_code == 403
        assert client.get("/news").status_code == 403
    assert world.runs == {"all": 1}
    assert ("OnlyAda" in said(caplog)) == (where == "inside")


# Other dependencies than were written down.


@every_mode
def test_overrides_are_looked_at_anew(mode: str) -> None:
    """A dependency that reads nothing is replaced by one that learns who asks, and back, while pages are there."""
    world = World(mode)

    async def nothing() -> None:
        guarded.set("nobody")

    async def learns(x_user: Annotated[str, Header()]) -> None:
        guarded.set(x_user)

    def me(response: Response) -> Any:
        return world.page(guarded.get(), response)

    world.app.get("/me", dependencies=[Depends(nothing)])(world.cached(me))
    client = TestClient(world.app)
    for _ in range(2):
        assert is_page_of("nobody", get(client, X_USERS["ada"]))
    world.app.dependency_overrides[nothing] = learns
    for user in ("ada", "bob", "ada", "bob"):
        assert is_page_of(user, get(client, X_USERS[user]))
    world.app.dependency_overrides.clear()
    assert is_page_of("nobody", get(client, X_USERS["bob"]))
    assert world.runs == {"nobody": 1, "ada": 2, "bob": 2}


@every_mode
def test_a_guard_that_tests_put_in_place_of_none_keeps_out_whom_it_should(mode: str) -> None:
    world = World(mode)

    def allowed() -> None:
        """Lets everyone in."""

    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news", dependencies=[Depends(allowed)])(world.cached(news, shared=True))
    client = TestClient(world.app)
    for _ in range(2):
        assert client.get("/news").status_code == 200
    world.app.dependency_overrides[allowed] = user_of_token
    for _ in range(2):
        assert client.get("/news").status_code == 401
        assert get(client, BEARERS["ada"], "/news").status_code == 200


@every_mode
def test_a_page_that_may_be_answered_before_routing_waits_while_overrides_are_there(mode: str) -> None:
    """A public page with a dependency: an override may stand for a guard that a test is about."""
    world = World(mode)

    def allowed() -> None:
        """Lets everyone in."""

    def news(response: Response) -> Any:
        return world.page("all", response)

    world.app.get("/news", dependencies=[Depends(allowed)])(world.cached(news, public=True))
    client = TestClient(world.app)
    for _ in range(3):
        assert client.get("/news").status_code == 200
    world.app.dependency_overrides[allowed] = user_of_token
    assert client.get("/news").status_code == 401


# Replays.


@every_mode
def test_a_refresh_behind_a_visitor_makes_the_page_of_that_visitor(mode: str) -> None:
    """What middleware put into the scope is kept, and dependencies are made anew."""
    world = World(mode)
    world.app.add_middleware(States)
    made: list[str] = []

    def user(request: Request) -> Iterator[str]:
        made.append(str(request.state.user))
        yield str(request.state.user)

    def me(user: Annotated[str, Depends(user)], response: Response) -> Any:
        return world.page(user, response)

    # Due for a refresh from the beginning: each hit of a fresh page makes it anew behind its visitor.
    endpoint = world.cached(me, expire=600, refresh_ahead=599.999)
    world.app.get("/me")(endpoint)

    async def ask_all() -> None:
        transport = httpx.ASGITransport(app=world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for user in ("ada", "bob"):
                assert is_page_of(user, await client.get("/me", headers={"x-user": user}))
            await asyncio.sleep(0.01)  # beyond the millisecond in which it is not due
            for _ in range(3):
                for user in ("ada", "bob"):
                    assert is_page_of(user, await client.get("/me", headers={"x-user": user}))
            for _ in range(200):
                if min(world.runs["ada"], world.runs["bob"]) >= 2:
                    break
                await asyncio.sleep(0.01)
            for user in ("ada", "bob"):
                assert is_page_of(user, await client.get("/me", headers={"x-user": user}))

    asyncio.run(ask_all())
    assert set(world.runs) == {"ada", "bob"}
    assert min(world.runs.values()) >= 2
    assert set(made) == {"ada", "bob"}


# Etags.


@every_mode
def test_the_etag_of_one_is_no_pass_to_the_page_of_another(mode: str) -> None:
    world = World(mode)
    of_token_at_endpoint(world)
    client = TestClient(world.app)
    etags = {user: get(client, identity).headers["etag"] for user, identity in BEARERS.items()}
    assert etags["ada"] != etags["bob"]
    assert is_page_of("bob", get(client, BEARERS["bob"], **{"if-none-match": etags["ada"]}))
    assert get(client, BEARERS["bob"], **{"if-none-match": etags["bob"]}).status_code == 304
    assert get(client, Identity(), **{"if-none-match": etags["ada"]}).status_code == 401


@every_mode
def test_a_bearer_scheme_that_is_optional_is_still_a_source_of_identity(mode: str) -> None:
    world = World(mode)

    def me(credentials: Annotated[Any, Depends(HTTPBearer(auto_error=False))], response: Response) -> Any:
        return world.page("nobody" if credentials is None else TOKENS[credentials.credentials], response)

    world.app.get("/me")(world.cached(me))
    client = TestClient(world.app)
    for _ in range(2):
        assert is_page_of("nobody", client.get("/me"))
        for user, identity in BEARERS.items():
            assert is_page_of(user, get(client, identity))
    assert world.runs == {"nobody": 1, "ada": 1, "bob": 1}
