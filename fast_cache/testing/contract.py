"""The suite that a backend must pass: the ten methods, the calls beyond them, and what the engine promises over them.

    class TestMyBackend(BackendContract):
        def make_backend(self) -> CacheBackend:
            return MyBackend()

Each test is written once, over a :class:`Flavour`, and runs twice: blocking, with threads for callers, and awaiting,
with tasks. No test sleeps and hopes: a wait ends when what it waits for has happened, or fails after ``PATIENCE``
seconds. Needs pytest and nothing else. For assertions in full, call ``pytest.register_assert_rewrite`` on this module
before it is imported.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from fast_cache.backends.base import CacheBackend
from fast_cache.background import Background
from fast_cache.cache import Cache
from fast_cache.errors import ConfigurationError, CounterError, LockLost, LockTimeout, NotSupportedError
from fast_cache.keys import address_of
from fast_cache.ports import run_blocking

__all__ = [
    "PATIENCE",
    "BackendContract",
    "Blocking",
    "Caller",
    "CallsContract",
    "EngineContract",
    "Flavour",
    "Gate",
    "MethodsContract",
    "Store",
    "Suspending",
    "in_both_flavours",
    "only_suspending",
]

T = TypeVar("T")
Body = Callable[..., Coroutine[Any, Any, Any]]
Mode = Literal["sync", "async"]

PATIENCE: Final = 30.0
"""Seconds after which a wait has failed. Long, because machines that run tests are busy; no test takes this long."""

_WHOLE_TEST: Final = 4 * PATIENCE
"""Seconds after which a test has failed: one that hangs must not hang the run."""

_BETWEEN_LOOKS: Final = 0.002


class Gate(ABC):
    """Closed until somebody opens it."""

    @abstractmethod
    def open(self) -> None:
        """Let everyone through, from now on."""

    @abstractmethod
    async def passed(self) -> None:
        """Wait until it is open."""


class Caller(ABC):
    """Somebody who calls a function beside the test."""

    @abstractmethod
    async def result(self, timeout: float = PATIENCE) -> Any:
        """Wait for the end of the call; return what it returned, or raise what it raised."""

    @abstractmethod
    def cancel(self) -> None:
        """Cancel the call: tasks only."""


class Flavour(ABC):
    """How a test and its callers run: by blocking threads, or by awaiting on an event loop."""

    def __init__(self) -> None:
        self._backends: list[CacheBackend] = []
        self._stores: list[Store] = []

    @staticmethod
    def of(mode: Mode) -> Flavour:
        """Return a new flavour for one test."""
        return Blocking() if mode == "sync" else Suspending()

    def use(self, backend: CacheBackend) -> Store:
        """Return ``backend`` as this flavour sees it. It is closed when the test ends."""
        self._backends.append(backend)
        store = Store(self, backend)
        self._stores.append(store)
        return store

    async def _drain(self) -> None:
        """Let what runs behind the callers end, before the backends are closed under it."""
        for store in self._stores:
            await store.drain()

    @abstractmethod
    def run(self, test: Coroutine[Any, Any, None]) -> None:
        """Run a test to its end, and close the backends it used."""

    @abstractmethod
    async def do(self, owner: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of a backend, or of a lock, named without its ``a``."""

    @abstractmethod
    async def listed(self, backend: CacheBackend, prefix: str = "") -> list[str]:
        """Return the keys that ``scan`` iterates over."""

    @abstractmethod
    def function(self, body: Body) -> Callable[..., Any]:
        """Turn the body of a function, written ``async def`` over this flavour, into a function of this flavour."""

    @abstractmethod
    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of this flavour, or an operation of a cached one."""

    @abstractmethod
    def start(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Caller:
        """Call a function of this flavour on a thread or in a task of its own."""

    @abstractmethod
    def gate(self) -> Gate:
        """Return a gate that is closed."""

    @abstractmethod
    async def pause(self) -> None:
        """Let others run for a moment."""

    @abstractmethod
    async def drain(self, background: Background) -> None:
        """Wait for what runs behind the callers."""

    async def until(self, condition: Callable[[], Awaitable[object]], what: str) -> None:
        """Wait until ``condition`` holds.

        Raises:
            AssertionError: it did not within ``PATIENCE``; the message is ``what``.
        """
        deadline = time.monotonic() + PATIENCE
        while not await condition():
            assert time.monotonic() < deadline, f"after {PATIENCE:g} s this has not happened: {what}"
            await self.pause()


class Store:
    """A backend, its methods in one spelling, and a cache over it."""

    def __init__(self, flavour: Flavour, backend: CacheBackend) -> None:
        self.backend = backend
        self._flavour = flavour
        self._cache = Cache()
        self._cache.init_app(FastAPI(), backend=backend)

    async def get(self, key: str, default: Any = None) -> Any:
        return await self._flavour.do(self.backend, "get", key, default)

    async def set(self, key: str, value: Any, expire: Any = None) -> None:
        await self._flavour.do(self.backend, "set", key, value, expire)

    async def delete(self, key: str) -> Any:
        return await self._flavour.do(self.backend, "delete", key)

    async def clear(self) -> None:
        await self._flavour.do(self.backend, "clear")

    async def has(self, key: str) -> bool:
        return bool(await self._flavour.do(self.backend, "has", key))

    async def ask(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """Call one of the backend's methods beyond the ten, named without its ``a``."""
        return await self._flavour.do(self.backend, call, *args, **kwargs)

    async def keys(self, prefix: str = "") -> list[str]:
        """The keys that the backend lists."""
        return await self._flavour.listed(self.backend, prefix)

    def inherits(self, call: str) -> bool:
        """Whether the backend has a call from this package: what is checked of arguments is its own affair else."""
        return getattr(type(self.backend), call) is getattr(CacheBackend, call)

    def lists(self) -> bool:
        """Whether the backend can list its keys. If not, it must say so at once, and name the method to define."""
        try:
            self.backend.scan()
        except NotSupportedError:
            for call in (self.backend.scan, self.backend.ascan):
                with pytest.raises(NotSupportedError, match="define scan and ascan"):
                    call()
            return False
        return True

    def cached(self, **options: Any) -> Callable[[Body], Any]:
        """Like ``@cache.cached(...)``, over the body of a function: see :meth:`Flavour.function`."""

        def decorate(body: Body) -> Any:
            decorated: Any = self._cache.cached(**options)(self._flavour.function(body))
            return decorated

        return decorate

    def cached_many(self, **options: Any) -> Callable[[Body], Any]:
        """Like ``@cache.cached_many(...)``, over the body of a function."""

        def decorate(body: Body) -> Any:
            return self._cache.cached_many(**options)(self._flavour.function(body))

        return decorate

    async def drain(self) -> None:
        """Wait for the loads that run behind their callers."""
        await self._flavour.drain(self._cache._binding.background)

    async def followed(self, key: str, followers: int) -> None:
        """Wait until this many callers wait for the load of ``key`` that somebody else has under way."""
        store = self.backend.engine_store()
        address = address_of(key) if store.slotted else key

        async def joined() -> bool:
            return store.flights.waiting(address) >= followers

        await self._flavour.until(joined, f"{followers} callers wait for a load that is under way")


