"""What HTTP says about pages: entity tags and 304, directives in both directions, and the headers that caches send.

Each test runs with an async and with a sync endpoint. The clock of the cache stands still until a test moves it.
"""

import asyncio
import functools
import inspect
import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
import redis
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from fast_cache import Cache, ConfigurationError, HTTPOptions, InMemoryBackend, RedisBackend

Endpoint = Callable[..., Any]

LINES = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once in a process; each of these tests is to hear its own."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


class Clock:
    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Every clock of the cache; those of event loops go on."""
    clock, real = Clock(), time.monotonic
    for name, module in list(sys.modules.items()):
        if name.startswith("fast_cache") and getattr(module, "monotonic", None) is real:
            monkeypatch.setattr(module, "monotonic", clock)
    return clock


def of_kind(kind: str, fn: Endpoint) -> Endpoint:
    """A sync function as it is, or as an async one."""
    if kind == "sync":
        return fn

    @functools.wraps(fn)
    async def suspending(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    # FastAPI looks through __wrapped__ for whether a function suspends.
    del suspending.__wrapped__
    suspending.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
    return suspending


class Site:
    """An application with a cache, and how often its endpoints ran."""

    def __init__(self, kind: str, http: HTTPOptions | None = None, backend: Any = None) -> None:
        self.kind = kind
        self.runs = 0
        self.app, self.cache = FastAPI(), Cache()
        self.cache.init_app(self.app, backend or InMemoryBackend(), http=http)
        self._client: TestClient | None = None

    @property
    def client(self) -> TestClient:
        if self._client is None:
            self._client = TestClient(self.app)
        return self._client

    def page(
        self, fn: Endpoint, path: str = "/", *, methods: tuple[str, ...] = ("GET",), **options: Any
    ) -> Callable[..., Any]:
        """Make ``fn`` a cached endpoint."""

        @functools.wraps(fn)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return fn(*args, **kwargs)

        counted.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
        del counted.__wrapped__
        decorated: Callable[..., Any] = self.cache.cached(**options)(of_kind(self.kind, counted))
        self.app.add_api_route(path, decorated, methods=list(methods))
        return decorated

    def get(self, path: str = "/", *lines: tuple[str, str], method: str = "GET") -> Any:
        return self.client.request(method, path, headers=list(lines))

    def status(self, path: str = "/", *lines: tuple[str, str]) -> str:
        """What the cache says about its part in a request."""
        return str(self.get(path, *lines).headers["cache-status"])


MakeSite = Callable[..., Site]


@pytest.fixture(params=["async", "sync"])
def make_site(request: pytest.FixtureRequest) -> MakeSite:
    return functools.partial(Site, request.param)


@pytest.fixture
def site(make_site: MakeSite, clock: Clock) -> Site:
    return make_site()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def item(item_id: int) -> dict[str, int]:
    return {"id": item_id}


# Entity tags.


def test_a_page_has_a_strong_tag_of_its_bytes(site: Site) -> None:
    site.page(lambda: "one", "/a", expire=60)
    site.page(lambda: "one", "/b", expire=60)
    site.page(lambda: "two", "/c", expire=60)
    missed, hit, alike, other = (site.get(path).headers["etag"] for path in ("/a", "/a", "/b", "/c"))
    assert re.fullmatch(r'"[\x21\x23-\x7e]+"', missed)
    assert missed == hit == alike != other


def test_a_tag_changes_with_the_bytes(site: Site) -> None:
    read = site.page(lambda: site.runs, "/", expire=60)
    before = site.get().headers["etag"]
    asyncio.run(_invalidated(read))
    assert site.get("/", ("if-none-match", before)).status_code == 200
    assert site.get().headers["etag"] != before


async def _invalidated(read: Any) -> None:
    gone = read.invalidate()
    if inspect.isawaitable(gone):
        await gone


def test_a_tag_of_the_endpoints_own_is_kept(site: Site) -> None:
    def read(response: Response) -> str:
        response.headers["etag"] = '"mine"'
        return "x"

    site.page(read, expire=60)
    for _ in range(2):
        answer = site.get()
        assert answer.headers.get_list("etag") == ['"mine"']
        assert site.get("/", ("if-none-match", 'W/"mine"')).status_code == 304


@pytest.mark.parametrize(
    "lines",
    [
        ["{tag}"],
        ["W/{tag}"],
        ["*"],
        [" * "],
        ['"other", {tag}'],
        ['W/"other" , W/{tag},'],
        ['"a","b",,{tag}'],
        ['"other"', "{tag}"],
        ['"other"', '"another", W/{tag}'],
        ['"with,comma", {tag}'],
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_who_has_the_page_is_told_so(site: Site, lines: list[str], stored: bool) -> None:
    read = site.page(lambda: "one", expire=60)
    tag = site.get().headers["etag"]
    if not stored:
        asyncio.run(_invalidated(read))
    answer = site.get("/", *(("if-none-match", line.format(tag=tag)) for line in lines))
    assert (answer.status_code, answer.content) == (304, b"")
    assert site.runs == 1 + (not stored)


@pytest.mark.parametrize(
    "line",
    [
        '"other"',
        'W/"other"',
        "",
        ",",
        '{tag}"',
        "{tag} {tag}",
        "w/{tag}",
        "{bare}",
        "'{bare}'",
        '*, "x"',
        '"*"',
        "a, {tag}",
    ],
)
def test_who_has_another_page_or_says_it_wrongly_is_sent_this_one(site: Site, line: str) -> None:
    site.page(lambda: "one", expire=60)
    tag = site.get().headers["etag"]
    answer = site.get("/", ("if-none-match", line.format(tag=tag, bare=tag.strip('"'))))
    assert (answer.status_code, answer.json()) == (200, "one")


def test_a_very_long_list_of_tags_is_not_read(site: Site) -> None:
    site.page(lambda: "one", expire=60)
    tag = site.get().headers["etag"]
    many = ", ".join(f'"{number}"' for number in range(2000))
    assert site.get("/", ("if-none-match", f"{many}, {tag}")).status_code == 200


def test_304_has_the_headers_about_the_page_and_none_about_its_bytes(make_site: MakeSite, clock: Clock) -> None:
    site = make_site(HTTPOptions(cache_groups=True))

    def read(response: Response) -> str:
        response.headers["content-location"] = "/here"
        response.headers["content-language"] = "en"
        response.headers["last-modified"] = "Sun, 06 Nov 1994 08:49:37 GMT"
        response.headers["x-own"] = "yes"
        return "x"

    site.page(read, expire=60, vary_on="accept-language", tags=["all"])
    whole = site.get()
    clock.now += 7
    whole_hit = site.get()
    known = site.get("/", ("if-none-match", whole.headers["etag"]))
    assert known.status_code == 304
    names = [name for name, _ in known.headers.multi_items()]
    assert len(names) == len(set(names))
    for name in ("etag", "cache-control", "vary", "content-location", "cache-groups", "last-modified", "x-own"):
        assert known.headers[name] == whole.headers[name]
    for name in ("age", "cache-status"):
        assert known.headers[name] == whole_hit.headers[name]
    assert not {"content-type", "content-length", "content-language"} & set(names)


def test_304_to_the_request_that_made_the_page(site: Site) -> None:
    site.page(lambda: "one", expire=60)
    answer = site.get("/", ("if-none-match", "*"))
    assert (answer.status_code, site.runs) == (304, 1)
    assert site.get().json() == "one"
    assert site.runs == 1


def test_other_statuses_are_never_304(site: Site) -> None:
    def read(response: Response) -> str:
        response.status_code = 203
        return "x"

    site.page(read, expire=60, statuses=(200, 203))
    for _ in range(2):
        assert site.get("/", ("if-none-match", "*")).status_code == 203
    assert site.runs == 1


def test_a_post_that_is_cached_is_never_304(site: Site) -> None:
    """RFC 9110, 13.1.2: it would have to be 412, and before the request was carried out."""
    site.app.post("/search")(site.cache.cached(expire=60, methods=("POST",))(of_kind(site.kind, lambda: "found")))
    for _ in range(2):
        answer = site.get("/search", ("if-none-match", "*"), method="POST")
        assert (answer.status_code, answer.json()) == (200, "found")
    assert "hit" in site.client.post("/search").headers["cache-status"]


def test_404_is_404_whatever_tag_is_named(site: Site) -> None:
    def read(item_id: int) -> None:
        raise HTTPException(404)

    site.page(read, "/{item_id}", expire=60)
    for _ in range(2):
        assert site.get("/1", ("if-none-match", "*")).status_code == 404


def guard(x_token: Annotated[str, Header()] = "") -> None:
    if x_token != "right":
        raise HTTPException(401, headers={"www-authenticate": "Token"})


@pytest.mark.parametrize("tag", ["*", "{tag}"])
def test_guards_come_first(site: Site, tag: str) -> None:
    read: Any = site.cache.cached(expire=60, shared=True)(of_kind(site.kind, lambda: "secret"))
    site.app.get("/", dependencies=[Depends(guard)])(read)
    let_in = ("x-token", "right")
    etag = site.get("/", let_in).headers["etag"]
    condition = ("if-none-match", tag.format(tag=etag))
    assert site.get("/", let_in, condition).status_code == 304
    refused = site.get("/", condition)
    assert refused.status_code == 401
    assert "etag" not in refused.headers


def test_what_is_compressed_outside_has_a_weak_tag(make_site: MakeSite, clock: Clock) -> None:
    site = make_site()
    site.app.add_middleware(GZipMiddleware, minimum_size=1)
    site.page(lambda: "x" * 1000, expire=60)
    tags = {site.get("/", ("accept-encoding", coding)).headers["etag"] for coding in ("gzip", "identity", "gzip")}
    [tag] = tags
    assert tag.startswith('W/"')
    answers = [site.get("/", ("if-none-match", tag), ("accept-encoding", coding)) for coding in ("gzip", "identity")]
    assert [answer.status_code for answer in answers] == [304, 304]


# Cache-Control, as it is sent.


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"expire": 60}, "public, max-age=60"),
        ({"expire": 0.5}, "public, max-age=0"),
        ({"expire": "2h"}, "public, max-age=7200"),
        ({}, "public, no-cache"),
        ({"expire": 60, "stale_while_revalidate": 30}, "public, max-age=60, stale-while-revalidate=30"),
        ({"expire": 60, "stale_if_error": "1h"}, "public, max-age=60, stale-if-error=3600"),
        (
            {"expire": 60, "stale_while_revalidate": 30, "stale_if_error": 90, "public": True},
            "public, max-age=60, stale-while-revalidate=30, stale-if-error=90",
        ),
        ({"expire": 60, "cache_control": "private, max-age=5"}, "private, max-age=5"),
        ({"expire": 60, "cache_control": "no-store"}, "no-store"),
        ({"expire": 60, "cache_control": ""}, None),
        ({"cache_control": ""}, None),
    ],
)
def test_how_long_clients_may_keep_a_page(site: Site, options: dict[str, Any], sent: str | None) -> None:
    site.page(item, "/{item_id}", **options)
    answers = [site.get("/1") for _ in range(2)]
    assert [answer.headers.get("cache-control") for answer in answers] == [sent, sent]
    assert site.runs == 1


def test_what_the_result_says_of_its_lifetime_is_sent(site: Site) -> None:
    site.page(item, "/{item_id}", expire=lambda result, item_id: result["id"] * 10)
    assert [site.get("/3").headers["cache-control"] for _ in range(2)] == ["public, max-age=30"] * 2
    assert site.get("/4").headers["cache-control"] == "public, max-age=40"


def own_name(x_user: Annotated[str, Header()] = "") -> str:
    return x_user


def visit_of(visit: Annotated[str, Cookie()] = "") -> str:
    return visit


def of_header(x_user: Annotated[str, Header()] = "") -> str:
    return x_user


def of_cookie(visit: Annotated[str, Cookie()] = "") -> str:
    return visit


def of_dependency(user: Annotated[str, Depends(own_name)]) -> str:
    return user


@pytest.mark.parametrize("fn", [of_header, of_cookie, of_dependency])
def test_pages_of_somebody_are_private(site: Site, fn: Endpoint) -> None:
    site.page(fn, expire=60)
    assert [site.get().headers["cache-control"] for _ in range(2)] == ["private, max-age=60"] * 2
    assert site.runs == 1


def test_pages_behind_guards_are_private(site: Site) -> None:
    read: Any = site.cache.cached(expire=60, shared=True)(of_kind(site.kind, lambda: "x"))
    site.app.get("/", dependencies=[Depends(guard)])(read)
    answers = [site.get("/", ("x-token", "right")) for _ in range(2)]
    assert [answer.headers["cache-control"] for answer in answers] == ["private, max-age=60"] * 2


@pytest.mark.parametrize("own", ["max-age=5", "public, s-maxage=7, must-revalidate", "private-ish, x"])
def test_the_endpoints_own_word_wins(site: Site, own: str) -> None:
    def read(response: Response) -> str:
        response.headers["cache-control"] = own
        return "x"

    site.page(read, expire=60)
    assert [site.get().headers.get_list("cache-control") for _ in range(2)] == [[own]] * 2
    assert site.runs == 1


@pytest.mark.parametrize("by_option", [True, False])
def test_what_is_said_to_shared_caches_reaches_them_in_304_too(site: Site, by_option: bool) -> None:
    control = "public, max-age=10, s-maxage=60"

    def read(response: Response) -> str:
        if not by_option:
            response.headers["cache-control"] = control
        return "x"

    site.page(read, expire=30, cache_control=control if by_option else None)
    made, hit = site.get(), site.get()
    known = site.get("/", ("if-none-match", made.headers["etag"]))
    assert [answer.status_code for answer in (made, hit, known)] == [200, 200, 304]
    assert [answer.headers.get_list("cache-control") for answer in (made, hit, known)] == [[control]] * 3
    assert site.runs == 1


@pytest.mark.parametrize("option", [None, "", "public, max-age=60"])
@pytest.mark.parametrize("own", ["no-store", "private", 'Private="x-a"', "max-age=60, no-cache", "NO-STORE"])
def test_what_the_endpoint_forbids_to_store_is_not_stored(site: Site, own: str, option: str | None) -> None:
    def read(response: Response) -> str:
        response.headers["cache-control"] = own
        return "x"

    site.page(read, expire=60, cache_control=option)
    for runs in (1, 2):
        answer = site.get()
        assert answer.headers.get_list("cache-control") == [own]
        assert site.runs == runs
        assert "stored" not in answer.headers["cache-status"]


@pytest.mark.parametrize("bad", ["max-age=60\r\nx: y", "ä\nb", "\x00", "€"])
def test_a_cache_control_that_no_header_can_hold_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        Cache().cached(cache_control=bad)


# Cache-Control, as it comes in.

WISHES: list[tuple[LINES, str]] = [
    ([("cache-control", "no-cache")], "reload"),
    ([("cache-control", "max-age=0")], "reload"),
    ([("cache-control", "Max-Age=0, x")], "reload"),
    ([("cache-control", "x"), ("cache-control", "no-cache")], "reload"),
    ([("pragma", "no-cache")], "reload"),
    ([("pragma", "no-cache"), ("cache-control", "max-age=60")], "hit"),
    ([("cache-control", "max-age=60")], "hit"),
    ([("cache-control", "only-if-cached")], "hit"),
    ([("cache-control", "no-store")], "bypass"),
    ([("cache-control", "no-cache, no-store")], "bypass"),
]

wishes = pytest.mark.parametrize(("lines", "wish"), WISHES)


@wishes
@pytest.mark.parametrize("blind", [True, False])
def test_what_a_client_wants_where_it_may(site: Site, lines: LINES, wish: str, blind: bool) -> None:
    def of_user(user: Annotated[str, Depends(own_name)]) -> int:
        return site.runs

    site.page((lambda: site.runs) if blind else of_user, expire=60, client_control=True)
    (row,) = site.cache.explain(site.app)
    assert row.answered == ("before routing" if blind else "after dependencies")
    assert site.get().json() == 1
    answer = site.get("/", *lines)
    assert answer.json() == (1 if wish == "hit" else 2)
    status = answer.headers["cache-status"]
    assert (
        status
        == {
            "hit": "fast_cache; hit; ttl=60",
            "reload": "fast_cache; fwd=request; stored",
            "bypass": "fast_cache; fwd=bypass",
        }[wish]
    )
    # What was refreshed is stored; what went by is not.
    assert site.get().json() == (2 if wish == "reload" else 1)


@wishes
def test_what_a_client_wants_is_ignored_else(site: Site, lines: LINES, wish: str) -> None:
    site.page(lambda: site.runs, expire=60)
    assert [site.get("/", *sent).json() for sent in ([], lines, lines)] == [1, 1, 1]


@wishes
def test_a_first_request_with_a_wish(site: Site, lines: LINES, wish: str) -> None:
    site.page(lambda: site.runs, expire=60, client_control=True)
    assert site.get("/", *lines).json() == 1
    assert site.get().json() == (2 if wish == "bypass" else 1)


def test_a_refresh_that_the_client_wanted_may_end_in_304(site: Site) -> None:
    site.page(lambda: "one", expire=60, client_control=True)
    tag = site.get().headers["etag"]
    answer = site.get("/", ("cache-control", "no-cache"), ("if-none-match", tag))
    assert (answer.status_code, site.runs) == (304, 2)


# Age, and how much is left.


def test_age_grows_and_what_is_left_shrinks(site: Site, clock: Clock) -> None:
    site.page(lambda: site.runs, expire=60)
    made = site.get()
    assert "age" not in made.headers
    for passed, age in ((0.0, "0"), (0.9, "0"), (1.2, "2"), (50.0, "52")):
        clock.now += passed
        answer = site.get()
        assert answer.headers["age"] == age
        ttl = int(answer.headers["cache-status"].partition("ttl=")[2])
        assert 59 <= ttl + int(age) <= 60
        assert answer.headers["cache-control"] == "public, max-age=60"
    clock.now += 8
    again = site.get()
    assert (again.json(), again.headers["cache-status"]) == (2, "fast_cache; fwd=uri-miss; stored")
    assert "age" not in again.headers


def test_a_page_without_end_has_no_age(site: Site, clock: Clock) -> None:
    site.page(lambda: site.runs)
    site.get()
    clock.now += 10**6
    answer = site.get()
    assert (answer.json(), answer.headers["cache-status"]) == (1, "fast_cache; hit")
    assert "age" not in answer.headers


def test_an_age_that_the_endpoint_passes_on_is_not_the_pages(site: Site, clock: Clock) -> None:
    def read(response: Response) -> str:
        response.headers["age"] = "7"
        response.headers["date"] = "Sun, 06 Nov 1994 08:49:37 GMT"
        return "x"

    site.page(read, expire=60)
    site.get()
    clock.now += 3
    answer = site.get()
    assert answer.headers.get_list("age") == ["3"]
    assert "date" not in answer.headers


# Vary.


def test_vary_names_what_is_in_the_key(site: Site) -> None:
    site.page(lambda: site.runs, expire=60, vary_on=("Accept-Language", "X-Kind"))
    answers = [site.get("/", *lines) for lines in ([], [("accept-language", "de")], [("x-kind", "a")], [])]
    assert [answer.json() for answer in answers] == [1, 2, 3, 1]
    assert {answer.headers["vary"] for answer in answers} == {"accept-language, x-kind"}


def test_what_is_sent_in_other_words_is_another_variant(site: Site) -> None:
    """RFC 9111, 4.1, allows to take some of these for the same; dependencies read them in different ways."""
    site.page(lambda: site.runs, expire=60, vary_on=("X-Kind", "X-Other"))
    said: list[LINES] = [
        [],
        [("x-kind", "")],
        [("x-kind", "a")],
        [("x-other", "a")],
        [("x-kind", "a,b")],
        [("x-kind", "a"), ("x-kind", "b")],
        [("x-kind", "b"), ("x-kind", "a")],
        [("x-kind", "a, b")],
        [("x-kind", "a"), ("x-other", "b")],
        [("x-kind", ""), ("x-kind", "")],
    ]
    for _ in range(2):
        assert [site.get("/", *lines).json() for lines in said] == list(range(1, len(said) + 1))


@pytest.mark.parametrize("own", ["*", "Cookie", "Accept-Language, Cookie", "Accept-Language, *"])
def test_what_varies_on_more_is_not_stored(site: Site, own: str, caplog: pytest.LogCaptureFixture) -> None:
    def read(response: Response) -> int:
        response.headers["vary"] = own
        return site.runs

    site.page(read, expire=60, vary_on=("Accept-Language",))
    answers = [site.get() for _ in range(2)]
    assert [answer.json() for answer in answers] == [1, 2]
    assert {answer.headers["vary"] for answer in answers} == {own}
    assert "is not stored: it varies on" in said(caplog)


def test_an_endpoint_that_says_what_vary_on_says_is_stored(site: Site) -> None:
    def read(response: Response) -> int:
        response.headers["vary"] = "ACCEPT-LANGUAGE"
        return site.runs

    site.page(read, expire=60, vary_on=("Accept-Language",))
    answers = [site.get() for _ in range(2)]
    assert [answer.json() for answer in answers] == [1, 1]
    assert [answer.headers.get_list("vary") for answer in answers] == [["accept-language"]] * 2


# Cache-Status (RFC 9211).


@pytest.mark.parametrize(("name", "sent"), [("fast_cache", "fast_cache"), ("Shop", "Shop"), ("a shop", '"a shop"')])
def test_the_cache_is_called_as_the_author_wants(make_site: MakeSite, clock: Clock, name: str, sent: str) -> None:
    site = make_site(HTTPOptions(cache_status=name))
    site.page(lambda: "x", expire=60)
    assert [site.status(), site.status()] == [f"{sent}; fwd=uri-miss; stored", f"{sent}; hit; ttl=60"]


def test_the_cache_says_nothing_where_it_has_no_name(make_site: MakeSite, clock: Clock) -> None:
    site = make_site(HTTPOptions(cache_status=None, cache_status_key=True))
    site.page(lambda: site.runs, expire=60, client_control=True)
    for lines in ([], [], [("cache-control", "no-store")], [("cache-control", "no-cache")]):
        assert "cache-status" not in site.get("/", *lines).headers


def test_the_key_is_told_only_where_the_author_wants(make_site: MakeSite, clock: Clock) -> None:
    silent, open_ = make_site(), make_site(HTTPOptions(cache_status_key=True))
    for site in (silent, open_):
        site.page(item, "/{item_id}", expire=60)
    for _ in range(2):
        assert "key=" not in silent.status("/7")
    told = {open_.status("/7").partition("; key=")[2] for _ in range(2)}
    [key] = told
    assert re.fullmatch(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])+"', key)
    assert open_.status("/8").partition("; key=")[2] != key


def test_what_went_by_the_cache_says_so(site: Site) -> None:
    site.page(lambda: "x", expire=60, client_control=True)
    assert site.status("/", ("cache-control", "no-store")) == "fast_cache; fwd=bypass"


def test_what_could_not_be_stored_says_so(site: Site) -> None:
    def read(response: Response) -> str:
        response.set_cookie("a", "b")
        return "x"

    site.page(read, expire=60)
    assert [site.status(), site.status()] == ["fast_cache; fwd=uri-miss"] * 2


def test_a_stale_page_says_so(site: Site, clock: Clock) -> None:
    site.page(lambda: site.runs, expire=60, stale_while_revalidate=1000)
    with site.client:
        site.get()
        clock.now += 70
        answer = site.get()
        assert answer.json() == 1
        assert answer.headers["cache-status"].startswith("fast_cache; ")
        assert "ttl=-10" in answer.headers["cache-status"]
        assert answer.headers["age"] == "70"


def test_a_spare_page_says_so(site: Site, clock: Clock) -> None:
    def read() -> int:
        if site.runs > 1:
            raise ConnectionError("no source")
        return site.runs

    site.page(read, expire=60, stale_if_error=1000)
    site.get()
    clock.now += 70
    answer = site.get()
    assert (answer.status_code, answer.json()) == (200, 1)
    assert "ttl=-10" in answer.headers["cache-status"]
    assert answer.headers["age"] == "70"


def test_who_waited_for_another_request_says_so(make_site: MakeSite) -> None:
    site = make_site()
    began, go_on = threading.Event(), threading.Event()

    async def aread() -> str:
        began.set()
        await until(go_on.is_set)
        return "x"

    def read() -> str:
        began.set()
        assert go_on.wait(20)
        return "x"

    site.app.get("/")(site.cache.cached(expire=60)(aread if site.kind == "async" else read))
    flights = site.cache._binding.store.flights

    async def main() -> list[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url="http://test") as client:
            first = asyncio.create_task(client.get("/"))
            await until(began.is_set)
            others = [asyncio.create_task(client.get("/")) for _ in range(3)]
            await until(lambda: sum(flights.waiting(key) for key in list(flights._table)) == 3)
            go_on.set()
            return [(await one).headers["cache-status"] for one in (first, *others)]

    first, *others = asyncio.run(main())
    assert first == "fast_cache; fwd=uri-miss; stored"
    assert others == ["fast_cache; fwd=uri-miss; collapsed"] * 3


# Cache-Groups (RFC 9875).


def test_groups_are_the_tags_where_the_author_wants(make_site: MakeSite, clock: Clock) -> None:
    site = make_site(HTTPOptions(cache_groups=True))

    def tagged(item_id: int) -> int:
        site.cache.current.tags.add("said", 'quo"ted')
        return item_id

    site.page(tagged, "/{item_id}", expire=60, tags=["item:{item_id}", "ünsent"])
    groups = [site.get("/1").headers["cache-groups"] for _ in range(2)]
    assert groups == ['"item:1", "said", "quo\\"ted"'] * 2


def test_groups_are_not_told_else(site: Site) -> None:
    site.page(item, "/{item_id}", expire=60, tags=["item:{item_id}"])
    assert not any("cache-groups" in site.get("/1").headers for _ in range(2))


# Authorization (RFC 9111, 3.5).


def test_credentials_that_no_key_holds_get_nothing_from_the_cache(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.page(lambda: site.runs, expire=60)
    assert [site.get().json() for _ in range(2)] == [1, 1]
    credentials = ("authorization", "Bearer ada")
    answers = [site.get("/", credentials) for _ in range(2)]
    assert [answer.json() for answer in answers] == [2, 3]
    assert {answer.headers["cache-status"] for answer in answers} == {"fast_cache; fwd=bypass"}
    assert not any("etag" in answer.headers for answer in answers)
    assert site.get("/", credentials, ("if-none-match", "*")).status_code == 200
    assert site.get().json() == 1, "and what they got is not stored"
    assert "Authorization" in said(caplog)


def by_token(authorization: Annotated[str, Header()] = "") -> str:
    return authorization


@pytest.mark.parametrize("options", [{"shared": True}, {"public": True}])
def test_credentials_do_no_harm_where_the_author_says_so(site: Site, options: dict[str, Any]) -> None:
    site.page(lambda: site.runs, expire=60, **options)
    assert [site.get("/", ("authorization", name)).json() for name in "ab"] == [1, 1]


def test_credentials_in_the_key_get_pages_of_their_own(site: Site) -> None:
    site.page(by_token, expire=60)
    got = [site.get("/", ("authorization", name)) for name in ("a", "b", "a")]
    assert [answer.json() for answer in got] == ["a", "b", "a"]
    assert site.runs == 2
    assert {answer.headers["cache-control"] for answer in got} == {"private, max-age=60"}


def test_the_users_of_a_scheme_get_pages_of_their_own(site: Site) -> None:
    def token(credentials: Annotated[Any, Depends(HTTPBearer())]) -> str:
        return str(credentials.credentials)

    def read(user: Annotated[str, Depends(token)]) -> str:
        return user

    site.page(read, expire=60)
    got = [site.get("/", ("authorization", f"Bearer {name}")).json() for name in ("a", "b", "a")]
    assert (got, site.runs) == (["a", "b", "a"], 2)
    assert site.get("/", ("if-none-match", "*")).status_code in (401, 403)


# Headers of dependencies.


def stamp(response: Response, x_request: Annotated[str, Header()] = "") -> None:
    response.headers["x-request"] = x_request


@pytest.mark.parametrize("returns_response", [False, True])
def test_headers_of_dependencies_are_those_of_a_bare_application(site: Site, returns_response: bool) -> None:
    """FastAPI merges them into what it makes of a result, and not into a response that an endpoint returns."""

    def read() -> Any:
        return JSONResponse("x") if returns_response else "x"

    bare = FastAPI()
    bare.get("/", dependencies=[Depends(stamp)], response_model=None)(read)
    site.app.get("/", dependencies=[Depends(stamp)], response_model=None)(
        site.cache.cached(expire=60, shared=True)(of_kind(site.kind, read))
    )
    for number in "123":
        lines = [("x-request", number)]
        expected = TestClient(bare).get("/", headers=lines).headers.get_list("x-request")
        answer = site.get("/", *lines)
        assert answer.headers.get_list("x-request") == expected
    assert answer.headers["cache-status"].startswith("fast_cache; hit")


def test_headers_of_dependencies_are_not_stored_by_a_request_that_is_repeated(site: Site, clock: Clock) -> None:
    stamped = 0

    def stamp(response: Response, x_request: Annotated[str, Header()] = "") -> None:
        nonlocal stamped
        stamped += 1
        response.headers["x-request"] = f"{x_request} {stamped}"

    refreshed = threading.Event()

    def read() -> int:
        site.runs += 1
        if site.runs == 2:
            refreshed.set()
        return site.runs

    read_cached: Any = site.cache.cached(expire=60, stale_while_revalidate=1000, shared=True)(of_kind(site.kind, read))
    site.app.get("/", dependencies=[Depends(stamp)])(read_cached)
    with site.client:
        site.get("/", ("x-request", "of ada"))
        clock.now += 70
        assert site.get("/", ("x-request", "of ada")).json() == 1
        assert refreshed.wait(20)
        for _ in range(1000):  # it is stored a moment after it ran
            answer = site.get("/", ("x-request", "of bob"))
            if answer.json() != 1:
                break
        assert answer.headers.get_list("x-request") == [f"of bob {stamped}"]


def test_what_the_endpoint_makes_of_a_dependencys_header_is_what_is_sent(site: Site) -> None:
    def read(response: Response) -> str:
        response.headers["x-request"] = "of the endpoint"
        return "x"

    read_cached: Any = site.cache.cached(expire=60, shared=True)(of_kind(site.kind, read))
    site.app.get("/", dependencies=[Depends(stamp)])(read_cached)
    for number in "123":
        answer = site.get("/", ("x-request", number))
        assert answer.headers.get_list("x-request") == ["of the endpoint"]


# The same from Redis.


def served_from_redis(make_site: MakeSite, url: str, **options: Any) -> tuple[Site, Site]:
    """Two applications with one store between them."""
    sites = tuple(make_site(backend=RedisBackend(url, namespace="pages")) for _ in range(2))
    return sites[0], sites[1]


def test_pages_from_redis_are_as_old_as_they_are(make_site: MakeSite, redis_url: str) -> None:
    first, second = served_from_redis(make_site, redis_url)

    def read(item_id: int) -> int:
        return item_id

    for site in (first, second):
        site.page(read, "/{item_id}", expire=1000)
    with first.client, second.client:
        made = first.get("/7")
        assert made.headers["cache-status"] == "fast_cache; fwd=uri-miss; stored"
        _grow_older(redis_url, 400)
        found = second.get("/7")
        assert (first.runs, second.runs) == (1, 0)
        assert found.json() == 7
        assert found.headers["etag"] == made.headers["etag"]
        assert found.headers["cache-control"] == "public, max-age=1000"
        status, _, ttl = found.headers["cache-status"].partition("; ttl=")
        assert status == "fast_cache; hit"
        # What the test itself took is at the most a second or two.
        assert 590 <= int(ttl) <= 600
        assert 999 <= int(found.headers["age"]) + int(ttl) <= 1000
        assert second.get("/7", ("if-none-match", made.headers["etag"])).status_code == 304


def test_pages_without_end_from_redis_have_no_age(make_site: MakeSite, redis_url: str) -> None:
    first, second = served_from_redis(make_site, redis_url)
    for site in (first, second):
        site.page(item, "/{item_id}")
    with first.client, second.client:
        first.get("/7")
        found = second.get("/7")
        assert (first.runs, second.runs) == (1, 0)
        # A store may put an end to what has none; clients are told what the author said.
        assert found.headers["cache-status"].startswith("fast_cache; hit")
        assert found.headers["cache-control"] == "public, no-cache"
        assert "age" not in found.headers


def _grow_older(url: str, seconds: int) -> None:
    """Take so much of the lifetime of every value in the store, as time would."""
    with redis.Redis.from_url(url) as client:
        values = list(client.scan_iter("pages:v:*"))
        assert values
        for value in values:
            client.pexpire(value, client.pttl(value) - seconds * 1000)
