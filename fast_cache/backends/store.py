"""What the flow asks of a backend: the engine's side of a store, as users' code never sees it.

A step is a coroutine over a port, so that one implementation serves blocking and awaiting callers. Every step may
raise :class:`~fast_cache.errors.BackendError` and nothing else but :class:`~fast_cache.errors.EncodeError` from
``write``. A store owns the flights of its keys, because invalidating a key and fencing off its loads are one act.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar, Final, NamedTuple
from weakref import WeakMethod, WeakSet

from fast_cache.backends.channel import Channel
from fast_cache.entry import MISSING, NEVER, Entry, MissingType, Shelf
from fast_cache.errors import DecodeError, EncodeError
from fast_cache.freshness import Found, Life
from fast_cache.once import Health
from fast_cache.ports import Port
from fast_cache.serializers import Codec, decoded, encoded
from fast_cache.single_flight import Flight, Flights
from fast_cache.stats import FunctionStats, Ledger, Stats, Tally, total

NO_SHELF: Final = Shelf()
"""Where a store without local memory is looked into: always empty."""


class Blind(Shelf):
    """Looks empty, and keeps a shelf alive whose entries are not to be had at a glance."""

    __slots__ = ("behind",)

    def __init__(self, behind: Shelf) -> None:
        super().__init__()
        self.behind = behind


_RESTING: Final = 4096
"""How many sources are left in peace at once; beyond, the first is asked again before its time."""

Address = Any
"""What an entry is kept under: its text key, or in local memory the slot of a call with simple arguments."""

CodecSource = Callable[[Codec | None], Codec]
"""Asked for a codec only by stores that hold bytes: a return annotation need not be resolved for the others.

It is given the store's own, which is taken where a function has none of its own."""


