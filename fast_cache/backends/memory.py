"""Values in this process's own memory, as the objects they are.

Bounded, safe for threads and for the tasks of any number of event loops. A hit takes no lock: one lookup, one look at
the clock. Every change happens under one lock together with its mark on the flights, so a load that was fenced off
can't slip in. Which entries stay is the eviction policy's decision.
"""

from __future__ import annotations

import copy as copying
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any, Final
from weakref import WeakValueDictionary

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.eviction import S3FIFO, Cause
from fast_cache.backends.keyspace import check_key, check_namespace
from fast_cache.backends.memory_calls import MemoryCalls
from fast_cache.backends.steps import CallSteps
from fast_cache.backends.store import NO_SHELF, Address, Blind, CodecSource, Store, Terms
from fast_cache.durations import Duration, optional_seconds
from fast_cache.entry import (
    EXPIRED,
    MAX_VISITS,
    MISSING,
    NEVER,
    RETIRED,
    Age,
    AgedEntry,
    Entry,
    Hits,
    MissingType,
    Shelf,
    Tag,
    TaggedEntry,
)
from fast_cache.errors import ConfigurationError, EncodeError, InvalidTypeError
from fast_cache.freshness import Found, Life
from fast_cache.keys import GROUP, Slot, address_of, beginning, prefixes_of
from fast_cache.outcome import Raised
from fast_cache.ports import Port
from fast_cache.single_flight import Flight

DEFAULT_MAX_SIZE: Final = 100_000

Weigher = Callable[[Any], float]


class InMemoryBackend(CacheBackend):
    """A bounded cache in local memory.

    Args:
        namespace: names this cache in messages; every instance has memory of its own.
        max_size: how many entries are kept.
        copy: hand out and take in deep copies, so that a caller who changes a value changes only its own.
            Without it callers share the stored object, which is faster.
        max_weight: how much the weights of all entries may add up to, in the unit of ``weigher``.
        weigher: called with a value when it is stored; returns its weight, a number of 0 or more.

    Raises:
        ConfigurationError: ``max_size`` or ``max_weight`` that is not positive, one of ``max_weight`` and ``weigher``
            without the other, or a namespace that is empty or has control characters.
    """

    def __init__(
        self,
        namespace: str = "fastapi-cache",
        max_size: int = DEFAULT_MAX_SIZE,
        copy: bool = False,
        *,
        max_weight: float | None = None,
        weigher: Weigher | None = None,
    ) -> None:
        self.namespace = check_namespace(namespace)
        self.max_size = _checked_size(max_size)
        self.max_weight = _checked_weight(max_weight, weigher)
        self._store = MemoryStore(max_size, copying.deepcopy if copy else None, self.max_weight, weigher)
        self._calls = MemoryCalls(self, self._store)
        self._texts = self._store.lying
        self._hit = self._store.direct.hit
        self._miss = self._store.direct.miss

    def get(self, key: str, default: Any = None) -> Any:
        entry = self._texts.table.get(key) if type(key) is str else None
        if entry is not None and self._store.shares:
            value = entry.value  # before the expiry: an entry is retired in the opposite order
            if entry.expires > monotonic():
                if entry.visits < MAX_VISITS:
                    entry.visits += 1
                self._hit()
                return value
        return self._find(key, default)

    async def aget(self, key: str, default: Any = None) -> Any:
        entry = self._texts.table.get(key) if type(key) is str else None
        if entry is not None and self._store.shares:
            value = entry.value
            if entry.expires > monotonic():
                if entry.visits < MAX_VISITS:
                    entry.visits += 1
                self._hit()
                return value
        return self._find(key, default)

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        lifetime = optional_seconds(expire, option="expire")
        address = self._address(key)
        self._store.put(address, value, Life(lifetime))
        if address is not key:
            self._store.remove(key)

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        self.set(key, value, expire)

    def delete(self, key: str) -> bool:
        address = self._address(key)
        removed = self._store.remove(address)
        return self._store.remove(key) or removed if address is not key else removed

    async def adelete(self, key: str) -> bool:
        return self.delete(key)

    def clear(self) -> None:
        self._store.clear()

    async def aclear(self) -> None:
        self.clear()

    def has(self, key: str) -> bool:
        return self._look(key) is not MISSING

    async def ahas(self, key: str) -> bool:
        return self.has(key)

    def __len__(self) -> int:
        return self._store.size()

    def engine_store(self) -> Store:
        return self._store

    def engine_calls(self) -> CallSteps:
        return self._calls

    def _address(self, key: str) -> Address:
        return address_of(check_key(key))

    def _look(self, key: str) -> Any:
        address = self._address(key)
        value = self._store.look(address)
        if value is MISSING and address is not key:
            return self._store.look(key)  # it was set before the function that it is a key of was decorated
        return value

    def _find(self, key: str, default: Any) -> Any:
        value = self._look(key)
        if value is MISSING:
            self._miss()
            return default
        self._hit()
        return value


