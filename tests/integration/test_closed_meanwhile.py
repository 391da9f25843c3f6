"""A backend that is closed while something is done behind everybody's back: nothing stays open."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.fleet import Fleet
from fast_cache.backends.redis.hearing import Hearing, _Round
from fast_cache.backends.redis.keeper import HeldLease, Keeper
from fast_cache.backends.redis.replicas import Replicas
from fast_cache.backends.redis.rounds import Rounds
from fast_cache.errors import BackendError
from tests.support.redis_server import RedisServer

PATIENCE = 20.0
"""Seconds until a test that waits for something has failed."""


def invalidated(backend: RedisBackend) -> None:
    """The watch looks after the server for a while."""
    backend.set("key", 1)
    backend.delete("key")
    backend._link._fleet.is_quiet = lambda *_: True  # type: ignore[method-assign]  # at its first look


def cleared(backend: RedisBackend) -> None:
    backend.set("key", 1)
    backend.clear()


def given_up(backend: RedisBackend) -> None:
    """A lease that somebody else is to have is released."""
    backend._keeper.give_up(HeldLease(backend._keeper, "key", b"token"))


def to_replicas(backend: RedisBackend) -> None:
    def delete() -> None:
        with contextlib.suppress(BackendError):
            backend.delete("key")

    threading.Thread(target=delete, name="fast_cache test", daemon=True).start()


def owing_news(backend: RedisBackend) -> None:
    class Nobody:
        pass

    listener: Any = Nobody()
    channel: Any = backend.engine_channel(listener, how="pubsub", staleness=1.0)
    assert isinstance(channel, Hearing)
    channel._tell_again(_Round(None, backend._link.leaving_nothing()))


class Halfway:
    """Where a thread of the library stops: before it does anything at all, or before it sends."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.through = threading.Event()
        self.thread: threading.Thread | None = None

    def before(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def stop_and_send(*args: Any) -> Any:
            this = threading.current_thread()
            if self.thread is None and this.name.startswith("fast_cache ") and this.name != "fast_cache test":
                self.thread = this
                self.reached.set()
                assert self.through.wait(PATIENCE)
            return send(*args)

        return stop_and_send


STEPS: dict[str, list[tuple[type, str]]] = {
    "has just begun": [(Rounds, "_goes_on"), (Keeper, "round"), (Replicas, "_found_out"), (Hearing, "tell")],
    "is about to send": [(Fleet, "by_thread"), (Fleet, "wait_by_thread")],
}


@pytest.fixture(params=STEPS)
def halfway(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Halfway]:
    made = Halfway()
    for owner, step in STEPS[request.param]:
        monkeypatch.setattr(owner, step, made.before(getattr(owner, step)))
    yield made
    made.through.set()


def until_nothing_is_open(server: RedisServer) -> None:
    with contextlib.closing(server.client()) as admin:
        deadline = time.monotonic() + PATIENCE
        while admin.info("clients")["connected_clients"] > 1:
            assert time.monotonic() < deadline, "something stays open"
            time.sleep(0.01)  # between two looks


@pytest.mark.parametrize("begin", [invalidated, cleared, given_up, to_replicas, owing_news])
def test_what_is_done_behind_everybodys_back_leaves_nothing_open(
    own_redis: RedisServer, halfway: Halfway, begin: Callable[[RedisBackend], None]
) -> None:
    wanted = 1 if begin is to_replicas else None
    backend = RedisBackend(own_redis.url, namespace="closed", timeout=10, wait_for_replicas=wanted)
    assert backend.ping()
    begin(backend)
    assert halfway.reached.wait(PATIENCE)
    backend.close()
    halfway.through.set()
    assert halfway.thread is not None
    halfway.thread.join(PATIENCE)
    until_nothing_is_open(own_redis)
    assert backend.ping(), "whoever uses it again may"
    backend.close()
