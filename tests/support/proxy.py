"""A TCP proxy that a test owns, to stand between a client and a server and to make the network misbehave.

It passes bytes on, and can delay them, hold them back, cut connections, refuse new ones, or lose an answer after the
server has done what it was asked. It runs in a thread of its own; its methods may be called from any thread, and have
taken effect when they return. What is held back is delivered later, in order: a stream never gets a hole.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

Direction = Literal["to_server", "to_client"]

_WITHIN: Final = 20.0
"""Seconds until something that must happen counts as failed: generous, since machines that run tests are busy."""

_RESET: Final = struct.pack("ii", 1, 0)
"""The socket option that makes closing send RST."""


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to a server; use it as a context manager.

    Args:
        port: where the server listens, on 127.0.0.1; :attr:`target` may be changed later.
        tls: a context for the server's side of TLS: clients speak TLS to the proxy, the proxy plainly to the server.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = ("127.0.0.1", port)
        self.accepted = 0
        """Connections that clients made since the start."""
        self.lost_replies = 0
        """Connections that were cut by :meth:`lose_reply`."""
        self.passed: dict[Direction, int] = {"to_server": 0, "to_client": 0}
        """Bytes that were passed on since the start."""
        self._tls = tls
        self._delay: dict[Direction, float] = {"to_server": 0.0, "to_client": 0.0}
        self._held: set[Direction] = set()
        self._links: set[_Link] = set()
        self._transports: set[asyncio.Transport] = set()
        self._doom: _Doom | None = None
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._beginning: set[asyncio.Task[None]] = set()  # the loop holds its tasks weakly only

    @property
    def port(self) -> int:
        """Where clients connect, on 127.0.0.1; the same for as long as it lives."""
        if self._reserved is None:
            raise RuntimeError("the proxy is not running; use it as a context manager")
        port: int = self._reserved.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where a Redis client connects, without user or password: database 0."""
        return f"redis{'s' if self._tls else ''}://127.0.0.1:{self.port}/0"

    @property
    def open(self) -> int:
        """Connections that clients have at this moment."""
        return len(self._links)

    def delay(self, *, to_server: float = 0.0, to_client: float = 0.0) -> None:
        """Let whatever arrives from now on travel so many seconds longer; 0 is none."""
        self._do(lambda: self._delay.update([("to_server", to_server), ("to_client", to_client)]))

    def pause(self) -> None:
        """Go on accepting connections and bytes, and pass nothing on in either direction until :meth:`resume`."""
        self.silence("to_server", "to_client")

    def silence(self, *directions: Direction) -> None:
        """Pass nothing on in these directions, including the ends of connections, until :meth:`resume`."""
        self._do(lambda: self._held.update(directions))

    def resume(self) -> None:
        """Deliver what was held back, and pass on again."""

        def release() -> None:
            self._held.clear()
            for link in list(self._links):
                link.pump()

        self._do(release)

    def cut(self, *, reset: bool = True) -> int:
        """End all connections on both sides, with RST or with FIN; return how many there were."""

        def end() -> int:
            links = list(self._links)
            for link in links:
                link.end(reset=reset)
            return len(links)

        cut: int = self._do(end)
        return cut

    def refuse(self) -> None:
        """Refuse new connections until :meth:`accept`; those that are open stay."""
        self._do_async(self._unlisten)

    def accept(self) -> None:
        """Take new connections again, at the same port."""
        self._do_async(self._listen)

    def lose_reply(self, to: bytes = b"", *, times: int = 1, reset: bool = True) -> None:
        """Cut a connection once the server begins to answer a request, before the client gets any of the answer.

        So the server has done what it was asked and the client can't know. Awaits ``times`` requests that contain
        ``to``, whoever sends them. See :attr:`lost_replies`.
        """

        def doom() -> None:
            self._doom = _Doom(to, times, reset)

        self._do(doom)

    def wait_until(self, condition: Callable[[], bool], within: float = _WITHIN) -> None:
        """Wait until ``condition`` holds, looked at whenever something happens here.

        Raises:
            TimeoutError: it does not hold after ``within`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(condition, within):
                raise TimeoutError(f"nothing came of it within {within:g} s")

    def __enter__(self) -> Self:
        # Bound all the time and never listening: nobody else can take the port while connections are refused.
        self._reserved = _bound(0)
        self._thread.start()
        try:
            self._do_async(self._listen)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do_async(self._unlisten)
        self._do_async(self._end_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WITHIN)
        self._loop.close()
        if self._reserved is not None:
            self._reserved.close()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.setblocking(False)
            self._listener.listen(100)
            self._loop.add_reader(self._listener, self._take)

    async def _unlisten(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self._loop.remove_reader(listener)
            listener.close()

    def _take(self) -> None:
        """Accept by hand: asyncio's own server leaks what it accepts while it is being closed."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            assert self._listener is not None
            client, _ = self._listener.accept()
            client.setblocking(False)
            task = self._loop.create_task(self._begin(client))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client went away, or does not like our certificate
            await self._loop.connect_accepted_socket(lambda: _Side(_Link(self)), client, ssl=self._tls)

    async def _end_all(self) -> None:
        await asyncio.sleep(0)  # a task that is cancelled before its first step would not close its socket
        async with asyncio.timeout(_WITHIN):
            while self._links or self._transports or len(asyncio.all_tasks()) > 1:
                for link in list(self._links):
                    link.end(reset=True)
                for task in self._beginning:
                    task.cancel()
                for transport in self._transports:
                    transport.abort()
                await asyncio.sleep(0)  # what is aborted is closed in a later turn of the loop

    def _do(self, step: Callable[[], Any]) -> Any:
        async def carry_out() -> Any:
            return step()

        return self._do_async(carry_out)

    def _do_async(self, step: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(step(), self._loop).result(_WITHIN)

    def tell(self) -> None:
        """Let those look who wait for something."""
        with self._changed:
            self._changed.notify_all()


class _Doom:
    """Which request's answer will be lost, and how often."""

    def __init__(self, pattern: bytes, times: int, reset: bool) -> None:
        self.pattern = pattern
        self.times = times
        self.reset = reset


class _Link:
    """One client's connection and the one to the server that belongs to it. Lives in the thread of the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._loop = proxy._loop
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._due: dict[Direction, deque[tuple[float, bytes | None]]] = {"to_server": deque(), "to_client": deque()}
        self._seen = b""
        self._doomed = False
        self._last: Direction | None = None  # once one side is gone: what is still delivered of what it sent
        self._ended = False
        self._connecting: asyncio.Task[None] | None = None

    def closed(self, transport: asyncio.Transport) -> None:
        self._proxy._transports.discard(transport)

    def opened(self, side: _Side, transport: asyncio.Transport) -> None:
        self._proxy._transports.add(transport)
        if side.is_server:
            self._server = transport
            if self._ended:
                transport.abort()
            self.pump()
            return
        self._client = transport
        self._proxy._links.add(self)
        self._proxy.accepted += 1
        self._connecting = self._loop.create_task(self._connect())
        self._proxy.tell()

    async def _connect(self) -> None:
        host, port = self._proxy.target
        try:
            await self._loop.create_connection(lambda: _Side(self, is_server=True), host, port)
        except OSError:
            self.end(reset=True)

    def received(self, side: _Side, data: bytes | None) -> None:
        """Bytes, or the end of them."""
        direction: Direction = "to_client" if side.is_server else "to_server"
        if self._doomed and side.is_server and data:
            doom = self._proxy._doom
            self._proxy.lost_replies += 1
            self.end(reset=doom is None or doom.reset)
            return
        self._due[direction].append((self._loop.time() + self._proxy._delay[direction], data))
        self.pump()

    def pump(self) -> None:
        """Pass on what is due."""
        if self._ended:
            return
        for direction, queue in self._due.items():
            sink = self._server if direction == "to_server" else self._client
            if sink is None or direction in self._proxy._held:
                continue
            while queue and queue[0][0] <= self._loop.time():
                self._pass_on(direction, sink, queue.popleft()[1])
            if queue:
                self._loop.call_at(queue[0][0], self.pump)
        if self._last is not None and not self._due[self._last]:
            self.end(reset=False)
        self._proxy.tell()

    def _pass_on(self, direction: Direction, sink: asyncio.Transport, data: bytes | None) -> None:
        if data is not None:
            if direction == "to_server":
                self._look_for_doom(data)
            sink.write(data)
            self._proxy.passed[direction] += len(data)
        elif sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()

    def _look_for_doom(self, data: bytes) -> None:
        doom = self._proxy._doom
        if doom is None or not doom.times or self._doomed:
            return
        self._seen = self._seen[-len(doom.pattern) :] + data if doom.pattern else data
        if doom.pattern in self._seen:
            doom.times -= 1
            self._doomed = True

    def lost(self, side: _Side, error: Exception | None) -> None:
        """One side is gone: with an error at once, else when what it sent before is delivered."""
        other = self._client if side.is_server else self._server
        if error is not None or other is None or other.is_closing():
            self.end(reset=error is not None)
        else:
            self.received(side, None)
            if side.is_server:
                self._server = None
            else:
                self._client = None
            self._last = "to_client" if side.is_server else "to_server"
            self.pump()

    def end(self, *, reset: bool) -> None:
        """End both sides."""
        if self._ended:
            return
        self._ended = True
        if self._connecting is not None:
            self._connecting.cancel()
        for transport in (self._client, self._server):
            if transport is not None:
                if reset:
                    with contextlib.suppress(OSError):
                        raw = cast(socket.socket, transport.get_extra_info("socket"))
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    transport.abort()
                else:
                    transport.close()
        self._proxy._links.discard(self)
        self._proxy.tell()


class _Side(asyncio.Protocol):
    """One of the two connections of a link."""

    def __init__(self, link: _Link, *, is_server: bool = False) -> None:
        self._link = link
        self._transport: asyncio.Transport | None = None
        self.is_server = is_server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._link.opened(self, self._transport)

    def data_received(self, data: bytes) -> None:
        self._link.received(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._link.closed(self._transport)
        self._link.lost(self, error)


def _bound(port: int) -> socket.socket:
    """A socket bound to ``port`` of 127.0.0.1, or a free one; several of ours may be bound to the same."""
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", port))
    except BaseException:
        bound.close()
        raise
    return bound
