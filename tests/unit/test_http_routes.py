"""The effective route of a request, wherever its parts are declared."""

import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, routing
from starlette.routing import Host
from starlette.testclient import TestClient

from fast_cache.http.identity import Verdict, verdict
from fast_cache.http.routes import steps_generators
from tests.support.watched import BEARER, COVERED, Endpoint, Watched, limit_rate, reason, require_tenant, require_user


@pytest.fixture
def watched() -> Watched:
    return Watched()


def _on_the_route(guard: Any, endpoint: Endpoint) -> FastAPI:
    app = FastAPI()
    app.get("/", dependencies=[guard])(endpoint)
    return app


def _on_the_router(guard: Any, endpoint: Endpoint) -> FastAPI:
    router = APIRouter(dependencies=[guard])
    router.get("/")(endpoint)
    app = FastAPI()
    app.include_router(router)
    return app


def _on_the_inclusion(guard: Any, endpoint: Endpoint) -> FastAPI:
    router = APIRouter()
    router.get("/")(endpoint)
    app = FastAPI()
    app.include_router(router, dependencies=[guard])
    return app


def _on_the_app(guard: Any, endpoint: Endpoint) -> FastAPI:
    app = FastAPI(dependencies=[guard])
    app.get("/")(endpoint)
    return app


def _on_the_app_around_a_router(guard: Any, endpoint: Endpoint) -> FastAPI:
    app = FastAPI(dependencies=[guard])
    router = APIRouter()
    router.get("/")(endpoint)
    app.include_router(router)
    return app


def _on_an_outer_inclusion(guard: Any, endpoint: Endpoint) -> FastAPI:
    inner, outer, app = APIRouter(), APIRouter(prefix="/outer"), FastAPI()
    inner.get("/inner")(endpoint)
    outer.include_router(inner)
    app.include_router(outer, dependencies=[guard])
    return app


def _on_an_inner_inclusion(guard: Any, endpoint: Endpoint) -> FastAPI:
    inner, outer, app = APIRouter(), APIRouter(prefix="/outer"), FastAPI()
    inner.get("/inner")(endpoint)
    app.include_router(outer)
    outer.include_router(inner, dependencies=[guard])
    if not hasattr(routing, "iter_route_contexts"):  # routes were copied when the router was included
        app.include_router(outer)
    return app


def _on_a_mounted_app(guard: Any, endpoint: Endpoint) -> FastAPI:
    outer = FastAPI()
    outer.mount("/outer/inner", _on_the_inclusion(guard, endpoint))
    return outer


PLACES = [
    (_on_the_route, "/"),
    (_on_the_router, "/"),
    (_on_the_inclusion, "/"),
    (_on_the_app, "/"),
    (_on_the_app_around_a_router, "/"),
    (_on_an_outer_inclusion, "/outer/inner"),
    (_on_an_inner_inclusion, "/outer/inner"),
    (_on_a_mounted_app, "/outer/inner/"),
]


@pytest.mark.parametrize(("place", "url"), PLACES, ids=[place.__name__[1:] for place, _ in PLACES])
def test_guards_are_found_wherever_they_are_declared(
    watched: Watched, place: Callable[[Any, Endpoint], FastAPI], url: str
) -> None:
    guarded = place(Depends(require_user), watched(lambda: "read"))
    assert "guard require_user is a security scheme" in reason(watched.of(guarded, url, headers=BEARER))
    harmless = place(Depends(limit_rate), watched(lambda: "read"))
    assert watched.of(harmless, url) == COVERED


def test_one_router_included_twice_is_two_pages(watched: Watched) -> None:
    router, app = APIRouter(), FastAPI()
    router.get("/report")(watched(lambda: "read"))
    app.include_router(router, prefix="/open")
    app.include_router(router, prefix="/closed", dependencies=[Depends(require_user)])
    assert watched.of(app, "/open/report") == COVERED
    assert "guard require_user" in reason(watched.of(app, "/closed/report", headers=BEARER))
    assert watched.of(app, "/open/report") == COVERED


