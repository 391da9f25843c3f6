"""Contexts in which a task or a thread looks over the cache's shoulder, or does without it.

Hits take a path on which nothing can be asked. While any such context is open, wherever it is, the cache takes that
path away from everybody: calls are then answered with a few microseconds more, as misses would be, by code that looks
into the context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

ALL: Final = object()
"""Stands for every namespace."""


@dataclass(frozen=True, slots=True)
class Detection:
    """How one call was answered.

    Attributes:
        key: its text key.
        source: ``"memory"``, ``"redis"`` or the name of another backend where the value was found; ``"call"`` if the
            function ran, ``"coalesced"`` if it ran for somebody else who had asked for the same, ``"stale"`` if an
            expired value was served.
        expires_in: for how many seconds the value is still fresh, negative if it is stale; ``None`` if it never
            expires, or was not found but computed.
    """

    key: str
    source: str
    expires_in: float | None = None


class _Entry:
    """An open context, as the code that runs in it carries it about."""

    __slots__ = ("is_open", "log", "namespace")

    def __init__(self, namespace: object = None, log: list[Detection] | None = None) -> None:
        self.namespace = namespace
        self.log = log
        self.is_open = True


class Watching:
    """The open contexts of one cache, as the code running in them sees them.

    A context holds for the task or thread that opened it, and for what is started inside, until it is closed: a task
    that goes on after the end of the block goes on without it. What is closed in another place than it was opened in
    (a generator that serves as a dependency is finished on another thread) is closed all the same.
    """

    def __init__(self) -> None:
        self._entries: ContextVar[tuple[_Entry, ...]] = ContextVar("fast_cache_watching", default=())

    @contextmanager
    def disabled(self, namespace: object) -> Iterator[None]:
        """Do without the cache."""
        with self._open(_Entry(namespace=namespace)):
            yield

    @contextmanager
    def detecting(self) -> Iterator[list[Detection]]:
        """Collect how calls are answered."""
        log: list[Detection] = []
        with self._open(_Entry(log=log)):
            yield log

    def is_disabled(self, namespace: str | None) -> bool:
        """Whether the running code does without the cache for functions of this namespace."""
        return any(
            entry.is_open and (entry.namespace is ALL or (entry.namespace is not None and entry.namespace == namespace))
            for entry in self._entries.get()
        )

    def logs(self) -> tuple[list[Detection], ...]:
        """Where to say how a call of the running code is answered."""
        return tuple(log for entry in self._entries.get() if entry.is_open and (log := entry.log) is not None)

    @contextmanager
    def _open(self, entry: _Entry) -> Iterator[None]:
        self._entries.set((*self._entries.get(), entry))
        try:
            yield
        finally:
            entry.is_open = False
            entry.log = None  # tasks and timers that were started inside keep the entry for as long as they live
            # Not a token's reset: contexts may overlap, and the end may run elsewhere than the beginning.
            self._entries.set(tuple(other for other in self._entries.get() if other.is_open))
