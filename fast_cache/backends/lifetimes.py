"""How long the values live that this process stored, for backends of ten methods, which can't tell.

It is known of what was stored here last, as far as nobody else changed the key at the same time. Of a key that another
process has stored since it may be wrong: nothing in ten methods tells. Bounded; what was forgotten is not known.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from fast_cache.durations import optional_seconds
from fast_cache.entry import NEVER
from fast_cache.errors import ConfigurationError

_REMEMBERED: Final = 65_536


class Term(NamedTuple):
    """The lifetime that a value was stored with, in seconds, and its end on the monotonic clock."""

    lifetime: float
    end: float


class Lifetimes:
    """The terms of one backend's keys."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # garbage collected in here may change the backend
        self._terms: OrderedDict[str, Term | object] = OrderedDict()

    def get(self, key: str) -> Term | None:
        """What is known of a key."""
        term = self._terms.get(key)
        return term if isinstance(term, Term) else None

    def setting(self, key: str) -> Callable[[object], None]:
        """``key`` is about to be stored. What is returned is called when it was, with how long it is to live."""
        began, mark = monotonic(), object()
        self._note(key, mark)

        def stored(expire: object) -> None:
            try:
                lifetime = optional_seconds(expire, option="expire")  # type: ignore[arg-type]  # or it raises
            except ConfigurationError:
                return
            term = Term(NEVER, NEVER) if lifetime is None else Term(lifetime, began + lifetime)
            with self._lock:
                there = self._terms.get(key)
                if there is mark:
                    self._note(key, term)
                elif not (isinstance(there, Term) and there.lifetime == term.lifetime):
                    # Two at once: nobody knows which came last. Of a method that calls another, both say the same.
                    self.forget(key)

        return stored

    def restore(self, key: str, lifetime: float) -> None:
        """What was just stored with what was left of another lifetime has that one."""
        with self._lock:
            term = self.get(key)
            if term is not None:
                self._note(key, term._replace(lifetime=lifetime))

    def forget(self, key: str) -> None:
        """It is not known any more."""
        with self._lock:
            self._terms.pop(key, None)

    def clear(self) -> None:
        """Nothing is known any more."""
        with self._lock:
            self._terms.clear()

    def forked(self) -> None:
        """In a forked child: a thread of the parent may hold the lock."""
        self._lock = threading.RLock()

    def _note(self, key: str, term: object) -> None:
        with self._lock:
            self._terms[key] = term
            self._terms.move_to_end(key)
            if len(self._terms) > _REMEMBERED:
                self._terms.popitem(last=False)
