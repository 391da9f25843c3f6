"""What a graph may read, and what must cover it."""

import functools
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import (
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Header,
    Path,
    Query,
    Request,
    Response,
    Security,
)
from fastapi.security import SecurityScopes
from pydantic import AfterValidator, BaseModel
from starlette.requests import HTTPConnection

from fast_cache.http.identity import verdict
from fast_cache.keys.roles import Role
from tests.support.watched import (
    BEARER,
    COVERED,
    CREDENTIALS_COVERED,
    Endpoint,
    Session,
    Watched,
    by_form,
    by_path,
    by_query,
    get_session,
    get_tenant,
    get_tenant_session,
    get_user,
    get_user_session,
    get_visit,
    identities,
    reason,
)


@pytest.fixture
def watched() -> Watched:
    return Watched()


# The endpoint's own parameters.


def test_an_endpoint_of_keyed_parameters_is_cacheable(watched: Watched) -> None:
    class Item(BaseModel):
        name: str

    def create(
        shop: str,
        item: Annotated[Item, Body()],
        tasks: BackgroundTasks,
        q: str = "",
        x_tenant: Annotated[str, Header()] = "",
        visit: Annotated[str, Cookie()] = "",
    ) -> str:
        return shop

    app = FastAPI()
    app.post("/{shop}")(watched(create, tasks=Role.PER_REQUEST, visit=Role.HASHED))
    assert watched.of(app, "/s", method="POST", json={"name": "pen"}) == COVERED


def test_a_parameter_that_is_not_in_the_key_is_a_reason(watched: Watched) -> None:
    def read(q: str = "") -> str:
        return q

    app = FastAPI()
    app.get("/")(watched(read, q=Role.HANDLE))
    assert reason(watched.of(app)) == (
        "query parameter q of read is not part of its key; annotate q as Annotated[..., NotKeyed] if the result does "
        "not depend on it"
    )


@pytest.mark.parametrize("role", [Role.NOT_KEYED, Role.BUILT, Role.OMITTED])
def test_the_author_answers_for_a_parameter_left_out_on_purpose(watched: Watched, role: Role) -> None:
    def read(request: Request, q: str = "", user: str = Depends(get_user)) -> str:
        return q

    app = FastAPI()
    app.get("/")(watched(read, q=role, request=role, user=role))
    assert watched.of(app, headers=BEARER) == CREDENTIALS_COVERED


@pytest.mark.parametrize("kind", [Request, HTTPConnection])
def test_the_endpoints_own_request_is_a_reason(watched: Watched, kind: type) -> None:
    def read(request: kind) -> str:  # type: ignore[valid-type]
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, request=Role.REQUEST))
    assert reason(watched.of(app)) == (
        "parameter request of read is the request itself, which no key can hold; take what the result depends on as "
        "parameters of their own, annotate request as Annotated[Request, NotKeyed] if the result does not depend on "
        "it, or pass key_builder="
    )


@pytest.mark.parametrize("role", [Role.PER_REQUEST, Role.BUILT, Role.OMITTED])
@pytest.mark.parametrize("terms", [{}, {"shared": True}, {"author_keyed": True}])
def test_the_endpoints_own_response_is_a_reason(watched: Watched, role: Role, terms: dict[str, Any]) -> None:
    def read(response: Response) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, **terms, response=role))
    assert reason(watched.of(app)) == (
        "read takes the Response, whose status and headers a cached value can't replay; cache a function beneath read "
        "that does not take it, or annotate response as Annotated[Response, NotKeyed] if read sets nothing on it that "
        "matters"
    )


def test_a_response_is_no_reason_by_the_authors_word_or_in_a_dependency(watched: Watched) -> None:
    def stamp(response: Response) -> str:
        return "stamp"

    def read(response: Response, stamp: Annotated[str, Depends(stamp)]) -> str:
        return "read"

    app = FastAPI(dependencies=[Depends(stamp)])
    app.get("/")(watched(read, response=Role.NOT_KEYED))
    assert watched.of(app) == COVERED


