"""A real uvicorn around an application.

``serve("package.module:app")`` runs it in a process of its own, as a deployment would; ``serve(app)`` runs an
application object in a thread of this process. Both listen before they start, on a port that nobody else can take,
so the first request waits for the server and nobody has to guess when it is ready.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import httpx2 as httpx
import uvicorn

_ROOT = Path(__file__).resolve().parents[2]

_START_WITHIN = 30.0
"""Seconds for the first answer, and for the end after SIGTERM."""


class ServerFailed(RuntimeError):
    """The server ended before it answered; the message holds its log."""


class ServedApp:
    """An application that answers at :attr:`url`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def client(self, **options: Any) -> httpx.Client:
        """Return an HTTP client for it: a context manager."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=_START_WITHIN, **options)


@contextlib.contextmanager
def serve(app: str | Any, *, env: Mapping[str, str] | None = None) -> Iterator[ServedApp]:
    """Serve an ASGI application until the block ends.

    Args:
        app: ``"module:attribute"`` for a process of its own, or the application itself for a thread here.
        env: more environment variables, for a process.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Connections inherit it. asyncio does not see that a descriptor it was given is TCP's, and what is sent in two
        # parts would wait 40 ms for the client to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        served = ServedApp(listener.getsockname()[1])
        if isinstance(app, str):
            with _in_process(app, listener, served, env or {}):
                yield served
        elif env:
            raise ValueError("env is for an application given as 'module:attribute': a thread shares this environment")
        else:
            with _in_thread(app, listener):
                yield served


@contextlib.contextmanager
def _in_process(app: str, listener: socket.socket, served: ServedApp, env: Mapping[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "uvicorn", app, "--fd", str(listener.fileno()), "--log-level", "warning"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
        )
        listener.close()  # the process holds the only copy: when it ends, connecting fails instead of waiting
        try:
            _await_answer(process, served, log)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=_START_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                _fail(f"uvicorn did not end within {_START_WITHIN:g} s after SIGTERM", log)


def _await_answer(process: subprocess.Popen[bytes], served: ServedApp, log: Any) -> None:
    with served.client() as client:
        try:
            client.options("/")
        except httpx.HTTPError as error:
            process.kill()
            process.wait()
            _fail(f"uvicorn never answered ({error})", log)


def _fail(what: str, log: Any) -> NoReturn:
    log.seek(0)
    raise ServerFailed(f"{what}:\n{log.read().decode(errors='replace')}")


class _AnnouncingServer(uvicorn.Server):
    """Tells when it has started, or has given up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.settled.set()


@contextlib.contextmanager
def _in_thread(app: Any, listener: socket.socket) -> Iterator[None]:
    server = _AnnouncingServer(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn", daemon=True)
    thread.start()
    try:
        if not server.settled.wait(_START_WITHIN) or not server.started:
            raise ServerFailed("the application did not start; its log says why")
        yield
    finally:
        server.should_exit = True
        thread.join(_START_WITHIN)
        if thread.is_alive():
            raise ServerFailed(f"uvicorn did not end within {_START_WITHIN:g} s")
