"""A way to a server on which an answer can be cut in the middle: half of it arrives, then the connection ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Any, Self


class Tearing:
    """Listens on a free port and passes on to a server; use it as a context manager.

    Args:
        port: where the server listens, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._armed = threading.Event()
        self.torn = 0
        """Answers that were cut."""

    @property
    def url(self) -> str:
        """Where a client connects."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def tear(self) -> None:
        """Cut the next answer that is longer than a few bytes, and is not the first of its connection."""
        self._armed.set()

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in [self._listener, *self._ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for end in [self._listener, *self._ends]:
            end.close()

    def _run(self, work: Any, *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                self._run(self._out, near, far)
                self._run(self._back, far, near)

    def _out(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        answers = 0
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                answers += 1
                if answers > 2 and len(data) > 8 and self._armed.is_set():
                    self._armed.clear()
                    self.torn += 1
                    near.sendall(data[:-5])
                    break
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)