def test_shared_does_not_cover_the_endpoints_own_request(watched: Watched) -> None:
    def read(request: Request) -> str:
        return request.url.path

    app = FastAPI()
    app.get("/")(watched(read, shared=True, request=Role.REQUEST))
    assert not watched.of(app).cacheable


def test_key_builder_covers_the_endpoints_own_request(watched: Watched) -> None:
    def read(request: Request) -> str:
        return request.url.path

    app = FastAPI()
    app.get("/")(watched(read, author_keyed=True, request=Role.REQUEST))
    assert watched.of(app).cacheable


# Dependencies whose results the endpoint takes.


@identities
def test_identity_beneath_a_keyed_parameter_is_covered(watched: Watched, dependency: Endpoint, said: str) -> None:
    def read(who: Annotated[Any, Depends(dependency)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read))
    assert watched.of(app, headers=BEARER).cacheable


@identities
def test_identity_beneath_a_handle_is_a_reason(watched: Watched, dependency: Endpoint, said: str) -> None:
    def get_handle(who: Annotated[Any, Depends(dependency)]) -> Session:
        return Session()

    def read(session: Annotated[Session, Depends(get_handle)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert reason(watched.of(app, headers=BEARER)) == (
        f"{said}, which no keyed parameter of read covers; declare what the result depends on as a parameter of read, "
        "or annotate session as Annotated[..., NotKeyed] if the result does not depend on that, or pass shared=True if "
        "everyone gets the same answer"
    )


@identities
def test_shared_covers_identity_beneath_a_handle(watched: Watched, dependency: Endpoint, said: str) -> None:
    def read(session: Annotated[Session, Depends(dependency)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, shared=True, session=Role.HANDLE))
    assert watched.of(app, headers=BEARER) == CREDENTIALS_COVERED


@pytest.mark.parametrize("covered", [{"session": Role.NOT_KEYED}, {"session": Role.HANDLE, "author_keyed": True}])
def test_the_author_answers_for_what_is_beneath_a_parameter(watched: Watched, covered: dict[str, Any]) -> None:
    def read(session: Annotated[Session, Depends(get_user_session)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, **covered))
    assert watched.of(app, headers=BEARER) == CREDENTIALS_COVERED


def test_a_session_that_depends_on_nothing_is_covered(watched: Watched) -> None:
    def read(item_id: int, session: Annotated[Session, Depends(get_session)]) -> int:
        return item_id

    app = FastAPI()
    app.get("/{item_id}")(watched(read, session=Role.HANDLE))
    assert watched.of(app, "/1") == COVERED


def test_a_session_of_a_tenant_is_a_reason(watched: Watched) -> None:
    def read(item_id: int, session: Session = Depends(get_tenant_session)) -> int:  # noqa: B008 (the older style)
        return item_id

    app = FastAPI()
    app.get("/{item_id}")(watched(read, session=Role.HANDLE))
    assert reason(watched.of(app, "/1")).startswith(
        "dependency get_tenant reads header x-tenant, which no keyed parameter of read covers; "
    )


def test_a_session_of_a_tenant_is_covered_by_the_keyed_tenant(watched: Watched) -> None:
    def read(
        tenant: Annotated[str, Depends(get_tenant)], session: Annotated[Session, Depends(get_tenant_session)]
    ) -> str:
        return tenant

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert watched.of(app) == COVERED


def test_a_session_of_a_tenant_is_covered_by_the_same_keyed_header(watched: Watched) -> None:
    def read(session: Annotated[Session, Depends(get_tenant_session)], x_tenant: Annotated[str, Header()] = "t") -> str:
        return x_tenant

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert watched.of(app) == COVERED


def test_what_lies_beneath_a_keyed_result_is_not_itself_in_the_key(watched: Watched) -> None:
    """Two users of one language have one key, and two sessions."""

    def get_language(user: Annotated[str, Depends(get_user)]) -> str:
        return "en"

    def read(
        language: Annotated[str, Depends(get_language)], session: Annotated[Session, Depends(get_user_session)]
    ) -> str:
        return language

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert "is a security scheme" in reason(watched.of(app, headers=BEARER))


def test_a_result_that_is_not_shared_covers_nothing_else(watched: Watched) -> None:
    """FastAPI runs the two anew, and they may return what differs."""

    def read(
        tenant: Annotated[str, Depends(get_tenant, use_cache=False)],
        session: Annotated[Session, Depends(get_tenant_session)],
    ) -> str:
        return tenant

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert "get_tenant reads header x-tenant" in reason(watched.of(app))


def require(x_tenant: Annotated[str, Header()] = "") -> None: ...


def is_known(x_tenant: Annotated[str, Header()] = "") -> bool:
    return x_tenant == "known"


def bind(x_tenant: Annotated[str, Header()] = "") -> Iterator[None]:
    yield


def ask(x_tenant=Header("")):  # type: ignore[no-untyped-def]  # noqa: B008
    return x_tenant


def find(x_tenant=Header("")):  # type: ignore[no-untyped-def]  # noqa: B008
    return x_tenant if x_tenant else None


def find_typed(x_tenant: Annotated[str, Header()] = "") -> str | None:
    return x_tenant or None


class Checked:
    def __init__(self, x_tenant: Annotated[str, Header()] = "") -> None: ...


@pytest.mark.parametrize(
    ("parameter", "covers"),
    [
        (Annotated[Any, Depends(require)], False),
        (Annotated[str, Depends(is_known)], False),
        (Annotated[Any, Depends(bind)], False),
        (Annotated[Any, Depends(functools.partial(require))], False),
        (Annotated[None, Depends(get_tenant)], False),
        (Annotated[bool, Depends(get_tenant)], False),
        (Annotated[Any, Depends(get_tenant)], True),
        (Annotated[Any, Depends(ask)], True),
        (Annotated[Any, Depends(find)], True),
        (Annotated[Any, Depends(find_typed)], True),
        (Annotated[str | None, Depends(find_typed)], True),
        (Annotated[Checked, Depends()], True),
    ],
)
def test_only_a_result_that_tells_visitors_apart_covers(watched: Watched, parameter: Any, covers: bool) -> None:
    def read(it: parameter = None) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read))
    app.get("/shared")(watched(read, shared=True))
    app.get("/authors")(watched(read, it=Role.NOT_KEYED))
    assert watched.of(app).cacheable is covers
    assert watched.of(app, "/shared").cacheable
    assert watched.of(app, "/authors").cacheable


