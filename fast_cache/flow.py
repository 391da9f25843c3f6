"""What happens when local memory has no answer: the one copy of the procedure, for every kind of caller.

Board the flight of the key; as its leader look in the store, capture the fence (and the lease, where one process is to
load for all), call the function, and store the result only if nothing it depends on was invalidated meanwhile; as a
follower wait. Written over a port and a store, it knows neither event loops nor threads nor drivers. Trouble in the
store never reaches the caller: the function runs, and the trouble is counted and logged once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.pending import Change, Pending, Scope, Veiled, current
from fast_cache.backends.store import Address, Store, Terms
from fast_cache.background import Background
from fast_cache.claim import capture, is_newer, release
from fast_cache.entry import MISSING, NEVER, MissingType
from fast_cache.errors import BackendError, EncodeError, LoadTimeout, NotSupportedError
from fast_cache.freshness import Found, Freshness, Verdict
from fast_cache.keys import beginning, group_of_namespace, text_of
from fast_cache.once import warn_once
from fast_cache.outcome import Absent, Outcome, Raised
from fast_cache.policy import CachePolicy, Keeping
from fast_cache.ports import Port
from fast_cache.single_flight import Flight, Signal, apart, leading
from fast_cache.stats import FunctionStats
from fast_cache.watching import Detection

_OVERDUE = 5
"""After how many times its ``hard_timeout`` a load is taken to hang."""

_ELSEWHERE = 0.2
"""For how many seconds a process leaves the refreshing to the one that it found at it."""

_LAPS = 3
"""How often a follower whose flight was overtaken asks again before it loads by itself, without storing."""


class Call:
    """One call to be answered: its key, the function with its arguments, and the function's policy.

    ``detaches`` is asked whether the function may run behind its caller's back with these arguments.
    """

    __slots__ = (
        "_detaches",
        "args",
        "background",
        "expire",
        "fn",
        "key",
        "kwargs",
        "logs",
        "pending",
        "policy",
        "stats",
        "stored",
        "terms",
    )

    def __init__(
        self,
        key: Address,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        policy: CachePolicy,
        expire: float | None,
        stats: FunctionStats,
        background: Background,
        detaches: Callable[[tuple[Any, ...], dict[str, Any]], bool],
        tags: tuple[str, ...] = (),
    ) -> None:
        self.key = key
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.policy = policy
        self.expire = expire
        self.stats = stats
        self.background = background
        self._detaches = detaches
        self.terms = policy.terms(tags)
        self.logs: tuple[list[Detection], ...] = ()
        self.stored = False
        """Whether what was loaded for it is in the store."""
        self.pending = current()
        """The open transaction that the caller is in."""

    @property
    def detachable(self) -> bool:
        """Whether nothing among the arguments ends with the request of the caller, such as a database session."""
        return self._detaches(self.args, self.kwargs)

    def answered(self, source: str, found: Found | None = None) -> None:
        """Tell those who want to know how the call is answered."""
        if self.logs:
            left = None if found is None or found.fresh_for == NEVER else found.fresh_for
            detection = Detection(text_of(self.key), source, left)
            for log in self.logs:
                log.append(detection)

    def loaded(self, outcome: Outcome) -> Outcome:
        """Count a run of the function."""
        self.stats.loaded(outcome.seconds, failed=outcome.error is not None)
        return outcome


async def answer(port: Port, store: Store, call: Call) -> Outcome:
    """Answer ``call`` from the store, from a load that is under way, or by calling the function.

    Every caller reads for itself. Sharing one read would hand a value that was read before an invalidation
    elsewhere to callers who came after it; loads can be shared, because the fence tells when that happened.
    """
    if call.pending is not None:
        return await _answer_inside(port, store, call, call.pending)
    freshness = call.policy.freshness
    counted = False
    patience = _Patience(port, freshness) if freshness.impatient else None
    for _ in range(_LAPS):
        found = await _read(port, store, call)
        spare: Found | None = None
        if found is not MISSING:
            verdict = Verdict.FRESH if type(found.value) is Raised else freshness.judge(found)
            if verdict is Verdict.STALE and not call.detachable:
                verdict = Verdict.SPARE
            if verdict is not Verdict.SPARE:
                if not counted:
                    call.stats.hit()
                if verdict is not Verdict.FRESH and call.detachable:
                    _refresh_behind(port, store, call, found)
                call.answered("stale" if verdict is Verdict.STALE else found.source or store.source, found)
                return _outcome(found)
            spare = found
            if freshness.spares(spare) and store.rests(call.key):
                return _stale(call, spare)
        if not counted:
            counted = True
            call.stats.miss()
        if call.policy.lock is False:
            flight, leads = store.flights.lone(call.key, port.gone()), True
        else:
            flight, leads = store.flights.board(call.key, port.gone())
        try:
            signal: Signal
            outcome: Outcome | None
            if leads and patience is None:  # the usual case, here for the sake of a memoised recursion: a frame less
                signal, outcome, source = (
                    Signal.LEAD,
                    await _lead(port, store, call, flight, spare),
                    _source(store, flight),
                )
            else:
                signal, outcome, source = await _follow(port, store, call, flight, leads, spare, patience)
        finally:
            del flight  # as in _lead
        if signal is Signal.LATE:
            return _too_late(store, call, spare)
        if outcome is not None:
            try:
                return _forgiven(store, call, outcome, spare, source)
            finally:
                del outcome  # as in _lead
        if signal is Signal.ALONE:
            break
    outcome = call.loaded(await port.call(call.fn, call.args, call.kwargs))
    try:
        return _forgiven(store, call, outcome, spare, "call")
    finally:
        del outcome


async def _follow(
    port: Port,
    store: Store,
    call: Call,
    flight: Flight,
    leads: bool,
    spare: Found | None,
    patience: _Patience | None,
) -> tuple[Signal, Outcome | None, str]:
    """Wait for the flight, or lead it: how it ended for this caller, with what, and whose run it was.

    Without an outcome the caller has to look again, or to load by itself. A leader whose patience has an end does not
    load by itself but waits for a job of its own making.
    """
    flights = store.flights
    started = False
    try:
        while True:
            if leads and patience is not None and port.can_wait() and call.detachable:
                flight.began = port.now()
                started = _start(port, store, call, flight, spare, urgent=True)
                leads = not started
            if leads:
                left = None if patience is None else patience.left(spare)
                within = call.policy.lock_timeout if left is None else min(call.policy.lock_timeout, left)
                return Signal.LEAD, await _lead(port, store, call, flight, spare, within=within), _source(store, flight)
            signal = await port.wait(flights, flight, None if patience is None else patience.left(spare))
            if started and flight.interrupted:
                # Its own job was cancelled, or its load cancels itself: no other job, which may end in the same way.
                if signal is not Signal.LEAD:
                    return Signal.ALONE, None, ""
                patience = None
            if signal is not Signal.LEAD:
                break
            leads, started = True, False
        if signal is Signal.LATE:
            _overdue(port, store, call, flight)
            return signal, None, ""
        if started and flight.outcome is not None:
            return signal, flight.outcome, _source(store, flight)  # its own, whatever it means for others
        if signal is Signal.SETTLED and flight.outcome is not None:
            return signal, flight.outcome.for_follower(), "coalesced"
        return signal, None, ""
    finally:
        del flight  # as in _lead


def _source(store: Store, flight: Flight) -> str:
    """Where the leader of ``flight`` had its value from: another process may have loaded it meanwhile."""
    return store.source if flight.found else "call"


async def _answer_inside(port: Port, store: Store, call: Call, pending: Pending) -> Outcome:
    """Answer in an open transaction: from the store what it is not going to change, and else by calling the function.

    What is loaded may be of rows that nobody else is ever going to see: it is not stored and not shared.
    """
    freshness = call.policy.freshness
    spare: Found | None = None
    if not pending.touches(store, text_of(call.key), call.terms.tags):
        found = await _read(port, store, call)
        if found is not MISSING and not pending.loses(store, found.tags):
            verdict = Verdict.FRESH if type(found.value) is Raised else freshness.judge(found)
            if verdict is Verdict.STALE and not call.detachable:
                verdict = Verdict.SPARE
            if verdict is not Verdict.SPARE:
                call.stats.hit()
                call.answered("stale" if verdict is Verdict.STALE else found.source or store.source, found)
                return _outcome(found)
            spare = found
    call.stats.miss()
    outcome = await _load_inside(port, call)
    try:
        if outcome.error is not None and spare is not None and freshness.forgives(outcome.error, spare):
            return _stale(call, spare)  # the source is not left in peace: what failed may be the transaction
        call.answered("call")
        return outcome
    finally:
        del outcome  # as in _lead


async def _load_inside(port: Port, call: Call) -> Outcome:
    with apart():
        return call.loaded(await port.call(call.fn, call.args, call.kwargs))


async def refresh(port: Port, store: Store, call: Call) -> Outcome:
    """Call the function whatever is stored, and store what it returns. Older loads in flight are fenced off.

    In an open transaction what is stored is removed at its end instead.
    """
    if call.pending is not None:
        outcome = await _load_inside(port, call)
        if outcome.error is None or type(outcome.error) is Absent:
            change = removal(store, call.key)
            if not call.pending.add([change]):
                await change.step(port)
        try:
            return outcome
        finally:
            del outcome  # as in _lead
    flight = store.flights.supersede(call.key, port.gone())
    outcome = await _lead(port, store, call, flight, replace=True)
    loaded = outcome.error is None or type(outcome.error) is Absent
    # There is something newer than what is stored, unless it was that which fenced this load off. Another load does so
    # too: until it has ended, and if it fails, the old value would contradict what is returned here.
    if loaded and not flight.stored and (not flight.moved or store.flights.loads(call.key)):
        await invalidate(port, store, call.key)
    try:
        return outcome
    finally:
        del outcome, flight  # as in _lead


async def invalidate(port: Port, store: Store, key: Address) -> bool:
    """Remove what is stored under ``key`` and fence off its loads; true if something was removed.

    What the store could not be told does not raise: it keeps the invalidation for later, or counts as failing.
    """
    try:
        removed = await store.delete(port, key)
    except BackendError as error:
        store.health.failed("delete", error)
        return False
    store.health.works("delete")
    return removed


def removal(store: Store, key: Address, veiled: Veiled | None = None) -> Change:
    """What :func:`invalidate` does, for a transaction to do when it ends."""
    return Change(store, None, partial(invalidate, store=store, key=key), veiled=veiled, address=key)


async def invalidate_tags(port: Port, store: Store, tags: Sequence[str], *, soft: bool = False) -> None:
    """Let everything end that has one of ``tags``, or become stale. Raises as little as :func:`invalidate` does."""
    try:
        await store.delete_tagged(port, tags, soft=soft)
    except BackendError as error:
        store.health.failed("delete", error)
    else:
        store.health.works("delete")


def removal_of_tags(store: Store, tags: tuple[str, ...], *, soft: bool = False, veiled: Veiled | None = None) -> Change:
    """What :func:`invalidate_tags` does, for a transaction to do when it ends."""
    return Change(store, Scope(tags=tags), partial(invalidate_tags, store=store, tags=tags, soft=soft), veiled=veiled)


def removal_of_groups(store: Store, groups: tuple[str, ...], veiled: Veiled | None = None) -> Change:
    """The same for everything of some functions."""
    scope = Scope(prefixes=tuple(map(beginning, groups)))
    return Change(store, scope, partial(invalidate_tags, store=store, tags=groups), veiled=veiled)


def removal_of_namespace(store: Store, namespace: str) -> Change:
    """The same for all functions with this namespace; raises what :func:`group_of_namespace` does."""
    return removal_of_groups(store, (group_of_namespace(namespace),))


def removal_of_match(store: Store, backend: CacheBackend, prefix: str, otherwise: Change) -> Change:
    """What removes the keys that begin with ``prefix``; ``otherwise`` is done where the backend can't list its keys."""

    async def step(port: Port) -> None:
        try:
            await port.do(backend.delete_match, backend.adelete_match, prefix)
        except NotSupportedError:
            await otherwise.step(port)
        except Exception as error:  # a backend of the user's may raise what it likes
            failure = BackendError(f"{store.health.name}.delete_match failed")
            failure.__cause__ = error
            store.health.failed("delete_match", failure)
        else:
            store.health.works("delete_match")

    return Change(store, Scope(prefixes=(prefix,)), step, veiled=otherwise.veiled)


