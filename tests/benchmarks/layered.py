"""Two tiers: what a hit costs, how soon others know of a write, and what that makes of four workers."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import harness, layered_coherence, layered_workers
from tests.benchmarks.layered_coherence import coherence
from tests.benchmarks.layered_hit import hits
from tests.benchmarks.layered_workers import workers
from tests.benchmarks.report import Options, Skipped, Table
from tests.support.redis_server import RedisServer, RedisServerNotFound, find_redis_server


def run(options: Options) -> Iterator[Table]:
    try:
        find_redis_server()
    except RedisServerNotFound as error:
        raise Skipped(str(error)) from None
    quick = options.quick
    with RedisServer() as server:
        yield hits(server.url, harness.Effort(rounds=4, calls=50) if quick else harness.Effort())
    with RedisServer() as server:
        effort = layered_coherence.Effort(rounds=1, changes=10) if quick else layered_coherence.Effort()
        yield coherence(server.url, effort)
    with RedisServer() as server:
        yield workers(server.url, layered_workers.Effort(2, 0.2) if quick else layered_workers.Effort())
