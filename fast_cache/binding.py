"""What the decorated functions of one cache share and ``init_app`` changes: the store, the default lifetime, the rule
that says which requests may be answered from the cache.

Decorators run when modules are imported, long before there is an app; they hold the binding, and find in it whatever
stands there at the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from fast_cache.backends.null import NullStore
from fast_cache.backends.store import Store
from fast_cache.entry import Entry

if TYPE_CHECKING:
    from fast_cache.decorator import Operations

Admission = Callable[[HTTPConnection, "Operations"], bool]


class Binding:
    """Where decorated functions find their cache."""

    __slots__ = ("admits", "default_expire", "store", "table")

    store: Store
    table: Mapping[str, Entry]
    default_expire: float | None
    admits: Admission

    def __init__(self, admits: Admission) -> None:
        self.admits = admits
        self.release()

    def bind(self, store: Store, default_expire: float | None) -> None:
        """Use ``store`` from the next call on."""
        self.default_expire = default_expire
        self.store = store
        self.table = store.table

    def release(self) -> None:
        """Back to no cache at all."""
        self.bind(NullStore(), None)
