"""How a call to the user's function ended: a value or an exception, carried as data.

An exception travels as a value between the flow and the wrapper, because a ``StopIteration`` raised through a
coroutine would end the coroutine instead, and because followers of a flight raise what their leader met.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any


class Outcome:
    """A returned ``value``, or the ``error`` that was raised instead, after so many ``seconds``.

    ``copies`` makes the value anew for each caller who shares the load: without it they share one object.
    """

    __slots__ = ("_traceback", "copies", "error", "seconds", "value")

    def __init__(self, value: Any = None, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.value = value
        self.error = error
        self.seconds = seconds
        self.copies: Callable[[], Any] | None = None
        self._traceback: TracebackType | None = error.__traceback__ if error is not None else None

    def for_follower(self) -> Outcome:
        """The outcome as somebody gets it who waited for another's load."""
        return self if self.copies is None else Outcome(self.copies())

    def unwrap(self) -> Any:
        """Return the value, or raise the error as the user's function raised it."""
        error = self.error
        if error is None:
            return self.value
        # Several callers raise one exception object: each starts from the traceback of the function itself, or
        # the list of frames would grow with the number of callers. The names are dropped because the traceback
        # refers to this frame, which would refer to the exception: a cycle for the garbage collector.
        try:
            raise error.with_traceback(self._traceback)
        finally:
            del self, error
