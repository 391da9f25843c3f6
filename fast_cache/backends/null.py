"""The store that stands in before ``init_app``: nothing is in it and nothing is kept.

It lets decorators bind late without asking "is there a cache?" on the way of every call.
"""

from __future__ import annotations

from typing import Any

from fast_cache.backends.store import Address, CodecSource, Store
from fast_cache.entry import MISSING
from fast_cache.ports import Port
from fast_cache.single_flight import Flight


class NullStore(Store):
    """Holds nothing; decorated functions run as if undecorated."""

    caches = False
    local = True

    def __init__(self) -> None:
        super().__init__("no cache")

    async def read(self, port: Port, key: Address, codec: CodecSource) -> Any:
        return MISSING

    async def capture(self, port: Port, key: Address, codec: CodecSource, *, replace: bool) -> tuple[Any, object]:
        return MISSING, None

    async def write(
        self, port: Port, flight: Flight, ticket: object, value: Any, codec: CodecSource, expire: float | None
    ) -> bool:
        return False

    async def delete(self, port: Port, key: Address) -> bool:
        return False
