"""Something that is done again and again behind everybody's back, by a thread of its own, as long as there is a need.

The thread begins with a pause, so that what is over soon costs no round. It keeps nobody alive: an object that is
forgotten takes its thread with it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import ClassVar
from weakref import ref

Around = Callable[[], AbstractContextManager[None]]
"""Makes what is put around all that a thread does, when it is begun."""


class Rounds(ABC):
    """A thread that is there while it is needed. Safe for threads; :meth:`awake` costs next to nothing then."""

    name: ClassVar[str]
    """Of the thread."""

    def __init__(self, first_pause: float, around: Around = nullcontext) -> None:
        self._first_pause = first_pause
        self._around = around
        self.pause = first_pause
        """For how many seconds to wait before the next round."""
        self.forked()

    @abstractmethod
    def needed(self) -> bool:
        """Whether there is to be another round."""

    @abstractmethod
    def go(self) -> None:
        """Go one round, blocking."""

    def forked(self) -> None:
        """In a forked child: begin anew."""
        self._lock = threading.RLock()
        self._bell: SimpleQueue[None] | None = None

    def awake(self) -> None:
        """See to it that a thread goes round while that is needed."""
        if self._bell is not None:
            return
        around = self._around()
        with self._lock:
            if self._bell is not None:
                return
            bell = self._bell = SimpleQueue()
        self.pause = self._first_pause
        self._start(bell, around)

    def close(self) -> None:
        """End the thread. Whoever awakes it next begins another."""
        with self._lock:
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.put(None)

    def _start(self, bell: SimpleQueue[None], around: AbstractContextManager[None]) -> None:
        thread = threading.Thread(target=_work, args=(ref(self), bell, around), name=self.name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more, or the interpreter is about to end: the next caller tries again
            self._ended(bell)

    def _goes_on(self, bell: SimpleQueue[None]) -> bool:
        """Go one round, unless that is over; whether there is to be another."""
        goes_on = False
        try:
            if self.needed():
                self.go()
                goes_on = self.needed()
        finally:
            if not goes_on:
                self._ended(bell)
        if not goes_on and self.needed():  # since a moment ago, and whoever said so found a thread still
            self.awake()
        return goes_on

    def _ended(self, bell: SimpleQueue[None]) -> None:
        with self._lock:
            if self._bell is bell:
                self._bell = None


def _work(held: ref[Rounds], bell: SimpleQueue[None], around: AbstractContextManager[None]) -> None:
    """Go round until that is over, or nobody has the object any more: it is not for this thread to keep it."""
    with around:
        rounds = held()
        while rounds is not None:
            pause = rounds.pause
            del rounds
            with suppress(Empty):
                bell.get(timeout=pause)
                break
            rounds = held()
            if rounds is not None and not rounds._goes_on(bell):
                break
