"""What the source of cached values says: a version of each item, which only rises. Processes may share it."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Final

_ITEMS: Final = 32


class Truth:
    """Versions of items, in a file where other processes are to see them; one process changes each of them."""

    def __init__(self, path: Path | None = None, items: int = _ITEMS) -> None:
        if path is None:
            self._memory = mmap.mmap(-1, 8 * items)
        else:
            path.touch()
            with path.open("r+b") as file:
                file.truncate(8 * items)
                self._memory = mmap.mmap(file.fileno(), 8 * items)
        self._versions = memoryview(self._memory).cast("q")
        self._lock = threading.Lock()

    def version(self, item: int) -> int:
        """The latest version."""
        return self._versions[item]

    def advance(self, item: int) -> int:
        """Begin another version, and return it."""
        with self._lock:
            self._versions[item] += 1
            return self._versions[item]

    def note(self, item: int, version: int) -> None:
        """This is the latest version now."""
        self._versions[item] = version