async def _read(port: Port, store: Store, call: Call) -> Found | MissingType:
    freshness = call.policy.freshness
    try:
        # Whoever looks at what is answered also wants to know for how long it is good.
        terms = call.terms._replace(soft=True) if call.logs and store.tells_age else call.terms
        if call.pending is not None:
            terms = terms._replace(copies=True)  # its tags may be among those that are to be invalidated
        found = await store.read(port, call.key, terms)
    except BackendError as error:
        store.health.failed("read", error)
        return MISSING
    store.health.works("read")
    found = _its_own(call, found)
    # A policy without soft options has no use for what others keep beyond its time.
    return found if found is MISSING or found.fresh_for > 0 or freshness.soft else MISSING


async def _lead(
    port: Port,
    store: Store,
    call: Call,
    flight: Flight,
    seen: Found | None = None,
    *,
    replace: bool = False,
    within: float | None = None,
    yields: bool = False,
) -> Outcome:
    """Load, store and settle; what was stored by others since ``seen`` was read spares the load.

    ``within`` is for how long a process that loads already is waited for, by default as long as the policy says. One
    that ``yields`` does not wait and leaves what was ``seen`` to stand.
    """
    flights, policy = store.flights, call.policy
    # All of it, because a condition, a weigher or a value that is copied may ask for the same key.
    with leading(flight):
        try:
            ticket, free = None, True
            try:
                if policy.lock == "distributed":
                    within = 0.0 if yields else policy.lock_timeout if within is None else within
                    found, ticket, free = await capture(
                        port, store, flight, call.terms, seen, replace=replace, within=within
                    )
                else:
                    found, ticket = await store.capture(port, call.key, call.terms, replace=replace)
            except BackendError as error:
                store.health.failed("capture", error)
            else:
                store.health.works("capture")
                found = _its_own(call, found)
                if is_newer(found, seen):
                    flight.found = True
                    outcome = _outcome(found)  # stored by somebody else since this caller looked
                    _divide(store, call, flight, outcome)
                    flights.settle(flight, outcome, Signal.OVERTAKEN if store.shared else Signal.SETTLED)
                    return outcome
                if yields and not free and seen is not None:
                    store.rest(call.key, _ELSEWHERE)
                    flights.abandon(flight)
                    return Outcome(seen.value)
            outcome = call.loaded(await port.call(call.fn, call.args, call.kwargs))
            keeping = (
                policy.keeping(outcome.value) if outcome.error is None else policy.keeping_error(outcome.error, seen)
            )
        except BaseException:
            flight.interrupted = True
            flights.abandon(flight)
            raise
        if keeping is Keeping.ALONE:
            flights.settle(flight, outcome, Signal.ALONE)
        elif store.local:
            await _end(port, store, call, flight, ticket, outcome, keeping)
        else:
            # A leader that is cancelled from here on has its value: the write and the followers must not suffer.
            await port.finish(
                _end(port, store, call, flight, ticket, outcome, keeping),
                # If it never took its first step nothing was stored, and nothing is known of the fence.
                at_end=partial(flights.settle, flight, outcome, Signal.OVERTAKEN),
            )
    try:
        return outcome
    finally:
        # The traceback of an error refers to the function's frame, and that to the frames below it, this one too
        # (since Python 3.12): names for the error would make a cycle, which keeps the function's locals alive.
        del outcome, flight


