"""Two tiers as one store: copies in local memory of what lies in a store that processes share.

The far store has the say. What is loaded is written there, under its fences, and nowhere else; local memory holds
copies of what was found there, which end with what they are copies of, and are dropped when it changes. A copy is a
flight of local memory's own while it is fetched: registered before the far store is asked, and fenced off by whatever
is heard meanwhile, so that no answer that was on its way puts back what has been removed.

What others change is heard through a channel. As long as it is heard from, copies are served at a glance, as from local
memory alone. Else they are out of sight, and whoever asks for one has the far store confirm its version, which takes a
round trip but not the value; whatever was held when the channel is back may have changed unheard, and is dropped.

It is a thread that hides them, and a process that was stopped may serve before that thread has run. So a copy is at a
glance only up to the time at which it could not be believed if nothing more were heard: whoever comes then looks
whether something was, and the copy is at a glance for as long again.

While the far store is away, what is loaded is held here for as long as it may be stale.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, TypeVar, cast

from fast_cache.backends.channel import Channel, News
from fast_cache.backends.memory import MemoryStore
from fast_cache.backends.store import NO_SHELF, Address, Blind, CodecSource, Store, Terms
from fast_cache.entry import MISSING, NEVER, RETIRED, Entry, MeasuredEntry, MissingType, Shelf, TaggedEntry
from fast_cache.errors import BackendError
from fast_cache.freshness import Found, Life
from fast_cache.keys import Slot, address_of, text_of
from fast_cache.outcome import Raised
from fast_cache.ports import Port
from fast_cache.serializers import name_digest
from fast_cache.single_flight import Flight
from fast_cache.stats import Coherence, Count, Stats

T = TypeVar("T")

_HAND: Final = "by hand"
"""The shelf of what is read by its key alone: decoded by whoever wrote it, it may be of another type than what a
function takes from the same bytes."""

BY_HAND: Final = Terms(None)

_GROUPS: Final = 16_384
"""How many groups are known by their digests."""

_OWN: Final = b""
"""The version of what was loaded while the far store was away."""


class _Alone(NamedTuple):
    """The ticket of a load whose fence the far store could not be asked for: when, and what had been told by then."""

    began: float
    told: int


class LayeredStore(Store):
    """``near`` before ``far``.

    Args:
        staleness: for how many seconds a copy may be stale.
    """

    slotted = True
    shared = True

    def __init__(self, near: MemoryStore, far: Store, *, staleness: float) -> None:
        super().__init__(far.health.name)
        self.label = "layered"
        self.health = far.health
        self._near = near
        self._far = far
        self._staleness = staleness
        self.longest_held = NEVER
        """For how many seconds a copy is held at most."""
        self._channel: Channel | None = None
        self._along = False
        """Whether the far store tells others by itself of what is changed there."""
        self._hand = near.shelf(_HAND)
        self._sure = True
        self._trusted = NEVER
        """Until when copies may be believed, going by what has been heard."""
        self._attached = False
        self._alone = False
        self._groups: dict[bytes, str] = {}
        self._digests_of_groups: dict[str, bytes] = {}
        self._told = 0
        """How often something was heard of that copies may depend on. Counted by the thread of the channel only."""
        self._watch = _Watch()
        self.tells_age = far.tells_age
        self.leases = far.leases
        self.longest = far.longest
        self.shares = near.shares
        self.serializer = far.serializer
        self.texts = near.texts
        self.by_hand: Shelf = self._hand if near.shares else NO_SHELF
        """Copies of what was read by its key alone, for a look without I/O."""

    @property
    def source(self) -> str:
        return self._far.label

    def listen_to(self, channel: Channel) -> None:
        """Hear from ``channel`` what others change. Until it is attached, nothing here is believed."""
        self._channel = channel
        self._along = self._far.tells_along(channel)
        self._sure, self._trusted = False, RETIRED
        self._show()

    # What a channel tells.

    def attached(self) -> None:
        self._told += 1
        self._near.clear()
        self._watch.attached()
        self._attached = self._sure = True
        self._show()

    def learn(self, news: News) -> None:
        self._watch.news += 1
        self._told += 1
        self._drop(news)

    def heard(self, at: float) -> None:
        self._trusted = at + self._staleness
        self._watch.heard(at)
        if self._attached and not self._sure:
            self._sure = True
            self._show()

    def lapsed(self) -> None:
        if self._sure:
            self._sure = False
            self._watch.lapses += 1
            self._show()

    def lost(self) -> None:
        if self._attached:
            self._watch.losses += 1
        self._attached = self._sure = False
        self._show()

    # What wrappers look at.

    def shelf(self, name: str | None) -> Shelf:
        return self._near.shelf(name) if self._sure else NO_SHELF

    def shelf_of_texts(self, prefix: str) -> Shelf:
        shelf = self._near.shelf_of_texts(prefix)
        return shelf if self._sure else Blind(shelf)

    def look(self, key: Address) -> Any:
        return self._near.look(key) if self._believes() else MISSING

    def glance(self, key: Address) -> Any:
        return self._near.glance(key) if self._sure else MISSING

    def has_tags(self, entry: Entry, tags: Sequence[str]) -> bool:
        return self._near.has_tags(entry, _digests(tags))

    # What the flow asks.

    async def read(self, port: Port, key: Address, terms: Terms) -> Found | MissingType:
        text = text_of(key)
        if terms.counts:  # each time it is found counts, wherever
            return await self._asked(self._far.read(port, text, terms))
        found = await self._held(port, key, text, terms)
        if found is not MISSING:
            return found
        return await (
            self._asked(self._far.read(port, text, terms)) if terms.looks else self._fetched(port, key, text, terms)
        )

    async def read_by_hand(self, port: Port, key: str) -> Any:
        """The value of ``key`` for those who know nothing but that; ``MISSING`` if there is none that is fresh."""
        place = Slot(_HAND, key)
        found = await self._held(port, place, key, BY_HAND)
        if found is MISSING:
            found = await self._fetched(port, place, key, BY_HAND)
        return MISSING if found is MISSING or found.fresh_for <= 0 or type(found.value) is Raised else found.value

    async def capture(
        self, port: Port, key: Address, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object]:
        try:
            return await self._asked(self._far.capture(port, text_of(key), terms, replace=replace))
        except BackendError as error:
            self.health.failed("capture", error)
            return MISSING, _Alone(monotonic(), self._told)

    async def claim(
        self, port: Port, flight: Flight, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object, float | None]:
        try:
            return await self._asked(self._far.claim(port, flight, terms, replace=replace))
        except BackendError as error:
            self.health.failed("capture", error)
            return MISSING, _Alone(monotonic(), self._told), None

    async def write(self, port: Port, flight: Flight, ticket: object, value: Any, life: Life, terms: Terms) -> bool:
        if isinstance(ticket, _Alone):
            return self._keep(flight, ticket, value, life, terms)
        # What lies here is older than the value, also where that was refused.
        news = News((text_of(flight.key),))
        self._drop(news)
        stored, _ = await self._carried(port, news, self._far.write(port, flight, ticket, value, life, terms))
        return stored

    async def stands(self, port: Port, key: Address, ticket: object, terms: Terms) -> bool:
        return isinstance(ticket, _Alone) or await self._far.stands(port, text_of(key), ticket, terms)

    async def released(self, port: Port, key: Address, terms: Terms, *, within: float) -> Found | MissingType:
        return await self._far.released(port, text_of(key), terms, within=within)

    async def release(self, port: Port, flight: Flight) -> None:
        await self._far.release(port, flight)

    async def lease_left(self, port: Port, key: Address) -> float | None:
        return await self._far.lease_left(port, text_of(key))

    async def hits(self, port: Port, key: Address) -> int:
        return await self._far.hits(port, text_of(key))

    async def delete(self, port: Port, key: Address) -> bool:
        text = text_of(key)
        removed, told = await self.changed(port, News((text,)), self._far.delete(port, text))
        _expect_told(told)
        return removed

    async def delete_tagged(self, port: Port, tags: Sequence[str], *, soft: bool = False) -> None:
        self.flights.lose(tags)
        step = self._far.delete_tagged(port, tags, soft=soft)
        _, told = await self.changed(port, News(tags=_digests(tags)), step)
        _expect_told(told)

    async def change(self, port: Port, news: News, step: Coroutine[Any, Any, T], *, decided: bool = False) -> T:
        """Carry out ``step``, which changes what ``news`` says, in the far store.

        If it is cancelled, it goes on, or it has ``decided`` by itself what becomes of it when it ends.
        """
        result, _ = await self.changed(port, news, step, decided=decided)
        return result

    async def changed(
        self, port: Port, news: News, step: Coroutine[Any, Any, T], *, decided: bool = False
    ) -> tuple[T, bool]:
        """The same; and whether others have been told of it, as far as they have to be."""
        self.forget(news)
        return await self._carried(port, news, step, decided=decided)

    def forget(self, news: News) -> None:
        """Drop the copies of what changes, and fence off what is being fetched or loaded of it."""
        if news.everything:
            self.flights.invalidate_all()
        for key in news.keys:
            self.flights.invalidate(address_of(key))
        for prefix in news.prefixes:
            self.flights.invalidate_where(partial(_begins, prefix))
        if news.tags:
            self.flights.lose(news.tags)
        self._drop(news)

    def _drop(self, news: News) -> None:
        """Drop the copies of what has changed, and fence off those that are being fetched."""
        near = self._near
        if news.everything:
            near.clear()
        for key in news.keys:
            address = address_of(key)
            near.remove(address)
            if address is not key:
                near.remove(key)  # it was fetched before the function that it is a key of was decorated
            near.remove(Slot(_HAND, key))
        for prefix in news.prefixes:
            near.flights.invalidate_where(partial(_begins, prefix))
            for address in near.addresses():
                if _begins(prefix, address):
                    near.remove(address)
        if news.tags:
            groups = [self._groups[digest] for digest in news.tags if digest in self._groups]
            near.remove_tagged([*news.tags, *groups])

    def after_fork(self) -> None:
        super().after_fork()
        if self._channel is not None:
            self._channel.forked()
            self._attached = self._sure = False
            self._show(tell=False)  # whoever looks was forked too, and looks again by itself

    def close(self) -> None:
        """Listen no more, until something is asked again."""
        if self._channel is not None:
            self._channel.close()
            self.lost()

    def coherence(self) -> Coherence:
        """How local memory keeps up with the far store."""
        return self._watch.coherence(sure=self._sure, listens=self._channel is not None)

    def stats(self) -> Stats:
        return replace(super().stats(), coherence=self.coherence())

    def evictions(self) -> dict[str, int]:
        return self._near.evictions()

    def size(self) -> int:
        return self._near.size()

    def weight(self) -> float:
        return self._near.weight()

    def queued(self) -> int:
        owed = self._far.queued()
        # What could be carried out, and of which the others could not be told, is not delivered either.
        return owed or int(self._channel is not None and self._channel.owes)

    def copier(self, value: Any, codec: CodecSource) -> Callable[[], Any] | None:
        return self._near.copier(value, codec)

    async def _held(self, port: Port, key: Address, text: str, terms: Terms) -> Found | MissingType:
        """The copy under ``key``, if it can be believed."""
        near = self._near
        sure = self._believes()  # before the look: what was found before all changes are told again may be outdated
        if not sure and self._channel is not None:
            self._channel.awake()  # in a forked child all that is asked for may be held already
        entry = near.entry(key)
        found = MISSING if entry is None else near.find(key, tags=_digests(terms.tags), copies=terms.copies)
        if entry is None or found is MISSING:
            return MISSING
        version = entry.version if isinstance(entry, MeasuredEntry) else None
        found = found._replace(source=self._near.label)
        if sure or version == _OWN:
            if self._channel is not None:
                near.postpone(entry, self._unquestioned(found, terms))
            return found
        if version is None:
            return MISSING
        named = [cast(bytes, tag.name) for tag in entry.tags] if isinstance(entry, TaggedEntry) else []
        named += [digest for digest in self._learnt(terms) if digest not in named]
        left = await self._asked(self._far.confirm(port, text, version, named))
        if left is None:
            return MISSING
        self._watch.confirmed.up()
        return found._replace(fresh_for=min(found.fresh_for, left))

    async def _fetched(self, port: Port, key: Address, text: str, terms: Terms) -> Found | MissingType:
        """What lies in the far store, and a copy of it is held here."""
        if self._channel is not None:
            self._channel.awake()
        flights = self._near.flights
        fill = flights.lone(key)
        began = monotonic()
        try:
            asked = terms._replace(soft=terms.soft or self.tells_age, copies=True)
            found = await self._asked(self._far.read(port, text, asked))
            if found is not MISSING:
                left = found.fresh_for - (monotonic() - began)  # the answer may have been long on its way
                if left > 0:
                    copy = found._replace(fresh_for=left)
                    self._hold(key, copy, min(left, self.longest_held), terms, fill)
            return found
        finally:
            flights.abandon(fill)

    def _keep(self, flight: Flight, ticket: _Alone, value: Any, life: Life, terms: Terms) -> bool:
        """Hold what was loaded while the far store is away, and cannot be told: as long as it may be stale."""
        fresh = NEVER if life.fresh is None else life.fresh
        kept = min(fresh, self.longest_held, self._staleness - (monotonic() - ticket.began))
        if kept <= 0 or terms.counts:
            return False
        found = Found(value, fresh, fresh, life.load, 0, _digests(terms.names), _OWN)
        flights = self._near.flights
        fill = flights.lone(flight.key)
        try:
            # Loads are fenced off by this process; what others changed since this one began is known by the count.
            if flight.moved or not flight.lost.isdisjoint(found.tags) or ticket.told != self._told:
                return False
            self._alone = True
            return self._hold(flight.key, found, kept, terms, fill)
        finally:
            flights.abandon(fill)

    def _hold(self, key: Address, found: Found, kept: float, terms: Terms, fill: Flight) -> bool:
        """Hold a copy for ``kept`` seconds, unless ``fill`` was fenced off."""
        groups = self._learnt(terms)
        ends_with = found.tags
        if groups:  # it lies on a shelf of its function, which is cleared as a whole
            ends_with = tuple(digest for digest in found.tags if digest not in groups)
        return self._near.hold(key, found, kept, self._unquestioned(found, terms), fill, ends_with)

    def _believes(self) -> bool:
        """Whether all changes have been heard of, as far as is to be expected."""
        return self._sure and monotonic() < self._trusted

    def _unquestioned(self, found: Found, terms: Terms) -> float:
        """For how many seconds nobody has anything to decide about what was found, nor whether to believe it."""
        return max(0.0, min(_due(found, terms), self._trusted - monotonic()))

    def _learnt(self, terms: Terms) -> Sequence[bytes]:
        """The digests of groups; from now on it is known which ones they are of."""
        digests = []
        for group in terms.groups:
            digest = self._digests_of_groups.get(group)
            if digest is None:
                if len(self._groups) >= _GROUPS:  # functions are made all the time: whose copies these are is forgotten
                    self._groups.clear()
                    self._digests_of_groups.clear()
                    self._near.clear()
                digest = self._digests_of_groups[group] = name_digest(group)
                self._groups[digest] = group
            digests.append(digest)
        return digests

    async def _asked(self, step: Awaitable[T]) -> T:
        """What the far store answers. After an outage, what was loaded meanwhile is let go."""
        answer = await step
        if self._alone:
            self._alone = False
            self._near.clear()
        return answer

    async def _carried(
        self, port: Port, news: News, step: Coroutine[Any, Any, T], *, decided: bool = False
    ) -> tuple[T, bool]:
        """Carry out ``step`` in the far store, and drop what was copied from there before it was done.

        Second: whether others have been told of it, as far as they have to be, and the step does not say it itself.
        """
        channel = self._channel
        if channel is None or not channel.tells or not any(news):
            try:
                return await step, True
            finally:
                self._drop(news)
        if self._along:
            channel.awake()  # which finds out whether there is anybody to be told
            try:
                return await step, True
            finally:
                self._drop(news)

        async def carried_and_told() -> tuple[T, bool]:
            thrown_away = told = False
            try:
                result = await step
            except GeneratorExit:  # its loop has ended: nothing more may be awaited
                thrown_away = True
                raise
            finally:
                self._drop(news)
                if not thrown_away:
                    channel.awake()
                    told = await self._tell(port, channel, news)
            return result, told

        if decided:  # whoever is cancelled waits until it is: what they begin then must come later
            return await carried_and_told()
        return await port.finish(carried_and_told(), at_end=_nothing)

    async def _tell(self, port: Port, channel: Channel, news: News) -> bool:
        """Tell others what has changed; whether that worked."""
        try:
            await channel.tell(port, news)
        except BackendError as error:
            self.health.failed("tell", error)
            return False
        self.health.works("tell")
        return True

    def _show(self, *, tell: bool = True) -> None:
        """Let others see the copies at a glance, or not."""
        seen = self._sure
        self.texts = self._near.texts if seen else NO_SHELF
        self.by_hand = self._hand if seen and self._near.shares else NO_SHELF
        if tell:
            self.show()


class _Watch:
    """What is heard through a channel, and when. But for ``confirmed`` written by the thread of the channel only."""

    def __init__(self) -> None:
        self.news = self.lapses = self.losses = 0
        self.confirmed = Count()
        self._heard: float | None = None
        self._longest = 0.0

    def heard(self, at: float) -> None:
        if self._heard is not None:
            self._longest = max(self._longest, at - self._heard)
        self._heard = at

    def attached(self) -> None:
        self._heard = None

    def coherence(self, *, sure: bool, listens: bool) -> Coherence:
        heard = self._heard
        silence = None if heard is None else max(0.0, monotonic() - heard)
        longest = max(self._longest, silence or 0.0)
        return Coherence(sure, listens, silence, longest, self.news, self.lapses, self.losses, self.confirmed.value())


def _due(found: Found, terms: Terms) -> float:
    """For how many seconds nobody has anything to decide about what was found."""
    if type(found.value) is Raised:
        return 0.0  # so that nobody takes it for a value who only glances at it
    return NEVER if terms.due is None else terms.due(found.fresh_for, found.lifetime, found.load)


def _digests(tags: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(map(name_digest, tags)) if tags else ()


def _begins(prefix: str, address: Hashable) -> bool:
    """Whether the text key of an address begins so."""
    if type(address) is Slot and address.shelf == _HAND:
        return str(address.key).startswith(prefix)
    try:
        return text_of(address).startswith(prefix)
    except KeyError:  # its function is gone, and with it everybody who could name it
        return False


def _expect_told(told: bool) -> None:
    if not told:
        raise BackendError("other processes could not be told of a change")


def _nothing() -> None:
    """There is nothing to be done at the end."""