def test_a_router_included_later_is_noticed(watched: Watched) -> None:
    router, app = APIRouter(), FastAPI()
    router.get("/report")(watched(lambda: "read"))
    app.include_router(router, prefix="/open")
    assert watched.of(app, "/open/report") == COVERED
    app.include_router(router, prefix="/closed", dependencies=[Depends(require_user)])
    assert "guard require_user" in reason(watched.of(app, "/closed/report", headers=BEARER))
    assert watched.of(app, "/open/report") == COVERED


def test_a_router_included_in_two_apps_is_judged_in_each(watched: Watched) -> None:
    router = APIRouter()
    router.get("/")(watched(lambda: "read"))
    free, closed = FastAPI(), FastAPI(dependencies=[Depends(require_user)])
    for app in (free, closed):
        app.include_router(router)
    outer = FastAPI()
    outer.mount("/free", free)
    outer.mount("/closed", closed)
    assert watched.of(outer, "/free/") == COVERED
    assert "guard require_user" in reason(watched.of(outer, "/closed/", headers=BEARER))


@pytest.mark.parametrize("asked", ["free", "closed"])
@pytest.mark.parametrize("last", ["free", "closed"])
def test_where_the_path_does_not_tell_pages_apart_all_must_be_covered(watched: Watched, asked: str, last: str) -> None:
    """Two hosts, one router in each, the same path: which one was asked stands in no path."""
    router, app = APIRouter(), FastAPI()
    router.get("/report")(watched(lambda: "read"))
    free, closed = APIRouter(), APIRouter()
    free.include_router(router)
    closed.include_router(router, dependencies=[Depends(require_user)])
    hosts = [Host("free.example", free), Host("closed.example", closed)]
    app.router.routes.extend(hosts if last == "closed" else reversed(hosts))
    found = watched.of(TestClient(app, base_url=f"http://{asked}.example"), "/report", headers=BEARER)
    if asked == "closed" or hasattr(routing, "iter_route_contexts"):  # older ones make two routes of it
        assert "guard require_user" in reason(found)
    else:
        assert found == COVERED


def test_a_mounted_router_is_found(watched: Watched) -> None:
    router, app = APIRouter(), FastAPI()
    router.get("/report", dependencies=[Depends(require_tenant)])(watched(lambda: "guarded"))
    router.get("/free")(watched(lambda: "read"))
    app.mount("/mounted", router)
    app.mount("/itself", app)
    assert watched.of(app, "/mounted/free") == COVERED
    assert "guard require_tenant" in reason(watched.of(app, "/mounted/report"))


def test_a_route_that_merely_looks_the_same_is_another(watched: Watched) -> None:
    """Routes of one path, endpoint and method are equal, and one of them is guarded."""
    endpoint = watched(lambda: "read")
    router, app = APIRouter(), FastAPI()
    app.get("/report", dependencies=[Depends(require_tenant)])(endpoint)
    router.get("/report")(endpoint)
    app.mount("/mounted", router)
    assert "guard require_tenant" in reason(watched.of(app, "/report"))
    assert watched.of(app, "/mounted/report") == COVERED


@pytest.mark.parametrize(
    ("root_path", "prefix"),
    [("", ""), ("/api", "/api"), ("/open", "/open"), ("/op", ""), ("/cl", "")],  # a part of a segment is no root
)
def test_an_app_behind_a_root_path(watched: Watched, root_path: str, prefix: str) -> None:
    router = APIRouter()
    router.get("/report")(watched(lambda: "read"))
    app = FastAPI()
    app.include_router(router, prefix="/open")
    app.include_router(router, prefix="/closed", dependencies=[Depends(require_tenant)])
    client = TestClient(app, root_path=root_path)
    assert watched.of(client, f"{prefix}/open/report") == COVERED
    assert "guard require_tenant" in reason(watched.of(client, f"{prefix}/closed/report"))


def test_an_outer_apps_guards_do_not_concern_a_mounted_app(watched: Watched) -> None:
    """FastAPI does not run them either."""
    inner, outer = FastAPI(), FastAPI(dependencies=[Depends(require_user)])
    inner.get("/")(watched(lambda: "read"))
    outer.mount("/inner", inner)
    assert watched.of(outer, "/inner/") == COVERED