def test_why_a_result_that_tells_nothing_does_not_cover(watched: Watched) -> None:
    def read(it: Annotated[None, Depends(require)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read))
    assert reason(watched.of(app)) == (
        "guard require reads header x-tenant, which no keyed parameter of read covers; pass shared=True if the answer "
        "is the same for everyone whom the guards let in, or let require return what the result depends on, because "
        "it tells no two visitors apart"
    )


def test_every_uncovered_source_is_named(watched: Watched) -> None:
    def get_handle(a: str = Depends(get_tenant), b: str = Depends(get_visit), c: str = Depends(get_tenant)) -> Session:
        return Session()

    def read(session: Annotated[Session, Depends(get_handle)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    reasons = watched.of(app).reasons
    assert sorted(text.split(", which")[0] for text in reasons) == [
        "dependency get_tenant reads header x-tenant",
        "dependency get_visit reads cookie visit",
    ]


def test_a_parameter_of_unknown_role_is_not_in_the_key(watched: Watched) -> None:
    def read(tenant: Annotated[str, Depends(get_tenant)]) -> str:
        return tenant

    wrapper = watched(read)

    def judge(request: Request, tenant: Annotated[str, Depends(get_tenant)]) -> str:
        watched.last = verdict(request, judge, {"request": Role.NOT_KEYED})
        return tenant

    app = FastAPI()
    app.get("/known")(wrapper)
    app.get("/unknown")(judge)
    assert watched.of(app, "/known").cacheable
    assert "get_tenant reads header x-tenant" in reason(watched.of(app, "/unknown"))


def test_a_class_as_a_dependency(watched: Watched) -> None:
    class Page:
        def __init__(self, x_tenant: Annotated[str, Header()] = "", limit: int = 10) -> None:
            self.limit = limit

    class Reader:
        def __call__(self, page: Annotated[Page, Depends()]) -> Session:
            return Session()

    def read(page: Annotated[Page, Depends()]) -> int:
        return page.limit

    def read_session(session: Annotated[Session, Depends(Reader())]) -> int:
        return 1

    app = FastAPI()
    app.get("/page")(watched(read))
    app.get("/session")(watched(read_session, session=Role.HANDLE))
    assert watched.of(app, "/page") == COVERED
    found = [text.split(", which")[0] for text in watched.of(app, "/session").reasons]
    assert found == ["dependency Page reads query parameter limit", "dependency Page reads header x-tenant"]


def test_security_scopes_alone_are_no_identity(watched: Watched) -> None:
    def get_handle(scopes: SecurityScopes) -> Session:
        return Session()

    def read(session: Annotated[Session, Security(get_handle, scopes=["read"])]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert watched.of(app) == COVERED


# Paths, queries and bodies that dependencies read.


@pytest.mark.parametrize(
    ("path", "dependency", "said"),
    [
        ("/{tenant}", by_path, "dependency by_path reads path parameter tenant"),
        ("/t", by_query, "dependency by_query reads query parameter tenant"),
        ("/t", by_form, "dependency by_form reads body parameter tenant"),
    ],
)
def test_an_input_of_a_handle_is_a_reason_even_if_shared(
    watched: Watched, path: str, dependency: Endpoint, said: str
) -> None:
    def read(session: Annotated[Session, Depends(dependency)]) -> str:
        return "read"

    for shared in (False, True):
        app = FastAPI()
        app.post(path)(watched(read, shared=shared, session=Role.HANDLE))
        assert reason(watched.of(app, "/t?tenant=t", method="POST", json={"tenant": "t"})) == (
            f"{said}, which no keyed parameter of read covers; declare what the result depends on as a parameter of "
            "read, or annotate session as Annotated[..., NotKeyed] if the result does not depend on that"
        )


@pytest.mark.parametrize(
    ("path", "dependency", "how"),
    [("/{tenant}", by_path, Path()), ("/t", by_query, Query()), ("/t", by_form, Body(embed=True))],
)
def test_an_input_of_a_handle_is_covered_by_the_same_keyed_parameter(
    watched: Watched, path: str, dependency: Endpoint, how: Any
) -> None:
    def read(tenant: Annotated[str, how], session: Annotated[Session, Depends(dependency)]) -> str:
        return tenant

    app = FastAPI()
    app.post(path)(watched(read, session=Role.HANDLE))
    assert watched.of(app, "/t?tenant=t", method="POST", json={"tenant": "t"}) == COVERED


@pytest.mark.parametrize(
    "other",
    [
        Annotated[int, Query()],  # 1 for "1" and for "01"
        Annotated[str, Query(), AfterValidator(str.lower)],
        Annotated[str, Query(alias="shop")],
        Annotated[str, Header(alias="tenant")],
        Annotated[list[str], Query()],
    ],
)
def test_an_input_is_not_covered_by_a_parameter_that_reads_otherwise(watched: Watched, other: Any) -> None:
    def read(tenant: other, session: Annotated[Session, Depends(by_query)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    found = watched.of(app, "/?tenant=1&shop=1", headers={"tenant": "1"})
    assert "by_query reads query parameter tenant" in reason(found)


def test_an_input_is_not_covered_by_a_parameter_with_another_default(watched: Watched) -> None:
    def get_handle(tenant: str = "a") -> Session:
        return Session()

    def read(session: Annotated[Session, Depends(get_handle)], tenant: str = "b") -> str:
        return tenant

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE))
    assert "get_handle reads query parameter tenant" in reason(watched.of(app))


def test_an_input_is_not_covered_by_a_parameter_that_is_not_keyed(watched: Watched) -> None:
    def read(tenant: Annotated[str, Query()], session: Annotated[Session, Depends(by_query)]) -> str:
        return "read"

    app = FastAPI()
    app.get("/")(watched(read, session=Role.HANDLE, tenant=Role.NOT_KEYED))
    assert "by_query reads query parameter tenant" in reason(watched.of(app, "/?tenant=1"))
