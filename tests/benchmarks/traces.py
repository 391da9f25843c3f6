"""Access traces: sequences of keys, as recorded by others. They are not part of this repository.

Formats, after decompression (``lzma``, ``gzip``): ``web*`` and ``orm*`` are big-endian signed 32-bit integers, the
others one decimal number a line, with lines of ``*`` to skip.
"""

from __future__ import annotations

import array
import gzip
import lzma
import sys
from pathlib import Path

MAX_ACCESSES = 500_000

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}


def read_trace(path: Path, limit: int = MAX_ACCESSES) -> list[int]:
    """Return the first ``limit`` keys of a trace.

    Raises:
        ValueError: it is compressed in a way that is not known.
    """
    if path.suffix not in _OPENERS:
        raise ValueError(f"{path.name} is not a trace: its name must end in {' or '.join(_OPENERS)}")
    with _OPENERS[path.suffix](path) as file:
        if path.name.startswith(("web", "orm")):
            numbers = array.array("i", file.read(4 * limit))
            if sys.byteorder == "little":
                numbers.byteswap()
            return numbers.tolist()
        keys: list[int] = []
        for line in file:
            if not line.startswith(b"*"):
                keys.append(int(line))
                if len(keys) == limit:
                    break
        return keys
