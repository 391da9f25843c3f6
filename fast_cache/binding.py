"""What the decorated functions of one cache share and ``init_app`` changes: the store, the default lifetime, the rule
that says which requests may be answered from the cache.

Decorators run when modules are imported, long before there is an app; they hold the binding, and find in it whatever
stands there at the call. What functions counted belongs to the store that they were bound to at the time.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet, ref

from starlette.requests import HTTPConnection

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.null import NullStore
from fast_cache.backends.pending import Veil
from fast_cache.backends.store import NO_SHELF, Store
from fast_cache.background import Background
from fast_cache.entry import Shelf
from fast_cache.http.options import HTTPOptions
from fast_cache.stats import Ledger
from fast_cache.watching import Watching

if TYPE_CHECKING:
    from fast_cache.decorator import Operations
    from fast_cache.pages import RoutePages

Admission = Callable[[HTTPConnection, "Operations"], bool]


class OwnerShelves:
    """The shelves of a method, one for each class that it is bound to, and ``None`` for a class without slots.

    They stand under the ``id`` of the class: a look at a weak dictionary costs a hit 130 ns, this one 65. The id of a
    class that is collected is removed before another can have it.
    """

    __slots__ = ("_classes", "table")

    def __init__(self) -> None:
        self.table: dict[int, Shelf | None] = {}
        self._classes: dict[int, ref[type]] = {}

    def learn(self, cls: type, shelf: Shelf | None) -> None:
        """Find the calls of ``cls`` on ``shelf`` from now on."""
        number, table, classes = id(cls), self.table, self._classes

        def forget(_: ref[type]) -> None:
            table.pop(number, None)
            classes.pop(number, None)

        classes[number] = ref(cls, forget)
        table[number] = shelf

    def clear(self) -> None:
        """Forget them all: they are those of another store."""
        self.table.clear()
        self._classes.clear()


class Binding:
    """Where decorated functions find their cache."""

    __slots__ = (
        "__weakref__",
        "_functions",
        "_ledger",
        "_lock",
        "_pages",
        "_veiled",
        "_watchers",
        "admits",
        "backend",
        "background",
        "default_expire",
        "http",
        "store",
        "texts",
        "watching",
    )

    store: Store
    texts: Shelf
    default_expire: float | None
    admits: Admission
    backend: CacheBackend | None
    """What ``store`` is the engine's view of."""

    def __init__(self, admits: Admission) -> None:
        self.admits = admits
        self.background = Background()
        self.watching = Watching()
        self._watchers: dict[object, int] = {}
        """The open contexts, with the thread that opened each."""
        self._lock = threading.RLock()  # garbage collected in here may run code of the user's that calls a method
        self._functions: WeakSet[Operations] = WeakSet()
        self._pages: WeakSet[RoutePages] = WeakSet()
        self.http = HTTPOptions()
        self._veiled: Counter[Operations] = Counter()
        """How many open transactions are going to change something of which functions."""
        self._ledger = Ledger()
        self.backend = None
        self.store = NullStore()
        self.texts = self.store.texts
        self.default_expire = None
        _bindings.add(self)

    def bind(self, store: Store, default_expire: float | None) -> None:
        """Use ``store`` from the next call on.

        Raises:
            ConfigurationError: a function asks for something that it can't do; nothing has changed.
        """
        with self._lock:
            for function in list(self._functions):
                function.policy.check(store)
            self.store.leave(self._ledger)
            self._ledger = Ledger()
            store.join(self._ledger)
            for function in list(self._functions):
                self._ledger.enter(function, function.counted)
            self.default_expire = default_expire
            self.store = store
            store.watch(self.look_again)
            self._show()

    def look_again(self) -> None:
        """The store shows something else to those who look at a glance."""
        with self._lock:
            self._show()

    def register(self, function: Operations) -> tuple[Shelf, Shelf]:
        """Take in a function of this cache, and return its shelves: by slots, and by text keys.

        Raises:
            ConfigurationError: it asks for something that the store can't do.
        """
        with self._lock:
            function.policy.check(self.store)
            self._functions.add(function)
            self._ledger.enter(function, function.counted)
            return self._shelves(function)

    def register_pages(self, pages: RoutePages) -> Shelf:
        """Take in the pages of a route, and return their shelf."""
        with self._lock:
            self._pages.add(pages)
            return self._shelf_of_pages(pages)

    def shelve(self, function: Operations, cls: type, name: str | None, store: Store) -> None:
        """Tell a method of the shelf that ``store`` has for a class; ``None``: its calls have no slots."""
        with self._lock:
            if self.store is store and not self._watchers:
                # In here: what the store shows may change, and then all are forgotten.
                shelf = None if name is None else store.shelf(name)
                function.shelves.learn(cls, None if shelf is None else self._seen(shelf, function))

    @property
    def functions(self) -> list[Operations]:
        """Those that there are now."""
        return list(self._functions)

    def veil(self, function: Operations) -> None:
        """Let nobody in a transaction find anything of this function at a glance."""
        with self._lock:
            self._veiled[function] += 1
            if self._veiled[function] == 1:
                self._show_one(function)
                self._show_texts()

    def unveil(self, function: Operations) -> None:
        """Take that back; each who called :meth:`veil` does so once."""
        with self._lock:
            self._veiled[function] -= 1
            if self._veiled[function] <= 0:  # below in a child that was forked meanwhile
                del self._veiled[function]
                self._show_one(function)
                self._show_texts()

    @contextmanager
    def watched(self) -> Iterator[Watching]:
        """Answer no call at a glance: each is looked into, as long as this lasts."""
        context = object()
        with self._lock:
            self._watchers[context] = threading.get_ident()
            if len(self._watchers) == 1:
                self._show()
        try:
            yield self.watching
        finally:
            with self._lock:
                self._watchers.pop(context, None)  # gone already in a child that was forked meanwhile
                if not self._watchers:
                    self._show()

    @property
    def is_watched(self) -> bool:
        return bool(self._watchers)

    def after_fork(self) -> None:
        """In a forked child: the threads of the parent are not here, nor are the contexts that they opened."""
        self._lock = threading.RLock()
        here = threading.get_ident()
        self._watchers = {context: thread for context, thread in self._watchers.items() if thread == here}
        self._veiled.clear()
        self._show()  # also if a thread was about to, and came half way

    def _show(self) -> None:
        """Let functions find their entries at a glance, or let them find nothing."""
        for function in list(self._functions):
            self._show_one(function)
        self._show_texts()

    def _show_one(self, function: Operations) -> None:
        function.shelf, function.texts = self._shelves(function)
        function.shelves.clear()
        for pages in list(self._pages):
            if pages.function is function:
                pages.shelf = self._shelf_of_pages(pages)

    def _show_texts(self) -> None:
        texts = self.store.texts
        veiled = self._veiled or self.store.veils
        self.texts = NO_SHELF if self._watchers else Veil(texts) if veiled and texts is not NO_SHELF else texts

    def _shelves(self, function: Operations) -> tuple[Shelf, Shelf]:
        if self._watchers:
            return NO_SHELF, NO_SHELF
        slots = self.store.shelf(function.shelf_name)
        texts = self.store.shelf_of_texts(function.keys.prefix)
        return self._seen(slots, function), self._seen(texts, function)

    def _shelf_of_pages(self, pages: RoutePages) -> Shelf:
        return NO_SHELF if self._watchers else self._seen(self.store.shelf_of_texts(pages.prefix), pages.function)

    def _seen(self, shelf: Shelf, function: Operations) -> Shelf:
        """A shelf as it may be looked at."""
        veiled = shelf is not NO_SHELF and (self.store.veils or function in self._veiled)
        return Veil(shelf) if veiled else shelf


_bindings: WeakSet[Binding] = WeakSet()


def _after_fork() -> None:
    for binding in list(_bindings):
        binding.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows; stores, which are asked for shelves, have registered before
    os.register_at_fork(after_in_child=_after_fork)
