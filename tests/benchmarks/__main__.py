"""``python -m tests.benchmarks [scenario ...]``: measure, print a table for each scenario, and on request publish.

``--write-readme`` runs every scenario in full, puts the tables into the README and draws the chart. Who survives what
has a block of its own there, which ``survival --write-readme`` writes alone; so have the others of ``APART``.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.benchmarks import (
    clearing,
    expiry,
    hit_ratio,
    http,
    layered,
    memory_hit,
    memory_use,
    redis_throughput,
    survival,
)
from tests.benchmarks.chart import draw
from tests.benchmarks.peers import versions
from tests.benchmarks.readme import rewrite
from tests.benchmarks.report import Options, Skipped, Table
from tests.faults import measure

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
CHART = Path(".github/benchmarks.svg")
TRACES = ROOT.parent / "shared" / "traces"

SCENARIOS: dict[str, Callable[[Options], Iterator[Table]]] = {
    "memory_hit": memory_hit.run,
    "hit_ratio": hit_ratio.run,
    "memory_use": memory_use.run,
    "expiry": expiry.run,
    "redis": redis_throughput.run,
    "layered": layered.run,
    "clearing": clearing.run,
    "http": http.run,
    "survival": survival.run,
    "faults": measure.run,
}

APART = {
    "expiry": "Measured by `make bench ARGS=expiry`: what callers wait around the expiry of a value.",
    "redis": (
        "Measured by `make bench ARGS=redis`: side by side in one process, in rounds whose order rotates, on a Redis "
        "of this machine. Times are medians over the rounds of a whole round by its operations; ratios are taken "
        "within each round, and have their quartiles behind them. It measures and prints more than stands here: other "
        "sizes, loads and placements, other libraries, and what small values wait while large ones travel."
    ),
    "layered": (
        "Measured by `make bench ARGS=layered`, with a Redis of this machine: in rounds whose order rotates, so that "
        "what else runs there slows down all. Ratios are taken within each round, and have their quartiles behind them."
    ),
    "clearing": "Measured by `make bench ARGS=clearing`, with a Redis of this machine.",
    "http": (
        "Measured by `make bench ARGS=http`: in rounds whose order rotates, so that what else runs there slows down "
        "all. Times are medians over the rounds; ratios and differences are taken within each round, and have their "
        "quartiles behind them."
    ),
    "survival": (
        "Observed by `make bench ARGS=survival`: each scenario is done to each library in a process of its own, with a "
        "Redis of its own where it takes one."
    ),
    "faults": (
        "Measured by `make bench ARGS=faults`, with a Redis that is broken on purpose. What the scenarios of "
        "[tests/faults](tests/faults) assert of each fault is measured here."
    ),
}
"""Scenarios with a block of the README for themselves, which may be published alone; and what is said above it."""

CHARTED = 2
"""The chart shows the first tables only: the decorated calls, sync and async."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure beside other libraries.")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that everything works")
    parser.add_argument(
        "--traces",
        type=Path,
        default=Path(os.environ.get("TRACES", TRACES)),
        help="the folder with the traces for hit_ratio (also: the environment variable TRACES)",
    )
    parser.add_argument("--entries", type=int, metavar="N", help="how many clearing makes at most, for a smaller run")
    parser.add_argument("--write-readme", action="store_true", help=f"publish in README.md and {CHART}")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    smaller = chosen.quick or chosen.entries is not None
    if chosen.write_readme and (smaller or not APART.keys() >= set(chosen.scenarios)):
        parser.error(
            "--write-readme publishes a full run: leave out --quick and --entries, and the names but "
            f"{', '.join(APART)}"
        )
    options = Options(quick=chosen.quick, traces=chosen.traces, entries=chosen.entries)
    if is_busy():
        print("This machine is busy with other things: figures will be too high, those of slow contenders most.\n")
    tables: list[Table] = []
    apart: dict[str, list[Table]] = {}
    skipped: list[str] = []
    for name in chosen.scenarios or SCENARIOS:
        try:
            for table in SCENARIOS[name](options):
                print(table.as_text(), flush=True)
                (apart.setdefault(name, []) if name in APART else tables).append(table)
        except Skipped as reason:
            print(f"{name} is skipped: {reason}\n", flush=True)
            skipped.append(name)
    print(surroundings())
    if not chosen.write_readme:
        return 0
    if skipped:
        print(f"README.md is left as it is, because {', '.join(skipped)} was skipped", file=sys.stderr)
        return 1
    for name, own in apart.items():
        publish_apart(name, own, README)
    if tables:
        publish(tables, README, ROOT / CHART)
    return 0


def is_busy() -> bool:
    """Whether more wants to run here than there are processors, as far as the system tells."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)


def surroundings() -> str:
    """What the figures depend on, for whoever compares them with their own."""
    return f"{', '.join(versions())}; {platform.system()}, {platform.machine()}."


def figures(tables: Sequence[Table]) -> str:
    """Everything that stands in the README's block."""
    introduction = (
        "Measured by `make bench`: side by side in one process, in short rounds whose order rotates. Times are medians "
        "over the rounds with their quartiles, less an empty loop; ratios are taken within each round."
    )
    chart = f"![Time per cache hit, sync and async]({CHART.as_posix()})"
    return "\n\n".join([introduction, chart, *(table.as_markdown().strip() for table in tables), surroundings()])


def publish(tables: Sequence[Table], readme: Path, chart: Path) -> None:
    """Write the README's block and the chart."""
    readme.write_text(rewrite(readme.read_text(encoding="utf-8"), figures(tables)), encoding="utf-8")
    chart.parent.mkdir(parents=True, exist_ok=True)
    chart.write_text(draw(tables[:CHARTED]), encoding="utf-8")


def publish_apart(name: str, tables: Sequence[Table], readme: Path) -> None:
    """Write the README's block of one scenario: those of its tables that are to be published."""
    text = "\n\n".join(
        [APART[name], *(table.as_markdown().strip() for table in tables if table.published), surroundings()]
    )
    readme.write_text(rewrite(readme.read_text(encoding="utf-8"), text, name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
