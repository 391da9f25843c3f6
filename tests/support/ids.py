"""Names of parameters that are the same in every process: several run the tests, and compare them."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def shown(value: object) -> str:
    """How a value shows itself, without where it lies in memory."""
    return _ADDRESS.sub("", repr(value))