async def _end(
    port: Port, store: Store, call: Call, flight: Flight, ticket: object, outcome: Outcome, keeping: Keeping
) -> None:
    """Store what was loaded, if it is to be kept and the fence stands, and tell the followers."""
    flights = store.flights
    signal = Signal.SETTLED
    try:
        if store.shared:
            flights.seal(flight)  # before it is written
            _divide(store, call, flight, outcome)
        stored = None
        if ticket is not None and keeping is Keeping.STORE:
            stored = await _write(port, store, call, flight, ticket, outcome)
            flight.stored = call.stored = bool(stored)
        if not stored and store.shared and flights.is_followed(flight):
            refused = stored is not None
            if refused or not await _stands(port, store, flight, ticket, _terms(call, flight)):
                signal = Signal.OVERTAKEN
        if keeping is Keeping.REMOVE and not flight.moved:
            await invalidate(port, store, flight.key)
        if not store.shared:
            _divide(store, call, flight, outcome)
        if flight.lease is not None:
            await release(port, store, flight)
    finally:
        flights.settle(flight, outcome, signal)


def _divide(store: Store, call: Call, flight: Flight, outcome: Outcome) -> None:
    """Let each of those who wait have an object of its own; who comes too late to be counted looks again."""
    if outcome.error is None and not (store.shares or call.policy.immutable):
        store.flights.seal(flight)
        if store.flights.is_followed(flight):
            outcome.copies = store.copier(outcome.value, call.policy.codec)


