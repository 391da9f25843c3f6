"""Many requests of one page: the endpoint runs once, whoever leaves, fails or is overtaken; and what is made behind
visitors is made by requests of their own."""

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import random
import socket
import sys
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Annotated, Any

import anyio
import anyio.to_thread
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import ResponseValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.testclient import TestClient

from fast_cache import HTTPOptions, NotKeyed
from fast_cache.testing import PATIENCE
from tests.support.asgi_client import Answer, ask
from tests.support.pages import KINDS, STORES, Site, site, until
from tests.support.uvicorn_server import serve

BOTH = pytest.mark.parametrize("kind", KINDS)
OVER_ALL = pytest.mark.parametrize("store", STORES)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once in a process; each of these tests is to hear its own."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    """What a test leaves unawaited is to be found in this test, and not in another one."""
    yield
    gc.collect()


def suspending(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 4 * PATIENCE))

    return run


def said(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


# One load for all.


@BOTH
@OVER_ALL
@suspending
async def test_a_thousand_requests_of_one_page_run_its_endpoint_once(kind: str, store: str, redis_url: str) -> None:
    async with site(kind, store, redis_url) as made:

        @made.page("/items/{item}", expire=60)
        def read(item: int) -> dict[str, int]:
            return {"item": item}

        made.door.close()
        tasks = [made.start("/items/1") for _ in range(1000)]
        await made.followed(999)
        made.door.open()
        answers = await made.all(tasks)
        assert made.runs == 1
        assert {answer.body for answer in answers} == {b'{"item":1}'}
        assert len({answer.header("etag") for answer in answers}) == 1
        told = [answer.cached for answer in answers]
        assert told.count("fwd=uri-miss; stored") == 1
        assert told.count("fwd=uri-miss; collapsed") == 999
        again = await made.get("/items/1")
        assert (again.cached, again.body) == ("hit", answers[0].body)
        assert made.runs == 1


@BOTH
@suspending
async def test_two_applications_that_lock_each_other_out_run_the_endpoint_once(kind: str, redis_url: str) -> None:
    async with site(kind, "redis", redis_url) as one, site(kind, "redis", redis_url) as other:

        def read() -> str:
            return "there"

        for made in (one, other):
            made.page("/", expire=60, lock="distributed")(read)
            made.door.close()
        tasks = [made.start("/") for _ in range(100) for made in (one, other)]
        await until(lambda: one.followers + other.followers == 198, "all but one in each application wait")
        for made in (one, other):
            made.door.open()
        assert {answer.json() for answer in [*await one.all(tasks[::2]), *await other.all(tasks[1::2])]} == {"there"}
        assert one.runs + other.runs == 1


@suspending
async def test_requests_that_wait_for_a_sync_endpoint_hold_no_thread() -> None:
    async with site("sync") as made:

        @made.page("/slow", expire=60)
        def slow() -> str:
            return "slow"

        @made.app.get("/plain")
        def plain() -> str:
            return "plain"

        made.door.close()
        tasks = [made.start("/slow") for _ in range(200)]
        await made.followed(199)
        threads = anyio.to_thread.current_default_thread_limiter()
        assert threads.borrowed_tokens == 1
        assert (await made.get("/plain")).json() == "plain"
        made.door.open()
        assert {answer.json() for answer in await made.all(tasks)} == {"slow"}
        assert made.runs == 1


@suspending
async def test_more_sync_pages_than_threads_with_followers_for_each() -> None:
    async with site("sync") as made:

        @made.page("/slow/{number}", expire=60)
        def slow(number: int) -> int:
            return number

        made.door.close()
        tasks = [made.start(f"/slow/{number}") for _ in range(4) for number in range(100)]
        await made.ran(40)
        made.door.open()
        answers = await made.all(tasks)
        assert [answer.json() for answer in answers] == [*range(100)] * 4
        assert made.runs == 100


# Leaders that leave.


class Sessions:
    """A dependency that opens a session for each request, and closes it with the request."""

    def __init__(self) -> None:
        self.opened = 0
        self.open = 0

    async def __call__(self) -> Any:
        self.opened += 1
        session = Session(self.opened)
        self.open += 1
        try:
            yield session
        finally:
            self.open -= 1
            session.is_open = False


class Session:
    def __init__(self, number: int) -> None:
        self.number = number
        self.is_open = True

    def __cache_key__(self) -> str:
        return "session"


async def cancel_task(start: Callable[[], Awaitable[Any]], leave: asyncio.Event) -> None:
    task = asyncio.ensure_future(start())
    await leave.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_scope(start: Callable[[], Awaitable[Any]], leave: asyncio.Event) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await leave.wait()
                scope.cancel()

            group.start_soon(watch)
            await start()
    assert scope.cancelled_caught


async def end_timeout(start: Callable[[], Awaitable[Any]], leave: asyncio.Event) -> None:
    async def timed() -> None:
        async with asyncio.timeout(None) as limit:

            async def watch() -> None:
                await leave.wait()
                limit.reschedule(0)

            watching = asyncio.ensure_future(watch())
            try:
                await start()
            finally:
                await watching

    with pytest.raises(TimeoutError):
        await timed()


@BOTH
@OVER_ALL
@pytest.mark.parametrize("way", [cancel_task, cancel_scope, end_timeout])
@suspending
async def test_a_leader_that_is_cancelled_hands_over_to_one_follower_with_its_own_dependencies(
    kind: str, store: str, redis_url: str, way: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    sessions = Sessions()
    async with site(kind, store, redis_url) as made:

        @made.page("/", expire=60)
        def read(session: Annotated[Session, Depends(sessions)]) -> dict[str, Any]:
            return {"session": session.number, "open": session.is_open}

        made.door.close()
        leave = asyncio.Event()
        leader = asyncio.create_task(way(lambda: ask(made.app, "/"), leave))
        await made.ran(1)
        tasks = [made.start("/") for _ in range(20)]
        await made.followed(20)
        leave.set()
        if kind == "async":
            await leader
            await made.ran(2)
            await made.followed(19)
        made.door.open()  # a thread can't be stopped: its request is over when it ends
        await leader
        answers = await made.all(tasks)
        assert made.runs == 2
        assert len({answer.body for answer in answers}) == 1
        body = answers[0].json()
        assert body["open"]
        assert body["session"] > 1  # the leader's was the first
        assert sessions.open == 0
        assert (await made.get("/")).cached == "hit"


@BOTH
@suspending
async def test_requests_may_go_one_after_the_other_and_nobody_is_left_hanging(kind: str) -> None:
    dice = random.Random(7)
    async with site(kind) as made:

        @made.page("/", expire=60)
        def read() -> str:
            return "there"

        for _ in range(20):
            made.door.close()
            tasks = [made.start("/") for _ in range(30)]
            await made.followed(29)
            going = dice.sample(tasks, 15)
            stays = [task for task in tasks if task not in going]
            for task in going:
                task.cancel()
                if dice.random() < 0.5:
                    await asyncio.sleep(0)
            made.door.open()
            gone = await asyncio.wait_for(asyncio.gather(*going, return_exceptions=True), PATIENCE)
            assert all(isinstance(end, (asyncio.CancelledError, Answer)) for end in gone)
            assert {answer.json() for answer in await made.all(stays)} == {"there"}
            await until(lambda: len(made.flights) == 0, "all flights have ended")
            await made.cache.aclear()


@BOTH
@suspending
async def test_when_all_have_gone_the_next_request_begins_anew(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60)
        def read() -> str:
            return "there"

        made.door.close()
        tasks = [made.start("/") for _ in range(30)]
        await made.followed(29)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        made.door.open()
        await until(lambda: len(made.flights) == 0, "the flight has ended")
        assert (await made.get("/")).json() == "there"


@suspending
async def test_a_sync_leader_whose_request_is_over_before_its_endpoint_raises_leaves_nobody_waiting() -> None:
    async with site("sync") as made:
        fails = iter([True])

        @made.page("/", expire=60)
        def read() -> str:
            if next(fails, False):
                raise ValueError("the first one")
            return "there"

        gc.disable()
        try:
            made.door.close()
            leader = made.start("/")
            await made.ran(1)
            tasks = [made.start("/") for _ in range(5)]
            await made.followed(5)
            leader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leader
            made.door.open()
            assert {answer.json() for answer in await made.all(tasks)} == {"there"}
        finally:
            gc.enable()
        assert made.runs == 2


@BOTH
@suspending
async def test_what_the_author_asks_of_results_is_asked_of_an_heirs_too(kind: str) -> None:
    asked: list[Any] = []

    def condition(result: str) -> bool:
        asked.append(result)
        return False

    async with site(kind) as made:

        @made.page("/", expire=60, condition=condition)
        def read() -> str:
            return "not wanted"

        made.door.close()
        leader = made.start("/")
        await made.ran(1)
        follower = made.start("/")
        await made.followed(1)
        leader.cancel()
        made.door.open()
        assert (await follower).json() == "not wanted"
        await asyncio.gather(leader, return_exceptions=True)
        assert "not wanted" in asked
        assert (await made.get("/")).cached == "fwd=uri-miss"


@BOTH
def test_a_leader_whose_client_goes_away_leaves_the_page_to_its_followers(kind: str) -> None:
    made = Site(kind)

    @made.page("/", expire=60)
    def read() -> str:
        return "there"

    @made.app.get("/state")
    async def state() -> list[int]:
        return [made.runs, made.followers]

    made.door.close()
    with serve(made.app) as served, served.client() as client:

        def asking() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            return connection

        async def reaches(runs: int, followers: int) -> None:
            while (await asyncio.to_thread(client.get, "/state")).json() != [runs, followers]:
                pass

        leader = asking()
        asyncio.run(asyncio.wait_for(reaches(1, 0), PATIENCE))
        followers = [asking() for _ in range(3)]
        asyncio.run(asyncio.wait_for(reaches(1, 3), PATIENCE))
        leader.close()
        made.door.open()
        for follower in followers:
            with follower:
                received = b"".join(iter(lambda: follower.recv(65536), b""))  # noqa: B023
                assert received.startswith(b"HTTP/1.1 200 ")
                assert received.endswith(b'"there"')
        assert made.runs == 1


@BOTH
@pytest.mark.parametrize("storable", [True, False])
@suspending
async def test_a_leader_whose_client_takes_its_answer_for_ever_keeps_nobody_waiting(kind: str, storable: bool) -> None:
    async with site(kind, http=HTTPOptions(max_body=1000)) as made:

        @made.page("/", expire=60)
        def read() -> str:
            return "x" * (10 if storable else 2000)

        enough = asyncio.Event()
        made.door.close()
        leader = made.start("/", take=lambda _: enough.wait())
        await made.ran(1)
        tasks = [made.start("/") for _ in range(3)]
        await made.followed(3)
        made.door.open()
        answers = await made.all(tasks)
        assert not leader.done()
        assert made.runs == (1 if storable else 4)
        enough.set()
        assert {answer.body for answer in (*answers, await leader)} == {answers[0].body}


# Leaders that fail.


@BOTH
@OVER_ALL
@suspending
async def test_everyone_gets_the_exception_of_one_run_and_the_next_request_runs_again(
    kind: str, store: str, redis_url: str
) -> None:
    async with site(kind, store, redis_url) as made:
        errors: list[Exception] = [HTTPException(418, "teapot"), LookupError("gone")]

        @made.page("/", expire=60)
        def read() -> str:
            raise errors[0]

        @made.app.exception_handler(LookupError)
        async def gone(request: Request, error: LookupError) -> Response:
            return JSONResponse("gone", 410)

        for runs, status in [(1, 418), (2, 410)]:
            made.door.close()
            tasks = [made.start("/") for _ in range(50)]
            await made.followed(49)
            made.door.open()
            assert {answer.status for answer in await made.all(tasks)} == {status}
            assert made.runs == runs
            errors.reverse()
        assert (await made.get("/")).status == 418
        assert made.runs == 3


@BOTH
@suspending
async def test_an_exception_that_nobody_handles_is_raised_to_everyone(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60)
        def read() -> str:
            raise RuntimeError("broken")

        made.door.close()
        tasks = [made.start("/") for _ in range(10)]
        await made.followed(9)
        made.door.open()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(end) for end in ends] == ["broken"] * 10
        assert made.runs == 1
        assert len(made.flights) == 0


@BOTH
@suspending
async def test_what_a_handler_makes_of_an_exception_is_no_page(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60)
        def read() -> str:
            raise LookupError

        @made.app.exception_handler(LookupError)
        async def fine(request: Request, error: LookupError) -> Response:
            return JSONResponse("fine", 200)

        for _ in range(3):
            assert (await made.get("/")).json() == "fine"
        assert made.runs == 3


@BOTH
@pytest.mark.parametrize("handled", [False, True])
@suspending
async def test_a_result_that_fastapi_can_not_send_is_an_error_of_everyone(kind: str, handled: bool) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60, route={"response_model": dict[str, int]})
        def read() -> Any:
            return {"a": "no number"}

        if handled:

            @made.app.exception_handler(ResponseValidationError)
            async def wrong(request: Request, error: ResponseValidationError) -> Response:
                return JSONResponse("wrong", 200)

        for runs in (1, 2):
            made.door.close()
            tasks = [made.start("/") for _ in range(10)]
            await made.followed(9)
            made.door.open()
            ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
            if handled:
                assert [end.json() for end in ends if isinstance(end, Answer)] == ["wrong"] * 10
            else:
                assert [type(end) for end in ends] == [ResponseValidationError] * 10
            assert made.runs == runs
            assert len(made.flights) == 0


@BOTH
@pytest.mark.parametrize("handled", [False, True])
@suspending
async def test_a_stale_page_is_served_where_fastapi_can_not_send_the_new_one(kind: str, handled: bool) -> None:
    results: Iterator[Any] = itertools.chain([{"a": 1}], itertools.repeat({"a": "no number"}))
    async with site(kind) as made:

        @made.page("/", expire=60, stale_if_error=600, tags="t", route={"response_model": dict[str, int]})
        def read() -> Any:
            return next(results)

        if handled:

            @made.app.exception_handler(ResponseValidationError)
            async def wrong(request: Request, error: ResponseValidationError) -> Response:
                return JSONResponse("wrong", 500)

        assert (await made.get("/")).json() == {"a": 1}
        await made.cache.ainvalidate_tags("t", soft=True)
        answer = await made.get("/")
        assert (answer.status, answer.json()) == (200, {"a": 1})
        assert made.runs == 2
        assert (await made.get("/")).json() == {"a": 1}  # it is left in peace for a moment
        assert made.runs == 2


@BOTH
@OVER_ALL
@suspending
async def test_a_stale_page_is_served_where_the_endpoint_fails(kind: str, store: str, redis_url: str) -> None:
    async with site(kind, store, redis_url) as made:
        fails = False

        @made.page("/", expire=60, stale_if_error=600, tags="t")
        def read() -> str:
            if fails:
                raise HTTPException(503)
            return "there"

        assert (await made.get("/")).json() == "there"
        await made.cache.ainvalidate_tags("t", soft=True)
        fails = True
        made.door.close()
        tasks = [made.start("/") for _ in range(10)]
        await made.followed(9)
        made.door.open()
        answers = await made.all(tasks)
        assert {(answer.status, answer.json()) for answer in answers} == {(200, "there")}
        assert made.runs == 2


# Answers that can't be stored.


def sets_a_cookie() -> Response:
    response = PlainTextResponse("mine")
    response.set_cookie("session", "mine")
    return response


def streams() -> Response:
    return StreamingResponse(iter(["a", "b"]))


UNSTORABLE = pytest.mark.parametrize(
    "make",
    [
        sets_a_cookie,
        streams,
        lambda: PlainTextResponse("status", 202),
        lambda: PlainTextResponse("x" * 2000),
        lambda: PlainTextResponse("private", headers={"Cache-Control": "private"}),
        lambda: PlainTextResponse("no-store", headers={"Cache-Control": "max-age=5, no-store"}),
        lambda: PlainTextResponse("varies", headers={"Vary": "Cookie"}),
        lambda: PlainTextResponse("anything", headers={"Vary": "*"}),
    ],
    ids=["cookie", "stream", "status", "large", "private", "no-store", "vary", "vary-any"],
)


@BOTH
@UNSTORABLE
@suspending
async def test_nobody_queues_for_answers_that_can_not_be_stored(kind: str, make: Callable[[], Response]) -> None:
    async with site(kind, http=HTTPOptions(max_body=1000)) as made:
        storable = False

        @made.page("/", expire=60)
        def read() -> Any:
            return "storable" if storable else make()

        made.door.close()
        tasks = [made.start("/") for _ in range(20)]
        await made.followed(19)
        made.door.open()
        answers = await made.all(tasks)
        assert made.runs == 20
        assert not any("stored" in answer.cached or "collapsed" in answer.cached for answer in answers)
        # Who comes later does not wait for anybody either.
        made.door.close()
        tasks = [made.start("/") for _ in range(20)]
        await made.ran(40)
        assert made.followers == 0
        storable = True
        made.door.open()
        assert {answer.json() for answer in await made.all(tasks)} == {"storable"}
        runs = made.runs
        assert (await made.get("/")).cached == "hit"
        assert made.runs == runs


@BOTH
@suspending
async def test_followers_of_an_answer_that_can_not_be_stored_run_at_the_same_time(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60)
        def read() -> Any:
            made.door.close()  # behind the leader, for all who come after it
            return sets_a_cookie()

        made.door.close()
        tasks = [made.start("/") for _ in range(20)]
        await made.followed(19)
        made.door.open()
        await made.ran(20)
        made.door.open()
        answers = []
        while not all(task.done() for task in tasks):
            made.door.open()
            await asyncio.sleep(0.001)
        answers = await made.all(tasks)
        assert all(answer.all("set-cookie") for answer in answers)
        assert made.runs == 20


@BOTH
@suspending
async def test_what_is_remembered_of_answers_that_can_not_be_stored_is_bounded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fast_cache.pages.route._PASSING", 10)
    async with site(kind) as made:

        @made.page("/{number}", expire=60)
        def read(number: int) -> Response:
            return sets_a_cookie()

        for number in range(50):
            assert (await made.get(f"/{number}")).body == b"mine"
        (pages,) = made.cache._binding._pages
        assert len(pages._passing) == 10


# Invalidated while it is made.


async def by_arguments(made: Site, read: Any) -> None:
    removing = read.invalidate(1)
    if made.kind == "async":
        await removing


async def by_function(made: Site, read: Any) -> None:
    removing = read.invalidate_all()
    if made.kind == "async":
        await removing


async def by_tag(made: Site, read: Any) -> None:
    await made.cache.ainvalidate_tags("t")


async def by_late_tag(made: Site, read: Any) -> None:
    await made.cache.ainvalidate_tags("late")


async def by_clear(made: Site, read: Any) -> None:
    await made.cache.aclear()


async def by_transaction(made: Site, read: Any) -> None:
    async with made.cache.transaction():
        removing = read.invalidate(1)
        if made.kind == "async":
            await removing


@BOTH
@OVER_ALL
@pytest.mark.parametrize("way", [by_arguments, by_function, by_tag, by_late_tag, by_clear, by_transaction])
@suspending
async def test_an_invalidation_during_a_load_is_not_undone_by_its_page(
    kind: str, store: str, redis_url: str, way: Callable[[Site, Any], Awaitable[None]]
) -> None:
    async with site(kind, store, redis_url) as made:
        truth = "old"

        def body(item: int) -> str:
            return truth

        @functools.wraps(body)
        async def suspends(item: int) -> str:
            seen = truth
            made.cache.current.tags.add("late")
            made.began.append(item)
            await made.door.pass_suspending()
            return seen

        @functools.wraps(body)
        def blocks(item: int) -> str:
            seen = truth
            made.cache.current.tags.add("late")
            made.began.append(item)
            made.door.pass_blocking()
            return seen

        read: Any = made.cache.cached(expire=60, tags="t")(suspends if kind == "async" else blocks)
        made.app.get("/{item}")(read)
        made.door.close()
        first = made.start("/1")
        await made.ran(1)
        truth = "new"
        await way(made, read)
        later = [made.start("/1") for _ in range(5)]
        await until(lambda: made.runs > 1 or made.followers == 5, "those who come later wait or run")
        made.door.open()
        assert (await first).json() == "old"
        assert {answer.json() for answer in await made.all(later)} == {"new"}
        assert (await made.get("/1")).json() == "new"


# Behind visitors.


class Visits:
    """What a dependency saw of requests."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.refused: int | None = None
        """Which of the requests is refused."""

    async def __call__(self, request: Request) -> None:
        self.seen.append(
            {
                "headers": dict(request.headers),
                "user": request.scope["state"].get("user"),
                "session": dict(request.scope.get("session", {})),
                "left": getattr(request.state, "left", None),
            }
        )
        request.state.left = "by the dependency"
        if len(self.seen) == self.refused:
            raise HTTPException(401)


