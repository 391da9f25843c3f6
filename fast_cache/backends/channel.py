"""How local memory learns what other processes changed in the store behind it: what a channel says, and is asked.

A channel listens on a thread of its own, because no caller and no event loop has time for it. What it hears it tells
its listener at once; how long it has heard nothing, it tells as well: silence is not the same as no news.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

from fast_cache.ports import Port


class News(NamedTuple):
    """What was changed: values by their keys or by how these begin, tags by their digests, or everything there is."""

    keys: tuple[str, ...] = ()
    tags: tuple[bytes, ...] = ()
    prefixes: tuple[str, ...] = ()
    everything: bool = False


ALL_NEWS = News(everything=True)
NO_NEWS = News()


class Listener(Protocol):
    """Who has to know. Called by the thread of a channel, never by two at once."""

    def attached(self) -> None:
        """From here on nothing that is changed goes unheard; what was changed before may have."""

    def learn(self, news: News) -> None:
        """Something was changed."""

    def heard(self, at: float) -> None:
        """Whatever was changed before ``at`` (of ``time.monotonic()``) was told."""

    def lapsed(self) -> None:
        """Nothing was heard for as long as may be."""

    def lost(self) -> None:
        """From here on things may change unheard."""


class Channel(ABC):
    """News from other processes."""

    @abstractmethod
    def awake(self) -> None:
        """See to it that a thread listens."""

    @property
    @abstractmethod
    def tells(self) -> bool:
        """Whether others have to be told of changes, because some would not hear of them by themselves."""

    @property
    @abstractmethod
    def owes(self) -> bool:
        """Whether there is something that they could not be told yet."""

    @abstractmethod
    async def tell(self, port: Port, news: News) -> None:
        """Tell the others.

        Raises:
            BackendError: they could not be told; if that may change, they are told later that anything has changed.
        """

    @abstractmethod
    def close(self) -> None:
        """End the thread; :meth:`awake` begins another."""

    @abstractmethod
    def forked(self) -> None:
        """In a forked child: there is no thread."""
