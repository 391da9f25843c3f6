"""Cached endpoints: what a page costs, what endpoints beside it pay, and what that makes of a worker."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import harness, http_workers
from tests.benchmarks.http_hit import beside, hits, least
from tests.benchmarks.http_workers import workers
from tests.benchmarks.report import Options, Table

DIFFERENCES = harness.Effort(rounds=2000, lead=True)
"""For what differs by little: many short rounds."""


def run(options: Options) -> Iterator[Table]:
    quick = options.quick
    yield hits(harness.Effort(rounds=4) if quick else harness.Effort(lead=True))
    yield least(harness.Effort(rounds=4) if quick else DIFFERENCES)
    yield beside(harness.Effort(rounds=4) if quick else DIFFERENCES)
    yield workers(http_workers.Effort(2, 0.2) if quick else http_workers.Effort())