def glanced(entry: Entry | None) -> Any:
    """Its value, which is a hit of it; ``MISSING`` if there is none, or something to be decided about it."""
    if entry is None:
        return MISSING
    value = entry.value  # before the expiry: an entry is retired in the opposite order
    if entry.expires <= monotonic():
        return MISSING
    if entry.visits < MAX_VISITS:
        entry.visits += 1
    return value


class MemoryStore(Store):
    """The entries, their flights, and the lock that makes a change and its fence one act."""

    local = True
    slotted = True

    def __init__(
        self,
        max_size: int,
        duplicate: Callable[[Any], Any] | None = None,
        max_weight: float | None = None,
        weigher: Weigher | None = None,
    ) -> None:
        super().__init__("InMemoryBackend")
        self.label = "memory"
        self._lock = threading.RLock()
        self._changing = False
        self._deferred: list[Callable[[], Any]] = []
        self._dropped: list[Any] = []
        self.held = S3FIFO(max_size, max_weight=max_weight, on_evict=self._drop)
        self._duplicate = duplicate
        self._weigher = weigher
        self.shares = duplicate is None
        """Whether what is stored is handed out itself. Copies are not to be had at a glance: see :meth:`look`."""
        self.lying = self.held.new_shelf()
        """The entries with text keys that are no function's."""
        if self.shares:
            self.texts = self.lying
        self._shelves: WeakValueDictionary[str, Shelf] = WeakValueDictionary()
        self._shelves_of_texts: WeakValueDictionary[str, Shelf] = WeakValueDictionary()
        self._tags: WeakValueDictionary[Hashable, Tag] = WeakValueDictionary()

    def shelf(self, name: str | None) -> Shelf:
        # Without sharing a function finds nothing at a glance, and what it stores is looked up here.
        return self._shelf(name) if self.shares and name is not None else NO_SHELF

    def shelf_of_texts(self, prefix: str) -> Shelf:
        shelf = self._made(self._shelves_of_texts, prefix)
        return shelf if self.shares else Blind(shelf)

    def look(self, key: Address) -> Any:
        found = self.find(key)
        if found is MISSING or found.fresh_for <= 0 or type(found.value) is Raised:
            return MISSING
        return found.value

    def glance(self, key: Address) -> Any:
        if self._duplicate is not None:
            return MISSING
        shelf, name = self._place(key)
        return glanced(shelf.table.get(name))

    def has_tags(self, entry: Entry, tags: Sequence[Hashable]) -> bool:
        return isinstance(entry, TaggedEntry) and {tag.name for tag in entry.tags}.issuperset(tags)

    def find(
        self, key: Address, *, count: bool = False, tags: Sequence[Hashable] = (), copies: bool = False
    ) -> Found | MissingType:
        """What lies under ``key`` and has ``tags``, fresh or stale; with ``count`` that is a hit of the entry.

        Its tags, by the names that they have here, are told to those who ``copies`` it.
        """
        shelf, name = self._place(key)
        entry = shelf.table.get(name)
        if entry is None:
            return MISSING
        value = entry.value  # before the expiry: an entry is retired in the opposite order
        now = monotonic()
        if entry.is_over(now) or (tags and not self.has_tags(entry, tags)):
            return MISSING
        if entry.visits < MAX_VISITS:
            entry.visits += 1
        if self._duplicate is not None:
            try:
                value = self._duplicate(value)
            except Exception:
                return MISSING  # it could be copied when it was stored
        names = tuple(tag.name for tag in entry.tags) if copies and isinstance(entry, TaggedEntry) else ()
        if isinstance(entry, AgedEntry) and entry.age is not None:
            age = entry.age
            hits = age.hits.count() if count and age.hits is not None else 0
            fresh_for = age.fresh_until - now
            if entry.expires == EXPIRED:
                fresh_for = min(fresh_for, 0.0)
            return Found(value, fresh_for, age.lifetime, age.load, hits, names)
        return Found(value, entry.expires - now, tags=names)

    def put(
        self,
        key: Address,
        value: Any,
        life: Life,
        flight: Flight | None = None,
        tags: Sequence[Hashable] = (),
        groups: Sequence[str] = (),
    ) -> bool:
        """Store ``value``; as the result of ``flight`` only if it was not fenced off, else fencing off any other.

        It ends with its ``groups`` because of where it lies; they only tell whether its load was fenced off.

        Raises:
            EncodeError: the value can't be copied or weighed; what was stored under the key is gone.
        """
        try:
            weight = self._weigh(value)
            value = value if self._duplicate is None else self._copied(value)
        except EncodeError:
            if flight is None:
                self.remove(key)
            raise
        expires, age = _times(life)
        shelf, name = self._place(key)
        lifetime = NEVER if life.fresh is None else life.fresh

        def put() -> bool:
            if flight is None:
                self.flights.invalidate(key)
            elif flight.moved or not flight.lost.isdisjoint((*groups, *tags)):
                return False
            self.held.put(shelf, name, value, expires, weight, age, tuple(map(self._tag, tags)), lifetime)
            return True

        return self._change(put, meanwhile=True)

    def hold(
        self, key: Address, found: Found, kept: float, due: float, fill: Flight, ends_with: Sequence[Hashable]
    ) -> bool:
        """Keep a copy of what was ``found`` in another store, for ``kept`` seconds, unless ``fill`` was fenced off.

        It is a hit without another thought for ``due`` seconds. What can't be copied or weighed is not kept.
        """
        try:
            weight = self._weigh(found.value)
            value = found.value if self._duplicate is None else self._copied(found.value)
        except EncodeError:
            return False
        now = monotonic()
        age = None
        if due < kept:
            age = Age(now + found.fresh_for, now + kept, found.lifetime, found.load, None)
        shelf, name = self._place(key)

        def hold() -> bool:
            if fill.moved or not fill.lost.isdisjoint(found.tags):
                return False
            tags = tuple(map(self._tag, ends_with))
            self.held.put(shelf, name, value, now + min(due, kept), weight, age, tags, kept, found.version)
            return True

        return self._change(hold, meanwhile=False)

    def postpone(self, entry: Entry, due: float) -> None:
        """Let a copy be a hit without another thought for ``due`` seconds more, as far as it is kept."""
        if due <= 0 or not isinstance(entry, AgedEntry):
            return
        with self._lock:  # under which entries are retired: this one must not come back without its value
            if entry.age is not None and entry.expires not in (RETIRED, EXPIRED):
                entry.expires = min(monotonic() + due, entry.age.stale_until)

    def entry(self, key: Address) -> Entry | None:
        """What lies under ``key``, whatever it is."""
        shelf, name = self._place(key)
        return shelf.table.get(name)

    def fresh(self, key: Address) -> tuple[Entry, Any, float] | None:
        """What :meth:`look` would find: the entry, its value, not copied, and for how many seconds it is fresh."""
        shelf, name = self._place(key)
        entry = shelf.table.get(name)
        if entry is None:
            return None
        value = entry.value  # before the expiry: an entry is retired in the opposite order
        now = monotonic()
        over = entry.is_over(now) or entry.expires == EXPIRED
        age = entry.age if isinstance(entry, AgedEntry) else None
        left = (entry.expires if age is None else age.fresh_until) - now
        return None if over or left <= 0 or type(value) is Raised else (entry, value, left)

    def put_over(self, key: Address, old: Entry | None, value: Any, life: Life) -> bool:
        """Store ``value`` if what is fresh there still is ``old``, whose times and tags it keeps.

        Raises:
            EncodeError: the value can't be copied or weighed; nothing has changed.
        """
        weight = self._weigh(value)
        value = value if self._duplicate is None else self._copied(value)
        shelf, name = self._place(key)

        def put() -> bool:
            there = self.fresh(key)
            if (None if there is None else there[0]) is not old:
                return False
            self.flights.invalidate(key)
            if old is None:
                expires, age = _times(life)
                self.held.put(shelf, name, value, expires, weight, age, lifetime=life.fresh or NEVER)
            else:
                age = old.age if isinstance(old, AgedEntry) else None
                tags = old.tags if isinstance(old, TaggedEntry) else ()
                self.held.put(shelf, name, value, old.expires, weight, age, tags, old.lifetime)
            return True

        return self._change(put, meanwhile=True)

    def renew(self, key: Address, lifetime: float | None) -> bool:
        """Let what is fresh there live for ``lifetime`` from now; ``None``: for the one that it was stored with."""

        def renew() -> bool:
            there = self.fresh(key)
            if there is None:
                return False
            self.flights.invalidate(key)
            self.held.renew(there[0], there[0].lifetime if lifetime is None else lifetime)
            return True

        return self._change(renew, meanwhile=True)

    def addresses(self) -> list[Address]:
        """Where there are entries, at this moment."""
        found: list[Address] = list(self.lying.table)
        with self._lock:  # a shelf that is added meanwhile would end the iteration
            shelves, texts = list(self._shelves.items()), list(self._shelves_of_texts.values())
        for shelf in texts:
            found += list(shelf.table)
        for name, shelf in shelves:
            found += [Slot(name, key) for key in list(shelf.table)]
        return found

    def remove(self, key: Address) -> bool:
        shelf, name = self._place(key)

        def remove() -> bool:
            self.flights.invalidate(key)
            return self.held.remove(shelf, name)

        return self._change(remove, meanwhile=False)

    def remove_tagged(self, tags: Sequence[Hashable], *, soft: bool = False) -> None:
        """Let all entries end that have one of ``tags``, or be stale, however many, without a look at them."""

        def remove() -> bool:
            self.flights.lose(tags)
            for name in tags:
                tag = self._tags.pop(name, None)
                if tag is not None and soft:
                    self._tags[name] = tag.expire()
                elif tag is not None:
                    tag.end()
                if isinstance(name, str) and name.startswith(GROUP):
                    self._clear_shelves(beginning(name))
            return True

        self._change(remove, meanwhile=True)

    def _clear_shelves(self, begin: str) -> None:
        """Remove what lies on the shelves whose names begin so: those of a function, or of a namespace."""
        for name, shelf in [*self._shelves.items(), *self._shelves_of_texts.items()]:
            if name.startswith(begin):
                self.held.clear_shelf(shelf)

    def clear(self) -> None:
        def clear() -> bool:
            self.flights.invalidate_all()
            self.held.clear()
            return True

        self._change(clear, meanwhile=True)

    def after_fork(self) -> None:
        super().after_fork()
        interrupted, self._changing = self._changing, False
        self._lock = threading.RLock()
        if interrupted:  # by the fork, in a thread that the child does not have: its entries can't be relied on
            self.held.clear()

    def evictions(self) -> dict[str, int]:
        with self._lock:
            return {str(cause): count for cause, count in self.held.evictions.items()}

    def size(self) -> int:
        return len(self.held)

    def weight(self) -> float:
        return self.held.weight

    def copier(self, value: Any, codec: CodecSource) -> Callable[[], Any] | None:
        duplicate = self._duplicate
        if duplicate is None:
            return None
        try:
            snapshot = duplicate(value)  # now: the leader may change its own before a follower wakes
        except Exception:
            return None
        return lambda: duplicate(snapshot)

    async def read(self, port: Port, key: Address, terms: Terms) -> Found | MissingType:
        return self.find(key, count=terms.counts, tags=terms.tags, copies=terms.copies)

    async def capture(
        self, port: Port, key: Address, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object]:
        return MISSING if replace else self.find(key, tags=terms.tags), self  # the flight itself is the fence

    async def write(self, port: Port, flight: Flight, ticket: object, value: Any, life: Life, terms: Terms) -> bool:
        return self.put(flight.key, value, life, flight, terms.tags, terms.groups)

    async def hits(self, port: Port, key: Address) -> int:
        shelf, name = self._place(key)
        entry = shelf.table.get(name)
        counted = entry.age.hits if isinstance(entry, AgedEntry) and entry.age is not None else None
        return 0 if counted is None else counted.number

    async def delete(self, port: Port, key: Address) -> bool:
        return self.remove(key)

    async def delete_tagged(self, port: Port, tags: Sequence[str], *, soft: bool = False) -> None:
        self.remove_tagged(tags, soft=soft)

    def _change(self, change: Callable[[], bool], *, meanwhile: bool) -> bool:
        """Make a change alone, and let go of what it dropped when the lock is free again.

        What is dropped, and what the garbage collector finds in here, may run a ``__del__`` that changes the cache. It
        would meet the entries half changed: its own change waits until this one is done, and is told ``meanwhile``.
        """
        with self._lock:
            if self._changing:
                self._deferred.append(change)
                return meanwhile
            self._changing = True
            try:
                try:
                    result = change()
                finally:
                    while self._deferred:
                        self._deferred.pop(0)()
            finally:
                self._changing = False
                dropped, self._dropped = self._dropped, []
        del dropped
        return result

    def _drop(self, entry: Entry, cause: Cause) -> None:
        self._dropped.append(entry.value)

    def _tag(self, name: Hashable) -> Tag:
        """The tag of this name, as long as an entry has it or somebody holds it."""
        tag = self._tags.get(name)
        if tag is None:
            tag = self._tags[name] = Tag(name)
        return tag

    def _place(self, key: Address) -> tuple[Shelf, Hashable]:
        """The shelf of an address, and the key on it."""
        if type(key) is Slot:
            return self._shelf(key.shelf), key.key
        for prefix in prefixes_of(key) if self._shelves_of_texts else ():
            shelf = self._shelves_of_texts.get(prefix)
            if shelf is not None and (key in shelf.table or key not in self.lying.table):
                return shelf, key
        return self.lying, key  # no function's, or set by hand before that was decorated

    def _shelf(self, name: str) -> Shelf:
        return self._shelves.get(name) or self._made(self._shelves, name)

    def _made(self, shelves: WeakValueDictionary[str, Shelf], name: str) -> Shelf:
        """The shelf of this name, one for all."""
        with self._lock:
            shelf = shelves.get(name)
            if shelf is None:
                shelf = shelves[name] = self.held.new_shelf()
            return shelf

    def _copied(self, value: Any) -> Any:
        assert self._duplicate is not None
        try:
            return self._duplicate(value)
        except Exception as error:
            raise EncodeError(f"a {type(value).__name__} can't be copied ({type(error).__name__})") from None

    def _weigh(self, value: Any) -> float:
        if self._weigher is None or type(value) is Raised:
            return 1
        try:
            weight = self._weigher(value)
            if isinstance(weight, (bool, str, bytes, bytearray)):
                raise TypeError
            if type(weight) is not int:
                weight = float(weight)  # what derives from a number may compare and add as it likes
            weighs = 0 <= weight < NEVER
        except Exception as error:
            # Its message may quote the value.
            raise EncodeError(f"the weigher raised {type(error).__name__}; let it return a number") from None
        if not weighs:
            raise EncodeError("the weigher must return a finite number of 0 or more")
        return weight


