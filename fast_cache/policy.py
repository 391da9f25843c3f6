"""Every option of one cached function, validated once and immutable from then on.

What an option means is decided here; when it is asked for is decided by the flow. Nothing in this module does I/O.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from starlette.responses import Response

from fast_cache.errors import InvalidTypeError
from fast_cache.once import warn_once
from fast_cache.serializers import Codec, codec_for

_READ_ONCE = (Iterator, AsyncIterator, Generator, AsyncGenerator, Awaitable)


class Keeping(enum.Enum):
    """What may be done with a result."""

    STORE = "store"
    SHARE = "share"
    """Not stored, but given to those who waited for it."""
    ALONE = "alone"
    """Its caller's alone."""


@dataclass(frozen=True)
class CachePolicy:
    """How the results of one function are kept.

    ``name`` is the function's full name, for messages. ``expire`` is in seconds, ``None`` for the cache's default.
    ``annotation`` resolves the return annotation: at first use, because it may name what is defined further down.
    """

    name: str
    expire: float | None = None
    condition: Callable[[Any], Any] | None = None
    annotation: Callable[[], Any] = field(default=lambda: inspect.Signature.empty)
    shared: bool = False
    """The author's word that an endpoint answers everyone alike whom its guards let in."""
    author_keyed: bool = False
    """Whether the author makes the key, and so answers for what the endpoint's parameters carry."""

    @classmethod
    def of(
        cls,
        *,
        name: str,
        expire: float | None,
        condition: Callable[[Any], Any] | None,
        annotation: Callable[[], Any],
        shared: bool,
        author_keyed: bool,
    ) -> CachePolicy:
        """Validate the options as a user gives them.

        Raises:
            ConfigurationError: an option that can't work.
        """
        if condition is not None and (not callable(condition) or inspect.iscoroutinefunction(condition)):
            raise InvalidTypeError("condition must be a plain function of the result that returns whether to store it")
        return cls(
            name=name,
            expire=expire,
            condition=condition,
            annotation=annotation,
            shared=bool(shared),
            author_keyed=author_keyed,
        )

    @cached_property
    def _codec(self) -> Codec:
        return codec_for(self.annotation())

    def codec(self) -> Codec:
        """How results become bytes and come back; only stores that hold bytes ask for it."""
        return self._codec

    def keeping(self, value: Any) -> Keeping:
        """What may be done with a result."""
        refusal = _refusal(value)
        if refusal is not None:
            warn_once(f"{self.name} {refusal}", "refused", self.name, refusal)
            return Keeping.ALONE
        if self.condition is None:
            return Keeping.STORE
        try:
            return Keeping.STORE if self.condition(value) else Keeping.SHARE
        except Exception as error:
            # The caller has its result; a faulty condition must not take it away. Its message may quote the value.
            kind = type(error).__name__
            warn_once(f"the condition of {self.name} raised {kind}; the result is not stored", "condition", self.name)
            return Keeping.SHARE


def _refusal(value: Any) -> str | None:
    """Why a result belongs to its caller alone; ``None`` for one that any number of callers may have."""
    kind = type(value)
    if issubclass(kind, _READ_ONCE):
        return (
            f"returned a {kind.__name__}, which can be read only once: it is not cached; return a list or another "
            "value that can be read again"
        )
    if issubclass(kind, Response):
        return "returned a Response: it is not cached; return the data and let FastAPI serialise it"
    members = value if kind in (list, tuple, set, frozenset) else value.values() if kind is dict else (value,)
    if any(_is_attached(member) for member in members):
        return (
            "returned rows of an open database session, which change when it ends: they are not cached; return "
            "models or dicts made from them, or let the session go first"
        )
    return None


def _is_attached(value: Any) -> bool:
    """Whether ``value`` is an SQLAlchemy (or SQLModel) row whose session is open."""
    if not hasattr(type(value), "_sa_class_manager"):
        return False
    state = getattr(value, "_sa_instance_state", None)
    return getattr(state, "session_id", None) is not None
