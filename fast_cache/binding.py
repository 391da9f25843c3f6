"""What the decorated functions of one cache share and ``init_app`` changes: the store, the default lifetime, the rule
that says which requests may be answered from the cache.

Decorators run when modules are imported, long before there is an app; they hold the binding, and find in it whatever
stands there at the call. What functions counted belongs to the store that they were bound to at the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from starlette.requests import HTTPConnection

from fast_cache.backends.null import NullStore
from fast_cache.backends.store import Store
from fast_cache.entry import Shelf
from fast_cache.stats import Ledger

if TYPE_CHECKING:
    from fast_cache.decorator import Operations

Admission = Callable[[HTTPConnection, "Operations"], bool]


class Binding:
    """Where decorated functions find their cache."""

    __slots__ = ("_functions", "_ledger", "_lock", "admits", "default_expire", "store", "texts")

    store: Store
    texts: Shelf
    default_expire: float | None
    admits: Admission

    def __init__(self, admits: Admission) -> None:
        self.admits = admits
        self._lock = threading.Lock()
        self._functions: WeakSet[Operations] = WeakSet()
        self._ledger = Ledger()
        self.store = NullStore()
        self.texts = self.store.texts
        self.default_expire = None

    def bind(self, store: Store, default_expire: float | None) -> None:
        """Use ``store`` from the next call on."""
        with self._lock:
            self.store.leave(self._ledger)
            self._ledger = Ledger()
            store.join(self._ledger)
            for function in list(self._functions):
                self._ledger.enter(function, function.counted)
                function.shelf = store.shelf(function.shelf_name)
            self.default_expire = default_expire
            self.store = store
            self.texts = store.texts

    def register(self, function: Operations) -> Shelf:
        """Take in a function of this cache, and return its shelf."""
        with self._lock:
            self._functions.add(function)
            self._ledger.enter(function, function.counted)
            return self.store.shelf(function.shelf_name)
