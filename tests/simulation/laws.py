"""What must be true of every history. Each law is a function that yields what breaks it, in words.

1.  After an invalidation has completed, no call that begins later returns anything older, whatever is allowed to be
    stale. Of one that could not be delivered, only its own process knows; also of one whose server was lost soon after,
    until that process finds the next one. An invalidation of tags is one of every key
    whose function declares one of them, or whose loads add it; what was set by hand has none, and is served to no
    function that declares some.
2.  Nothing is served beyond its lifetime and the windows that the options of the caller allow.
3.  In one process a key is loaded by one at a time, and not again while what was loaded is fresh, unless something
    happened meanwhile that makes another load right.
4.  Everything comes to its end.
5.  What is returned was loaded or set for that key: nothing is invented, ``None`` least of all. What is raised was
    raised by a load, or says that the caller has waited long enough.
6.  Nothing is left behind.
7.  Of the processes that have the lease of a key one loads it at a time, as long as nothing takes the lease from it.
8.  With two tiers, a process that did not make the change itself may return older things until it has heard of it:
    until what the server told of it has arrived, or the process has begun to listen anew. While it does not hear, it
    asks. In any case this ends when the copies may no longer be stale. What it loaded by itself while the store was
    away it may return for as long, unless it begins to listen, hears of a change to it, or the store answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fast_cache.backends.layered.store import LayeredStore
from fast_cache.backends.ten_methods import TenMethodStore
from fast_cache.entry import MISSING
from fast_cache.errors import BackendError, LoadTimeout
from fast_cache.outcome import Absent
from fast_cache.serializers import name_digest
from tests.simulation.history import Kind, Load, Operation
from tests.simulation.plan import STALENESS, Backend
from tests.simulation.world import LEASE, LoadError, World

_ROUNDING: Final = 0.003
"""Seconds. Servers count in milliseconds, and envelopes round."""


def violations(world: World) -> list[str]:
    """Everything that is wrong with the history of ``world``."""
    found = [f"law 4: {who}" for who in world.hanging]
    found += leftovers(world)
    judge = _Judge(world)
    for operation in world.history.operations:
        if operation.ended is not None:
            found += judge.ending(operation)
    found += judge.loads()
    return found


def leftovers(world: World) -> Iterator[str]:
    """Law 6, and jobs that ended in an error."""
    for task in world.scheduler.tasks:
        if task.error is not None and not (task.name == "finish" and isinstance(task.error, BackendError)):
            yield f"law 5: {task.owner} {task.name} failed with {task.error!r}"
    if world.hanging:
        return
    for process in world.processes:
        if not process.alive:
            continue
        if len(process.store.flights):
            yield f"law 6: {process.name} has flights left: {list(process.store.flights._table)}"
        if isinstance(process.store, LayeredStore) and len(process.store._near.flights):
            yield f"law 6: {process.name} still fetches {list(process.store._near.flights._lone)}"
        if process.link is not None and process.link.busy():
            yield f"law 6: {process.name} still waits on {process.link.busy()} lanes"
        if process.keeper is not None and len(process.keeper):
            yield f"law 6: {process.name} holds {len(process.keeper)} leases and loads nothing"
        if isinstance(process.store, TenMethodStore) and process.store._writing:
            yield f"law 6: {process.name} still writes {list(process.store._writing)}"


class _Judge:
    def __init__(self, world: World) -> None:
        self._world = world
        self._history = world.history
        self._hearsay = world.history.hearsay
        self._owes = world.plan.backend in (Backend.REDIS, Backend.LAYERED)
        self._changes = [
            operation for operation in world.history.operations if operation.kind not in (Kind.CALL, Kind.GET)
        ]

    def ending(self, operation: Operation) -> Iterator[str]:
        """Laws 1, 2 and 5, for one operation."""
        if operation.cancelled:
            if not operation.hit:
                yield f"law 5: {operation} was cancelled by nobody"
        elif operation.error is not None:
            yield from self._raised(operation, operation.error)
        elif operation.kind in (Kind.CALL, Kind.REFRESH) or (
            operation.kind is Kind.GET and operation.value is not MISSING
        ):
            yield from self._returned(operation)

    def loads(self) -> Iterator[str]:
        """Laws 3 and 7."""
        world, history = self._world, self._history
        if world.plan.nests or len(history.loads) < 2:
            return  # a load that calls itself runs beside itself
        yield from self._leased_loads()
        alone = {process.name for process in world.processes if process.policy.lock is False}
        loads = [load for load in history.loads.values() if load.operation.waits and load.process not in alone]
        undisturbed = history.disturbances[0].number if history.disturbances else None
        for index, later in enumerate(loads):
            for earlier in loads[:index]:
                if earlier.key != later.key or earlier.process != later.process:
                    continue
                if earlier.ended is None or earlier.ended > later.began:
                    if not self._disturbed(earlier, later):
                        yield f"law 3: {later.process} loads {later.key} in {earlier.number} and {later.number} at once"
                elif (undisturbed is None or later.began < undisturbed) and self._useless(earlier, later):
                    yield f"law 3: {later.process} had {later.key} from {earlier.number}, and loads again"

    def _leased_loads(self) -> Iterator[str]:
        loads = [load for load in self._history.loads.values() if load.leased]
        for index, later in enumerate(loads):
            for earlier in loads[:index]:
                if earlier.key != later.key or earlier.process == later.process:
                    continue
                if later.began_at - earlier.began_at > self._world.plan.max_load_time - LEASE / 3:
                    continue  # what takes longer is not stored, and its lease not extended
                if (earlier.ended is None or earlier.ended > later.began) and not self._disturbed(earlier, later):
                    yield f"law 7: {earlier.process} and {later.process} load {later.key} at once, both with its lease"

    def _disturbed(self, earlier: Load, later: Load) -> bool:
        since = min(earlier.operation.began, later.operation.began)
        return any(
            (self._owes or disturbance.process in (None, later.process)) and disturbance.key in (None, later.key)
            for disturbance in self._history.disturbances
            if since < disturbance.number < later.began
        ) or any(
            change.key in (None, later.key) and (self._owes or change.process == later.process)
            for change in self._changes
            if change.began < later.began and (change.ended is None or change.ended > since)
        )

    def _useless(self, earlier: Load, later: Load) -> bool:
        freshness = later.operation.freshness
        plan = self._world.plan
        if earlier.failed or earlier.nothing or earlier.absent or plan.full or plan.loss or plan.max_load_time < 1:
            return False
        if freshness.refresh_ahead or freshness.refresh_ahead_part or freshness.early or freshness.jitter:
            return False
        if plan.backend is Backend.TEN_METHODS and (freshness.stale or plan.tagging):
            # It says too early that its values are stale, and is allowed to; and of two tokens that are made for one
            # tag at once only one lasts.
            return False
        keeps = self._history.keeps.get(earlier.number, ())
        return any(later.began_at + _ROUNDING < kept.fresh_until for kept in keeps)

    def _raised(self, operation: Operation, error: Exception) -> Iterator[str]:
        if isinstance(error, LoadTimeout):
            most = operation.freshness.hard_timeout
            if most is None or operation.ended_at - operation.began_at < most - _ROUNDING:
                yield f"law 5: {operation} gave up too early"
            return
        if isinstance(error, Absent):
            loads = [load for load in self._history.loads.values() if load.absent and load.key == operation.key]
            if all(self._wrong_load(operation, load) for load in loads):
                wrong = self._wrong_load(operation, loads[-1]) if loads else "law 5: nobody found so"
                yield f"{wrong} ({operation} found nothing)"
            return
        if not isinstance(error, LoadError):
            yield f"law 5: {operation} raised {error!r}"
            return
        for load in self._history.loads.values():
            if load.failed and load.key == operation.key and load.answers(operation):
                return
        yield f"law 5: {operation} raised what no load raised"

    def _returned(self, operation: Operation) -> Iterator[str]:
        value, key, history = operation.value, operation.key, self._history
        if value is None:
            assert key is not None
            loads = history.returned_nothing(key)
            if not loads:
                yield f"law 5: {operation} returned None, which nobody did before"
            elif all(self._wrong_load(operation, load) for load in loads):
                yield f"{self._wrong_load(operation, loads[-1])} (None)"
        elif value in history.loads:
            load = history.loads[value]
            if load.key != key or load.ended is None:
                yield f"law 5: {operation} returned what was loaded for {load.key}"
            elif wrong := self._wrong_load(operation, load):
                yield wrong
        elif value in history.puts:
            put = history.puts[value]
            if put.key != key:
                yield f"law 5: {operation} returned what was set for {put.key}"
            elif wrong := self._wrong_put(operation, put):
                yield wrong
        else:
            yield f"law 5: {operation} returned {value!r}, which is nobody's"

    def _wrong_load(self, operation: Operation, load: Load) -> str | None:
        """Why ``operation`` may not return the value of ``load``."""
        assert load.ended is not None
        assert load.version is not None
        assert load.key is not None
        if operation.kind is Kind.REFRESH and load.operation is not operation:
            return f"law 1: {operation} returned what it did not load"
        for change in self._known_to(operation, load):
            if load.version < change.versions.get(load.key, 0) and not self._excused(operation, load, change):
                law = self._law(operation, change)
                return f"{law}: {operation} returned v{load.version} of load {load.number}, after {change}"
        if load.answers(operation):
            return None
        return self._too_old(operation, None if load.nothing else load.number)

    def _wrong_put(self, operation: Operation, put: Operation) -> str | None:
        assert put.key is not None
        declared = operation.kind is not Kind.GET and self._world.plan.tagging_of(put.key).declared
        if self._world.plan.backend is not Backend.MEMORY and declared:
            return f"law 1: {operation} returned {put}, which lacks a tag that the function declares"
        for change in self._known_to(operation):
            if change.kind is Kind.INVALIDATE_TAGS:
                continue  # what was set by hand has no tags
            if put.key in change.versions and put.ended is not None and put.ended < change.began:
                return f"{self._law(operation, change)}: {operation} returned {put}, after {change}"
        return self._too_old(operation, put.number)

    def _law(self, operation: Operation, change: Operation) -> str:
        """Which law is broken by whoever returns something older than ``change``."""
        return "law 8" if operation.process in self._hearsay and operation.process != change.process else "law 1"

    def _known_to(self, operation: Operation, load: Load | None = None) -> Iterator[Operation]:
        """The changes that had completed when ``operation`` began, and that are to be known to whoever serves what was
        loaded in ``load``."""
        for change in self._changes:
            complete = change.ended if not (change.failed or change.cancelled or change.error) else None
            if complete is None and self._owes and not (change.kind is Kind.PUT and change.cancelled):
                # Redis has not been told, or nobody knows. Its own process does; others do when it is delivered.
                if change.failed and change.process == operation.process:
                    complete = change.ended
                elif change.process not in self._history.crashed:
                    complete = self._history.healed
            elif complete is not None and change.process != operation.process and self._lost(change, operation):
                # The server that confirmed it is no more. Its own process tells the next one before it reads there.
                complete = self._history.healed if change.process not in self._history.crashed else None
            if complete is None or complete >= operation.began:
                continue
            by_hearsay = change.process != operation.process and operation.process in self._hearsay
            if not by_hearsay or complete != change.ended or self._has_heard(operation, change, load):
                yield change

    def _has_heard(self, operation: Operation, change: Operation, load: Load | None) -> bool:
        """Whether ``operation`` must know of a change by another process, or may yet be served a copy."""
        assert change.ended is not None
        if change.ended_at + STALENESS < operation.began_at:
            return True
        hearsay, ended = self._hearsay[operation.process], operation.ended or 0
        if load is not None and self._is_alone(operation, change, load):
            return False
        return hearsay.caught_up(change.ended) < operation.began or hearsay.is_unsure(operation.began, ended)

    def _is_alone(self, operation: Operation, change: Operation, load: Load) -> bool:
        """Whether the process may have no more than what it kept in ``load`` while the store was away."""
        assert load.key is not None
        hearsay = self._hearsay[operation.process]
        kept = hearsay.alone.get((load.key, None if load.nothing else load.number))
        if not kept or hearsay.attached_between(load.began, operation.began):
            return False
        if any(kept[-1] < answer < operation.began for answer in hearsay.answers):
            return False
        names = [b"sim:v:{%b}" % load.key.encode(), b"sim:g:"]
        names += [b"sim:t:" + name_digest(tag).hex().encode() for tag in change.tags]
        return not any(
            learned < operation.began
            for name in names
            for learned in hearsay.heard_of(name, change.began, change.ended or 0)
        )

    def _lost(self, change: Operation, operation: Operation) -> bool:
        """Whether another server took over between the beginning of ``change`` and the end of ``operation``."""
        return any(change.began < number < (operation.ended or 0) for number in self._history.failovers)

    def _excused(self, operation: Operation, load: Load, change: Operation) -> bool:
        """Who follows a load while the store can't be asked gets its value: nobody can tell, and one load is enough."""
        return (
            operation.process != change.process
            and load.answers(operation)
            and any(
                trouble.process == load.process and load.operation.began < trouble.number < (operation.ended or 0)
                for trouble in self._history.troubles
            )
        )

    def _too_old(self, operation: Operation, value: int | None) -> str | None:
        freshness, at = operation.freshness, operation.began_at
        while_revalidating, on_error = freshness.stale_while_revalidate, freshness.stale_if_error
        if self._world.plan.backend is Backend.TEN_METHODS:
            # It can't say for how long a value has been stale: of two windows the longer holds for both.
            while_revalidating, on_error = while_revalidating and freshness.stale, on_error and freshness.stale
        keeps = self._history.keeps.get(value)
        if not keeps:
            return f"law 5: {operation} returned {value}, which nobody stored"
        until = max(kept.fresh_until for kept in keeps) + _ROUNDING
        if at <= until:
            return None
        if operation.detachable and at <= until + while_revalidating:
            return None
        if not self._owes and self._found_in_time(operation, until):
            return None
        if at <= until + on_error and self._rested(operation):
            return None
        waited = operation.ended_at - at
        if freshness.timeout is not None and at <= until + freshness.stale and waited >= freshness.timeout - _ROUNDING:
            return None
        return f"law 2: {operation} returned {value}, which was fresh until {until - _ROUNDING:.3f}"

    def _found_in_time(self, operation: Operation, until: float) -> bool:
        """Whether another caller found it in time, and shared it with those who came while it was on its way."""
        return any(
            other.value == operation.value
            and (other.process, other.key) == (operation.process, operation.key)
            and other.began_at <= until
            and (other.ended or 0) > operation.began
            for other in self._history.operations
        )

    def _rested(self, operation: Operation) -> bool:
        """Whether the source was known to fail: then what is stale is served in the place of its error."""
        since = operation.began_at - operation.freshness.throttle - _ROUNDING
        return any(
            rest.key == operation.key and rest.process == operation.process and since <= rest.at <= operation.ended_at
            for rest in self._history.rests
        )