class Blocking(Flavour):
    """Tests block, callers are threads. Nothing here suspends: a coroutine runs to its end on its thread."""

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        try:
            run_blocking(_Thread(functools.partial(run_blocking, test)).result(_WHOLE_TEST))
        finally:
            run_blocking(self._drain())
            for backend in self._backends:
                backend.close()

    async def do(self, owner: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(owner, name)(*args, **kwargs)

    async def listed(self, backend: CacheBackend, prefix: str = "") -> list[str]:
        return list(backend.scan(prefix))

    def function(self, body: Body) -> Callable[..., Any]:
        @functools.wraps(body)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            return run_blocking(body(*args, **kwargs))

        return blocking

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def start(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Caller:
        return _Thread(functools.partial(fn, *args, **kwargs))

    def gate(self) -> Gate:
        return _ThreadGate()

    async def pause(self) -> None:
        time.sleep(_BETWEEN_LOOKS)  # noqa: ASYNC251  # this flavour blocks

    async def drain(self, background: Background) -> None:
        asyncio.run(background.drain(PATIENCE))


class Suspending(Flavour):
    """Tests and callers are tasks of one event loop."""

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        asyncio.run(self._run(test))

    async def _run(self, test: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.wait_for(test, _WHOLE_TEST)
        finally:
            await self._drain()
            for backend in self._backends:
                await backend.aclose()

    async def do(self, owner: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(owner, f"a{name}")(*args, **kwargs)

    async def listed(self, backend: CacheBackend, prefix: str = "") -> list[str]:
        return [key async for key in backend.ascan(prefix)]

    def function(self, body: Body) -> Callable[..., Any]:
        return body

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    def start(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Caller:
        return _Task(asyncio.create_task(self.call(fn, *args, **kwargs)))

    async def drain(self, background: Background) -> None:
        await background.drain(PATIENCE)

    def gate(self) -> Gate:
        return _TaskGate()

    async def pause(self) -> None:
        await asyncio.sleep(_BETWEEN_LOOKS)


class _Thread(Caller):
    def __init__(self, call: Callable[[], Any]) -> None:
        self._future: Future[Any] = Future()
        # A daemon: one that hangs fails its test and must not keep the process alive as well.
        threading.Thread(target=self._work, args=(call,), daemon=True).start()

    def _work(self, call: Callable[[], Any]) -> None:
        try:
            self._future.set_result(call())
        except BaseException as error:
            self._future.set_exception(error)

    async def result(self, timeout: float = PATIENCE) -> Any:
        return self._future.result(timeout)

    def cancel(self) -> None:
        raise RuntimeError("a thread can't be cancelled; mark the test with only_suspending")


class _Task(Caller):
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    async def result(self, timeout: float = PATIENCE) -> Any:
        return await asyncio.wait_for(asyncio.shield(self._task), timeout)

    def cancel(self) -> None:
        self._task.cancel()


class _ThreadGate(Gate):
    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    async def passed(self) -> None:
        assert self._event.wait(PATIENCE), f"a gate was not opened within {PATIENCE:g} s"


class _TaskGate(Gate):
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def open(self) -> None:
        self._event.set()

    async def passed(self) -> None:
        await asyncio.wait_for(self._event.wait(), PATIENCE)


def in_both_flavours(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a pytest test of an ``async def`` with a parameter ``flavour``; it runs once in each."""
    return _flavoured(test, ["sync", "async"])


def only_suspending(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Like :func:`in_both_flavours`, for what only tasks can do: to be cancelled."""
    return _flavoured(test, ["async"])


def _flavoured(test: Callable[..., Coroutine[Any, Any, None]], modes: list[Mode]) -> Callable[..., None]:
    @functools.wraps(test)
    def flavoured(*args: Any, mode: Mode, **fixtures: Any) -> None:
        flavour = Flavour.of(mode)
        flavour.run(test(*args, flavour=flavour, **fixtures))

    own = inspect.signature(test)
    mode = inspect.Parameter("mode", inspect.Parameter.KEYWORD_ONLY)
    others = [parameter for name, parameter in own.parameters.items() if name != "flavour"]
    flavoured.__signature__ = inspect.Signature([*others, mode])  # type: ignore[attr-defined]
    del flavoured.__wrapped__  # pytest would take it for a test that nobody awaits
    parametrised: Callable[..., None] = pytest.mark.parametrize("mode", modes)(flavoured)
    return parametrised


class Item(BaseModel):
    """A Pydantic model to be cached."""

    name: str
    price: float
    tags: list[str] = []


@dataclass(frozen=True)
class Point:
    """A dataclass to be cached."""

    x: int
    y: int


VALUES: Final[list[Any]] = [
    "text",
    "",
    "ünïcode \N{SNOWMAN} \U0001f600\x00",
    0,
    -1,
    2**63,
    1.5,
    True,
    False,
    None,
    b"",
    bytes(range(256)),
    [],
    [1, [2, [3, None]]],
    {},
    {"a": {"b": [1, 2]}, "": None},
]
"""Values that every backend must give back equal, and of the same type."""

FALSY: Final[list[Any]] = [None, "", 0, False, [], {}, b""]

KEYS: Final = [
    "plain",
    "PLAIN",
    "with space",
    " with space",
    "with space ",
    "ключ-鍵-\N{SNOWMAN}\U0001f511",
    "caf\u00e9",
    "cafe\u0301",
    "*",
    "?",
    "[a-z]",
    "pl*in",
    "plai[n]",
    "{tag}",
    "{tag}{other}",
    "{}",
    "}{",
    "{tag",
    "tag}",
    ":",
    "a:b",
    "a:b:c",
    "a::b",
    "%",
    "%7D",
    "%2525",
    "line\nbreak",
    "carriage\rreturn",
    "tab\t",
    "nul\x00byte",
    "quote'\"`",
    "back\\slash",
    "../up",
    "/",
    "$1",
    "%s",
    "None",
    "0",
    "long" * 1000,
    "long" * 1000 + "!",
]
"""Text that may be a key. No two of them are the same key."""


class _Gone(BaseException):
    """What ends a thread or a task from outside, as a cancellation or an interrupt does."""


class _Contract(ABC):
    @abstractmethod
    def make_backend(self) -> CacheBackend:
        """Return a backend that is empty and shares nothing with others that this method returned.

        The suite closes it when the test ends. What else it needs (a server, a folder) belongs in fixtures of the
        subclass, marked ``@pytest.fixture(autouse=True)``.
        """


class MethodsContract(_Contract):
    """What the ten methods promise."""

    @pytest.mark.parametrize("value", VALUES, ids=ascii)
    @in_both_flavours
    async def test_what_was_set_comes_back_equal_and_of_the_same_type(self, flavour: Flavour, value: Any) -> None:
        store = flavour.use(self.make_backend())
        await store.set("key", value)
        returned = await store.get("key", "absent")
        assert returned == value
        assert type(returned) is type(value)
        assert await store.has("key")

    @in_both_flavours
    async def test_what_was_never_set_is_absent(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        default = object()
        assert await store.get("key") is None
        assert await store.get("key", default) is default
        assert not await store.has("key")
        assert not await store.delete("key")

    @pytest.mark.parametrize("value", FALSY, ids=ascii)
    @in_both_flavours
    async def test_a_falsy_value_is_not_absence(self, flavour: Flavour, value: Any) -> None:
        store = flavour.use(self.make_backend())
        await store.set("key", value)
        assert await store.get("key", "absent") == value
        assert await store.has("key")
        assert await store.delete("key")
        assert await store.get("key", "absent") == "absent"

    @in_both_flavours
    async def test_one_key_differs_from_every_other(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        for number, key in enumerate(KEYS):
            await store.set(key, number)
        assert [await store.get(key, "absent") for key in KEYS] == list(range(len(KEYS)))
        for number, key in enumerate(KEYS):
            assert await store.delete(key), f"{key[:40]!r} was not there"
            assert not await store.has(key), f"{key[:40]!r} is still there"
            others = [await store.get(other, "absent") for other in KEYS[number + 1 :]]
            assert others == list(range(number + 1, len(KEYS))), f"deleting {key[:40]!r} touched another key"

    @in_both_flavours
    async def test_setting_again_replaces_the_value(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        for value in ("first", 2, b"third", None, ["fifth"]):
            await store.set("key", value)
            assert await store.get("key", "absent") == value

    @in_both_flavours
    async def test_delete_tells_whether_something_was_there(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.set("key", 1)
        assert await store.delete("key")
        assert not await store.delete("key")
        assert not await store.has("key")
        assert await store.get("key", "absent") == "absent"

    @in_both_flavours
    async def test_values_live_as_long_as_they_were_told_to(self, flavour: Flavour) -> None:
        lifetimes: dict[str, Any] = {
            "an int": 1,
            "a float": 0.4,
            "a timedelta": timedelta(milliseconds=400),
            "text": "400ms",
        }
        store = flavour.use(self.make_backend())
        await store.set("for ever", "value")
        for scale in (1, 4, 16):  # a pause of the machine may outlast a short life: then a longer one is watched
            seen = 0
            for kind, lifetime in lifetimes.items():
                longer = f"{400 * scale}ms" if isinstance(lifetime, str) else lifetime * scale
                shortest = time.monotonic() + 0.4 * scale
                await store.set(kind, "value", longer)
                alive = await store.get(kind, "absent")
                if time.monotonic() < shortest:
                    assert alive == "value", f"gone too early: expire as {kind}"
                    seen += 1
            if seen == len(lifetimes):
                break
        else:
            pytest.fail("this machine is too slow to see a value alive that lives for seconds")

        async def gone() -> bool:
            return not any([await store.has(kind) for kind in lifetimes])

        await flavour.until(gone, "every value is past its lifetime and gone")
        assert [await store.get(kind, "absent") for kind in lifetimes] == ["absent"] * len(lifetimes)
        assert not any([await store.delete(kind) for kind in lifetimes])
        assert await store.get("for ever") == "value"

    @in_both_flavours
    async def test_setting_again_replaces_the_lifetime(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.set("now for ever", 1, 0.05)
        await store.set("now for ever", 2)
        await store.set("now short", 1)
        await store.set("now short", 2, 0.05)
        await flavour.until(functools.partial(_absent, store, "now short"), "the value with the new lifetime is gone")
        assert await store.get("now for ever", "absent") == 2

    @pytest.mark.parametrize(
        "expire", [0, -1, 0.0, -0.5, math.nan, math.inf, True, False, timedelta(0), timedelta(seconds=-1), "0s", "soon"]
    )
    @in_both_flavours
    async def test_a_lifetime_that_can_not_be_is_refused(self, flavour: Flavour, expire: Any) -> None:
        store = flavour.use(self.make_backend())
        await store.set("key", "before")
        with pytest.raises(ConfigurationError):
            await store.set("key", "after", expire)
        assert await store.get("key") == "before"

    @in_both_flavours
    async def test_clear_empties_this_backend_and_no_other(self, flavour: Flavour) -> None:
        ours, theirs = flavour.use(self.make_backend()), flavour.use(self.make_backend())
        for key in KEYS:
            await ours.set(key, "ours")
            await theirs.set(key, "theirs")
        await ours.clear()
        assert [await ours.get(key, "absent") for key in KEYS] == ["absent"] * len(KEYS)
        assert not any([await ours.has(key) for key in KEYS])
        assert [await theirs.get(key) for key in KEYS] == ["theirs"] * len(KEYS)
        await ours.set("key", "again")
        assert await ours.get("key") == "again"
        await ours.clear()
        await ours.clear()
        assert await ours.get("key") is None

    @in_both_flavours
    async def test_two_backends_do_not_see_each_other(self, flavour: Flavour) -> None:
        ours, theirs = flavour.use(self.make_backend()), flavour.use(self.make_backend())
        await ours.set("key", "ours")
        assert not await theirs.has("key")
        assert not await theirs.delete("key")
        assert await ours.get("key") == "ours"

    @in_both_flavours
    async def test_a_large_value_comes_back_whole(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        data = bytes(range(256)) * 8192  # 2 MiB
        text = "caf\u00e9 \U0001f600 " * 100_000
        await store.set("data", data)
        await store.set("text", text)
        assert await store.get("data") == data
        assert await store.get("text") == text

    @in_both_flavours
    async def test_many_callers_at_once_disturb_nobody(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        everyone_is_here = flavour.gate()
        arrived: list[int] = []

        async def visit(number: int) -> list[str]:
            arrived.append(number)
            if len(arrived) == 16:
                everyone_is_here.open()
            await everyone_is_here.passed()
            wrong: list[str] = []
            for turn in range(20):
                await store.set(f"own {number}", [number, turn])
                await store.set("shared", ["written by", number])
                if await store.get(f"own {number}") != [number, turn]:
                    wrong.append(f"caller {number} lost its value in turn {turn}")
                shared = await store.get("shared")
                if shared[0] != "written by" or shared[1] not in range(16):
                    wrong.append("a value that nobody wrote")
                if not await store.delete(f"own {number}") or await store.has(f"own {number}"):
                    wrong.append(f"caller {number} could not delete its value in turn {turn}")
            return wrong

        callers = [flavour.start(flavour.function(visit), number) for number in range(16)]
        assert [await caller.result() for caller in callers] == [[]] * 16

    def test_both_flavours_see_the_same_data(self) -> None:
        backend = self.make_backend()
        try:
            backend.set("key", "set blocking")
            assert asyncio.run(backend.aget("key")) == "set blocking"
            asyncio.run(_closing(backend, backend.aset("key", "set awaiting")))
            assert backend.get("key") == "set awaiting"
            assert backend.has("key")
            assert asyncio.run(_closing(backend, backend.adelete("key")))
            assert not backend.has("key")
            backend.set("key", 1)
            asyncio.run(_closing(backend, backend.aclear()))
            assert backend.get("key", "absent") == "absent"
        finally:
            backend.close()

    def test_it_serves_one_event_loop_after_the_other(self) -> None:
        backend = self.make_backend()

        async def visit(turn: int) -> list[Any]:
            await backend.aset(f"key {turn}", turn)
            return await asyncio.gather(*[backend.aget(f"key {number}", "absent") for number in range(3)])

        try:
            seen = [asyncio.run(visit(turn)) for turn in range(3)]
        finally:
            backend.close()
        assert seen == [[0, "absent", "absent"], [0, 1, "absent"], [0, 1, 2]]

    def test_it_serves_several_event_loops_at_once(self) -> None:
        backend = self.make_backend()
        together = threading.Barrier(4, timeout=PATIENCE)

        async def visit(number: int) -> list[Any]:
            together.wait()
            for turn in range(20):
                await backend.aset(f"key {number}", turn)
            return await asyncio.gather(*[backend.aget(f"key {number}") for _ in range(5)])

        try:
            threads = [_Thread(functools.partial(_run_in_loop, visit, number)) for number in range(4)]
            assert [run_blocking(thread.result()) for thread in threads] == [[19] * 5] * 4
        finally:
            backend.close()

    @in_both_flavours
    async def test_it_can_be_used_again_after_it_was_closed(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.set("key", 1)
        for _ in range(2):
            await flavour.do(store.backend, "close")
        await store.set("key", 2)
        assert await store.get("key") == 2


class CallsContract(_Contract):
    """What the calls beyond the ten methods promise."""

    @in_both_flavours
    async def test_many_values_come_back_in_the_order_of_their_keys(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.ask("set_many", {key: [key] for key in KEYS})
        await store.set("none", None)
        keys = [*reversed(KEYS), "never set", KEYS[0], "none"]
        expected = (*([key] for key in reversed(KEYS)), "absent", [KEYS[0]], None)
        assert await store.ask("get_many", *keys, default="absent") == expected
        assert await store.ask("get_many", iter(keys), default="absent") == expected
        assert await store.ask("get_many", "never set") == (None,)
        assert await store.ask("get_many") == ()
        assert await store.ask("get_many", []) == ()

    @in_both_flavours
    async def test_values_set_at_once_have_the_lifetime_that_was_given(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.ask("set_many", {"a": 1, "b": 2}, expire=0.05)
        await store.ask("set_many", {"c": 3})
        await store.ask("set_many", {})
        await flavour.until(functools.partial(_absent, store, "a"), "a is past its lifetime")
        await flavour.until(functools.partial(_absent, store, "b"), "b is past its lifetime")
        assert await store.get("c") == 3

    @in_both_flavours
    async def test_deleting_many_tells_how_many_were_there(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.ask("set_many", dict.fromkeys([*KEYS, "other"], 0))
        assert await store.ask("delete_many", "never set", *KEYS, KEYS[0]) == len(KEYS)
        assert await store.ask("get_many", KEYS, default="absent") == ("absent",) * len(KEYS)
        assert await store.ask("delete_many", KEYS) == 0
        assert await store.ask("delete_many") == 0
        assert await store.get("other") == 0

    @in_both_flavours
    async def test_a_counter_is_a_value_like_any_other(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.set("n", 5)
        assert await store.ask("incr", "n") == 6
        assert await store.get("n") == 6
        assert type(await store.get("n")) is int
        assert await store.ask("decr", "n", 10) == -4
        assert await store.ask("incr", "n", by=4) == 0
        assert await store.has("n")
        assert await store.ask("get_many", "n") == (0,)
        for key in KEYS:
            assert await store.ask("incr", key, 3) == 3
            assert await store.ask("decr", key) == 2
        await store.set("n", 10)
        assert await store.ask("incr", "n", 0) == 10
        assert await store.delete("n")
        assert await store.ask("decr", "n") == -1

    @in_both_flavours
    async def test_no_increment_is_lost_among_many_callers(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())

        async def count() -> list[int]:
            return [await store.ask("incr", "n", 1, 60) for _ in range(25)]

        callers = [flavour.start(flavour.function(count)) for _ in range(8)]
        sums = [number for caller in callers for number in await caller.result()]
        assert sorted(sums) == list(range(1, 201))
        assert await store.get("n") == 200

    @in_both_flavours
    async def test_a_counter_has_the_lifetime_of_its_first_increment(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.ask("incr", "long", expire="1h")
        left = await store.ask("ttl", "long")
        assert 3000 < left <= 3600
        await store.ask("incr", "long", expire="2d")
        await store.ask("incr", "long")
        assert await store.ask("ttl", "long") <= left
        await store.set("set", 1, "1h")
        await store.ask("incr", "set")
        assert 3000 < await store.ask("ttl", "set") <= 3600
        await store.set("endless", 1)
        await store.ask("incr", "endless", expire=1)
        assert await store.ask("ttl", "endless") > 86_400
        await store.ask("incr", "short", expire=0.05)

        async def begins_anew() -> bool:
            return bool(await store.ask("incr", "short", expire=0.05) == 1)

        await flavour.until(begins_anew, "the counter ended, however often it was incremented")

    @pytest.mark.parametrize("value", [None, "1", "secret", 1.5, True, False, b"1", [1]], ids=ascii)
    @in_both_flavours
    async def test_what_is_no_int_is_not_counted_with(self, flavour: Flavour, value: Any) -> None:
        store = flavour.use(self.make_backend())
        await store.set("key", value)
        with pytest.raises(CounterError) as caught:
            await store.ask("incr", "key")
        assert "secret" not in str(caught.value)
        assert await store.get("key", "absent") == value

    @in_both_flavours
    async def test_counters_have_64_bits(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        for by in (1, -1):
            edge = 2**63 - 1 if by > 0 else -(2**63)
            await store.set("n", edge - 2 * by)
            assert await store.ask("incr", "n", by) == edge - by
            assert await store.ask("incr", "n", by) == edge
            with pytest.raises(CounterError):
                await store.ask("incr", "n", by)
            assert await store.get("n") == edge
        for start in (10**15 - 2, -(10**15) + 2, 2**53 - 1):  # where numbers are no longer exact elsewhere
            await store.set("n", start)
            assert [await store.ask("incr", "n", 3) for _ in range(3)] == [start + 3, start + 6, start + 9]
            assert [await store.ask("decr", "n", 3) for _ in range(3)] == [start + 6, start + 3, start]
        with pytest.raises(CounterError):
            await store.ask("incr", "new", 2**63)
        assert not await store.has("new")

    @in_both_flavours
    async def test_clear_ends_counters(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.set("n", 5)
        await store.ask("incr", "n")
        await store.ask("incr", "m", 7)
        await store.clear()
        assert await store.get("n", "absent") == "absent"
        assert await store.ask("incr", "n") == 1
        assert await store.ask("incr", "m") == 1

    @in_both_flavours
    async def test_of_many_who_add_a_value_one_does(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        everyone_is_here = flavour.gate()
        arrived: list[int] = []

        async def add(number: int) -> bool:
            arrived.append(number)
            if len(arrived) == 8:
                everyone_is_here.open()
            await everyone_is_here.passed()
            return bool(await store.ask("add", "key", number, "1h"))

        callers = [flavour.start(flavour.function(add), number) for number in range(8)]
        added = [await caller.result() for caller in callers]
        assert sum(added) == 1
        assert await store.get("key") == added.index(True)
        assert 3000 < await store.ask("ttl", "key") <= 3600

    @in_both_flavours
    async def test_a_value_is_added_where_there_is_none(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        for value in FALSY:
            await store.clear()
            assert await store.ask("add", "key", value)
            assert not await store.ask("add", "key", "another")
            assert await store.get("key", "absent") == value
            assert await store.delete("key")
            assert await store.ask("add", "key", "another")
            await store.set("key", "a third")
            assert not await store.ask("add", "key", "a fourth")
        await store.ask("add", "short", 1, 0.05)

        async def added_again() -> bool:
            return bool(await store.ask("add", "short", 2, 0.05))

        await flavour.until(added_again, "the value ended, and another one was added")

    @in_both_flavours
    async def test_a_lifetime_can_be_changed_and_told(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        assert await store.ask("ttl", "key") is None
        assert not await store.ask("expire", "key", 60)
        assert not await store.has("key")
        await store.set("key", ["value"])
        assert await store.ask("ttl", "key") > 86_400
        for duration, seconds in ((60, 60), ("2h", 7200), (timedelta(minutes=3), 180)):
            assert await store.ask("expire", "key", duration)
            assert 0.8 * seconds < await store.ask("ttl", "key") <= seconds
            assert await store.get("key") == ["value"]
        assert await store.ask("expire", "key", 0.05)
        await flavour.until(functools.partial(_absent, store, "key"), "the value ended when it was told to")
        assert await store.ask("ttl", "key") is None
        assert not await store.ask("expire", "key", 60)

    @in_both_flavours
    async def test_a_value_that_is_touched_lives_as_long_as_when_it_was_stored(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        assert not await store.ask("touch", "key")
        assert not await store.ask("touch", "key", "1h")
        await store.set("key", None, "1h")
        assert await store.ask("expire", "key", 60)
        assert await store.ask("touch", "key")
        assert 3000 < await store.ask("ttl", "key") <= 3600
        assert await store.ask("touch", "key", "2h")
        assert 6000 < await store.ask("ttl", "key") <= 7200
        assert await store.ask("touch", "key")
        assert 3000 < await store.ask("ttl", "key") <= 3600
        assert await store.get("key", "absent") is None
        await store.ask("incr", "n", expire="1h")
        await store.ask("expire", "n", 60)
        await store.ask("incr", "n")
        assert await store.ask("touch", "n")
        assert 3000 < await store.ask("ttl", "n") <= 3600

    @in_both_flavours
    async def test_it_says_that_it_is_there(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        assert await store.ask("ping") is True

    @in_both_flavours
    async def test_its_keys_can_be_listed_or_it_says_how(self, flavour: Flavour) -> None:
        store, other = flavour.use(self.make_backend()), flavour.use(self.make_backend())
        if not store.lists():
            with pytest.raises(NotSupportedError, match="define scan and ascan"):
                await store.ask("delete_match", "a")
            return
        assert await store.keys() == []
        for key in KEYS:
            await store.set(key, None)
            await other.set(key, "theirs")
        assert sorted(await store.keys()) == sorted(KEYS)
        for prefix in {key[:length] for key in KEYS for length in (1, 2, 3)}:
            assert sorted(await store.keys(prefix)) == sorted(key for key in KEYS if key.startswith(prefix))
        await store.delete(KEYS[0])
        assert sorted(await store.keys()) == sorted(KEYS[1:])
        await store.clear()
        assert await store.keys() == []
        assert sorted(await other.keys()) == sorted(KEYS)

    @in_both_flavours
    async def test_a_prefix_is_plain_text(self, flavour: Flavour) -> None:
        store, other = flavour.use(self.make_backend()), flavour.use(self.make_backend())
        if not store.lists():
            return
        for prefix in ("*", "?", "[a-z]", "{", "}", "%", "%7D", "a", "caf\u00e9", "\\", "nul"):
            await store.ask("set_many", dict.fromkeys(KEYS, 1))
            await other.set(prefix, "theirs")
            matching = [key for key in KEYS if key.startswith(prefix)]
            assert await store.ask("delete_match", prefix) == len(matching)
            there = [key for key in KEYS if await store.has(key)]
            assert there == [key for key in KEYS if key not in matching]
            assert await other.get(prefix) == "theirs"
        assert await store.ask("delete_match", "") == len(there)
        assert await store.ask("delete_match", "") == 0

    @in_both_flavours
    async def test_what_can_not_be_meant_is_refused(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        await store.set("key", 1)
        wrong: list[tuple[str, tuple[Any, ...]]] = [
            *[
                (call, (key, *more))
                for key in ("", 1, None, b"key", "lone \ud800", "x" * 5000)
                for call, more in (
                    *(("incr", ()), ("decr", ()), ("add", (1,)), ("expire", (1,)), ("touch", ())),
                    *(("ttl", ()), ("get_many", ("key",)), ("delete_many", ("key",)), ("get_many", ("key", "key"))),
                )
            ],
            *[("incr", ("key", by)) for by in (True, 1.0, "1", None)],
            *[("decr", ("key", by)) for by in (True, 1.0, "1", None)],
            *[
                (call, (*args, expire))
                for expire in (0, -1, True, "soon", math.inf)
                for call, args in (
                    *(("incr", ("key", 1)), ("add", ("new", 1)), ("expire", ("key",)), ("touch", ("key",))),
                    ("set_many", ({"key": 2},)),
                )
            ],
            *[("set_many", (values,)) for values in ([("key", 2)], None, {1: 2}, {"": 2})],
            ("expire", ("key", None)),
            *[("delete_match", (prefix,)) for prefix in (None, 1, b"k", "lone \ud800")],
        ]
        for call, args in wrong:
            if store.inherits(call):
                with pytest.raises(ConfigurationError):
                    await store.ask(call, *args)
        if store.inherits("scan"):
            for refused in (lambda: store.backend.scan(b"k"), lambda: store.backend.ascan(1)):  # type: ignore[arg-type]
                with pytest.raises(ConfigurationError):
                    refused()
        for options in ({"expire": 0}, {"expire": None}, {"wait": -1}, {"wait": True}, {"wait": "soon"}):
            for lock in (store.backend.lock, store.backend.alock):
                with pytest.raises(ConfigurationError):
                    lock("key", **options)
        with pytest.raises(ConfigurationError):
            store.backend.lock("")
        assert await store.get("key") == 1
        assert not await store.has("new")

    @in_both_flavours
    async def test_a_lock_has_one_holder_at_a_time(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        inside: list[int] = []
        tokens: list[int] = []

        async def enter(number: int) -> None:
            lock = store.backend.lock("key", wait=None)
            await flavour.do(lock, "acquire")
            inside.append(number)
            tokens.append(lock.token)
            assert inside == [number]
            await flavour.pause()
            assert inside == [number]
            inside.remove(number)
            assert await flavour.do(lock, "release")

        callers = [flavour.start(flavour.function(enter), number) for number in range(8)]
        for caller in callers:
            await caller.result()
        assert len(tokens) == 8
        assert tokens == sorted(set(tokens))
        assert all(type(token) is int for token in tokens)

    @in_both_flavours
    async def test_a_lock_is_not_to_be_had_twice(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        lock = store.backend.lock("key", "1h")
        assert lock.remaining == 0
        with pytest.raises(LockLost):
            _ = lock.token
        await flavour.do(lock, "acquire")
        assert 3000 < lock.remaining <= 3600
        with pytest.raises(ConfigurationError, match="call lock"):
            await flavour.do(lock, "acquire")
        for wait in (0, 0.05):
            with pytest.raises(LockTimeout):
                await flavour.do(store.backend.lock("key", wait=wait), "acquire")
        other = store.backend.lock("another key", wait=0)
        await flavour.do(other, "acquire")
        assert await flavour.do(other, "release")
        assert await flavour.do(lock, "release")
        assert not await flavour.do(lock, "release")
        assert lock.remaining == 0
        with pytest.raises(LockLost):
            _ = lock.token
        again = store.backend.lock("key", wait=0)
        await flavour.do(again, "acquire")
        assert await flavour.do(again, "release")

    @in_both_flavours
    async def test_who_waits_for_a_lock_gets_it_when_it_is_released(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        first, second = store.backend.lock("key", "1h"), store.backend.lock("key", wait=None)
        await flavour.do(first, "acquire")
        before = first.token

        async def take() -> int:
            await flavour.do(second, "acquire")
            return second.token

        waiting = flavour.start(flavour.function(take))
        for _ in range(5):
            await flavour.pause()
        await flavour.do(first, "release")
        assert await waiting.result() > before
        assert await flavour.do(second, "release")

    @in_both_flavours
    async def test_a_lock_that_ended_is_anothers(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        late, next_ = store.backend.lock("key", expire=0.05), store.backend.lock("key", expire="1h", wait=None)
        await flavour.do(late, "acquire")
        before = late.token
        await flavour.do(next_, "acquire")
        assert next_.token > before
        assert late.remaining == 0
        with pytest.raises(LockLost):
            await flavour.do(late, "extend")
        assert not await flavour.do(late, "release")
        with pytest.raises(LockTimeout):
            await flavour.do(store.backend.lock("key", wait=0), "acquire")
        assert await flavour.do(next_, "release")
        with pytest.raises(LockLost):
            await flavour.do(next_, "extend")

    @in_both_flavours
    async def test_a_lock_can_be_extended(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        lock = store.backend.lock("key", expire=5)
        await flavour.do(lock, "acquire")
        await flavour.do(lock, "extend", "1h")
        assert 3000 < lock.remaining <= 3600
        await flavour.do(lock, "extend")
        assert 0 < lock.remaining <= 5
        await flavour.do(lock, "extend", 0.05)

        async def lost() -> bool:
            try:
                await flavour.do(store.backend.lock("key", wait=0), "acquire")
            except LockTimeout:
                return False
            return True

        await flavour.until(lost, "the lock ended after the time it was extended by")
        with pytest.raises(LockLost):
            await flavour.do(lock, "extend")

    @in_both_flavours
    async def test_tokens_of_a_lock_rise_whatever_is_removed(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        tokens: list[int] = []
        for step in (store.clear, functools.partial(store.delete, "key"), flavour.pause):
            lock = store.backend.lock("key")
            await flavour.do(lock, "acquire")
            tokens.append(lock.token)
            await step()
            with pytest.raises(LockTimeout):
                await flavour.do(store.backend.lock("key", wait=0), "acquire")
            assert await flavour.do(lock, "release")
        assert tokens == sorted(set(tokens))
        assert not await store.has("key")

    def test_a_lock_serves_both_kinds_of_with(self) -> None:
        backend = self.make_backend()

        async def suspending() -> int:
            async with backend.alock("key") as lock:
                token = lock.token
                with pytest.raises(LockTimeout, match="async with"), backend.lock("key"):
                    pytest.fail("it was taken twice")
                return token

        try:
            with backend.lock("key") as lock:
                first = lock.token
            with pytest.raises(KeyError), backend.lock("key"):
                raise KeyError
            assert asyncio.run(_closing(backend, suspending())) > first
            with backend.lock("key", wait=0):
                pass
        finally:
            backend.close()

    @only_suspending
    async def test_whoever_is_cancelled_has_no_lock_and_no_place_in_the_queue(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        inside = flavour.gate()

        async def hold() -> None:
            async with store.backend.lock("key", expire="1h", wait=None):
                inside.open()
                await flavour.gate().passed()

        holder = flavour.start(hold)
        await inside.passed()
        waiting = [flavour.start(hold) for _ in range(3)]
        for _ in range(5):
            await flavour.pause()  # the event loop is not kept from this
        for caller in (waiting[0], holder, *waiting[1:]):
            caller.cancel()
        for caller in (holder, *waiting):
            with pytest.raises(asyncio.CancelledError):
                await caller.result()
        async with store.backend.lock("key", wait=PATIENCE):
            pass


class EngineContract(_Contract):
    """What decorated functions can rely on over the backend."""

    @in_both_flavours
    async def test_a_function_is_called_once_for_the_same_arguments(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        loads: list[int] = []

        @store.cached()
        async def load(number: int) -> list[int]:
            loads.append(number)
            return [number]

        assert [await flavour.call(load, number) for number in (1, 2, 1, 2, 1)] == [[1], [2], [1], [2], [1]]
        assert loads == [1, 2]

    @pytest.mark.parametrize("value", FALSY, ids=ascii)
    @in_both_flavours
    async def test_a_falsy_result_is_cached(self, flavour: Flavour, value: Any) -> None:
        store = flavour.use(self.make_backend())
        loads: list[None] = []

        @store.cached()
        async def load() -> Any:
            loads.append(None)
            return value

        for _ in range(3):
            returned = await flavour.call(load)
            assert returned == value
            assert type(returned) is type(value)
        assert len(loads) == 1

    @in_both_flavours
    async def test_results_come_back_as_the_types_they_were(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        items = [Item(name="Kettle", price=34.9), Item(name="Teapot", price=21.0, tags=["new"])]
        loads: list[str] = []

        @store.cached()
        async def one() -> Item:
            loads.append("one")
            return items[0]

        @store.cached()
        async def several() -> list[Item]:
            loads.append("several")
            return items

        @store.cached()
        async def point() -> Point:
            loads.append("point")
            return Point(1, 2)

        @store.cached()
        async def unannotated(number):  # type: ignore[no-untyped-def]
            loads.append("unannotated")
            return {"at": (number, timedelta(seconds=number)), "of": {number}}

        for _ in range(2):
            assert await flavour.call(one) == items[0]
            assert await flavour.call(several) == items
            assert await flavour.call(point) == Point(1, 2)
            assert await flavour.call(unannotated, 3) == {"at": (3, timedelta(seconds=3)), "of": {3}}
        assert type(await flavour.call(one)) is Item
        assert [type(item) for item in await flavour.call(several)] == [Item, Item]
        assert type(await flavour.call(point)) is Point
        assert loads == ["one", "several", "point", "unannotated"]

    @in_both_flavours
    async def test_a_result_expires(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        loads: list[None] = []

        @store.cached(expire=0.05)
        async def load() -> int:
            loads.append(None)
            return len(loads)

        assert await flavour.call(load) == 1

        async def loaded_again() -> bool:
            return bool(await flavour.call(load) > 1)

        await flavour.until(loaded_again, "the result expired and was loaded again")

    @in_both_flavours
    async def test_an_invalidated_result_is_loaded_again(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        loads: list[int] = []

        @store.cached()
        async def load(number: int) -> int:
            loads.append(number)
            return len(loads)

        assert [await flavour.call(load, number) for number in (1, 2)] == [1, 2]
        assert await flavour.call(load.invalidate, 1)
        assert not await flavour.call(load.invalidate, 1)
        assert [await flavour.call(load, number) for number in (1, 2)] == [3, 2]
        assert loads == [1, 2, 1]

    @in_both_flavours
    async def test_a_refreshed_result_replaces_the_old_one(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        loads: list[None] = []

        @store.cached()
        async def load() -> int:
            loads.append(None)
            return len(loads)

        assert await flavour.call(load) == 1
        assert await flavour.call(load.refresh) == 2
        assert await flavour.call(load) == 2

    @in_both_flavours
    async def test_a_hundred_callers_at_once_share_one_load(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        callers = [flavour.start(load, "item", str(number)) for number in range(100)]
        await store.followed(load.key("item", ""), 99)
        held.let_go()
        results = [await caller.result() for caller in callers]
        assert len(held.loads) == 1
        assert set(results) == {f"{held.loads[0]} 1"}
        assert await flavour.call(load, "item", "late") == results[0]

    @in_both_flavours
    async def test_callers_of_different_keys_do_not_wait_for_each_other(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        callers = [flavour.start(load, f"item {number}", "caller") for number in range(5)]
        await held.begun(5)
        held.let_go()
        assert len({await caller.result() for caller in callers}) == 5

    @pytest.mark.parametrize("how", ["invalidate", "delete", "clear"])
    @in_both_flavours
    async def test_what_is_removed_during_its_load_stays_removed(self, flavour: Flavour, how: str) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        key = load.key("item", "")
        early = flavour.start(load, "item", "early")
        await held.begun(1)
        await _remove(flavour, store, load, key, how)
        held.let_go()
        assert await early.result() == "early 1"
        assert not await store.has(key)
        assert await store.get(key, "absent") == "absent"
        assert await flavour.call(load, "item", "late") == "late 2"
        assert await flavour.call(load, "item", "later") == "late 2"

    @pytest.mark.parametrize("how", ["invalidate", "delete", "clear"])
    @in_both_flavours
    async def test_whoever_comes_after_a_removal_does_not_join_the_old_load(self, flavour: Flavour, how: str) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        key = load.key("item", "")
        early = flavour.start(load, "item", "early")
        await held.begun(1)
        await _remove(flavour, store, load, key, how)
        late = flavour.start(load, "item", "late")
        await held.begun(2)  # the old load is still held: the late caller does not wait for it
        held.let_go()
        assert [await early.result(), await late.result()] == ["early 1", "late 2"]
        assert await flavour.call(load, "item", "later") == "late 2"

    @in_both_flavours
    async def test_the_old_load_ending_last_does_not_replace_the_new_result(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        gates = {"early": flavour.gate(), "late": flavour.gate()}
        begun = flavour.gate()

        @store.cached(key="item:{item}")
        async def load(item: str, caller: str) -> str:
            begun.open()
            await gates[caller].passed()
            return caller

        early = flavour.start(load, "item", "early")
        await begun.passed()
        await flavour.call(load.invalidate, "item", "")
        gates["late"].open()
        assert await flavour.call(load, "item", "late") == "late"
        gates["early"].open()
        assert await early.result() == "early"
        assert await flavour.call(load, "item", "late") == "late"

    @in_both_flavours
    async def test_a_value_set_during_a_load_is_not_overwritten_by_it(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        key = load.key("item", "")
        early = flavour.start(load, "item", "early")
        await held.begun(1)
        await store.set(key, "set by hand")
        held.let_go()
        assert await early.result() == "early 1"
        assert await store.get(key) == "set by hand"

    @pytest.mark.parametrize(
        ("call", "args", "left"),
        [
            ("incr", ("{}",), 6),
            ("decr", ("{}",), 4),
            ("expire", ("{}", 60), 5),
            ("touch", ("{}",), 5),
            ("touch", ("{}", 60), 5),
            ("set_many", ({"{}": 7},), 7),
            ("delete_many", ("{}",), "absent"),
        ],
    )
    @in_both_flavours
    async def test_a_value_changed_during_its_refresh_is_not_overwritten_by_it(
        self, flavour: Flavour, call: str, args: tuple[Any, ...], left: Any
    ) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        key = load.key("item", "")
        await store.set(key, 5)
        early = flavour.start(load.refresh, "item", "early")
        await held.begun(1)
        await store.ask(call, *[{key: 7} if isinstance(arg, dict) else key if arg == "{}" else arg for arg in args])
        assert await store.get(key, "absent") == left
        held.let_go()
        assert await early.result() == "early 1"
        assert await store.get(key, "absent") == left

    @pytest.mark.parametrize(("call", "more", "left"), [("add", ("added",), "added"), ("incr", (3,), 3)])
    @in_both_flavours
    async def test_a_value_added_during_a_load_is_not_overwritten_by_it(
        self, flavour: Flavour, call: str, more: tuple[Any, ...], left: Any
    ) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        key = load.key("item", "")
        early = flavour.start(load, "item", "early")
        await held.begun(1)
        assert await store.ask(call, key, *more) in (True, left)
        held.let_go()
        assert await early.result() == "early 1"
        assert await store.get(key, "absent") == left

    @in_both_flavours
    async def test_a_prefix_that_is_removed_during_a_load_stays_removed(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        if not store.lists():
            return
        load, held = _held_load(flavour, store)
        key = load.key("item", "")
        early = flavour.start(load, "item", "early")
        other = flavour.start(load, "other", "other")
        await held.begun(2)
        assert await store.ask("delete_match", key) == 0
        late = flavour.start(load, "item", "late")
        await held.begun(3)  # the old load is still held: the late caller does not wait for it
        held.let_go()
        assert (await early.result()).startswith("early")
        assert (await other.result()).startswith("other")
        assert await late.result() == "late 3"
        assert await flavour.call(load, "item", "later") == "late 3"
        assert await store.has(load.key("other", ""))

    @in_both_flavours
    async def test_a_refresh_is_not_overwritten_by_an_older_load(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        gates = {"early": flavour.gate(), "late": flavour.gate()}
        begun = flavour.gate()

        @store.cached(key="item:{item}")
        async def load(item: str, caller: str) -> str:
            begun.open()
            await gates[caller].passed()
            return caller

        early = flavour.start(load, "item", "early")
        await begun.passed()
        gates["late"].open()
        assert await flavour.call(load.refresh, "item", "late") == "late"
        gates["early"].open()
        assert await early.result() == "early"
        assert await flavour.call(load, "item", "late") == "late"

    @in_both_flavours
    async def test_everyone_who_waited_gets_the_exception_and_nothing_is_stored(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        go = flavour.gate()
        errors: list[LookupError] = []

        @store.cached()
        async def load(item: str) -> str:
            if not errors:
                errors.append(LookupError("no such item"))
                await go.passed()
                raise errors[0]
            return "value"

        callers = [flavour.start(load, "item") for _ in range(10)]
        await store.followed(load.key("item"), 9)
        go.open()
        for caller in callers:
            with pytest.raises(LookupError) as caught:
                await caller.result()
            assert caught.value is errors[0]
        assert not await store.has(load.key("item"))
        assert await flavour.call(load, "item") == "value"
        assert await store.has(load.key("item"))

    @in_both_flavours
    async def test_where_a_load_breaks_off_a_follower_loads_with_its_own_arguments(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        go = flavour.gate()
        loads: list[str] = []

        @store.cached(key="item:{item}")
        async def load(item: str, caller: str) -> str:
            loads.append(caller)
            if len(loads) == 1:
                await go.passed()
                raise _Gone
            return caller

        leader = flavour.start(load, "item", "leader")
        await flavour.until(functools.partial(_has_begun, loads), "the first load has begun")
        followers = [flavour.start(load, "item", f"follower {number}") for number in range(5)]
        await store.followed(load.key("item", ""), 5)
        go.open()
        with pytest.raises(_Gone):
            await leader.result()
        results = [await follower.result() for follower in followers]
        assert len(loads) == 2
        assert set(results) == {loads[1]}
        assert loads[1] != "leader"
        assert await flavour.call(load, "item", "late") == loads[1]

    @only_suspending
    async def test_where_the_leader_is_cancelled_a_follower_loads_with_its_own_arguments(
        self, flavour: Flavour
    ) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        leader = flavour.start(load, "item", "leader")
        await held.begun(1)
        followers = [flavour.start(load, "item", f"follower {number}") for number in range(5)]
        await store.followed(load.key("item", ""), 5)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader.result()
        await held.begun(2)
        held.let_go()
        results = [await follower.result() for follower in followers]
        assert len(held.loads) == 2
        assert held.loads[1].startswith("follower")
        assert results == [f"{held.loads[1]} 2"] * 5
        assert await flavour.call(load, "item", "late") == results[0]

    @only_suspending
    async def test_a_follower_that_is_cancelled_harms_nobody(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        leader = flavour.start(load, "item", "leader")
        await held.begun(1)
        followers = [flavour.start(load, "item", f"follower {number}") for number in range(5)]
        await store.followed(load.key("item", ""), 5)
        followers[0].cancel()
        followers[3].cancel()
        for number in (0, 3):
            with pytest.raises(asyncio.CancelledError):
                await followers[number].result()
        held.let_go()
        assert await leader.result() == "leader 1"
        assert [await followers[number].result() for number in (1, 2, 4)] == ["leader 1"] * 3
        assert held.loads == ["leader"]

    @only_suspending
    async def test_where_everyone_is_cancelled_the_next_call_loads(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        load, held = _held_load(flavour, store)
        callers = [flavour.start(load, "item", "cancelled") for _ in range(5)]
        await store.followed(load.key("item", ""), 4)
        for caller in callers:
            caller.cancel()
        for caller in callers:
            with pytest.raises(asyncio.CancelledError):
                await caller.result()
        held.let_go()
        assert await flavour.call(load, "item", "late") == f"late {len(held.loads)}"

    @in_both_flavours
    async def test_a_function_that_needs_itself_does_not_wait_for_itself(self, flavour: Flavour) -> None:
        store = flavour.use(self.make_backend())
        depth: list[None] = []

        @store.cached(key="always the same")
        async def load(number: int) -> int:
            depth.append(None)
            return number if len(depth) > 3 else await flavour.call(load, number + 1)

        assert await flavour.start(load, 0).result() == 3
        assert await flavour.call(load, 0) == 3
        assert len(depth) == 4


class BackendContract(MethodsContract, CallsContract, EngineContract):
    """Everything that a backend must pass: derive from it and override :meth:`make_backend`."""


class _Held:
    """Loads that say when they begin and end when they are let go."""

    def __init__(self, flavour: Flavour) -> None:
        self.loads: list[str] = []
        self.gate = flavour.gate()
        self.let_go = self.gate.open
        self._flavour = flavour

    async def begun(self, count: int) -> None:
        """Wait until this many loads have begun."""

        async def have_begun() -> bool:
            return len(self.loads) >= count

        await self._flavour.until(have_begun, f"{count} loads have begun")


def _held_load(flavour: Flavour, store: Store) -> tuple[Any, _Held]:
    """A cached function of an item and its caller, keyed by the item alone; it returns its caller and a number."""
    held = _Held(flavour)

    @store.cached(key="item:{item}")
    async def load(item: str, caller: str) -> str:
        held.loads.append(caller)
        number = len(held.loads)
        await held.gate.passed()
        return f"{caller} {number}"

    return load, held


async def _remove(flavour: Flavour, store: Store, load: Any, key: str, how: str) -> None:
    if how == "invalidate":
        await flavour.call(load.invalidate, "item", "")
    elif how == "delete":
        await store.delete(key)
    else:
        await store.clear()


async def _has_begun(loads: list[str]) -> bool:
    return bool(loads)


async def _absent(store: Store, key: str) -> bool:
    return not await store.has(key)


async def _closing(backend: CacheBackend, step: Awaitable[T]) -> T:
    """Take a step, and close what the backend holds open on this event loop."""
    try:
        return await step
    finally:
        await backend.aclose()


def _run_in_loop(body: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    return asyncio.run(body(*args))
