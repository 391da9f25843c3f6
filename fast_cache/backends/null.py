"""The store that stands in before ``init_app``: nothing is in it and nothing is kept.

It lets decorators bind late without asking "is there a cache?" on the way of every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fast_cache.backends.store import Address, Store, Terms
from fast_cache.entry import MISSING, MissingType
from fast_cache.freshness import Life
from fast_cache.ports import Port
from fast_cache.single_flight import Flight


class NullStore(Store):
    """Holds nothing; decorated functions run as if undecorated."""

    caches = False
    local = True

    def __init__(self) -> None:
        super().__init__("no cache")

    async def read(self, port: Port, key: Address, terms: Terms) -> MissingType:
        return MISSING

    async def capture(self, port: Port, key: Address, terms: Terms, *, replace: bool) -> tuple[MissingType, object]:
        return MISSING, None

    async def write(self, port: Port, flight: Flight, ticket: object, value: Any, life: Life, terms: Terms) -> bool:
        return False

    async def delete(self, port: Port, key: Address) -> bool:
        return False

    async def delete_tagged(self, port: Port, tags: Sequence[str], *, soft: bool = False) -> None:
        """There is nothing."""
