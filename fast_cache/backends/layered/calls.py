"""The calls of two tiers: those of the far store, and copies of what they change are dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fast_cache.backends.channel import News
from fast_cache.backends.layered.store import LayeredStore
from fast_cache.backends.steps import CallSteps, Page
from fast_cache.ports import Port


class LayeredCalls(CallSteps):
    """``far`` before which ``store`` holds copies."""

    def __init__(self, store: LayeredStore, far: CallSteps) -> None:
        self._store = store
        self._far = far
        self.locks = far.locks

    async def get_many(self, port: Port, keys: Sequence[str], default: Any) -> tuple[Any, ...]:
        return await self._far.get_many(port, keys, default)

    async def set_many(self, port: Port, values: Mapping[str, Any], lifetime: float | None) -> None:
        await self._store.change(port, News(tuple(values)), self._far.set_many(port, values, lifetime), decided=True)

    async def delete_many(self, port: Port, keys: Sequence[str]) -> int:
        return await self._store.change(port, News(tuple(keys)), self._far.delete_many(port, keys))

    async def increment(self, port: Port, key: str, by: int, lifetime: float | None) -> int:
        return await self._store.change(port, News((key,)), self._far.increment(port, key, by, lifetime))

    async def add(self, port: Port, key: str, value: Any, lifetime: float | None) -> bool:
        return await self._store.change(port, News((key,)), self._far.add(port, key, value, lifetime))

    async def expire(self, port: Port, key: str, lifetime: float | None) -> bool:
        return await self._store.change(port, News((key,)), self._far.expire(port, key, lifetime))

    async def ttl(self, port: Port, key: str) -> float | None:
        return await self._far.ttl(port, key)

    async def ping(self, port: Port) -> bool:
        return await self._far.ping(port)

    def first(self, prefix: str) -> Any:
        return self._far.first(prefix)

    async def page(self, port: Port, prefix: str, at: Any) -> Page:
        return await self._far.page(port, prefix, at)

    async def delete_match(self, port: Port, prefix: str) -> int:
        return await self._store.change(port, News(prefixes=(prefix,)), self._far.delete_match(port, prefix))
