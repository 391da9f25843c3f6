"""An endpoint under the eyes of a planner, and dependencies of all kinds to put beneath it.

Annotations are evaluated at once, here and in the tests that use this: they name what is local to a test, which
FastAPI could not resolve from text.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, cast

import pytest
from fastapi import Body, Cookie, Depends, Header, Query, Request
from fastapi.security import APIKeyCookie, APIKeyQuery, HTTPBasic, OAuth2PasswordBearer
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fast_cache.http.endpoint import EndpointSignature
from fast_cache.http.identity import Planner, Verdict, verdict
from fast_cache.keys.roles import Role

Endpoint = Callable[..., Any]

oauth2 = OAuth2PasswordBearer("token")


class Session:
    """Stands for a database session."""


class Watched:
    """Puts an endpoint under the eyes of a planner, as the decorator does, and keeps its last verdict."""

    def __init__(self, planner: Planner | None = None) -> None:
        self.planner = planner if planner is not None else Planner()
        self.last: Verdict | None = None

    def __call__(self, fn: Endpoint, *, shared: bool = False, author_keyed: bool = False, **roles: Role) -> Endpoint:
        """Parameters are keyed unless ``roles`` say otherwise."""
        signature = EndpointSignature.of(fn)
        every = dict.fromkeys(signature.parameters, Role.KEYED) | roles

        @functools.wraps(fn)
        def wrapper(
            *args: Any, fast_cache_request__: Any = None, fast_cache_response__: Any = None, **kwargs: Any
        ) -> Any:
            if fast_cache_request__ is None:
                return fn(*args, **kwargs)
            said: dict[str, Any] = {"roles": every, "shared": shared, "author_keyed": author_keyed}
            self.last = self.planner.verdict(fast_cache_request__, wrapper, **said)
            now = verdict(fast_cache_request__, wrapper, **said)
            assert self.last == now, "what is remembered differs from what is so"
            return fn(*args, **kwargs)

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        return cast(Endpoint, wrapper)

    def of(self, app: Any, url: str = "/", *, method: str = "GET", **request: Any) -> Verdict:
        """The verdict on the endpoint that serves ``url``, the same twice."""
        client = app if isinstance(app, TestClient) else TestClient(app)
        verdicts: list[Verdict] = []
        for _ in range(2):
            self.last = None
            answer = client.request(method, url, **request)
            assert answer.status_code == 200, answer.text
            assert self.last is not None
            verdicts.append(self.last)
        assert verdicts[0] == verdicts[1]
        return verdicts[0]


COVERED = Verdict(True)
CREDENTIALS_COVERED = Verdict(True, authorization=True)


def reason(found: Verdict) -> str:
    """The one reason not to cache."""
    assert not found.cacheable
    [only] = found.reasons
    return only


def get_tenant(x_tenant: Annotated[str, Header()] = "t") -> str:
    return x_tenant


def get_visit(visit: Annotated[str, Cookie()] = "") -> str:
    return visit


def get_user(token: Annotated[str, Depends(oauth2)]) -> str:
    return token


def get_agent(request: Request) -> str:
    return request.headers["user-agent"]


def get_host(connection: HTTPConnection) -> str:
    return connection.headers["host"]


def get_session() -> Iterator[Session]:
    yield Session()


def get_tenant_session(tenant: Annotated[str, Depends(get_tenant)]) -> Session:
    return Session()


def get_user_session(user: Annotated[str, Depends(get_user)]) -> Session:
    return Session()


async def require_tenant(tenant: Annotated[str, Depends(get_tenant)]) -> None: ...


async def require_user(user: Annotated[str, Depends(get_user)]) -> None: ...


async def limit_rate() -> None: ...


BEARER = {"authorization": "Bearer ada"}


def by_path(tenant: str) -> Session:
    return Session()


def by_query(tenant: Annotated[str, Query()]) -> Session:
    return Session()


def by_form(tenant: Annotated[str, Body(embed=True)]) -> Session:
    return Session()


IDENTITIES = [
    (get_tenant, "dependency get_tenant reads header x-tenant"),
    (get_visit, "dependency get_visit reads cookie visit"),
    (get_agent, "dependency get_agent reads the whole request"),
    (get_host, "dependency get_host reads the whole connection"),
    (oauth2, "dependency OAuth2PasswordBearer is a security scheme"),
    (get_user, "dependency OAuth2PasswordBearer is a security scheme"),
    (HTTPBasic(auto_error=False), "dependency HTTPBasic is a security scheme"),
    (APIKeyCookie(name="key", auto_error=False), "dependency APIKeyCookie is a security scheme"),
    (APIKeyQuery(name="key", auto_error=False), "dependency APIKeyQuery is a security scheme"),
]
"""Dependencies that can tell who asks, and what is said of them."""

identities = pytest.mark.parametrize(
    ("dependency", "said"), IDENTITIES, ids=[said.split(" ", 1)[1] for _, said in IDENTITIES]
)
