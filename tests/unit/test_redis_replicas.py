"""Whether replicas have what their master confirmed: asked once for many, and never too early."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from fast_cache.backends.redis.invalidations import Invalidations
from fast_cache.backends.redis.replicas import Replicas
from fast_cache.errors import BackendUnavailable
from fast_cache.testing import PATIENCE


class Servers:
    """What is asked: it answers when it is let."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.asked = 0
        self.answer: bool | Exception = True

    def __call__(self) -> bool:
        self.asked += 1
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def invalidations() -> Invalidations:
    return Invalidations(1000, replicate=True)


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def replicas(invalidations: Invalidations, servers: Servers) -> Replicas:
    return Replicas(invalidations, servers)


def results(*futures: Future[bool]) -> list[bool]:
    return [future.result(PATIENCE) for future in futures]


def test_nobody_is_asked_where_nothing_was_told(replicas: Replicas, servers: Servers) -> None:
    assert results(replicas.ask()) == [True]
    assert servers.asked == 0


def test_who_asks_while_a_question_is_on_its_way_shares_the_next_one(
    replicas: Replicas, invalidations: Invalidations, servers: Servers
) -> None:
    invalidations.confirm("a")
    first = replicas.ask()
    assert servers.begun.acquire(timeout=PATIENCE)
    invalidations.confirm("b")  # too late for the first
    others = [replicas.ask() for _ in range(5)]
    servers.go.release()
    assert results(first) == [True]
    assert servers.begun.acquire(timeout=PATIENCE)
    assert invalidations.told().keys == ("b",)
    assert replicas.answered == 1
    servers.go.release()
    assert results(*others) == [True] * 5
    assert servers.asked == 2
    assert not invalidations.told()


@pytest.mark.parametrize("answer", [False, BackendUnavailable("away")])
def test_what_they_do_not_acknowledge_stays_told(
    replicas: Replicas, invalidations: Invalidations, servers: Servers, answer: bool | Exception
) -> None:
    servers.answer = answer
    invalidations.confirm("a")
    servers.go.release()
    assert results(replicas.ask()) == [False]
    assert invalidations.told().keys == ("a",)
    assert replicas.answered == 1
    servers.answer = True
    servers.go.release()
    assert results(replicas.ask()) == [True]
    assert not invalidations.told()


def test_a_child_asks_anew(replicas: Replicas, invalidations: Invalidations, servers: Servers) -> None:
    invalidations.confirm("a")
    replicas.ask()
    assert servers.begun.acquire(timeout=PATIENCE)
    replicas.forked()  # the thread is the parent's
    servers.go.release(2)
    assert results(replicas.ask()) == [True]
