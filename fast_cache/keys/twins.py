"""Functions that share a name and differ in what they close over: a factory was called more than once.

Their keys would be the same and their results are not. What a closure holds can't be encoded where it may change, so
the twins are told apart in this process: the first keeps the name, so that its entries are found by other processes and
after a restart, and every further one that lives beside it gets keys that no other process has.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

_PROCESS: Final = secrets.token_hex(8)
_lock = threading.Lock()
_living: dict[str, WeakKeyDictionary[Callable[..., Any], str]] = {}
_numbers = itertools.count(2)


def twin_suffix(prefix: str, fn: Callable[..., Any]) -> str:
    """Return what tells ``fn`` from the living functions whose keys begin with ``prefix``; ``""`` for the first.

    Functions that close over the very same objects are one function.
    """
    with _lock:
        twins = _living.setdefault(prefix, WeakKeyDictionary())
        for twin, suffix in list(twins.items()):
            if _closes_over_the_same(fn, twin):
                twins[fn] = suffix
                return suffix
        twins[fn] = f"{_PROCESS}.{next(_numbers)}" if twins else ""
        return twins[fn]


def _closes_over_the_same(fn: Any, other: Any) -> bool:
    return all(
        mine is theirs or _held(mine) is _held(theirs)
        for mine, theirs in zip(fn.__closure__ or (), other.__closure__ or (), strict=False)
    )


def _held(cell: Any) -> object:
    try:
        held: object = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    return held
