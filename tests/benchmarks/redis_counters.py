"""What a Redis server counts itself: reads from sockets, commands, CPU time.

A client that sends a packet and waits for its replies makes the server read once, so reads are round trips; a packet
that exceeds the server's buffer (16 KiB) takes several. Looking costs reads and commands too, always as many: they are
found out beforehand and subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import redis


@dataclass(frozen=True)
class Counters:
    """Sums since the server started; ``cpu`` is in nanoseconds, of the whole process."""

    reads: int = 0
    commands: int = 0
    cpu: float = 0.0

    @classmethod
    def of(cls, stats: Mapping[str, Any], cpu: Mapping[str, Any]) -> Self:
        """From two sections of ``INFO``."""
        return cls(
            reads=int(stats["total_reads_processed"]),
            commands=int(stats["total_commands_processed"]),
            cpu=(float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])) * 1e9,
        )

    def __add__(self, other: Counters) -> Counters:
        return Counters(self.reads + other.reads, self.commands + other.commands, self.cpu + other.cpu)

    def __sub__(self, other: Counters) -> Counters:
        return Counters(self.reads - other.reads, self.commands - other.commands, self.cpu - other.cpu)


class Gauge:
    """Reads the counters of one server, or of all nodes of a Cluster together; use it as a context manager.

    Args:
        urls: one for each server. Each gets one connection, which no contender uses.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._clients = [redis.Redis.from_url(url) for url in urls]
        self._look = Counters()
        self.read()  # connects, which is commands too
        before = self.read()
        look = self.read() - before
        self._look = Counters(look.reads, look.commands)

    def read(self) -> Counters:
        """The counters now."""
        return sum((self._of(client) for client in self._clients), Counters())

    def since(self, before: Counters) -> Counters:
        """What has been counted since, without the looking."""
        return self.read() - before - self._look

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    @staticmethod
    def _of(client: redis.Redis) -> Counters:
        with client.pipeline(transaction=False) as pipeline:
            pipeline.info("stats")
            pipeline.info("cpu")
            stats, cpu = pipeline.execute()
        return Counters.of(stats, cpu)