@BOTH
@OVER_ALL
@suspending
async def test_a_refresh_is_a_request_of_its_own(kind: str, store: str, redis_url: str) -> None:
    visits, sessions, numbers = Visits(), Sessions(), itertools.count(1)
    async with site(kind, store, redis_url) as made:

        @made.page(
            "/",
            expire=60,
            stale_while_revalidate=600,
            tags="t",
            shared=True,
            route={"dependencies": [Depends(visits)]},
        )
        def read(session: Annotated[Session, Depends(sessions)]) -> dict[str, Any]:
            return {"number": next(numbers), "open": session.is_open}

        asked: dict[str, Any] = {
            "headers": {
                "X-Kept": "kept",
                "If-None-Match": '"nothing"',
                "Range": "bytes=0-1",
                "If-Range": '"x"',
                "Cache-Control": "max-age=0",
                "Traceparent": "00-0-0-00",
            },
            "session": {"user": "ada"},
        }
        assert (await made.get("/", **asked, state={"user": "ada"})).json() == {"number": 1, "open": True}
        await made.cache.ainvalidate_tags("t", soft=True)
        served = await made.get("/", **asked, state={"user": "ada"})
        assert (served.json()["number"], served.cached) == (1, "hit")
        await made.rested()
        assert made.runs == 2
        assert (await made.get("/", **asked, state={"user": "ada"})).json() == {"number": 2, "open": True}
        assert sessions.opened == 4  # three visits and a refresh
        assert sessions.open == 0
        refresh = visits.seen[2]
        assert refresh["user"] == "ada"
        assert refresh["session"] == {"user": "ada"}
        assert refresh["left"] is None  # as the middleware outside left it, not another run's dependencies
        assert refresh["headers"] == {"host": "test", "x-kept": "kept"}


