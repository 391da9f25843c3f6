"""The exact paths and queries that lead to a page: by them it is answered before routing.

Learned, not computed: an alias is what a request that was routed led to. So no trick with a path can name a page that
the router would not have led to; and no query with a name that the endpoint does not declare gets in, so that trackers'
parameters don't fill the table. Other spellings of one value do, such as ``q=1`` and ``q=01``.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Protocol
from urllib.parse import unquote_plus

from starlette.types import Scope

from fast_cache.http.page import Page
from fast_cache.http.sending import Headers

MOST_ALIASES: Final = 16384
"""How many paths with queries are remembered for an application, whatever their lengths."""


class Alias(Protocol):
    """What a path and a query lead to."""

    def answer(self, scope: Scope, exchanges: Any) -> tuple[Page, Headers, bool] | None:
        """The page, its headers, and whether 304 will do; ``None``: the request has to be routed."""


class Aliases:
    """Those of one application; the oldest go first."""

    __slots__ = ("_lock", "table")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # sync endpoints learn on threads
        self.table: dict[tuple[str, bytes], Alias] = {}

    def learn(self, path: str, query: bytes, alias: Alias) -> None:
        """From now on ``path`` with ``query`` leads there."""
        with self._lock:
            if len(self.table) >= MOST_ALIASES:
                del self.table[next(iter(self.table))]
            self.table[(path, query)] = alias

    def clear(self) -> None:
        """Where any path leads is to be learned anew."""
        with self._lock:
            self.table.clear()


def names_in(query: bytes) -> list[str]:
    """The names of the parameters in a query, as the framework reads them, repeated ones too."""
    parts = query.decode("latin-1").split("&")
    return [unquote_plus(part.partition("=")[0]) for part in parts if part]