async def _write(port: Port, store: Store, call: Call, flight: Flight, ticket: object, outcome: Outcome) -> bool | None:
    """Whether the store took the value or refused it; ``None`` if that is not known."""
    life = call.policy.life(outcome, flight.mark, call.args, call.kwargs, call.expire)
    if life is None:
        return None
    try:
        value = outcome.value if outcome.error is None else Raised(outcome.error)
        stored = await store.write(port, flight, ticket, value, life, _terms(call, flight))
        if outcome.error is None:
            store.rested(call.key)
    except BackendError as error:
        store.health.failed("write", error)
        return None
    except EncodeError as error:
        warn_once(f"the result of {call.policy.name} is not stored: {error}", "encode", call.policy.name)
        return None
    store.health.works("write")
    return stored


def _terms(call: Call, flight: Flight) -> Terms:
    """Those of the call, with all tags of what was loaded."""
    late = tuple(flight.mark.tags)
    return call.terms._replace(tags=tuple(dict.fromkeys(call.terms.tags + late))) if late else call.terms


async def _stands(port: Port, store: Store, flight: Flight, ticket: object, terms: Terms) -> bool:
    """Whether the followers of a load that was not stored may have its value.

    They asked before any invalidation of this process that has moved the flight, but perhaps after one elsewhere: then
    they ask again. While the store can't be reached nobody can tell, and one load for all is what matters.
    """
    if ticket is None:
        return True
    try:
        return not flight.moved and await store.stands(port, flight.key, ticket, terms)
    except BackendError as error:
        store.health.failed("read", error)
        return True


