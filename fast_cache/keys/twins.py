"""Functions that share a name and differ in what they close over: a factory was called more than once.

Their keys would be the same and their results are not. What a closure holds can't be encoded where it may change, so
the twins are told apart in this process: the first keeps the name, so that its entries are found by other processes and
after a restart, and every further one that lives beside it gets keys that no other process has.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

_PROCESS: Final = secrets.token_hex(8)
_lock = threading.Lock()
_living: dict[str, WeakSet[Callable[..., Any]]] = {}
_count = 0


def twin_suffix(prefix: str, fn: Callable[..., Any]) -> str:
    """Return what tells ``fn`` from the living functions whose keys begin with ``prefix``; ``""`` for the first."""
    global _count
    with _lock:
        twins = _living.setdefault(prefix, WeakSet())
        alone = not twins or fn in twins
        twins.add(fn)
        if alone:
            return ""
        _count += 1
        return f"{_PROCESS}.{_count}"