class Terms(NamedTuple):
    """What a call wants of an entry: how it is decoded, what is to be known of it, and what it must have.

    Without a ``codec`` it is decoded by the one that wrote it. Only with ``soft`` does the caller ask how old it is;
    with ``counts`` how often it was found, and that is counted. What lacks one of ``tags`` is not there; nor is what
    has a tag that was invalidated. ``due`` tells for how long a reader has nothing to decide about what is fresh for so
    many seconds, of its lifetime, and took so many to compute; without it until it expires. Whoever ``copies`` what is
    found wants to know its tags and its version. Whoever only ``looks`` is no caller, and leaves nothing behind.
    ``groups`` are tags too, those that all entries of a function have.
    """

    codec: CodecSource | None
    soft: bool = False
    counts: bool = False
    tags: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    due: Callable[[float, float, float], float] | None = None
    copies: bool = False
    looks: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All with which the entry ends: its groups, and its tags."""
        return self.groups + self.tags

    def decoder(self, default: Codec | None = None) -> Codec | None:
        return None if self.codec is None else self.codec(default)

    def encoder(self, default: Codec | None = None) -> Codec:
        assert self.codec is not None, "whoever stores a value says how"
        return self.codec(default)


class Store(ABC):
    """One backend, as the flow uses it."""

    caches: ClassVar[bool] = True
    """False only for the store that stands in before ``init_app``: functions run as if undecorated."""

    local: ClassVar[bool] = False
    """Whether writing never suspends."""

    slotted: ClassVar[bool] = False
    """Whether entries lie in local memory, those of calls with simple arguments under their slots."""

    shared: ClassVar[bool] = False
    """Whether other processes change it and every write is checked against what they did."""

    tells_age: bool = False
    """Whether it can tell of any entry how long it has left, for the asking."""

    longest: float | None = None
    """For how many seconds an entry lives at most; ``None`` if nobody knows."""

    leases: bool = False
    """Whether it can let one process at a time load a key: whether it has :meth:`claim`, :meth:`released` and so on."""

    shares: bool = False
    """Whether what is stored is handed out itself, the same object to everybody."""

    serializer: Codec | None = None
    """The codec of all values whose functions have none of their own; without it their annotations say."""

    label: str
    """Where a value that it holds comes from, in a word."""

    @property
    def source(self) -> str:
        """The same, of what comes from where all values are."""
        return self.label

    texts: Shelf = NO_SHELF
    """The entries with text keys that are no function's, for a look without I/O; empty where a store has no local
    memory."""

    def __init__(self, name: str) -> None:
        self.flights = Flights()
        self.label = name
        self.health = Health(name)
        self.direct = FunctionStats()
        self._resting: OrderedDict[Address, float] = OrderedDict()
        self._ledgers: list[Ledger] = []
        self._past = Tally()
        self._onlookers: list[WeakMethod[Callable[[], None]]] = []
        self._veiling = threading.RLock()
        self.veils = 0
        """How many open transactions are going to change who knows what in here."""
        _stores.add(self)

    def after_fork(self) -> None:
        """In a forked child: let go of what threads of the parent were doing."""
        self.flights.forget()
        self._veiling = threading.RLock()
        self.veils = 0  # those who drew them are not here

    def shelf(self, name: str | None) -> Shelf:
        """The entries of one function by their slots, for a look without I/O; empty where it has no slots."""
        return NO_SHELF

    def shelf_of_texts(self, prefix: str) -> Shelf:
        """The entries of one function that have text keys, by what all its keys begin with."""
        return NO_SHELF

    def watch(self, look_again: Callable[[], None]) -> None:
        """Call ``look_again``, a method, whenever its object is to ask anew for :attr:`texts` and :meth:`shelf`."""
        self._onlookers = [*(known for known in self._onlookers if known() is not None), WeakMethod(look_again)]

    def show(self) -> None:
        """Let everybody look again."""
        for known in self._onlookers:
            look_again = known()
            if look_again is not None:
                look_again()

    def veil(self) -> None:
        """Let nobody in a transaction find anything at a glance."""
        with self._veiling:
            self.veils += 1
            first = self.veils == 1
        if first:
            self.show()

    def unveil(self) -> None:
        """Take that back; each who called :meth:`veil` does so once."""
        with self._veiling:
            self.veils = max(0, self.veils - 1)
            last = not self.veils
        if last:
            self.show()

    def look(self, key: Address) -> Any:
        """The value of ``key`` in local memory or ``MISSING``, without I/O."""
        return MISSING

    def glance(self, key: Address) -> Any:
        """The same, if there is nothing to be decided about it, such as whether it is due: that is a hit."""
        return MISSING

    def has_tags(self, entry: Entry, tags: Sequence[str]) -> bool:
        """Whether an entry of local memory has all of ``tags``."""
        return False

    def rests(self, key: Address) -> bool:
        """Whether the source of ``key`` failed a moment ago, and is to be left in peace."""
        return bool(self._resting) and self._resting.get(key, -NEVER) > monotonic()

    def rested(self, key: Address) -> None:
        """The source of ``key`` works."""
        if self._resting:
            self._resting.pop(key, None)

    def rest(self, key: Address, seconds: float) -> None:
        """Leave the source of ``key`` in peace for so many seconds."""
        self._resting.pop(key, None)
        self._resting[key] = monotonic() + seconds
        if len(self._resting) > _RESTING:
            with suppress(KeyError):  # another thread took the last one
                self._resting.popitem(last=False)

    def join(self, ledger: Ledger) -> None:
        """Functions are bound to this store, and what they count is counted here."""
        self._ledgers.append(ledger)

    def leave(self, ledger: Ledger) -> None:
        """They are no longer; what they counted until now stays."""
        if ledger in self._ledgers:
            self._ledgers.remove(ledger)
            self._past += ledger.tally()

    def stats(self) -> Stats:
        """What was asked of this store, by functions and directly, and what is in it."""
        tally = total([self._past, self.direct.tally(), *(ledger.tally() for ledger in self._ledgers)])
        return tally.stats(evictions=self.evictions(), size=self.size(), weight=self.weight(), queued=self.queued())

    def evictions(self) -> dict[str, int]:
        """How many entries of local memory are gone, by cause."""
        return {}

    def size(self) -> int:
        """How many entries are in local memory."""
        return 0

    def weight(self) -> float:
        """The sum of their weights."""
        return 0

    def queued(self) -> int:
        """How many invalidations are still to be delivered."""
        return 0

    def tells_along(self, channel: Channel) -> bool:
        """Let each change carry what ``channel`` tells of it; False if that takes an exchange of its own."""
        return False

    def copier(self, value: Any, codec: CodecSource) -> Callable[[], Any] | None:
        """What makes ``value`` anew for each follower of its load, so that none sees what another does to it.

        Whoever reads bytes gets an object of its own; those who share a load are to be no worse off.
        """
        try:
            maker = codec(self.serializer)
            data = encoded(maker, value)
        except EncodeError:
            return None

        def copy() -> Any:
            try:
                return decoded(maker, data)
            except DecodeError:  # a serializer of the user's that can't read what it wrote
                return value

        return copy

    async def stands(self, port: Port, key: Address, ticket: object, terms: Terms) -> bool:
        """Whether nothing has moved that ``ticket`` notes, nor any of the tags, which are those of :meth:`write`."""
        return True

    async def claim(
        self, port: Port, flight: Flight, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object, float | None]:
        """Capture, and take the lease of the key for ``flight``, or extend the one that it has.

        The third result is for how many seconds another process holds it; ``None`` if the flight has it.
        """
        raise NotImplementedError

    async def released(self, port: Port, key: Address, terms: Terms, *, within: float) -> Found | MissingType:
        """Wait until the lease of ``key`` is released, ``within`` seconds at most, or less; and look what is there."""
        raise NotImplementedError

    async def release(self, port: Port, flight: Flight) -> None:
        """Release the lease that ``flight`` has; :meth:`write` does that by itself."""
        raise NotImplementedError

    async def lease_left(self, port: Port, key: Address) -> float | None:
        """For how many seconds somebody has the lease of ``key``; ``None`` if nobody has it."""
        return None

    @abstractmethod
    async def read(self, port: Port, key: Address, terms: Terms) -> Found | MissingType:
        """Return what is stored under ``key``, stale or not."""

    @abstractmethod
    async def capture(
        self, port: Port, key: Address, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object]:
        """Look once more, and note the generations that ``key`` depends on, before its value is computed.

        Returns what is there or ``MISSING``, and a ticket for :meth:`write`; a ticket of ``None`` means that nothing
        can be stored. With ``replace`` the value does not matter, and loads of other processes are fenced off.
        The tags of ``terms`` are those that the value will have for certain.
        """

    @abstractmethod
    async def write(self, port: Port, flight: Flight, ticket: object, value: Any, life: Life, terms: Terms) -> bool:
        """Store ``value`` for its ``life``, unless something moved since the ticket was taken: then False.

        The tags of ``terms`` are all that it has, also those that were added while it was computed.
        """

    async def confirm(self, port: Port, key: Address, version: bytes, tags: Sequence[bytes]) -> float | None:
        """For how many seconds the value of this version is still fresh; ``None`` if it is another one, or not known.

        ``tags`` are those that it has.
        """
        return None

    async def hits(self, port: Port, key: Address) -> int:
        """How often what lies under ``key`` was found, where that is counted; looking does not count."""
        return 0

    @abstractmethod
    async def delete(self, port: Port, key: Address) -> bool:
        """Remove ``key`` and fence off its loads; True if a value was removed."""

    @abstractmethod
    async def delete_tagged(self, port: Port, tags: Sequence[str], *, soft: bool = False) -> None:
        """Let everything end that has one of ``tags``, and fence off the loads of what will have it.

        If it is ``soft``, it becomes stale instead.
        """


_stores: WeakSet[Store] = WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