class _Patience:
    """How much longer a caller cares to wait: less where it holds something to serve instead."""

    __slots__ = ("_began", "_freshness", "_port")

    def __init__(self, port: Port, freshness: Freshness) -> None:
        self._port = port
        self._freshness = freshness
        self._began = port.now()

    def left(self, spare: Found | None) -> float | None:
        most = self._freshness.patience(spare)
        return None if most is None else max(0.0, self._began + most - self._port.now())


def _its_own(call: Call, found: Found | MissingType) -> Found | MissingType:
    """What was found; a loader of many that remembers what there is not of a key does so for its like only."""
    if found is not MISSING and type(found.value) is Raised and not call.policy.knows(found.value.error):
        return MISSING
    return found


def _outcome(found: Found) -> Outcome:
    value = found.value
    return Outcome(error=value.anew()) if type(value) is Raised else Outcome(value)


def _start(
    port: Port,
    store: Store,
    call: Call,
    flight: Flight,
    seen: Found | None,
    *,
    urgent: bool = False,
) -> bool:
    """Load for ``flight`` in the background; however that ends, nobody waits for it in vain."""
    waiting = [flight]  # taken out, because the traceback of an error leads back to the job

    async def job() -> None:
        try:
            await _lead_alone(port.behind, store, call, waiting.pop(), seen, yields=not urgent)
        except BaseException as error:
            # Whoever waits for it will find that it was interrupted.
            if not urgent or isinstance(error, (Exception, GeneratorExit)):
                raise

    def at_end() -> None:
        # Once begun it sees to its flight by itself, which may be another's by now.
        if waiting:
            store.flights.abandon(waiting.pop())

    try:
        return port.start(call.background, job, f"fast_cache: {call.policy.name}", at_end, urgent=urgent)
    except BaseException:
        at_end()
        raise


