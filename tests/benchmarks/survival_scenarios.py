"""What can happen to a cache: each scenario does it to one library and tells what was observed.

A scenario holds the cached function back with a gate, so that what has to coincide does. That callers are waiting is
known of nobody's cache but our own: a scenario lets some time pass in which nothing happens any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Annotated, Any

import httpx2 as httpx
import redis.asyncio
from fastapi import Depends, FastAPI, Header, Request
from pydantic import BaseModel

from tests.benchmarks.survival_peers import Cached, NotOffered, Peer, Wish
from tests.support.redis_server import RedisServer

CALLERS = 100
THREADS = 32

QUIET = 0.4
"""Seconds without a new load, after which callers have either begun one or are waiting."""

AT_ONCE = 1.0
"""Seconds within which somebody who does not wait for a load has an answer."""

BY_THEN = 2.0
"""Seconds within which a call succeeds although Redis hangs."""

LIFETIME = 0.4
WELL_EXPIRED = 0.6


@dataclass(frozen=True)
class Answer:
    """What was observed: whether the library survived, and what else there is to tell."""

    good: bool
    detail: str = ""

    @property
    def text(self) -> str:
        return ", ".join(filter(None, ["yes" if self.good else "no", self.detail]))


HANGS = Answer(False, "hangs")

Check = Callable[[Peer, Wish], Coroutine[Any, Any, Answer]]


@dataclass(frozen=True)
class Scenario:
    """A row of the table.

    Args:
        title: what survivors do.
        check: does it to one library.
        sharing: only for configurations in which callers share a load.
        redis: only for libraries that can keep values in Redis.
        processes: how many processes it takes.
        plain: for the default configuration only: the others make no difference to it.
    """

    title: str
    check: Check
    sharing: bool = False
    redis: bool = False
    processes: int = 1
    plain: bool = False

    def configurations(self, peer: Peer) -> Sequence[str]:
        """Those of a library that this scenario can be done to."""
        if self.redis and not peer.has_redis:
            return ()
        configurations = peer.configurations[:1] if self.plain else peer.configurations
        return [name for name in configurations if not self.sharing or name in peer.sharing]


class Source:
    """A function that counts its runs, and goes on only while its gate is open."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

        async def fetch(x: int, y: str = "default") -> str:
            self.runs += 1
            value = f"value {self.runs}"
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            return value

        self.fetch = fetch

    async def begun(self, runs: int = 1) -> None:
        while self.runs < runs:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def quiet(self) -> None:
        """Wait until no load has begun for a while."""
        runs = -1
        while runs != self.runs:
            runs = self.runs
            await asyncio.sleep(QUIET)