@BOTH
@suspending
async def test_what_a_refresh_puts_into_its_session_is_in_no_visitors(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60, stale_while_revalidate=600, tags="t")
        def read(request: Annotated[Request, NotKeyed]) -> int:
            request.session["runs"] = made.runs
            return made.runs

        first, second = {"user": "ada"}, {"user": "ada"}
        assert (await made.get("/", session=first)).json() == 1
        await made.cache.ainvalidate_tags("t", soft=True)
        assert (await made.get("/", session=second)).json() == 1
        await made.rested()
        assert (await made.get("/", session=second)).json() == 2
        assert (first, second) == ({"user": "ada", "runs": 1}, {"user": "ada"})


@BOTH
@suspending
async def test_ten_visitors_of_a_stale_page_cause_one_refresh(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60, stale_while_revalidate=600, tags="t")
        def read() -> int:
            return made.runs

        await made.get("/")
        await made.cache.ainvalidate_tags("t", soft=True)
        made.door.close()
        for _ in range(10):
            assert (await made.get("/")).json() == 1
        made.door.open()
        await made.rested()
        assert made.runs == 2
        assert (await made.get("/")).json() == 2


@BOTH
@pytest.mark.parametrize("cached_errors", [False, True])
@suspending
async def test_a_refresh_that_a_dependency_refuses_keeps_the_page_and_is_not_tried_at_once_again(
    kind: str, cached_errors: bool
) -> None:
    visits = Visits()
    async with site(kind) as made:
        options: dict[str, Any] = {"cache_errors": {Exception: 60}} if cached_errors else {}

        @made.page(
            "/",
            expire=60,
            stale_while_revalidate=600,
            throttle=600,
            tags="t",
            shared=True,
            route={"dependencies": [Depends(visits)]},
            **options,
        )
        def read() -> str:
            return "there"

        await made.get("/")
        await made.cache.ainvalidate_tags("t", soft=True)
        visits.refused = 3  # the refresh; whoever asks is let in
        assert (await made.get("/")).json() == "there"
        await made.rested()
        assert len(visits.seen) == 3
        for _ in range(3):
            answer = await made.get("/")
            assert (answer.status, answer.json()) == (200, "there")
        await made.rested()
        assert len(visits.seen) == 6  # the visitors' own
        assert made.runs == 1


