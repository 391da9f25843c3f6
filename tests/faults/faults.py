"""Faults of Redis and of the way to it: each is a context manager that lets it begin, and ends it.

What they do is done to a server and a proxy that the caller owns.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import Any, Self

from tests.faults.shop import TIMEOUT, Mode, Shop, until
from tests.support.proxy import Direction, Proxy
from tests.support.redis_server import RedisServer, find_redis_server

FIRST_PAUSE = 0.1
"""Seconds: no two probes are nearer to each other."""


class Ground:
    """A Redis, and a proxy before it; use it as a context manager.

    Args:
        *arguments: more of the server's command line.
    """

    def __init__(self, *arguments: str, requirepass: str | None = None) -> None:
        self.server = RedisServer(*arguments, *_debugging(), requirepass=requirepass)
        self._requirepass = requirepass
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.server)
            self.proxy = stack.enter_context(Proxy(self.server.port))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where the application finds Redis: at the proxy."""
        return self.proxy.url.replace("//", f"//:{self._requirepass}@") if self._requirepass else self.proxy.url

    def shop(self, mode: Mode, *, timeout: float = TIMEOUT, **options: Any) -> Shop:
        """An application that caches here."""
        return Shop(self.url, mode, timeout=timeout, **options)

    @contextlib.contextmanager
    def only_probes(self) -> Iterator[None]:
        """In here nobody may try to connect but the one who finds out whether Redis is back, with pauses."""
        before, began = self.proxy.accepted, time.monotonic()
        yield
        tried, took = self.proxy.accepted - before, time.monotonic() - began
        assert tried <= 1 + took / FIRST_PAUSE, f"{tried} connections in {took:.2f} s"


def commands(server: RedisServer, name: str) -> int:
    """How often it was given a command."""
    said = information(server, "commandstats").get(f"cmdstat_{name}", "calls=0,")
    return int(said.split(",")[0].removeprefix("calls="))


@cache
def version() -> tuple[int, ...]:
    """Which Redis this is."""
    words = subprocess.run([find_redis_server(), "--version"], capture_output=True, check=True, text=True).stdout
    number = next(word for word in words.split() if word.startswith("v=")).removeprefix("v=")
    return tuple(int(part) for part in number.split("."))


def _debugging() -> tuple[str, ...]:
    return ("--enable-debug-command", "yes") if version() >= (7,) else ()


@contextlib.contextmanager
def killed(ground: Ground) -> Iterator[None]:
    """It is ended, and started again empty."""
    ground.server.kill()
    yield
    ground.server.start()


@contextlib.contextmanager
def frozen(ground: Ground) -> Iterator[None]:
    """It holds its connections open and does nothing."""
    ground.server.freeze()
    yield
    ground.server.thaw()


@contextlib.contextmanager
def swallowed(ground: Ground) -> Iterator[None]:
    """Whatever is sent, by new connections too, gets nowhere: a black hole."""
    ground.proxy.cut()
    ground.proxy.pause()
    yield
    ground.proxy.cut()  # what was swallowed is lost
    ground.proxy.resume()


@contextlib.contextmanager
def silent(ground: Ground, direction: Direction) -> Iterator[None]:
    """Nothing passes in one direction; it arrives later."""
    ground.proxy.silence(direction)
    yield
    ground.proxy.resume()


@contextlib.contextmanager
def refused(ground: Ground) -> Iterator[None]:
    """Nobody listens, and connections are reset."""
    ground.proxy.refuse()
    ground.proxy.cut()
    yield
    ground.proxy.accept()


@contextlib.contextmanager
def slow(ground: Ground, seconds: float) -> Iterator[None]:
    """Whatever is sent, and each answer, travels so much longer."""
    ground.proxy.delay(to_server=seconds, to_client=seconds)
    yield
    ground.proxy.delay()


@contextlib.contextmanager
def full(ground: Ground) -> Iterator[None]:
    """It has no memory left, and does not make room."""
    ground.server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    ground.server.command("CONFIG", "SET", "maxmemory", "1")
    yield
    ground.server.command("CONFIG", "SET", "maxmemory", "0")


