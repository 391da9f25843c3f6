"""The engine's view of a backend that has the ten methods and nothing more.

Values are kept in it as enveloped bytes, so they come back typed and rubbish is a miss. The fence is the table of
flights of this process: such a backend can't compare and set, so a write is checked before and after, and undone if
an invalidation came in between; until it is undone the key looks absent. Across processes nothing is promised.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from fast_cache.backends.store import CodecSource, Store
from fast_cache.entry import MISSING
from fast_cache.errors import BackendError, DecodeError
from fast_cache.ports import Port
from fast_cache.serializers import decode_stored, encode_stored, unpack_stored
from fast_cache.single_flight import Flight

if TYPE_CHECKING:
    from fast_cache.backends.base import CacheBackend

_OVERLOOKED: Final = 1024
"""How many keys may be overlooked at once; one write that is being undone each."""


class TenMethodStore(Store):
    """A store over the ten methods of ``backend``."""

    def __init__(self, backend: CacheBackend) -> None:
        super().__init__(type(backend).__name__)
        self._backend = backend
        self._writing: dict[str, bytes] = {}
        self._overlooked: OrderedDict[str, None] = OrderedDict()

    async def read(self, port: Port, key: str, codec: CodecSource) -> Any:
        data = await self._do(port, "get", key)
        if not isinstance(data, (bytes, bytearray)):
            return MISSING  # None for absence; anything else was put there by somebody else
        try:
            return decode_stored(unpack_stored(key, bytes(data)), codec())
        except DecodeError:
            return MISSING

    async def capture(self, port: Port, key: str, codec: CodecSource, *, replace: bool) -> tuple[Any, object]:
        return MISSING if replace else await self.read(port, key, codec), self  # the flight itself is the fence

    async def write(
        self, port: Port, flight: Flight, ticket: object, value: Any, codec: CodecSource, expire: float | None
    ) -> bool:
        key = str(flight.key)
        data = encode_stored(key, value, codec(), expire)
        if self._writing.setdefault(key, data) is not data:
            return False  # an older write of this key has not ended: whichever came last would win by luck
        try:
            if flight.moved:
                return False
            if key in self._overlooked:
                await self._undo(port, key)  # an earlier attempt to undo failed
            await self._do(port, "set", key, data, expire)
        finally:
            del self._writing[key]
        if flight.moved:
            await self._undo(port, key)
            return False
        return True

    async def delete(self, port: Port, key: str) -> bool:
        return bool(await self._do(port, "delete", key))

    def changing(self, key: str, value: object = None) -> None:
        """A user's method is about to change ``key``."""
        writing = self._writing.get(key)
        if writing is not None and writing is value:
            return  # our own write, by a method that calls another of the ten
        self.flights.invalidate(key)
        if key in self._writing:
            self._overlook(key)

    def clearing(self) -> None:
        """A user's method is about to remove everything."""
        self.flights.invalidate_all()
        for key in list(self._writing):
            self._overlook(key)

    def overlooks(self, key: str) -> bool:
        """Whether a write of ``key`` that was fenced off has still to be undone."""
        return key in self._overlooked

    def _overlook(self, key: str) -> None:
        self._overlooked[key] = None
        if len(self._overlooked) > _OVERLOOKED:
            self._overlooked.popitem(last=False)

    async def _undo(self, port: Port, key: str) -> None:
        await self._do(port, "delete", key)
        self._overlooked.pop(key, None)

    async def _do(self, port: Port, name: str, *args: Any) -> Any:
        """Call one of the ten; whatever a user's backend raises is trouble of the store."""
        try:
            return await port.do(getattr(self._backend, name), getattr(self._backend, f"a{name}"), *args)
        except Exception as error:
            raise BackendError(f"{self.health.name}.{name} failed") from error
