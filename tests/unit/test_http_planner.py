"""What a planner remembers, and what makes it look again."""

import functools
import gc
import weakref
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, Request, routing
from starlette.testclient import TestClient

from fast_cache.http.identity import verdict
from fast_cache.keys.roles import Role
from tests.support.watched import (
    COVERED,
    Endpoint,
    Session,
    Watched,
    get_session,
    get_tenant,
    get_tenant_session,
    get_visit,
    reason,
    require_tenant,
)


@pytest.fixture
def watched() -> Watched:
    return Watched()


# Overrides.


def test_overrides_are_planned_with_and_forgotten(watched: Watched) -> None:
    def read() -> str:
        return "read"

    async def nobodys() -> None: ...

    async def visitors(visit: Annotated[str, Depends(get_visit)]) -> None: ...

    app = FastAPI()
    app.get("/", dependencies=[Depends(require_tenant)])(watched(read))
    assert "get_tenant" in reason(watched.of(app))
    app.dependency_overrides[require_tenant] = nobodys
    assert watched.of(app) == COVERED
    app.dependency_overrides[require_tenant] = visitors
    assert "visitors reads cookie visit (through get_visit)" in reason(watched.of(app))
    app.dependency_overrides.clear()
    assert "get_tenant" in reason(watched.of(app))


def test_an_override_deep_in_the_graph_counts(watched: Watched) -> None:
    def read(session: Annotated[Session, Depends(get_tenant_session)]) -> str:
        return "read"

    app = FastAPI()
    router = APIRouter()
    router.get("/")(watched(read, session=Role.HANDLE))
    app.include_router(router, dependencies=[Depends(require_tenant)])
    assert len(watched.of(app).reasons) == 2
    app.dependency_overrides[get_tenant] = lambda: "t"
    assert reason(watched.of(app)) == (
        "dependency_overrides puts <lambda> beneath session of read, which is left out of its key, and another "
        "application may put something else there; annotate session as Annotated[..., NotKeyed] if the result is the "
        "same whatever stands there"
    )


@pytest.mark.parametrize("role", [Role.NOT_KEYED, Role.BUILT])
def test_the_author_answers_for_what_is_overridden(watched: Watched, role: Role) -> None:
    def read(session: Annotated[Session, Depends(get_session)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, session=role))
    app.dependency_overrides[get_session] = Session
    assert watched.of(app) == COVERED


def test_a_covering_parameter_keeps_covering_when_overridden(watched: Watched) -> None:
    def other_tenant(x_other: Annotated[str, Header()] = "") -> str:
        return x_other

    def read(
        tenant: Annotated[str, Depends(get_tenant)], session: Annotated[Session, Depends(get_tenant_session)]
    ) -> str:
        return tenant

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    app.dependency_overrides[get_tenant] = other_tenant
    assert watched.of(app) == COVERED


def test_a_replaced_override_is_noticed_whatever_kind_it_is(watched: Watched) -> None:
    app = FastAPI(dependencies=[Depends(get_tenant)])
    app.get("/")(watched(lambda: "read"))
    fake = Fake()
    for override, cacheable in (
        (fake.tenant, True),
        (fake.visitor, False),
        (Slotted(), True),
        (functools.partial(get_visit, visit="v"), False),
        (get_visit, False),
        (fake.tenant, True),
    ):
        app.dependency_overrides = {get_tenant: override}
        assert watched.of(app).cacheable is cacheable


# Terms.


def test_two_wrappers_of_one_function_have_verdicts_of_their_own(watched: Watched) -> None:
    def read(request: Request, q: str = "") -> list[bool]:
        keyed = {"request": Role.NOT_KEYED, "q": Role.KEYED}
        said: list[Any] = [
            {"roles": keyed},
            {"roles": keyed, "shared": True},
            {"roles": keyed | {"q": Role.HANDLE}, "shared": True},
            {"roles": keyed | {"q": Role.HANDLE}, "shared": True, "author_keyed": True},
        ]
        return [watched.planner.verdict(request, read, **terms).cacheable for terms in said]

    app = FastAPI(dependencies=[Depends(require_tenant)])
    app.get("/")(read)
    for _ in range(2):
        assert TestClient(app).get("/").json() == [False, True, False, True]
    assert len(watched.planner) == 4


# Memory.


class Fake:
    """Overrides that are no plain functions."""

    def tenant(self) -> str:
        return "t"

    def visitor(self, visit: Annotated[str, Cookie()] = "") -> str:
        return visit


class Slotted:
    """Can't be referred to weakly."""

    __slots__ = ()

    def __call__(self) -> str:
        return "t"


def test_a_verdict_is_made_once_for_a_route(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    effective_routes = verdict.__globals__["effective_routes"]

    def counting(app: object, route: object) -> Any:
        looked.append(route)
        return effective_routes(app, route)

    def read(request: Request, user: str = "") -> str:
        watched.last = planner.verdict(request, read, {"user": Role.KEYED, "request": Role.NOT_KEYED})
        return user

    planner = watched.planner
    router, app = APIRouter(), FastAPI()
    router.get("/{item}")(read)
    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b", dependencies=[Depends(require_tenant)])
    client = TestClient(app)
    monkeypatch.setitem(verdict.__globals__, "effective_routes", counting)
    for number in range(5):
        assert client.get(f"/a/{number}").status_code == 200
        assert client.get(f"/b/{number}").status_code == 200
    pages = 1 if hasattr(routing, "iter_route_contexts") else 2
    assert len(looked) == len(planner) == pages
    overrides: list[Endpoint] = [get_session, Fake().tenant, functools.partial(get_session)]
    for again, override in enumerate(overrides, start=1):
        app.dependency_overrides[get_tenant] = override
        for number in range(5):
            assert client.get(f"/a/{number}").status_code == 200
        assert len(looked) == pages + again


def test_nothing_is_kept_of_an_app_that_is_gone(watched: Watched) -> None:
    def live() -> weakref.ref[FastAPI]:
        app = FastAPI()
        router = APIRouter()
        router.get("/")(watched(lambda: "read"))
        app.include_router(router, dependencies=[Depends(get_tenant)])
        assert not watched.of(app).cacheable
        app.dependency_overrides[get_tenant] = get_session
        assert watched.of(app).cacheable
        return weakref.ref(app)

    gone = [live() for _ in range(3)]
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]
    assert len(watched.planner) == 0


def test_planners_are_independent() -> None:
    one, two = Watched(), Watched()
    app = FastAPI()
    app.get("/one")(one(lambda: "one"))
    app.get("/two")(two(lambda: "two"))
    assert one.of(app, "/one") == COVERED
    assert (len(one.planner), len(two.planner)) == (1, 0)