async def callers_share_a_load(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    cached = peer.cached(source.fetch, wish)
    callers = [asyncio.ensure_future(cached.call(1)) for _ in range(CALLERS)]
    await source.quiet()
    source.gate.set()
    await asyncio.gather(*callers)
    return Answer(source.runs == 1, counted(source.runs, "load"))


async def a_cancelled_leader_harms_nobody(peer: Peer, wish: Wish) -> Answer:
    if peer.blocking:
        raise NotOffered  # threads can't be cancelled
    source = Source()
    cached = peer.cached(source.fetch, wish)
    leader = asyncio.ensure_future(cached.call(1))
    await source.begun()
    followers = [asyncio.ensure_future(cached.call(1)) for _ in range(9)]
    await source.quiet()
    leader.cancel()
    await source.quiet()
    source.gate.set()
    done, waiting = await asyncio.wait(followers, timeout=BY_THEN)
    if waiting:
        return Answer(False, f"{len(waiting)} of {len(followers)} wait for ever")
    failed = [caller for caller in done if caller.cancelled() or caller.exception() is not None]
    if failed:
        return Answer(False, f"{len(failed)} of {len(followers)} fail too")
    return Answer(True, counted(source.runs - 1, "more load"))


async def a_delete_is_not_undone(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    cached = peer.cached(source.fetch, wish)
    return await _removed_during_a_load(source, cached.call, lambda: cached.delete(1))


async def a_clear_is_not_undone(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    cached = peer.cached(source.fetch, wish)
    return await _removed_during_a_load(source, cached.call, cached.clear)


async def _removed_during_a_load(
    source: Source, call: Callable[..., Awaitable[Any]], remove: Callable[[], Awaitable[object]]
) -> Answer:
    caller = asyncio.ensure_future(call(1))
    await source.begun()
    await remove()
    source.gate.set()
    await caller
    return Answer(await call(1) == "value 2")


async def an_error_is_shared_and_not_kept(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.error = LookupError("gone")
    cached = peer.cached(source.fetch, wish)
    callers = [asyncio.ensure_future(cached.call(1)) for _ in range(CALLERS)]
    await source.quiet()
    source.gate.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    runs = source.runs
    if not all(isinstance(outcome, LookupError) for outcome in outcomes):
        return Answer(False, "not all get it")
    source.error = None
    if await cached.call(1) != f"value {runs + 1}":
        return Answer(False, "it is kept")
    return Answer(runs == 1, counted(runs, "run"))


async def none_is_a_value(peer: Peer, wish: Wish) -> Answer:
    runs = 0

    async def find(x: int) -> str | None:
        nonlocal runs
        runs += 1
        return None

    cached = peer.cached(find, wish)
    await cached.call(1)
    await cached.call(1)
    return Answer(runs == 1, f"{counted(runs, 'load')} for 2 calls")


async def arguments_that_are_equal_are_told_apart(peer: Peer, wish: Wish) -> Answer:
    async def name(x: Any) -> str:
        return repr(x)

    cached = peer.cached(name, wish)
    arguments = (1, True, 1.0, "1")
    right = [argument for argument in arguments if await cached.call(argument) == repr(argument)]
    return Answer(len(right) == len(arguments), f"{len(right)} of {len(arguments)} right")


async def ways_to_say_a_call_are_one(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.gate.set()
    cached = peer.cached(source.fetch, wish)
    await cached.call(1)
    await cached.call(x=1)
    await cached.call(1, y="default")
    return Answer(source.runs == 1, counted(source.runs, "load"))


async def nobody_waits_for_a_refresh(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.gate.set()
    cached = peer.cached(source.fetch, replace(wish, fresh=LIFETIME, stale=30))
    await cached.call(1)
    source.gate.clear()
    await asyncio.sleep(WELL_EXPIRED)
    callers = [asyncio.ensure_future(cached.call(1)) for _ in range(20)]
    _, waiting = await asyncio.wait(callers, timeout=AT_ONCE)
    source.gate.set()
    await asyncio.gather(*callers)
    return Answer(not waiting and source.runs == 2, f"{len(waiting)} of {len(callers)} wait")


async def an_old_value_is_better_than_an_error(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.gate.set()
    cached = peer.cached(source.fetch, replace(wish, fresh=LIFETIME, on_error=30))
    await cached.call(1)
    source.error = LookupError("gone")
    await asyncio.sleep(WELL_EXPIRED)
    return Answer(await cached.call(1) == "value 1")


async def what_a_caller_changes_is_its_own(peer: Peer, wish: Wish) -> Answer:
    async def numbers(x: int) -> list[int]:
        return [1, 2]

    cached = peer.cached(numbers, replace(wish, copies=True))
    await cached.call(1)
    (await cached.call(1)).append(3)
    return Answer(await cached.call(1) == [1, 2])


async def threads_share_a_load(peer: Peer, wish: Wish) -> Answer:
    runs = 0
    gate = threading.Event()

    def fetch(x: int) -> str:
        nonlocal runs
        runs += 1
        gate.wait()
        return f"value {runs}"

    cached = peer.cached_sync(fetch)
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(max_workers=THREADS)
    callers = [loop.run_in_executor(threads, cached, 1) for _ in range(THREADS)]
    seen = -1
    while seen != runs:
        seen = runs
        await asyncio.sleep(QUIET)
    gate.set()
    await asyncio.gather(*callers)
    return Answer(runs == 1, counted(runs, "load"))


async def a_function_may_call_itself(peer: Peer, wish: Wish) -> Answer:
    runs = 0

    async def fetch(x: int) -> str:
        nonlocal runs
        runs += 1
        return "inner" if runs > 1 else f"outer {await cached.call(x)}"

    cached = peer.cached(fetch, wish)
    began = time.monotonic()
    result = await cached.call(1)
    taken = time.monotonic() - began
    return Answer(result == "outer inner", f"after {taken:.0f} s" if taken > AT_ONCE else "")


async def redis_may_be_killed(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.gate.set()
    with RedisServer() as server:
        cached = peer.cached(source.fetch, replace(wish, redis_url=server.url))
        await cached.call(1)
        server.kill()
        for argument in (1, 2, 1):
            await asyncio.wait_for(cached.call(argument), BY_THEN)
    return Answer(True)


async def redis_may_come_back(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.gate.set()
    with RedisServer() as server:
        cached = peer.cached(source.fetch, replace(wish, redis_url=server.url))
        await cached.call(1)
        server.kill()
        with contextlib.suppress(Exception):
            await cached.call(1)
        server.start()
        for _ in range(50):
            before = source.runs
            with contextlib.suppress(Exception):
                await cached.call(1)
                if source.runs == before:
                    return Answer(True)
            await asyncio.sleep(0.1)
    return Answer(False)


async def a_delete_while_redis_is_away_is_not_lost(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.gate.set()
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:  # it comes back with what it had
        cached = peer.cached(source.fetch, replace(wish, redis_url=server.url))
        await cached.call(1)
        server.kill()
        told = "in silence"
        try:
            await cached.delete(1)
        except Exception as error:
            told = f"but the delete raises {type(error).__name__}"
        server.start()
        for _ in range(50):
            before = source.runs
            with contextlib.suppress(Exception):
                if await cached.call(1) == "value 1":
                    return Answer(False, told)
                if source.runs == before:
                    return Answer(True)
            await asyncio.sleep(0.1)
    return Answer(False, "it is never cached again")


async def redis_may_hang(peer: Peer, wish: Wish) -> Answer:
    source = Source()
    source.gate.set()
    with RedisServer() as server:
        cached = peer.cached(source.fetch, replace(wish, redis_url=server.url))
        await cached.call(1)
        server.freeze()
        began = time.monotonic()
        for argument in range(10):
            await asyncio.wait_for(cached.call(argument), BY_THEN)
    return Answer(True, f"10 calls take {time.monotonic() - began:.1f} s")


class Page(BaseModel):
    """What a function returns that is more than JSON."""

    title: str
    printed: datetime


async def values_keep_their_types(peer: Peer, wish: Wish) -> Answer:
    runs = 0

    async def page(x: int) -> Page:
        nonlocal runs
        runs += 1
        return Page(title="a", printed=datetime(2030, 1, 1, tzinfo=UTC))

    async def pair(x: int) -> tuple[int, str]:
        nonlocal runs
        runs += 1
        return x, "b"

    async def moment(x: int) -> datetime:
        nonlocal runs
        runs += 1
        return datetime(2030, 1, 1, tzinfo=UTC)

    kept = 0
    functions: Sequence[Callable[[int], Coroutine[Any, Any, object]]] = (page, pair, moment)
    with RedisServer() as server:
        for function in functions:
            runs = 0
            with contextlib.suppress(TypeError, ValueError):  # what encoders raise at what they don't know
                cached = peer.cached(function, replace(wish, redis_url=server.url))
                made, found = await cached.call(1), await cached.call(1)
                kept += runs == 1 and isinstance(found, type(made)) and found == made
    return Answer(kept == len(functions), f"{kept} of {len(functions)}")


async def values_keep_their_types_without_pickle(peer: Peer, wish: Wish) -> Answer:
    return await values_keep_their_types(peer, replace(wish, unpickles=False))


def current_user(x_token: Annotated[str, Header()]) -> str:
    return x_token


async def users_have_pages_of_their_own(peer: Peer, wish: Wish) -> Answer:
    runs = 0

    async def read_me(user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
        nonlocal runs
        runs += 1
        return {"user": user}

    def blocking_read_me(user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
        nonlocal runs
        runs += 1
        return {"user": user}

    if await _is_answered_for_others(peer, blocking_read_me if peer.blocking else read_me):
        return FOREIGN
    return Answer(runs == 2, "" if runs == 2 else "not cached")


async def users_have_pages_of_their_own_by_request(peer: Peer, wish: Wish) -> Answer:
    async def read_me(request: Request) -> dict[str, str]:
        return {"user": request.headers["x-token"]}

    def blocking_read_me(request: Request) -> dict[str, str]:
        return {"user": request.headers["x-token"]}

    if await _is_answered_for_others(peer, blocking_read_me if peer.blocking else read_me):
        return FOREIGN
    return Answer(True)


REQUESTS = 400
"""Enough for memory to be used again: some keys hold where an object lies."""


async def _is_answered_for_others(peer: Peer, function: Callable[..., Any]) -> bool:
    """Whether any of two users' requests, in turn, is answered with the page of the other one."""
    app = FastAPI()
    app.get("/me")(peer.endpoint(function, app))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        for number in range(REQUESTS):
            user = ("ada", "bob")[number % 2]
            answer = await client.get("/me", headers={"x-token": user})
            if answer.json() != {"user": user}:
                return True
    return False


FOREIGN = Answer(False, "users get each other's")

GO = "survival-go"
RUNS = "survival-runs"


def function_in_several_processes(client: redis.asyncio.Redis) -> Callable[[int], Coroutine[Any, Any, int]]:
    """Counts its runs in Redis, and goes on when it is told to, in whatever process it runs."""

    async def fetch(x: int) -> int:
        run: int = await client.incr(RUNS)
        while not await client.exists(GO):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return run

    return fetch


async def in_second_process(peer: Peer, connection: Connection) -> None:
    """Be another process of the application, which does to the key what the first one says."""
    wish, what = await asyncio.to_thread(connection.recv)
    cached = peer.cached(function_in_several_processes(redis.asyncio.Redis.from_url(wish.redis_url)), wish)
    await (cached.delete(1) if what == "delete" else cached.call(1))
    connection.send("done")


async def processes_share_a_load(peer: Peer, wish: Wish) -> Answer:
    async with _loading_before_another(peer, wish, "call") as (client, caller, other, _):
        await asyncio.sleep(2 * QUIET)
        await client.set(GO, 1)
        await caller
        await other
        runs = int(await client.get(RUNS) or 0)
    return Answer(runs == 1, counted(runs, "load"))


async def a_delete_elsewhere_is_not_undone(peer: Peer, wish: Wish) -> Answer:
    async with _loading_before_another(peer, wish, "delete") as (client, caller, other, cached):
        await other
        await client.set(GO, 1)
        await caller
        late = await cached.call(1)
    return Answer(late == 2)


@contextlib.asynccontextmanager
async def _loading_before_another(
    peer: Peer, wish: Wish, what: str
) -> AsyncIterator[tuple[redis.asyncio.Redis, asyncio.Future[Any], asyncio.Future[Any], Cached]]:
    """A load is under way here, and another process does ``what`` to its key."""
    elsewhere = wish.elsewhere
    assert elsewhere is not None, "this takes another process"
    with RedisServer() as server:
        client = redis.asyncio.Redis.from_url(server.url)
        wish = replace(wish, redis_url=server.url, elsewhere=None)
        cached = peer.cached(function_in_several_processes(client), wish)
        caller = asyncio.ensure_future(cached.call(1))
        while not await client.exists(RUNS):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        elsewhere.send((wish, what))
        yield client, caller, asyncio.ensure_future(asyncio.to_thread(elsewhere.recv)), cached
        await client.aclose()


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


SCENARIOS: Sequence[Scenario] = (
    Scenario(f"{CALLERS} callers of a missing key share one load", callers_share_a_load),
    Scenario(f"{THREADS} threads that call a sync function share one load", threads_share_a_load),
    Scenario("two processes share one load (Redis)", processes_share_a_load, redis=True, processes=2),
    Scenario(
        "the caller who loads is cancelled: the others get a value", a_cancelled_leader_harms_nobody, sharing=True
    ),
    Scenario("the function raises: one run, all callers get it, it is not kept", an_error_is_shared_and_not_kept),
    Scenario("the function calls itself for the same key: no deadlock", a_function_may_call_itself, sharing=True),
    Scenario("a delete during a load: the old value is not served afterwards", a_delete_is_not_undone),
    Scenario("a clear during a load: likewise", a_clear_is_not_undone),
    Scenario(
        "a delete by another process during a load: likewise (Redis)",
        a_delete_elsewhere_is_not_undone,
        redis=True,
        processes=2,
    ),
    Scenario("`None` is cached", none_is_a_value),
    Scenario('`1`, `True`, `1.0` and `"1"` have values of their own', arguments_that_are_equal_are_told_apart),
    Scenario("`f(1)`, `f(x=1)` and `f(1, y=default)` are one entry", ways_to_say_a_call_are_one),
    Scenario("what a caller changes in its value is nobody else's", what_a_caller_changes_is_its_own),
    Scenario("an expired value is served while it is loaded anew: nobody waits", nobody_waits_for_a_refresh),
    Scenario("an expired value is served if the function raises", an_old_value_is_better_than_an_error),
    Scenario("Redis is killed: calls succeed", redis_may_be_killed, redis=True),
    Scenario("Redis is back: calls are cached again", redis_may_come_back, redis=True),
    Scenario(
        "a delete while Redis is away: the old value is not served when it is back",
        a_delete_while_redis_is_away_is_not_lost,
        redis=True,
    ),
    Scenario(f"Redis hangs: each call succeeds within {BY_THEN:.0f} s", redis_may_hang, redis=True),
    Scenario("a model, a tuple and a datetime come back from Redis as such", values_keep_their_types, redis=True),
    Scenario("the same without unpickling what Redis holds", values_keep_their_types_without_pickle, redis=True),
    Scenario(
        "`user = Depends(current_user)`: each has a cached page of their own", users_have_pages_of_their_own, plain=True
    ),
    Scenario(
        "the endpoint reads the user from its `Request`: likewise, or not cached",
        users_have_pages_of_their_own_by_request,
        plain=True,
    ),
)
