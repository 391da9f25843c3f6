"""What a scenario reports, and how it is written: as text for a terminal, as Markdown for the README.

A scenario yields tables as they become ready. Cells are text already; the first column is left-aligned, the others
are numbers, unless a table says that they are words. A table may carry bars, from which the chart is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.harness import Spread

OURS = "fast_cache"


class Skipped(Exception):
    """A scenario can't run here; the message says why and what it needs."""


@dataclass(frozen=True)
class Options:
    """What the command line decides.

    Args:
        quick: a short run.
        traces: the folder with the traces.
        entries: how many ``clearing`` makes at most.
    """

    quick: bool
    traces: Path
    entries: int | None = None


@dataclass(frozen=True)
class Table:
    """The figures of one scenario.

    Args:
        title: what was measured.
        columns: the headings.
        rows: one cell for each column.
        notes: sentences below the table.
        bars: microseconds by name, for the chart.
        words: the cells are words, and all columns left-aligned.
        published: it goes into the README; else it is printed only.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    bars: Sequence[tuple[str, float]] = ()
    words: bool = False
    published: bool = True

    def as_text(self) -> str:
        lines = [self.title, *_aligned([self.columns, *self.rows], words=self.words)]
        lines.insert(2, "-" * max(map(len, lines[1:])))
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)]) + "\n"

    def as_markdown(self) -> str:
        lines = [
            f"### {self.title}",
            "",
            _markdown_row(self.columns),
            _markdown_row([":--", *[":--" if self.words else "--:"] * (len(self.columns) - 1)]),
            *map(_markdown_row, self.rows),
        ]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def duration(nanoseconds: float) -> str:
    """A time of three digits or so, in the unit that suits it."""
    if nanoseconds < 1000:
        return f"{nanoseconds:.0f} ns"
    if nanoseconds >= 1_000_000:
        return f"{nanoseconds / 1_000_000:.1f} ms"
    microseconds = nanoseconds / 1000
    return f"{microseconds:.2f} µs" if microseconds < 10 else f"{microseconds:.1f} µs"


def durations(spread: Spread) -> str:
    """The quartiles of a time, without its median."""
    return f"{duration(spread.low)} to {duration(spread.high)}"


def difference(spread: Spread) -> str:
    """How much more time something takes, with the quartiles."""
    low, median, high = (
        f"{'-' if one < 0 else '+'}{duration(abs(one))}" for one in (spread.low, spread.median, spread.high)
    )
    return f"{median} ({low} to {high})"


def ratio(spread: Spread) -> str:
    """A ratio, with its quartiles."""
    return f"{factor(spread.median)} ({factor(spread.low)} to {factor(spread.high)})"


def factor(value: float) -> str:
    """A ratio to two digits that count."""
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _aligned(rows: Sequence[Sequence[str]], *, words: bool) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place and not words else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