def test_a_route_that_is_not_the_applications_is_not_cacheable(watched: Watched) -> None:
    class Hiding(APIRouter):
        """Serves a route that it does not list."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await hidden(scope, receive, send)

    hidden = APIRouter()
    hidden.get("/")(watched(lambda: "read"))
    app = FastAPI()
    app.mount("/hidden", Hiding())
    assert reason(watched.of(app, "/hidden/")) == (
        "what <lambda> depends on can't be determined, because its route was not found among those of its application "
        "or is not of a known kind; add it with a decorator of the application or of an included router"
    )


def test_a_graph_of_unknown_shape_is_not_cacheable(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.get("/shapeless")(watched(lambda: "read"))
    app.get("/broken")(watched(lambda: "read"))
    client = TestClient(app)
    shapeless, broken = app.routes[-2:]
    shapeless.dependant = object()  # type: ignore[attr-defined]
    broken.dependant.query_params = None  # type: ignore[attr-defined]

    # Each route answers by the graph it was made with; only who looks now finds it changed.
    def judge(route: Any) -> Verdict:
        scope = {"type": "http", "app": app, "route": route, "path": route.path}
        return verdict(scope, route.endpoint, {})

    assert client.get("/shapeless").status_code == 200
    assert "not of a known kind" in reason(judge(shapeless))
    assert not caplog.records
    with caplog.at_level(logging.ERROR, logger="fast_cache"):
        assert "not of a known kind" in reason(judge(broken))
    assert "could not be examined" in caplog.text


def test_a_scope_without_an_app_is_not_cacheable(watched: Watched) -> None:
    request = Request({"type": "http", "path": "/", "headers": []})
    assert "can't be determined" in reason(verdict(request, len, {}))
    assert "can't be determined" in reason(verdict(request.scope, len, {}))
    assert "can't be determined" in reason(watched.planner.verdict(request, len, {}))
    assert len(watched.planner) == 0


@pytest.mark.skipif(not hasattr(routing, "iter_route_contexts"), reason="this FastAPI copies the routes of routers")
def test_included_routes_that_cannot_be_listed_are_not_cacheable(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI 0.137 kept included routers as they are, and had no way yet to ask for their routes."""
    monkeypatch.delattr(routing, "iter_route_contexts")
    router, app = APIRouter(), FastAPI()
    router.get("/included")(watched(lambda: "read"))
    app.include_router(router, dependencies=[Depends(require_user)])
    app.get("/direct")(watched(lambda: "read"))
    assert "can't be determined" in reason(watched.of(app, "/included", headers=BEARER))
    assert watched.of(app, "/direct") == COVERED


def parts() -> Iterator[str]:
    yield "part"


async def asynchronous_parts() -> AsyncIterator[str]:
    yield "part"


class Parts:
    def __call__(self) -> Iterator[str]:
        yield "part"


def none() -> int:
    return sum(number for number in range(3))


def streaming() -> Any:
    return parts()


def streaming_its_own() -> Any:
    def own() -> Iterator[str]:
        yield "part"

    return own()


@pytest.mark.parametrize(
    ("endpoint", "dependency", "steps"),
    [
        (none, None, False),
        (none, none, False),
        (none, asynchronous_parts, False),
        (none, parts, True),
        (none, Parts(), True),
        (none, functools.partial(parts), True),
        (streaming, None, True),
        (streaming_its_own, None, True),
    ],
)
@pytest.mark.parametrize("mounted", [False, True])
def test_it_is_told_whether_threads_may_take_the_steps_of_a_generator(
    endpoint: Any, dependency: Any, steps: bool, mounted: bool
) -> None:
    app, outer = FastAPI(), FastAPI()
    app.get("/", dependencies=[] if dependency is None else [Depends(dependency)])(endpoint)
    outer.mount("/mounted", app)
    assert steps_generators(outer if mounted else app) == steps


def test_what_is_mounted_and_unknown_may_step_generators() -> None:
    async def unknown(scope: Any, receive: Any, send: Any) -> None: ...

    app = FastAPI()
    app.mount("/unknown", unknown)
    assert steps_generators(app)
