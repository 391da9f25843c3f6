"""Access traces: sequences of keys, as recorded by others. They are not part of this repository.

Formats, after decompression (``lzma``, ``gzip``): ``web*`` and ``orm*`` are big-endian signed 32-bit integers, the
others one decimal number a line, with lines of ``*`` to skip.
"""

from __future__ import annotations

import array
import gzip
import lzma
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

MAX_ACCESSES = 500_000

_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}


def read_trace(path: Path, limit: int = MAX_ACCESSES) -> list[int]:
    """Return the first ``limit`` keys of a trace.

    Raises:
        ValueError: it is compressed in a way that is not known.
    """
    if path.suffix not in _DECOMPRESS:
        raise ValueError(f"{path.name} is not a trace: its name must end in {' or '.join(_DECOMPRESS)}")
    content = _DECOMPRESS[path.suffix](path.read_bytes())
    if path.name.startswith(("web", "orm")):
        numbers = array.array("i", content[: 4 * limit])
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers.tolist()
    lines = (line for line in content.splitlines() if not line.startswith(b"*"))
    return [int(line) for line in islice(lines, limit)]
