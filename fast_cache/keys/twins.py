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
from types import FunctionType
from typing import Any, Final
from weakref import WeakKeyDictionary

from fast_cache.keys.scalars import IMMUTABLE

_PROCESS: Final = secrets.token_hex(8)
_DEPTH: Final = 8
_numbers = itertools.count(2)


class Twins:
    """The living functions of one cache that hold something which is in no key, by their prefixes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._living: dict[str, WeakKeyDictionary[Callable[..., Any], str]] = {}

    def suffix(self, prefix: str, fn: Callable[..., Any]) -> str:
        """Return what tells ``fn`` from the functions whose keys begin with ``prefix``; ``""`` for the first.

        Functions that close over the very same objects are one function.
        """
        with self._lock:
            twins = self._living.setdefault(prefix, WeakKeyDictionary())
            for twin, suffix in list(twins.items()):
                if _closes_over_the_same(fn, twin):
                    twins[fn] = suffix
                    return suffix
            twins[fn] = f"{_PROCESS}.{next(_numbers)}" if twins else ""
            return twins[fn]


def _closes_over_the_same(fn: Any, other: Any, depth: int = 0) -> bool:
    return all(
        mine is theirs or _is_the_same(_held(mine), _held(theirs), depth)
        for mine, theirs in zip(fn.__closure__ or (), other.__closure__ or (), strict=False)
    )


def _is_the_same(held: object, other: object, depth: int) -> bool:
    if isinstance(held, FunctionType) and isinstance(other, FunctionType) and held.__code__ is other.__code__:
        # Deeper than this, and where functions close over each other, nothing is said against them.
        return depth == _DEPTH or _closes_over_the_same(held, other, depth + 1)
    return held is other or (type(held) is type(other) and type(held) in IMMUTABLE and held == other)


def _held(cell: Any) -> object:
    try:
        held: object = cell.cell_contents
    except ValueError:  # not assigned yet
        return cell
    return held
