"""Work done aside, by a thread of its own: whoever wants its result need not wait for it to the end, or may suspend."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T], name: str) -> Future[T]:
    """Begin ``work``; where the system has no thread for it, do it here and now."""
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=do, name=f"fast_cache {name}", daemon=True).start()
    except RuntimeError:  # no more threads, or the interpreter is about to end
        do()
    return future


class Line:
    """Work done aside one after the other, by a thread that is there while there is some. Safe for threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._works = False

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Do ``work`` behind what was begun before. What is cancelled before its turn is left out."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.append((work, future))
            starts, self._works = not self._works, True
        if starts:
            aside(self._work, self._name)
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._works = False
                    return
                work, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del work, future  # nothing is kept while it waits for the next one