@BOTH
@suspending
async def test_a_refresh_whose_dependencies_choose_another_key_is_not_stored(kind: str) -> None:
    days = iter(["monday", "monday", "tuesday", "monday"])

    async def today() -> str:
        return next(days)

    async with site(kind) as made:

        @made.page("/", expire=60, stale_while_revalidate=600, tags="t")
        def read(day: Annotated[str, Depends(today)]) -> str:
            return day

        assert (await made.get("/")).json() == "monday"
        await made.cache.ainvalidate_tags("t", soft=True)
        assert (await made.get("/")).json() == "monday"
        await made.rested()
        assert made.runs == 2
        assert (await made.get("/")).json() == "monday"


@suspending
async def test_an_heir_whose_dependencies_choose_another_key_makes_its_own_answer_only() -> None:
    # A sync follower that is to load after all has its dependencies made anew.
    users = iter(["ada", "ada", "ada", "bob", "ada", "ada"])

    async def user() -> str:
        return next(users)

    async with site("sync") as made:

        @made.page("/", expire=60)
        def read(name: Annotated[str, Depends(user)]) -> str:
            return name

        made.door.close()
        leader = made.start("/")
        await made.ran(1)
        followers = [made.start("/") for _ in range(2)]
        await made.followed(2)
        leader.cancel()
        made.door.open()
        names = sorted(answer.json() for answer in await made.all(followers))
        await asyncio.gather(leader, return_exceptions=True)
        assert names == ["ada", "bob"]
        assert (await made.get("/")).json() == "ada"


