"""What a store keeps: a value and its times, and the sign for "nothing here".

``None`` is a value like any other; ``MISSING`` is the only sign of absence inside the package, and no public
method returns it. An entry is retired expiry first, value second, and read value first, expiry second, so that
a reader on another thread never takes an emptied slot for a cached ``None``.
"""

from __future__ import annotations

import enum
from typing import Any, Final, Literal


class Missing(enum.Enum):
    """The type of :data:`MISSING`, for annotations."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing.MISSING
MissingType = Literal[Missing.MISSING]

NEVER: Final = float("inf")
"""The expiry of what never expires, on the monotonic clock."""

RETIRED: Final = float("-inf")
"""The expiry of an entry that was evicted, deleted or replaced."""


class Entry:
    """A value in local memory.

    ``expires`` is a time of ``time.monotonic()``: until then the value is served without another thought.
    ``visits`` is the eviction policy's small counter, raised by every hit.
    """

    __slots__ = ("expires", "key", "value", "visits")

    def __init__(self, key: str, value: Any, expires: float) -> None:
        self.key = key
        self.value = value
        self.expires = expires
        self.visits = 0

    def retire(self) -> None:
        """Take the entry out of service: expiry first, value second."""
        self.expires = RETIRED
        self.value = None
