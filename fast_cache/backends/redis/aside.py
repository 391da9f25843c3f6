"""Work done aside, by a thread of its own, so that whoever wants its result need not wait for it to the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

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