def _refresh_behind(port: Port, store: Store, call: Call, seen: Found) -> None:
    """Load behind the caller's back, unless somebody does, or the last attempt failed a moment ago."""
    if store.rests(call.key):
        return
    flight, leads = store.flights.board(call.key, port.gone())
    if leads and not _start(port, store, call, flight, seen):
        store.flights.abandon(flight)


async def _lead_alone(
    port: Port, store: Store, call: Call, flight: Flight, seen: Found | None, *, yields: bool
) -> None:
    """A load that its caller does not wait for, or not to the end."""
    throttle = call.policy.freshness.throttle
    try:
        outcome = await _lead(port, store, call, flight, seen, yields=yields)
    except BaseException:
        if seen is not None:
            store.rest(call.key, throttle)
        raise
    if seen is None:
        if outcome.error is not None and not flight.heard and type(outcome.error) is not Absent:
            _warn(call, outcome.error, "when nobody waited for it any more")
    elif outcome.error is None:
        if not (flight.stored or flight.found or flight.moved):
            store.rest(call.key, throttle)  # what is not to be stored is no reason to ask again at every call
    elif type(outcome.error) is not Absent:
        # Whatever was raised: callers are served, and the source must not be asked again by each of them.
        _rest(store, call, outcome.error)
    del outcome, flight  # as in _lead


def _overdue(port: Port, store: Store, call: Call, flight: Flight) -> None:
    """Give up a load that hangs: the next caller begins anew, and should this one ever return, it is not stored."""
    hard = call.policy.freshness.hard_timeout
    if hard is not None and flight.began is not None and port.now() - flight.began >= _OVERDUE * hard:
        store.flights.supersede_if(flight)


def _forgiven(store: Store, call: Call, outcome: Outcome, spare: Found | None, source: str) -> Outcome:
    """The outcome of a load, or what is stale in place of its error."""
    error = outcome.error
    if error is None or spare is None or not call.policy.freshness.forgives(error, spare):
        call.answered(source)
        return outcome
    _rest(store, call, error)
    return _stale(call, spare)


def _stale(call: Call, spare: Found) -> Outcome:
    call.answered("stale", spare)
    return Outcome(spare.value)


def _too_late(store: Store, call: Call, spare: Found | None) -> Outcome:
    """The caller has waited for as long as its policy says: something stale, or an error."""
    freshness = call.policy.freshness
    if spare is not None and freshness.timeout is not None:
        return _stale(call, spare)
    error = LoadTimeout(f"{call.policy.name} did not return within {freshness.hard_timeout:g} s")
    return _forgiven(store, call, Outcome(error=error), spare, "call")


def _rest(store: Store, call: Call, error: Exception) -> None:
    """Leave a source that fails in peace for a while."""
    store.rest(call.key, call.policy.freshness.throttle)
    _warn(call, error, "and the stale result is served meanwhile")


def _warn(call: Call, error: Exception, what: str) -> None:
    """Say once what happened to an error that no caller is told of. Its message may quote values."""
    kind = type(error).__name__
    warn_once(f"{call.policy.name} raised {kind}, {what}", what, call.policy.name, kind)
