"""A bar chart as SVG, by plain string building: one panel for each table that has bars.

The drawing brings its own background, with one set of colours for light and one for dark surroundings, so that it can
be read wherever it is shown. Each panel has a scale of its own, linear and from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tests.benchmarks.report import OURS, Table, duration

WIDTH = 760
MARGIN = 24
NAMES = 170
FIGURES = 80
BAR = 18
GAP = 8
TITLE = 30

_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 14px }
  .card { fill: #ffffff; stroke: #d1d9e0 }
  .peer { fill: #8c959f }
  .ours { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .card { fill: #0d1117; stroke: #3d444d }
    .peer { fill: #767e88 }
    .ours { fill: #4493f8 }
  }
"""


def draw(tables: Sequence[Table]) -> str:
    """Return an SVG document that shows the bars of all tables that have some."""
    panels = [table for table in tables if table.bars]
    body: list[str] = []
    top = MARGIN
    for table in panels:
        body += _panel(table, top)
        top += _height(table) + MARGIN
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{_spoken(panels)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{top - 1}" rx="8"/>',
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _height(table: Table) -> int:
    return TITLE + len(table.bars) * (BAR + GAP)


def _panel(table: Table, top: int) -> list[str]:
    longest = max(microseconds for _, microseconds in table.bars)
    room = WIDTH - 2 * MARGIN - NAMES - FIGURES
    left = MARGIN + NAMES
    lines = [f'<text class="title" x="{MARGIN}" y="{top + 14}">{escape(table.title)}</text>']
    for place, (name, microseconds) in enumerate(table.bars):
        y = top + TITLE + place * (BAR + GAP)
        width = max(1.0, room * microseconds / longest)
        kind = "ours" if name.startswith(OURS) else "peer"
        middle = y + BAR - 4
        lines += [
            f'<text x="{left - 10}" y="{middle}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{left}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
            f'<text x="{left + width + 8:.1f}" y="{middle}">{duration(1000 * microseconds)}</text>',
        ]
    return lines


def _spoken(tables: Sequence[Table]) -> str:
    """What a screen reader says."""
    return escape(
        " ".join(
            f"{table.title}: {', '.join(f'{name} {duration(1000 * value)}' for name, value in table.bars)}."
            for table in tables
        )
    )
