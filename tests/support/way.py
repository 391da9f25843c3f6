"""A way to a server on which things go wrong as a test wants: what is sent arrives late, and answers are lost."""

from __future__ import annotations

import contextlib
import socket
import threading


class Way:
    """A proxy whose connections can be held up one by one: what is sent over them arrives when it is let through."""

    def __init__(self, port: int) -> None:
        self.through = threading.Event()
        self.through.set()
        self.held: set[int] = set()
        self.mute: set[int] = set()
        """Connections whose answers are kept back."""
        self.cut_in: int | None = None
        """With so many answers to come before it, one is lost, and its connection is closed."""
        self.connections = 0
        """How many there were so far; they are counted from 0."""
        self.cut = 0
        """How many were."""
        self.answered = threading.Event()
        """Set when the server has carried out something that was held up."""
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def hold(self, connection: int) -> None:
        self.through.clear()
        self.held.add(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for number in range(1000):
                near, _ = self._listener.accept()
                self.connections += 1
                far = socket.create_connection(("127.0.0.1", self._server))
                threading.Thread(target=self._out, args=(near, far, number), daemon=True).start()
                threading.Thread(target=self._back, args=(far, near, number), daemon=True).start()

    def _out(self, near: socket.socket, far: socket.socket, number: int) -> None:
        with near, contextlib.suppress(OSError):
            while data := near.recv(65536):
                if number in self.held:
                    self.through.wait()
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _back(self, far: socket.socket, near: socket.socket, number: int) -> None:
        with far:
            while data := far.recv(65536):
                if number in self.held:
                    self.answered.set()
                if number in self.mute:
                    continue
                if self.cut_in == 0:
                    self.cut_in = None
                    self.cut += 1
                    near.shutdown(socket.SHUT_RDWR)
                    return
                if self.cut_in is not None:
                    self.cut_in -= 1
                with contextlib.suppress(OSError):  # nobody may be listening any more
                    near.sendall(data)