def _times(life: Life) -> tuple[float, Age | None]:
    """When an entry is looked at again, and what is known of its age if that is not its end."""
    fresh = NEVER if life.fresh is None else life.fresh
    now = monotonic()
    if life.due is None:
        return now + fresh, None
    due = 0.0 if life.counted else life.due
    hits = Hits() if life.counted else None
    return now + due, Age(now + fresh, now + fresh + life.stale, fresh, life.load, hits)


def _checked_size(max_size: object) -> int:
    if not isinstance(max_size, int) or isinstance(max_size, bool):
        raise InvalidTypeError(f"max_size must be a whole number of entries, not {type(max_size).__name__}")
    if not 1 <= max_size <= sys.maxsize:
        raise ConfigurationError(
            "max_size must be at least 1 and no more than sys.maxsize: the cache is always bounded"
        )
    return max_size


def _checked_weight(max_weight: object, weigher: object) -> float | None:
    if (max_weight is None) != (weigher is None):
        raise ConfigurationError("max_weight and weigher belong together: one says how much, the other how it is told")
    if max_weight is None:
        return None
    if not isinstance(max_weight, (int, float)) or isinstance(max_weight, bool):
        raise InvalidTypeError(f"max_weight must be a number, not {type(max_weight).__name__}")
    if not 0 < max_weight <= sys.float_info.max:
        raise ConfigurationError("max_weight must be positive and finite")
    if not callable(weigher):
        raise InvalidTypeError(f"weigher must be a function of the value, not {type(weigher).__name__}")
    return max_weight
