"""What a typed codec asks of a library that reads JSON or MessagePack straight into classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class Engine(ABC):
    """One library, set up for one annotation. It need not be faithful: the typed codec compares."""

    mark: ClassVar[bytes]
    """One byte before each payload of this engine; ``T`` is taken by the tagged codec."""

    name: str
    """The library and whatever else its payloads depend on beside the annotation."""

    @abstractmethod
    def dump(self, value: Any) -> bytes:
        """Return ``value`` as bytes, or raise anything."""

    @abstractmethod
    def load(self, payload: bytes) -> Any:
        """Return a value of the annotated type, or raise anything."""
