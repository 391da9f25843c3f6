"""Work that goes on after its caller was answered: bounded, named, and over when the application is."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fast_cache import Cache, InMemoryBackend
from fast_cache.background import Background
from fast_cache.freshness import FreshnessOptions
from fast_cache.ports import run_blocking
from fast_cache.testing import PATIENCE, Flavour, in_both_flavours

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"


def thread(background: Background, work: Callable[[], object], name: str = "job") -> bool:
    """Start plain code as a job on a thread."""

    async def job() -> None:
        work()

    return background.start_thread(job, name, run_blocking)


def passed(event: threading.Event) -> None:
    assert event.wait(PATIENCE), "an event did not come"


async def until(condition: Callable[[], object]) -> None:
    async def holds() -> object:
        return condition()

    await Flavour.of("async").until(holds, "what the test waits for")


async def becomes_empty(background: Background) -> None:
    await until(lambda: len(background) == 0)


@pytest.fixture
def background() -> Background:
    return Background()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Holds jobs on threads until it is set, at the end of the test if not before."""
    event = threading.Event()
    yield event
    event.set()
    for running in threading.enumerate():
        if running.name.startswith(("job", "fast_cache:")):
            running.join(PATIENCE)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fast_cache"]


# Bounds


@pytest.mark.parametrize("most", [1, 3])
def test_tasks_are_bounded(background: Background, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("fast_cache.background.MOST_TASKS", most)

    async def test() -> None:
        gate = asyncio.Event()
        made = 0

        def job() -> Coroutine[Any, Any, None]:
            nonlocal made
            made += 1
            return wait()

        async def wait() -> None:
            await gate.wait()

        assert [background.start_task(job, "job") for _ in range(most + 2)] == [True] * most + [False] * 2
        assert len(background) == made == most, "a job that there is no room for is not made"
        gate.set()
        await becomes_empty(background)
        assert background.start_task(job, "job"), "there is room again"
        await becomes_empty(background)

    asyncio.run(test())


@pytest.mark.parametrize("most", [1, 3])
def test_threads_are_bounded(
    background: Background, monkeypatch: pytest.MonkeyPatch, release: threading.Event, most: int
) -> None:
    monkeypatch.setattr("fast_cache.background.MOST_THREADS", most)
    ran = []

    def work() -> None:
        ran.append(threading.current_thread())
        passed(release)

    assert [thread(background, work) for _ in range(most + 2)] == [True] * most + [False] * 2
    assert len(background) == most
    release.set()
    for running in ran:
        running.join(PATIENCE)
    assert len(background) == 0
    assert len(ran) == most
    assert thread(background, work), "there is room again"


def test_threads_leave_the_room_of_tasks_alone(
    background: Background, monkeypatch: pytest.MonkeyPatch, release: threading.Event
) -> None:
    monkeypatch.setattr("fast_cache.background.MOST_THREADS", 1)
    monkeypatch.setattr("fast_cache.background.MOST_TASKS", 1)

    async def test() -> None:
        assert thread(background, lambda: passed(release))
        assert background.start_task(_nothing, "job")
        assert len(background) == 2
        release.set()
        await becomes_empty(background)

    asyncio.run(test())


async def _nothing() -> None: ...


async def _for_ever() -> None:
    await asyncio.Event().wait()


# Names, contexts, errors


def test_jobs_are_named(background: Background) -> None:
    seen: list[Any] = []

    async def job() -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append(task.get_name())

    async def test() -> None:
        assert background.start_task(job, "fast_cache: shop.price")
        await background.drain(PATIENCE)

    def work() -> None:
        me = threading.current_thread()
        seen.append((me.name, me.daemon))
        done.set()

    done = threading.Event()
    asyncio.run(test())
    assert thread(background, work, "fast_cache: shop.price")
    passed(done)
    assert seen == ["fast_cache: shop.price", ("fast_cache: shop.price", True)]


USER: ContextVar[str] = ContextVar("USER", default="nobody")


def test_jobs_run_in_a_copy_of_the_context(background: Background, release: threading.Event) -> None:
    seen: list[str] = []

    def note(me: str) -> None:
        seen.append(USER.get())
        USER.set(me)

    async def job() -> None:
        note("the task")

    def work() -> None:
        note("the thread")
        passed(release)

    async def test() -> None:
        token = USER.set("alice")
        try:
            assert background.start_task(job, "job")
            # Two at once: one context can't be entered twice.
            assert thread(background, work)
            assert thread(background, work)
            await until(lambda: len(seen) == 3)
            assert seen == ["alice"] * 3
            assert USER.get() == "alice", "what jobs set is their own"
        finally:
            USER.reset(token)

    asyncio.run(test())


def test_the_context_is_that_of_the_start(background: Background, release: threading.Event) -> None:
    seen: list[str] = []

    def work() -> None:
        passed(release)
        seen.append(USER.get())

    token = USER.set("alice")
    assert thread(background, work)
    USER.reset(token)
    release.set()
    asyncio.run(background.drain(PATIENCE))
    assert seen == ["alice"]


class Own(Exception):
    pass


def test_what_a_job_raises_is_logged_without_its_message(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    async def job() -> None:
        raise Own(SECRET)

    def work() -> None:
        raise Own(SECRET)

    async def test() -> None:
        assert background.start_task(job, "fast_cache: by_task")
        assert thread(background, work, "fast_cache: by_thread")
        await becomes_empty(background)

    asyncio.run(test())
    messages = complaints(caplog)
    assert len(messages) == 2
    for name in ("fast_cache: by_task", "fast_cache: by_thread"):
        assert any(name in message and "Own" in message for message in messages)
    assert SECRET not in caplog.text, "it may quote a value"
    assert all(record.exc_info is None and record.levelno == logging.ERROR for record in caplog.records)


def test_a_job_that_is_cancelled_is_no_defect(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    async def job() -> None:
        raise asyncio.CancelledError

    async def test() -> None:
        assert background.start_task(job, "job")
        await becomes_empty(background)

    asyncio.run(test())
    assert not complaints(caplog)


# The end of an application


def test_drain_waits_for_tasks(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        gate, ended = asyncio.Event(), []

        async def job() -> None:
            await gate.wait()
            ended.append("job")

        assert background.start_task(job, "job")
        assert background.start_task(job, "job")
        drain = asyncio.create_task(background.drain(PATIENCE))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not drain.done()
        gate.set()
        await asyncio.wait_for(drain, PATIENCE)
        assert ended == ["job", "job"]
        assert len(background) == 0

    asyncio.run(test())
    assert not complaints(caplog)


def test_drain_cancels_tasks_that_are_late(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        ended = []

        async def job() -> None:
            try:
                await _for_ever()
            except asyncio.CancelledError:
                await asyncio.sleep(0)  # cleaning up takes a moment
                ended.append("cancelled")
                raise

        assert background.start_task(job, "job")
        assert background.start_task(job, "job")
        assert background.start_task(_nothing, "job")
        await asyncio.wait_for(background.drain(0.01), PATIENCE)
        assert ended == ["cancelled", "cancelled"]
        assert len(background) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(test())
    [message] = complaints(caplog)
    assert message.startswith("2 ")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, release: threading.Event) -> list[int]:
    """How many jobs there were each time that a drain looked at its threads; the first look opens their gate."""
    seen: list[int] = []
    pause = Background._pause

    async def recorded(self: Background) -> None:
        seen.append(len(self))
        release.set()
        await pause(self)

    monkeypatch.setattr(Background, "_pause", recorded)
    return seen


def test_drain_waits_for_threads(background: Background, release: threading.Event, looks: list[int]) -> None:
    ended = []

    def work() -> None:
        passed(release)
        ended.append("job")

    assert thread(background, work)
    assert thread(background, work)
    asyncio.run(background.drain(PATIENCE))
    assert ended == ["job", "job"]
    assert len(background) == 0
    assert looks[0] == 2


def test_drain_leaves_the_loop_to_others_while_it_joins(background: Background, release: threading.Event) -> None:
    """A job on a thread may need the loop to end."""

    ended = []

    async def test() -> None:
        loop = asyncio.get_running_loop()

        def work() -> None:
            passed(release)
            asyncio.run_coroutine_threadsafe(_nothing(), loop).result(PATIENCE)
            ended.append("job")

        assert thread(background, work)
        loop.call_soon(release.set)
        await asyncio.wait_for(background.drain(PATIENCE / 2), PATIENCE)
        assert ended == ["job"]

    asyncio.run(test())


def test_drain_gives_up_on_threads_that_hang(background: Background, release: threading.Event) -> None:
    assert thread(background, lambda: passed(release))
    asyncio.run(asyncio.wait_for(background.drain(0.01), PATIENCE))
    assert len(background) == 1, "nobody can end it; it is a daemon"


def test_tasks_and_threads_are_drained_together(background: Background, release: threading.Event) -> None:
    ended = []

    async def test() -> None:
        async def job() -> None:
            await until(release.is_set)
            ended.append("task")

        def work() -> None:
            passed(release)
            ended.append("thread")

        assert background.start_task(job, "job")
        assert thread(background, work)
        asyncio.get_running_loop().call_soon(release.set)
        await background.drain(PATIENCE)
        assert sorted(ended) == ["task", "thread"]

    asyncio.run(test())


def test_drain_has_nothing_to_do_without_jobs(background: Background) -> None:
    asyncio.run(background.drain(0.0))
    asyncio.run(background.drain(PATIENCE))


def test_drain_leaves_the_tasks_of_other_loops_alone(background: Background) -> None:
    started, stop, ended = threading.Event(), threading.Event(), []

    async def other() -> None:
        gate = asyncio.Event()

        async def job() -> None:
            await gate.wait()
            ended.append("job")

        assert background.start_task(job, "job")
        started.set()
        await until(stop.is_set)
        assert ended == []
        gate.set()
        await becomes_empty(background)

    beside = threading.Thread(target=lambda: asyncio.run(other()), daemon=True)
    beside.start()
    passed(started)
    asyncio.run(background.drain(0.0))
    assert len(background) == 1
    stop.set()
    beside.join(PATIENCE)
    assert ended == ["job"], "it was not cancelled"


def test_tasks_of_a_closed_loop_are_forgotten(background: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_cache.background.MOST_TASKS", 1)
    loop = asyncio.new_event_loop()

    async def start() -> bool:
        return background.start_task(_for_ever, "job")

    assert loop.run_until_complete(start())
    assert not loop.run_until_complete(start())
    left = asyncio.all_tasks(loop)
    loop.close()  # with the task in it, as after a crash
    assert len(left) == 1

    async def test() -> None:
        assert background.start_task(_nothing, "job"), "nobody ever ends the other one"
        assert len(background) == 1
        await background.drain(PATIENCE)
        assert len(background) == 0

    asyncio.run(test())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_leaves_the_threads_behind() -> None:
    """In a process of its own: forking one with threads is a warning."""
    script = """
        import os, threading
        from fast_cache import background
        from fast_cache.ports import run_blocking

        background.MOST_THREADS = 1
        jobs, release, ran = background.Background(), threading.Event(), threading.Event()

        async def hang():
            release.wait(30)

        async def run():
            ran.set()

        assert jobs.start_thread(hang, "job", run_blocking)
        assert not jobs.start_thread(run, "job", run_blocking)
        child = os.fork()
        if not child:
            started = jobs.start_thread(run, "job", run_blocking)
            os._exit(0 if started and ran.wait(10) else 1)
        _, status = os.waitpid(child, 0)
        assert not jobs.start_thread(run, "job", run_blocking), "the parent's is still there"
        release.set()
        raise SystemExit(os.waitstatus_to_exitcode(status))
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# Through an application

DUE: FreshnessOptions = {"hits": 100, "refresh_after": 1}
"""What is due for a refresh at its second hit."""


class Recorded(InMemoryBackend):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    async def aclose(self) -> None:
        self.log.append("closed")
        await super().aclose()


def application(log: list[str], at_end: Callable[[], None] = lambda: None) -> tuple[FastAPI, Cache]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        log.append("user stops")
        at_end()

    app, cache = FastAPI(lifespan=lifespan), Cache()
    cache.init_app(app, backend=Recorded(log))
    return app, cache


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no application wait for its refreshes."""
    monkeypatch.setattr(sys.modules["fast_cache.cache"], "_DRAIN", 0.01)


def asked_thrice(client: TestClient) -> None:
    assert [client.get("/").json() for _ in range(3)] == [1, 1, 1]


def test_an_application_waits_for_a_refresh() -> None:
    log: list[str] = []
    started = threading.Event()
    gates: list[asyncio.Event] = []

    def open_soon() -> None:
        asyncio.get_running_loop().call_soon(gates[0].set)

    app, cache = application(log, at_end=open_soon)

    @cache.cached(**DUE)
    async def load() -> int:
        log.append("load")
        if log.count("load") > 1:
            gates.append(asyncio.Event())
            started.set()
            await gates[0].wait()
            log.append("refreshed")
        return log.count("load")

    @app.get("/")
    async def read() -> int:
        return await load()

    with TestClient(app) as client:
        asked_thrice(client)
        passed(started)
        assert log == ["load", "load"]
    assert log == ["load", "load", "user stops", "refreshed", "closed"]


@pytest.mark.usefixtures("hurried")
def test_an_application_cancels_a_refresh_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    started = threading.Event()
    app, cache = application(log)

    @cache.cached(**DUE)
    async def load() -> int:
        log.append("load")
        if log.count("load") > 1:
            started.set()
            try:
                await _for_ever()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise
        return 1

    @app.get("/")
    async def read() -> int:
        return await load()

    with TestClient(app) as client:
        asked_thrice(client)
        passed(started)
    assert log == ["load", "load", "user stops", "cancelled", "closed"]
    assert len(cache._binding.background) == 0
    [message] = complaints(caplog)
    assert "cancelled" in message


def test_an_application_waits_for_a_refresh_on_a_thread(release: threading.Event, looks: list[int]) -> None:
    log: list[str] = []
    started = threading.Event()
    app, cache = application(log)

    @cache.cached(**DUE)
    def load() -> int:
        log.append("load")
        if log.count("load") > 1:
            started.set()
            passed(release)
            log.append("refreshed")
        return 1

    @app.get("/")
    def read() -> int:
        return load()

    with TestClient(app) as client:
        asked_thrice(client)
        passed(started)
        assert log == ["load", "load"]
    assert log == ["load", "load", "user stops", "refreshed", "closed"]
    assert looks[0] == 1


@pytest.mark.usefixtures("hurried")
def test_an_application_stops_without_a_thread_that_hangs(release: threading.Event) -> None:
    log: list[str] = []
    started, running = threading.Event(), []
    app, cache = application(log)

    @cache.cached(**DUE)
    def load() -> int:
        log.append("load")
        if log.count("load") > 1:
            running.append(threading.current_thread())
            started.set()
            passed(release)
        return 1

    @app.get("/")
    def read() -> int:
        return load()

    with TestClient(app) as client:
        asked_thrice(client)
        passed(started)
    assert log == ["load", "load", "user stops", "closed"]
    [late] = running
    assert late.is_alive()
    assert late.daemon, "nor can it keep the interpreter"
    release.set()
    late.join(PATIENCE)
    assert not late.is_alive()


def test_an_application_can_live_again_after_a_drain() -> None:
    log: list[str] = []
    app, cache = application(log)

    @cache.cached(**DUE)
    async def load() -> int:
        log.append("load")
        return 1

    @app.get("/")
    async def read() -> int:
        return await load()

    for _ in range(2):
        with TestClient(app) as client:
            for _ in range(3):
                assert client.get("/").json() == 1
    assert log.count("closed") == 2
    assert len(cache._binding.background) == 0


@pytest.mark.parametrize("limit", ["MOST_TASKS", "MOST_THREADS"])
def test_without_room_a_value_that_is_due_is_served_all_the_same(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the key is not blocked: there is room later."""

    async def test() -> None:
        loads = []
        cache = Cache()
        cache.init_app(FastAPI())
        read: Callable[[], Awaitable[int]]
        if limit == "MOST_TASKS":

            @cache.cached(**DUE)
            async def by_task() -> int:
                loads.append("load")
                return len(loads)

            read = by_task
        else:

            @cache.cached(**DUE)
            def by_thread() -> int:
                loads.append("load")
                return len(loads)

            async def read() -> int:
                return by_thread()

        with monkeypatch.context() as patch:
            patch.setattr(f"fast_cache.background.{limit}", 0)
            assert [await read() for _ in range(5)] == [1] * 5
        assert await read() == 1
        await until(lambda: len(loads) == 2)
        await cache._binding.background.drain(PATIENCE)
        assert await read() == 2

    asyncio.run(test())


@in_both_flavours
async def test_without_room_a_caller_who_would_not_wait_loads_itself(
    flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fast_cache.background.MOST_TASKS", 0)
    monkeypatch.setattr("fast_cache.background.MOST_THREADS", 0)
    store = flavour.use(InMemoryBackend())

    @store.cached(hard_timeout=60)
    async def load() -> str:
        return "value"

    assert await flavour.call(load) == "value"
