"""Asks whether replicas have what their master has confirmed: one question for all who want to know meanwhile.

What a master writes reaches its replicas in one order. So a mark that is written now, and acknowledged by replicas,
says that they have all that was confirmed before (redis.io, "WAIT"). Nobody's connection is kept waiting but one for
such answers, and a thread of its own waits there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from fast_cache.backends.redis.aside import aside
from fast_cache.backends.redis.invalidations import Invalidations, Owed
from fast_cache.backends.redis.rounds import Around
from fast_cache.errors import BackendError


class Replicas:
    """Safe for threads.

    Args:
        ask: whether enough replicas have everything; blocking. It raises :class:`BackendError` if it can't be known.
        around: what is put around it.
    """

    def __init__(self, invalidations: Invalidations, ask: Callable[[], bool], around: Around = nullcontext) -> None:
        self._invalidations = invalidations
        self._ask = ask
        self._around = around
        self.answered = 0
        """Up to which number it has been found out, one way or the other."""
        self.forked()

    def forked(self) -> None:
        """In a forked child: what threads of the parent held is not here."""
        self._lock = threading.Lock()
        self._next: Future[bool] | None = None
        self._asking = False

    def ask(self) -> Future[bool]:
        """Whether they have all that was confirmed by now. The future is others' too, and has no error."""
        around = self._around()
        with self._lock:
            if self._next is None:
                self._next = Future()
            future, begins = self._next, not self._asking
            self._asking = True
        if begins:
            aside(partial(self._work, around), "replicas")
        return future

    def _work(self, around: AbstractContextManager[None]) -> None:
        with around:
            while True:
                with self._lock:
                    future, self._next = self._next, None
                    self._asking = future is not None
                if future is None:
                    return
                future.set_result(self._found_out(self._invalidations.told()))

    def _found_out(self, told: Owed) -> bool:
        found = False
        try:
            found = not told or self._ask()
        except BackendError:
            pass
        finally:
            if found:
                self._invalidations.replicated(told)
            self.answered = max(self.answered, told.upto)
        return found
