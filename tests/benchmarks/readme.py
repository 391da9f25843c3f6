"""The parts of the README that are measured: everything between two comments, and nothing else.

Writing the same figures twice changes nothing.
"""

from __future__ import annotations

import re

START = "<!-- benchmarks:start -->"
END = "<!-- benchmarks:end -->"


def rewrite(text: str, figures: str, block: str = "benchmarks") -> str:
    """Return ``text`` with ``figures`` in one of its blocks.

    Raises:
        ValueError: there is not exactly one block of that name.
    """
    start, end = START.replace("benchmarks", block), END.replace("benchmarks", block)
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    blocks = len(pattern.findall(text))
    if blocks != 1:
        raise ValueError(f"README.md needs one block between {start} and {end}; it has {blocks}")
    return pattern.sub(lambda _: f"{start}\n\n{figures.strip()}\n\n{end}", text)
