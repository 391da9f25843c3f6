"""A real set of Sentinels that a test owns, watching a master with two replicas, on this machine."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis

from tests.support.redis_cluster import await_all, follows
from tests.support.redis_server import RedisServer


class Sentinel(RedisServer):
    """A redis-server that watches others, and keeps what it knows in a file."""

    def _command(self) -> list[str]:
        conf = self._workplace() / "sentinel.conf"
        conf.touch()
        program, *arguments = super()._command()
        return [program, str(conf), "--sentinel", *arguments]


class RedisSentinel:
    """Six redis-server processes: a master, two replicas, three sentinels; use it as a context manager.

    Args:
        *arguments: more of the command lines of the master and the replicas.
        service: the name under which the sentinels know the master.
        down_after: after so many seconds a master that does not answer is replaced. Where nothing is to be broken it
            should be long: a busy machine is silent for moments.
        requirepass: the password of the master and the replicas.
        sentinel_pass: the password of the sentinels.
    """

    def __init__(
        self,
        *arguments: str,
        service: str = "shop",
        down_after: float = 15.0,
        requirepass: str | None = None,
        sentinel_pass: str | None = None,
    ) -> None:
        self.service = service
        self._down_after = down_after
        self._password = requirepass
        self._sentinel_password = sentinel_pass
        arguments = (
            *("--repl-diskless-sync-delay", "0", "--repl-diskless-sync", "yes"),
            *(("--masterauth", requirepass) if requirepass else ()),
            *arguments,
        )
        self.servers = [RedisServer(*arguments, requirepass=requirepass) for _ in range(3)]
        """The first is the master at the start."""
        self.sentinels: list[RedisServer] = [Sentinel(requirepass=sentinel_pass) for _ in range(3)]

    @property
    def url(self) -> str:
        """Where clients connect: the sentinels, and database 0 of the master they name."""
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        query = f"?sentinel_password={quote(self._sentinel_password, safe='')}" if self._sentinel_password else ""
        return f"redis+sentinel://{secret}{hosts}/{self.service}/0{query}"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Of the sentinels."""
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    def master(self, asked: RedisServer | None = None) -> RedisServer:
        """The server that ``asked``, or the first sentinel that runs, names as the master."""
        asked = asked or next(sentinel for sentinel in self.sentinels if sentinel.running)
        _, port = asked.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self, *, lossy: bool = False) -> RedisServer:
        """Kill the master, and return the new one once all sentinels name it and it takes writes.

        Args:
            lossy: cut the replicas off first, if that was not done with :meth:`RedisServer.cut_replicas`: what is
                written from then on is lost.
        """
        old = self.master()
        if lossy:
            old.cut_replicas()
        old.kill()
        asked = [sentinel for sentinel in self.sentinels if sentinel.running]
        await_all(asked, lambda sentinel: self.master(sentinel) is not old, "no replica took over")
        new = self.master()
        await_all([new], lambda node: bool(node.command("ROLE")[0] == b"master"), "the new master takes no writes")
        return new

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for server in (*self.servers, *self.sentinels):
                stack.enter_context(server)
            self._put_together()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _put_together(self) -> None:
        master, *replicas = self.servers
        for replica in replicas:
            replica.command("REPLICAOF", "127.0.0.1", master.port)
        await_all(replicas, follows, "a replica does not follow")
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.ResponseError):  # known since Redis 7.0; before, all takes a little longer
                sentinel.command("SENTINEL", "DEBUG", "publish-period", 100, "info-period", 100)
            self._let_watch(sentinel, master)
        await_all(self.sentinels, lambda asked: self._known(asked) == (2, 2), "the sentinels know too little")

    def _let_watch(self, sentinel: RedisServer, master: RedisServer) -> None:
        settings: list[tuple[str, int | str]] = [("down-after-milliseconds", round(self._down_after * 1000))]
        settings += [("failover-timeout", 10_000)]
        settings += [("auth-pass", self._password)] if self._password else []
        with contextlib.closing(sentinel.client()) as client:
            # In one packet: it must not connect before it knows the password.
            together: Any = client.pipeline(transaction=False)
            together.execute_command("SENTINEL", "MONITOR", self.service, "127.0.0.1", master.port, 2)
            for option, value in settings:
                together.execute_command("SENTINEL", "SET", self.service, option, value)
            together.execute()

    def _known(self, sentinel: RedisServer) -> tuple[int, int]:
        """How many replicas and how many other sentinels one knows."""
        reply = sentinel.command("SENTINEL", "MASTER", self.service)
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        return int(facts[b"num-slaves"]), int(facts[b"num-other-sentinels"])
