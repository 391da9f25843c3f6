"""Work done aside, one after the other."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest

from fast_cache.backends.redis.aside import Line

PATIENCE = 20.0
"""Seconds until a test that waits for something has failed."""


def test_one_after_the_other_by_a_thread_that_ends() -> None:
    line = Line("test")
    order: list[int] = []
    threads: set[threading.Thread] = set()

    def work(number: int) -> int:
        order.append(number)
        threads.add(threading.current_thread())
        return number

    for _ in range(3):  # each time the thread may have ended, or not
        futures = [line.begin(lambda number=number: work(number)) for number in range(50)]  # type: ignore[misc]
        assert [future.result(PATIENCE) for future in futures] == list(range(50))
    assert order == list(range(50)) * 3
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert threading.current_thread() not in threads


def test_what_is_cancelled_before_its_turn_is_left_out_and_errors_reach_who_asked() -> None:
    line = Line("test")
    gate, begun = threading.Event(), threading.Event()
    done: list[str] = []

    def fail() -> Any:
        raise LookupError("mine")

    def first() -> None:
        begun.set()
        gate.wait(PATIENCE)

    futures = [line.begin(first), line.begin(lambda: done.append("cancelled")), line.begin(fail)]
    last = line.begin(lambda: done.append("last"))
    assert begun.wait(PATIENCE)
    assert not futures[0].cancel(), "it has begun"
    assert futures[1].cancel()
    gate.set()
    assert last.result(PATIENCE) is None
    assert done == ["last"]
    with pytest.raises(CancelledError):
        futures[1].result(PATIENCE)
    with pytest.raises(LookupError, match="mine"):
        futures[2].result(PATIENCE)


def test_where_there_are_no_more_threads_it_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    line = Line("test")
    assert line.begin(threading.current_thread).result(0) is threading.current_thread()
    assert line.begin(lambda: 2).result(0) == 2