@contextlib.contextmanager
def evicting(ground: Ground) -> Iterator[None]:
    """It has hardly any room, others write all the time, and whatever there is may be thrown out at any moment."""
    server = ground.server
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    server.command("CONFIG", "SET", "maxmemory", str(int(information(server, "memory")["used_memory"]) + 100_000))
    before = int(information(server, "stats")["evicted_keys"])

    def writes() -> bool:
        with contextlib.closing(server.client()) as raw:
            raw.mset({f"other:{secrets.token_hex(8)}": b"x" * 1000 for _ in range(20)})
        return int(information(server, "stats")["evicted_keys"]) > before + 2000

    until(writes, "much has been evicted")
    yield
    server.command("CONFIG", "SET", "maxmemory", "0")


@contextlib.contextmanager
def demoted(ground: Ground, master: RedisServer) -> Iterator[None]:
    """It is a replica of another one, and takes no writes."""
    ground.server.command("REPLICAOF", "127.0.0.1", str(master.port))
    until(lambda: ground.server.command("ROLE")[3] == b"connected", "the replica follows")
    yield
    ground.server.command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def replica_of(master: RedisServer) -> Iterator[RedisServer]:
    """A server that follows another one."""
    with RedisServer("--repl-diskless-sync-delay", "0") as replica:
        replica.command("REPLICAOF", "127.0.0.1", master.port)
        until(lambda: replica.command("ROLE")[3] == b"connected", "the replica follows")
        yield replica


def caught_up(master: RedisServer, replica: RedisServer) -> None:
    """Wait until the replica has everything."""
    until(lambda: replica.command("ROLE")[4] == master.command("ROLE")[1], "the replica has everything")


def replace(ground: Ground, replica: RedisServer) -> None:
    """Kill it, and let its replica serve at its address."""
    ground.server.kill()
    replica.command("REPLICAOF", "NO", "ONE")
    ground.proxy.target = ("127.0.0.1", replica.port)


def spoil(server: RedisServer, dice: random.Random) -> None:
    """Put something torn, of another type or simply rubbish in the place of whatever there is, or nothing."""
    with contextlib.closing(server.client(protocol=2)) as raw:
        names: list[bytes] = sorted(raw.scan_iter(match="faults:*"))
        for name, whole in zip(names, raw.mget(names), strict=True):
            with raw.pipeline(transaction=True) as both:
                both.delete(name)
                match dice.randrange(4):
                    case 0:
                        both.set(name, dice.randbytes(dice.randrange(200)))
                    case 1:
                        both.rpush(name, "rubbish")
                    case 2 if whole:
                        both.set(name, whole[: dice.randrange(len(whole))])
                both.execute()


@contextlib.contextmanager
def locked_out(ground: Ground, password: str) -> Iterator[None]:
    """The password is another one, and all connections are closed."""
    with contextlib.closing(ground.server.client()) as admin:
        admin.config_set("requirepass", "another")
        admin.client_kill_filter(_type="normal", skipme=True)
        yield
        admin.config_set("requirepass", password)


@contextlib.contextmanager
def forbidden(ground: Ground) -> Iterator[None]:
    """It answers every command that reads or writes with an error; connections stay."""
    ground.server.command("ACL", "SETUSER", "admin", "on", "nopass", "+@all", "~*", "&*")
    with contextlib.closing(ground.server.client(username="admin", password="")) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-@all")  # type: ignore[no-untyped-call]
        yield
        admin.execute_command("ACL", "SETUSER", "default", "+@all")  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def unable_to_save(ground: Ground) -> Iterator[None]:
    """Its last snapshot failed, and it takes no writes until one succeeds: MISCONF."""
    obstacle = ground.server._workplace() / "dump.rdb"
    obstacle.mkdir()
    ground.server.command("CONFIG", "SET", "save", "3600 1000000")
    ground.server.command("BGSAVE")
    until(lambda: information(ground.server, "persistence")["rdb_last_bgsave_status"] == "err", "a snapshot fails")
    yield
    ground.server.command("CONFIG", "SET", "save", "")
    obstacle.rmdir()


@contextlib.contextmanager
def unconnectable() -> Iterator[str]:
    """The URL of a place where connecting neither succeeds nor fails."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(8):  # nobody accepts them: the queue fills, and whoever comes later is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"redis://127.0.0.1:{address[1]}/0"


def information(server: RedisServer, section: str) -> dict[str, str]:
    """What it says of itself: one section of INFO."""
    lines = server.command("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
