"""Dependencies whose results nobody takes."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, Query, Security
from fastapi.security import SecurityScopes

from tests.support.watched import (
    BEARER,
    COVERED,
    CREDENTIALS_COVERED,
    Endpoint,
    Watched,
    by_query,
    get_user,
    identities,
    limit_rate,
    oauth2,
    reason,
    require_user,
)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@identities
def test_a_guard_that_reads_identity_is_a_reason(watched: Watched, dependency: Endpoint, said: str) -> None:
    async def guard(who: Annotated[Any, Depends(dependency)]) -> None: ...

    app = FastAPI()
    app.get("/", dependencies=[Depends(guard)])(watched(lambda: "read"))
    what = said.removeprefix("dependency ")
    name, clause = what.split(" ", 1)
    assert reason(watched.of(app, headers=BEARER)) == (
        f"guard guard {clause} (through {name}), which no keyed parameter of <lambda> covers; pass shared=True if the "
        "answer is the same for everyone whom the guards let in, or take what guard returns as a parameter of <lambda>"
    )


def test_shared_and_harmless_guards_are_no_reason(watched: Watched) -> None:
    def read() -> str:
        return "read"

    app = FastAPI()
    app.get("/shared", dependencies=[Depends(require_user), Depends(by_query)])(watched(read, shared=True))
    app.get("/harmless", dependencies=[Depends(limit_rate)])(watched(read))
    assert watched.of(app, "/shared?tenant=t", headers=BEARER) == CREDENTIALS_COVERED
    assert watched.of(app, "/harmless") == COVERED


def test_a_guard_that_reads_an_input_the_key_lacks_is_a_reason(watched: Watched) -> None:
    """It could choose a tenant by it, and lay it down where the endpoint finds it."""

    def read(tenant: Annotated[str, Query()]) -> str:
        return tenant

    app = FastAPI()
    app.get("/without", dependencies=[Depends(by_query)])(watched(lambda: "read"))
    app.get("/with", dependencies=[Depends(by_query)])(watched(read))
    assert reason(watched.of(app, "/without?tenant=t")).startswith("guard by_query reads query parameter tenant, which")
    assert watched.of(app, "/with?tenant=t") == COVERED


def test_key_builder_does_not_answer_for_guards(watched: Watched) -> None:
    def read(user: Annotated[str, Depends(get_user)]) -> str:
        return user

    app = FastAPI()
    app.get("/", dependencies=[Depends(require_user)])(watched(read, author_keyed=True))
    assert reason(watched.of(app, headers=BEARER)).startswith("guard require_user is a security scheme (through OAuth2")


def test_a_guard_that_is_also_a_keyed_parameter_is_covered(watched: Watched) -> None:
    def read(user: Annotated[str, Depends(get_user)]) -> str:
        return user

    app = FastAPI(dependencies=[Depends(get_user)])
    app.get("/itself")(watched(read))
    app.get("/beneath", dependencies=[Depends(oauth2)])(watched(read))
    app.get("/on-top", dependencies=[Depends(require_user)])(watched(read))
    for url in ("/itself", "/beneath", "/on-top"):
        assert watched.of(app, url, headers=BEARER) == CREDENTIALS_COVERED, url


def test_a_guard_that_reads_more_than_the_keyed_parameter_is_a_reason(watched: Watched) -> None:
    async def guard(user: Annotated[str, Depends(get_user)], x_tenant: Annotated[str, Header()] = "") -> None: ...

    def read(user: Annotated[str, Depends(get_user)]) -> str:
        return user

    app = FastAPI()
    app.get("/", dependencies=[Depends(guard)])(watched(read))
    assert reason(watched.of(app, headers=BEARER)).startswith("guard guard reads header x-tenant, which")


def test_a_guard_on_what_the_key_holds_only_in_part_is_a_reason(watched: Watched) -> None:
    def get_language(token: Annotated[str, Depends(oauth2)]) -> str:
        return "en"

    async def choose_tenant(token: Annotated[str, Depends(oauth2)]) -> None: ...

    def read(language: Annotated[str, Depends(get_language)]) -> str:
        return language

    app = FastAPI()
    app.get("/", dependencies=[Depends(choose_tenant)])(watched(read))
    assert "guard choose_tenant is a security scheme" in reason(watched.of(app, headers=BEARER))


def test_a_guard_with_other_scopes_is_another_dependency(watched: Watched) -> None:
    def scoped(scopes: SecurityScopes, token: Annotated[str, Depends(oauth2)]) -> str:
        return token

    def read(user: Annotated[str, Security(scoped, scopes=["read"])]) -> str:
        return user

    app = FastAPI()
    app.get("/same", dependencies=[Security(scoped, scopes=["read"])])(watched(read))
    app.get("/other", dependencies=[Security(scoped, scopes=["admin"])])(watched(read))
    assert watched.of(app, "/same", headers=BEARER) == CREDENTIALS_COVERED
    assert "guard scoped is a security scheme" in reason(watched.of(app, "/other", headers=BEARER))
