"""What the decorated functions of one cache share and ``init_app`` changes: the store, the default lifetime, the rule
that says which requests may be answered from the cache.

Decorators run when modules are imported, long before there is an app; they hold the binding, and find in it whatever
stands there at the call. What functions counted belongs to the store that they were bound to at the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from starlette.requests import HTTPConnection

from fast_cache.backends.null import NullStore
from fast_cache.backends.store import Store
from fast_cache.entry import Shelf
from fast_cache.stats import Tally, total

if TYPE_CHECKING:
    from fast_cache.decorator import Operations

Admission = Callable[[HTTPConnection, "Operations"], bool]


class Binding:
    """Where decorated functions find their cache."""

    __slots__ = ("__weakref__", "_functions", "_lock", "admits", "default_expire", "store", "texts")

    store: Store
    texts: Shelf
    default_expire: float | None
    admits: Admission

    def __init__(self, admits: Admission) -> None:
        self.admits = admits
        self._lock = threading.Lock()
        self._functions: WeakKeyDictionary[Operations, Tally] = WeakKeyDictionary()
        self.store = NullStore()
        self.texts = self.store.texts
        self.default_expire = None

    def bind(self, store: Store, default_expire: float | None) -> None:
        """Use ``store`` from the next call on."""
        with self._lock:
            self.store.leave(self, self._since_bound())
            for function in list(self._functions):
                self._functions[function] = function.counted.tally()
                function.shelf = store.shelf(function.keys.prefix)
            self.default_expire = default_expire
            self.store = store
            self.texts = store.texts
            store.join(self)

    def register(self, function: Operations) -> Shelf:
        """Take in a function of this cache, and return its shelf."""
        with self._lock:
            self._functions[function] = Tally()
            return self.store.shelf(function.keys.prefix)

    def tally(self) -> Tally:
        """What the functions counted on the store they are bound to."""
        with self._lock:
            return self._since_bound()

    def _since_bound(self) -> Tally:
        return total(function.counted.tally() - before for function, before in self._functions.items())
