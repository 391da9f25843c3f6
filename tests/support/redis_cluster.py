"""A real Redis Cluster that a test owns: three masters with a replica each, on this machine.

It is put together by commands, so it needs no more than the server's binary, of version 6.2 or later.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.crc import key_slot

from tests.support.redis_server import RedisServer, RedisServerFailed, free_port, wait_until
from tests.support.tls import Certificates

_SLOTS: Final = 16384
_BUS: Final = 10_000
"""By so much the port of a node's bus is above its own; Redis 6.2 knows no other."""
_WITHIN: Final = 60.0
"""Seconds for the nodes to agree: generous, since machines that run tests are busy."""


def cluster_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on a moment ago, nor on that of its bus."""
    while True:
        port = free_port()
        if port + _BUS < 65536:
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind(("127.0.0.1", port + _BUS))
                return port


class RedisCluster:
    """Six redis-server processes; use it as a context manager.

    Args:
        *arguments: more of their command lines.
        node_timeout: after so many seconds a node that does not answer is taken to be away, and its replica takes
            over. Where nothing is to be broken it should be long: a busy machine is silent for moments.
        requirepass: the password of the default user, and of replicas; part of :attr:`url`.
        certificates: speak TLS, also among themselves, at :attr:`tls_ports`. Plain ports are open too, for tests.
    """

    def __init__(
        self,
        *arguments: str,
        node_timeout: float = 15.0,
        requirepass: str | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        arguments = (
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", str(round(node_timeout * 1000))),
            *("--repl-diskless-sync-delay", "0", "--repl-diskless-sync", "yes"),
            *("--repl-ping-replica-period", "1"),  # a replica that has heard nothing yet is not listed
            *(("--masterauth", requirepass) if requirepass else ()),
            *arguments,
        )
        tls = None
        if certificates is not None:
            tls = partial(certificates.server_arguments, mutual=True)
            arguments = (*arguments, "--tls-cluster", "yes", "--tls-replication", "yes")
        self.nodes: list[RedisServer] = [
            RedisServer(*arguments, requirepass=requirepass, choose_port=cluster_port, tls=tls) for _ in range(6)
        ]
        """Those at 0, 1 and 2 are the masters at the start, those at 3, 4 and 5 their replicas in the same order."""

    @property
    def tls_ports(self) -> list[int]:
        """Where the nodes speak TLS, if they do."""
        return [node.tls_port for node in self.nodes if node.tls_port]

    @property
    def masters(self) -> list[RedisServer]:
        """The first three: masters as long as nothing was broken."""
        return self.nodes[:3]

    @property
    def url(self) -> str:
        """Where clients of a cluster connect: two of the masters, so one of them may be away."""
        first, second = (node.url.removesuffix("/0") for node in self.nodes[:2])
        return f"{first.replace('redis://', 'redis+cluster://')},{second.rpartition('@')[2].removeprefix('redis://')}"

    def slots(self, asked: RedisServer | None = None) -> list[Any]:
        """The reply to CLUSTER SLOTS, in bytes and untouched, of ``asked`` or the first node that answers."""
        for node in [asked] if asked is not None else self.nodes:
            with contextlib.suppress(redis.ConnectionError, RuntimeError):
                reply: list[Any] = node.command("CLUSTER", "SLOTS")
                return reply
        raise RedisServerFailed("no node of the cluster answers")

    def serving(self, key: str | bytes, asked: RedisServer | None = None) -> RedisServer:
        """The node that is master of the slot of ``key``, as ``asked`` sees it."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        port = next(master[1] for first, last, master, *_ in self.slots(asked) if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def replica_of(self, master: RedisServer) -> RedisServer:
        """The replica that ``master`` has."""
        address = master.command("ROLE")[2][0][1]
        return next(node for node in self.nodes if node.port == int(address))

    def fail_over(self, master: RedisServer, *, lossy: bool = False) -> RedisServer:
        """Kill ``master``, and return its replica once that has taken over and all the others know.

        Args:
            lossy: cut the replica off first: what is written between :meth:`RedisServer.cut_replicas` and now is lost.
                It is cut off here if it was not before.
        """
        replica = self.replica_of(master) if not lossy else self._cut(master)
        slot = next(first for first, _, served, *_ in self.slots(master) if served[1] == master.port)
        master.kill()
        self._await_server(slot, replica)
        self.await_ok()
        return replica

    def await_ok(self) -> None:
        """Wait until all nodes that run serve their slots."""
        await_all(self.running(), _is_ok, "the cluster is not ok")

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Give an empty slot to another master, and return when all nodes know."""
        for node in self.masters:
            node.command("CLUSTER", "SETSLOT", slot, "NODE", _id(to))
        self._await_server(slot, to)

    def running(self) -> list[RedisServer]:
        """The nodes that were not killed."""
        return [node for node in self.nodes if node.running]

    def flush(self) -> None:
        """Forget everything: all masters, at once."""
        for node in self.masters:
            node.flush()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._put_together()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _put_together(self) -> None:
        share = -(-_SLOTS // 3)
        for number, node in enumerate(self.nodes):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # else they begin by quarrelling
        for number, node in enumerate(self.masters):
            node.command("CLUSTER", "ADDSLOTS", *range(number * share, min((number + 1) * share, _SLOTS)))
        for node in self.nodes[1:]:
            node.command("CLUSTER", "MEET", "127.0.0.1", (self.tls_ports or [self.nodes[0].port])[0])
        self.await_ok()
        await_all(self.nodes, lambda node: _acquainted(node) == 6, "the nodes don't know each other")
        for master, replica in zip(self.nodes, self.nodes[3:], strict=False):
            replica.command("CLUSTER", "REPLICATE", _id(master))
        await_all(self.nodes, lambda node: [len(r) for r in self.slots(node)] == [4, 4, 4], "no replicas are known")
        await_all(self.nodes[3:], follows, "a replica does not follow")

    def _await_server(self, slot: int, wanted: RedisServer) -> None:
        """Wait until all nodes know who serves ``slot``."""
        await_all(
            self.running(),
            lambda node: any(r[0] <= slot <= r[1] and r[2][1] == wanted.port for r in self.slots(node)),
            "a slot is not served by whom it should be",
        )

    def _cut(self, master: RedisServer) -> RedisServer:
        number = self.nodes.index(master)
        replica = self.nodes[number + 3] if number < 3 else self.nodes[number - 3]
        master.cut_replicas()
        return replica


def await_all(nodes: Iterable[RedisServer], condition: Callable[[RedisServer], bool], trouble: str) -> None:
    """Wait until ``condition`` holds for each of ``nodes``."""
    for node in nodes:
        wait_until(partial(condition, node), trouble, _WITHIN)


def follows(replica: RedisServer) -> bool:
    """Whether it is a replica whose master tells it everything."""
    role = replica.command("ROLE")
    return bool(role[0] == b"slave" and role[3] == b"connected")


def _is_ok(node: RedisServer) -> bool:
    return b"cluster_state:ok" in node.command("CLUSTER", "INFO").split()


def _id(node: RedisServer) -> str:
    name: bytes = node.command("CLUSTER", "MYID")
    return name.decode()


def _acquainted(node: RedisServer) -> int:
    """How many nodes it is connected to, itself included, with no handshake under way."""
    lines = node.command("CLUSTER", "NODES").decode().splitlines()
    flags = [line.split()[2] for line in lines]
    return len(lines) if not any("handshake" in flag or "fail" in flag for flag in flags) else 0
