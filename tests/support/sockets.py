"""Finds connections that a test leaves open: it is that test that fails, and not the one in which the garbage collector
comes across them, long after.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import StackSummary, walk_stack
from typing import Any, Final

_PATIENCE: Final = 10.0
"""Seconds for what is being closed by another thread."""

_connect: Final = socket.socket.connect

_made: list[tuple[socket.socket, StackSummary]] = []
"""What connected since a test began, and where. Held here, so that nothing but closing closes it."""


def _noting_connect(self: socket.socket, address: Any) -> None:
    frames = walk_stack(sys._getframe(1))
    _made.append((self, StackSummary.extract(frames, limit=20, lookup_lines=False)))
    _connect(self, address)


def watch_sockets() -> None:
    """Take notes of every connection that is made from now on."""
    socket.socket.connect = _noting_connect  # type: ignore[assignment,method-assign]


@contextmanager
def all_closed() -> Iterator[None]:
    """What connects in here has to be closed when it ends.

    Raises:
        AssertionError: something is not; the message says where it connected.
    """
    _made.clear()  # what fixtures of a wider scope hold is not the test's
    yield
    deadline = time.monotonic() + _PATIENCE
    while open_ones := [stack for made, stack in list(_made) if made.fileno() != -1]:
        if time.monotonic() > deadline:
            _made.clear()
            raise AssertionError("never closed, connected here:\n\n" + "\n".join(map(_told, open_ones)))
        time.sleep(0.002)  # between two looks
    _made.clear()


def _told(stack: StackSummary) -> str:
    return "".join(reversed(stack.format()))
