"""The part of the README that holds the figures: everything between two comments, and nothing else.

Writing the same figures twice changes nothing.
"""

from __future__ import annotations

import re

START = "<!-- benchmarks:start -->"
END = "<!-- benchmarks:end -->"

_BLOCK = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)


def rewrite(text: str, figures: str) -> str:
    """Return ``text`` with ``figures`` in its block.

    Raises:
        ValueError: there is not exactly one block.
    """
    blocks = len(_BLOCK.findall(text))
    if blocks != 1:
        raise ValueError(f"README.md needs one block between {START} and {END}; it has {blocks}")
    return _BLOCK.sub(lambda _: f"{START}\n\n{figures.strip()}\n\n{END}", text)
