"""One walk through a value: how deep it is, what it is inside of, and how much it has seen.

Encoders of values with parts get the walk and hand it each part. It refuses cycles, nesting beyond ``MAX_DEPTH`` and
more than ``MAX_PARTS`` parts (an argument may share its parts so often that its encoding would not fit in memory),
and turns whatever a user's class raises into a refusal, which learns its path on the way out, at no cost to success.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fast_cache.keys.scalars import LEAVES

MAX_DEPTH: Final = 100
MAX_PARTS: Final = 1_000_000

Encoder = Callable[[Any, "Walk"], str]


class RefusalError(Exception):
    """A value that can't be encoded; :func:`fast_cache.keys.encode` makes an ``UnkeyableError`` of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._segments: list[str] = []

    def within(self, segment: str) -> None:
        """Say where the refused part stands in the value that holds it."""
        self._segments.append(segment)

    @property
    def path(self) -> str:
        return "".join(reversed(self._segments))


class Walk:
    """One encoding in progress; ``find`` gives the encoder for a value that is not a leaf."""

    __slots__ = ("_find", "_left", "_open")

    def __init__(self, find: Callable[[Any], Encoder]) -> None:
        self._find = find
        self._open: set[int] = set()
        self._left = MAX_PARTS

    def encode(self, value: object) -> str:
        """Return the encoding of one value."""
        leaf = LEAVES.get(type(value))
        if leaf is not None:
            return leaf(value)
        identity = id(value)
        if identity in self._open:
            raise RefusalError("it contains itself")
        if len(self._open) >= MAX_DEPTH:
            raise RefusalError(f"it is nested deeper than {MAX_DEPTH} levels")
        self._open.add(identity)
        try:
            return self._find(value)(value, self)
        except RefusalError:
            raise
        except RecursionError:
            raise RefusalError("it is nested too deeply for what is left of the stack") from None
        except Exception as error:  # the value's own code: a property, __cache_key__(), a time zone
            raise RefusalError(f"{type(error).__name__} was raised while it was being encoded") from error
        finally:
            self._open.discard(identity)

    def spend(self, parts: int) -> None:
        """Count the parts of a container before they are encoded."""
        self._left -= parts
        if self._left < 0:
            raise RefusalError(f"it has more than {MAX_PARTS:,} parts")

    def join(self, items: Any) -> str:
        """Return the encodings of the items, in their order, joined by commas."""
        self.spend(len(items))
        texts: list[str] = []
        try:
            for item in items:
                leaf = LEAVES.get(type(item))
                texts.append(self.encode(item) if leaf is None else leaf(item))
        except RefusalError as refusal:
            refusal.within(f"[{len(texts)}]")
            raise
        return ",".join(texts)

    def part(self, name: str, value: object) -> str:
        """Return the encoding of an attribute, named in the path."""
        try:
            return self.encode(value)
        except RefusalError as refusal:
            refusal.within(f".{name}")
            raise