@BOTH
@suspending
async def test_a_request_that_may_change_something_is_not_repeated(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60, stale_while_revalidate=600, tags="t", methods=("POST",), route={"methods": ["POST"]})
        def change() -> int:
            return made.runs

        assert (await made.get("/", method="POST")).json() == 1
        assert (await made.get("/", method="POST")).json() == 1
        await made.cache.ainvalidate_tags("t", soft=True)
        assert (await made.get("/", method="POST")).json() == 2
        await made.rested()
        assert made.runs == 2


@BOTH
@suspending
async def test_headers_of_dependencies_are_no_part_of_a_page_that_was_made_behind_a_visitor(kind: str) -> None:
    numbers = itertools.count(1)

    async def numbered(response: Response) -> None:
        number = next(numbers)
        response.headers["X-Request"] = str(number)
        response.set_cookie("request", str(number))

    async with site(kind) as made:

        @made.page("/", expire=60, stale_while_revalidate=600, tags="t", route={"dependencies": [Depends(numbered)]})
        def read() -> int:
            return made.runs

        assert (await made.get("/")).header("x-request") == "1"
        await made.cache.ainvalidate_tags("t", soft=True)
        assert (await made.get("/")).header("x-request") == "2"
        await made.rested()
        answer = await made.get("/")
        assert (answer.json(), answer.cached) == (2, "hit")
        assert answer.all("x-request") == ["4"]
        assert len(answer.all("set-cookie")) == 1


@suspending
async def test_headers_of_an_heirs_dependencies_are_no_part_of_its_page() -> None:
    numbers = itertools.count(1)

    async def numbered(response: Response) -> None:
        response.headers["X-Request"] = str(next(numbers))

    async with site("sync") as made:

        @made.page("/", expire=60, route={"dependencies": [Depends(numbered)]})
        def read() -> str:
            return "there"

        made.door.close()
        leader = made.start("/")
        await made.ran(1)
        followers = [made.start("/") for _ in range(2)]
        await made.followed(2)
        leader.cancel()
        made.door.open()
        answers = await made.all(followers)
        await asyncio.gather(leader, return_exceptions=True)
        assert all(len(answer.all("x-request")) == 1 for answer in answers)
        assert (await made.get("/")).all("x-request") == ["5"]


@BOTH
@suspending
async def test_refresh_ahead_and_early_and_hits_refresh_behind_the_visitor(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/ahead", expire=60, refresh_ahead=59.999)
        def ahead() -> int:
            return made.runs

        @made.page("/after", expire=60, hits=10, refresh_after=3)
        def after() -> int:
            return made.runs

        @made.page("/hits", expire=60, hits=2)
        def hits() -> int:
            return made.runs

        await made.get("/ahead")
        while made.runs == 1:  # it is due a millisecond later
            assert (await made.get("/ahead")).cached == "hit"
            await asyncio.sleep(0)  # nothing in a hit lets others run, such as the refresh
        await made.rested()
        assert made.runs == 2

        made.began.clear()
        assert [(await made.get("/after")).json() for _ in range(5)] == [1] * 5
        await made.rested()
        assert made.runs == 2
        assert (await made.get("/after")).json() == 2

        made.began.clear()
        assert [(await made.get("/hits")).json() for _ in range(6)] == [1, 1, 1, 2, 2, 2]


@BOTH
@suspending
async def test_who_has_a_stale_page_does_not_wait_for_longer_than_the_timeout(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60, stale_if_error=600, timeout=0.05, tags="t")
        def read() -> int:
            return made.runs

        assert (await made.get("/")).json() == 1
        await made.cache.ainvalidate_tags("t", soft=True)
        made.door.close()
        assert (await made.get("/")).json() == 1
        made.door.open()
        await made.rested()
        assert made.runs == 2
        assert (await made.get("/")).json() == 2


@BOTH
@suspending
async def test_nobody_waits_for_longer_than_the_hard_timeout(kind: str) -> None:
    async with site(kind) as made:

        @made.page("/", expire=60, hard_timeout=0.05)
        def read() -> int:
            return made.runs

        made.door.close()
        tasks = [made.start("/") for _ in range(5)]
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
        assert {type(end).__name__ for end in ends} == {"LoadTimeout"}
        made.door.open()
        await made.rested()
        assert made.runs == 1
        assert (await made.get("/")).cached == "hit"


@suspending
async def test_a_visitor_who_was_let_in_is_answered_also_if_the_repeated_request_is_not_let_in() -> None:
    # Not so that of a sync endpoint: its request is made again when it turns out that nobody else's answer will do.
    visits = iter([None])

    async def once() -> None:
        if next(visits, "refused"):
            raise HTTPException(429)

    async with site("async") as made:

        @made.page("/", expire=60, hard_timeout=30, route={"dependencies": [Depends(once)]})
        def read() -> str:
            return "there"

        answer = await made.get("/")
        assert (answer.status, answer.json()) == (200, "there")


@BOTH
@UNSTORABLE
@pytest.mark.parametrize("option", ["timeout", "hard_timeout"])
@suspending
async def test_the_impatient_get_answers_that_can_not_be_stored(
    kind: str, make: Callable[[], Response], option: str
) -> None:
    async with site(kind, http=HTTPOptions(max_body=1000)) as made:
        storable = True
        patience: dict[str, Any] = {"timeout": 30, "stale_if_error": 600} if option == "timeout" else {option: 30}

        @made.page("/", expire=60, tags="t", **patience)
        def read() -> Any:
            return "storable" if storable else make()

        assert (await made.get("/")).json() == "storable"
        await made.cache.ainvalidate_tags("t", soft=True)
        storable = False
        bare = FastAPI()
        bare.get("/")(make)
        for _ in range(1 if option == "timeout" else 3):  # what is stale is left in peace for a moment then
            answer, plain = await made.get("/"), await ask(bare, "/")
            assert (answer.status, answer.body) == (plain.status, plain.body)
            assert answer.all("set-cookie") == plain.all("set-cookie")
        if option == "timeout":
            return
        runs = made.runs
        await made.get("/")
        assert made.runs == runs + 1  # and not behind the visitor too
        storable = True
        assert (await made.get("/")).json() == "storable"
        assert (await made.get("/")).cached == "hit"


def test_nothing_is_repeated_when_the_application_has_stopped(caplog: pytest.LogCaptureFixture) -> None:
    made = Site("async")

    @made.page("/", expire=60, stale_while_revalidate=600, tags="t")
    def read() -> int:
        return made.runs

    with TestClient(made.app) as client:
        assert client.get("/").json() == 1
        made.cache.invalidate_tags("t", soft=True)
        assert client.get("/").json() == 1
    # It was waited for, or never began; nothing goes on.
    assert len(made.cache._binding.background) == 0
    assert made.runs <= 2
    runs = made.runs
    with TestClient(made.app) as client:
        client.get("/")
    assert made.runs <= runs + 1
    made.assert_nothing_left()


def test_a_refresh_that_hangs_ends_with_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fast_cache.cache"], "_DRAIN", 0.1)
    made = Site("async")

    @made.page("/", expire=60, stale_while_revalidate=600, tags="t")
    def read() -> int:
        return made.runs

    with TestClient(made.app) as client:
        assert client.get("/").json() == 1
        made.cache.invalidate_tags("t", soft=True)
        made.door.close()
        assert client.get("/").json() == 1
        assert client.get("/").json() == 1
    made.assert_nothing_left()
    made.door.open()


# What the endpoint and its author say.


@BOTH
@OVER_ALL
@suspending
async def test_what_an_endpoint_says_of_its_result(kind: str, store: str, redis_url: str) -> None:
    async with site(kind, store, redis_url) as made:

        def current() -> Any:
            return made.cache.current

        @made.page("/short", expire=60)
        def short() -> str:
            current().expire = 5
            return "short"

        @made.page("/skipped", expire=60)
        def skipped() -> str:
            current().skip()
            return "skipped"

        @made.page("/tagged", expire=60)
        def tagged() -> int:
            current().tags.add("late")
            return made.runs

        @made.page("/wanted", expire=60, condition=lambda result: result["wanted"])
        def wanted(yes: bool) -> dict[str, bool]:
            return {"wanted": yes}

        @made.page("/timed", expire=lambda result, seconds: seconds)
        def timed(seconds: int) -> int:
            return seconds

        assert (await made.get("/short")).header("cache-control").endswith("max-age=5")
        assert (await made.get("/short")).cached == "hit"
        for _ in range(2):
            answer = await made.get("/skipped")
            assert (answer.json(), answer.cached) == ("skipped", "fwd=uri-miss")

        first = (await made.get("/tagged")).json()
        assert (await made.get("/tagged")).json() == first
        await made.cache.ainvalidate_tags("late")
        assert (await made.get("/tagged")).json() == first + 1

        assert [(await made.get("/wanted?yes=0")).cached for _ in range(2)] == ["fwd=uri-miss"] * 2
        assert [(await made.get("/wanted?yes=1")).cached for _ in range(2)] == ["fwd=uri-miss; stored", "hit"]

        assert [(await made.get("/timed?seconds=0")).cached for _ in range(2)] == ["fwd=uri-miss"] * 2
        answers = [await made.get("/timed?seconds=9") for _ in range(2)]
        assert [answer.cached for answer in answers] == ["fwd=uri-miss; stored", "hit"]
        assert answers[0].header("cache-control").endswith("max-age=9")


@BOTH
@OVER_ALL
@suspending
async def test_exceptions_of_endpoints_may_be_cached(kind: str, store: str, redis_url: str) -> None:
    async with site(kind, store, redis_url) as made:

        @made.page("/{item}", expire=60, cache_errors={HTTPException: 60})
        def read(item: int) -> int:
            if item == 0:
                raise HTTPException(404, "no such item")
            return item

        made.door.close()
        tasks = [made.start("/0") for _ in range(10)]
        await made.followed(9)
        made.door.open()
        for answer in [*await made.all(tasks), await made.get("/0")]:
            assert (answer.status, answer.json()) == (404, {"detail": "no such item"})
        assert made.runs == 1
        assert (await made.get("/1")).json() == 1


@BOTH
@suspending
async def test_pages_are_not_kept_in_a_transaction(kind: str) -> None:
    async with site(kind) as made:

        async def unit() -> Any:
            async with made.cache.transaction():
                yield

        @made.page("/{item}", expire=60)
        def read(item: int) -> int:
            return made.runs

        made.app.get("/in/{item}", dependencies=[Depends(unit)])(read)
        assert [(await made.get("/in/1")).json() for _ in range(2)] == [1, 2]
        assert [(await made.get("/1")).json() for _ in range(2)] == [3, 3]


# Garbage.


def _garbage_of(app: FastAPI, url: str, **more: Any) -> int:
    """What one request leaves to the collector, when all that is made once has been made."""

    async def measured() -> int:
        for _ in range(3):
            with contextlib.suppress(Exception):
                await ask(app, url, **more)
        gc.collect()
        with contextlib.suppress(Exception):
            await ask(app, url, **more)
        return gc.collect()

    gc.collect()
    gc.disable()
    try:
        return asyncio.run(measured())
    finally:
        gc.enable()


def _bare(kind: str, body: Callable[..., Any]) -> FastAPI:
    made, app = Site(kind), FastAPI()
    app.get("/")(made.flavoured(body))
    return app


@BOTH
@pytest.mark.parametrize("case", ["hit", "miss", "unstorable", "error"])
def test_a_request_leaves_no_more_to_the_garbage_collector_than_without_a_cache(kind: str, case: str) -> None:
    def body(x_user: Annotated[str, Header()] = "") -> Any:
        if case == "error":
            raise HTTPException(404)
        return sets_a_cookie() if case == "unstorable" else "there"

    made = Site(kind)
    made.page("/", **({"expire": 60} if case == "hit" else {"expire": lambda *_, **__: 0}))(body)
    assert _garbage_of(made.app, "/") <= _garbage_of(_bare(kind, body), "/")


@BOTH
@suspending
async def test_exchanges_end_with_their_requests(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fast_cache.http.exchange as module

    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Watched(module.Exchange):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            alive.add(self)

    monkeypatch.setattr(module, "Exchange", Watched)
    gc.disable()
    try:
        async with site(kind) as made:

            @made.page("/", expire=60, stale_while_revalidate=600, tags="t")
            def read() -> int:
                return made.runs

            made.door.close()
            tasks = [made.start("/") for _ in range(10)]
            await made.followed(9)
            tasks[0].cancel()
            tasks[4].cancel()
            made.door.open()
            await asyncio.gather(*tasks, return_exceptions=True)
            await made.cache.ainvalidate_tags("t", soft=True)
            await made.get("/")
            await made.rested()
            await made.get("/")
            del tasks
            assert len(alive) == 0
    finally:
        gc.enable()
