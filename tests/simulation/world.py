"""A plan comes true: processes with real stores, callers who drive the real flow over ports of the scheduler.

The source of truth is a version number for each key. Whoever changes it raises the version and then tells the cache,
as an application writes its database and then invalidates; a load reads the version at some moment in its course.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from random import Random
from types import SimpleNamespace
from typing import Any, Final, TypeVar
from unittest.mock import patch

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.channel import Channel, Listener
from fast_cache.backends.layered import LayeredBackend
from fast_cache.backends.layered.store import _OWN
from fast_cache.backends.memory import InMemoryBackend, MemoryStore
from fast_cache.backends.redis.backend import RedisBackend
from fast_cache.backends.redis.calls import RedisCalls
from fast_cache.backends.redis.changes import Changes
from fast_cache.backends.redis.invalidations import Invalidations
from fast_cache.backends.redis.keeper import HeldLease, Keeper
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.reclaim import Reclaimer
from fast_cache.backends.redis.store import RedisStore
from fast_cache.backends.store import NO_SHELF, Address, Store, Terms
from fast_cache.background import AtEnd, Background, Job
from fast_cache.batches import Batch, ElementCall
from fast_cache.current import CurrentLoad
from fast_cache.entry import MISSING, MissingType
from fast_cache.errors import BackendError
from fast_cache.flow import Call, answer, invalidate, invalidate_tags, refresh
from fast_cache.freshness import Found, Freshness, Life
from fast_cache.once import Health
from fast_cache.outcome import Outcome
from fast_cache.policy import CachePolicy
from fast_cache.ports import AsyncioPort, Places, Port, _pass_on
from fast_cache.single_flight import Flight, Flights, Gone, Signal, innermost
from fast_cache.stats import FunctionStats
from tests.simulation.channel import SimulatedHearing
from tests.simulation.history import Hearsay, History, Kind, Load, Operation
from tests.simulation.plan import KEYS, STALENESS, Actor, Backend, Fate, Flavour, Plan, Step
from tests.simulation.redis_model import Server, Tokens
from tests.simulation.scheduler import BEGINNING, Endless, Scheduler, Task, park, sleep
from tests.simulation.wires import Network, SimulatedHeld, SimulatedLink

T = TypeVar("T")

LEASE: Final = 0.5
"""Seconds: shorter than many a load."""

_LONGEST: Final = 86_400.0
"""Seconds: no entry is there for longer."""

_BACKGROUND: Final = Background()
_STATS: Final = FunctionStats()


class LoadError(Exception):
    """What a load raises that fails."""


class StepError(Exception):
    """What a backend of ten methods raises now and then."""


class SimulatedPort(AsyncioPort):
    """A task of a simulated process: what the asyncio port does, with the scheduler in the place of the event loop."""

    threaded = False

    def __init__(self, world: World, process: Process, loop: int = 0) -> None:
        self.world = world
        self.scheduler = world.scheduler
        self.process = process.name
        self.loop = process.loops[loop]

    async def pause(self) -> None:
        """Stand where a thread may lose the processor; a task keeps it until it awaits something."""

    async def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        outcome = await super().call(fn, args, kwargs)
        self.world.outcomes[outcome] = self.world.last_load  # it has just come to its end, and nobody came in between
        return outcome

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        waiter = _Waiter(self.loop, self.scheduler.waker(), self.gone())
        signal = flights.enqueue(flight, waiter)
        if signal is not None:
            return signal
        if timeout is not None:
            self.scheduler.wake_after(timeout)
        try:
            await park()
        except BaseException:
            flights.leave(flight, waiter)
            _pass_on(flights, flight, waiter)
            raise
        flights.leave(flight, waiter)
        return waiter.signal or Signal.LATE

    async def wait_in(self, places: Places, timeout: float | None = None) -> None:
        waker = _Waiter(self.loop, self.scheduler.waker(), None)
        with places.woken_by(waker) as waits:  # type: ignore[arg-type]  # it can wake, and that is all it is for
            if waits:
                if timeout is not None:
                    self.scheduler.wake_after(timeout)
                await park()

    def now(self) -> float:
        return self.scheduler.now

    def start(self, background: Background, job: Job, name: str, at_end: AtEnd, *, urgent: bool) -> bool:
        if self.world.random() < 0.05:
            return False  # there are too many already
        task = self.scheduler.spawn(self.process, job(), "background", fixed=self.threaded)
        task.then.append(at_end)
        task.port = self
        self.loop.tasks.append(task)
        return True

    def gone(self) -> Gone:
        return self.loop.is_closed

    async def finish(self, step: Coroutine[Any, Any, T], at_end: Callable[[], None]) -> T:
        waiting = self.scheduler.current
        task = self.scheduler.spawn(self.process, step, "finish")
        task.behalf = None if waiting is None else waiting.operation or waiting.behalf
        task.port = self
        self.loop.tasks.append(task)
        task.then += [at_end, self.scheduler.waker()]
        await park()
        if task.cancelled:
            raise CancelledError
        if task.error is not None:
            raise task.error
        result: T = task.result
        return result


class ThreadPort(SimulatedPort):
    """A thread: it can't be cancelled, and may lose the processor between any two steps."""

    threaded = True

    def gone(self) -> None:  # type: ignore[override]  # as the blocking port
        return None

    async def pause(self) -> None:
        await self.world.pause()

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        await self.pause()
        return await super().wait(flights, flight, timeout)

    async def wait_in(self, places: Places, timeout: float | None = None) -> None:
        await self.pause()
        await super().wait_in(places, timeout)

    async def finish(self, step: Coroutine[Any, Any, T], at_end: Callable[[], None]) -> T:
        try:
            return await step
        finally:
            at_end()


class ThreadOfLoopPort(ThreadPort):
    """A thread whose event loop is running: it must never be kept waiting."""

    async def wait(self, flights: Flights, flight: Flight, timeout: float | None = None) -> Signal:
        return Signal.ALONE

    def can_wait(self) -> bool:
        return False


_PORTS: Final = {
    Flavour.TASK: SimulatedPort,
    Flavour.THREAD: ThreadPort,
    Flavour.THREAD_OF_LOOP: ThreadOfLoopPort,
}


class _Waiter:
    """A follower's place in the queue."""

    __slots__ = ("_loop", "_wake", "gone", "signal")

    def __init__(self, loop: Loop, wake: Callable[[], None], gone: Gone | None) -> None:
        self._loop = loop
        self.gone = gone
        self._wake = wake
        self.signal: Signal | None = None

    def wake(self) -> bool:
        self._wake()
        return not self._loop.is_closed()


class Loop:
    """What stands for an event loop: the tasks that end with it. It is closed when it was left and all have ended."""

    __slots__ = ("callers", "left", "tasks")

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.callers: list[Task] = []
        """Actors with an operation under way here; when that is over they go on elsewhere."""
        self.left = False

    def is_closed(self) -> bool:
        return self.left and not self.callers and all(task.ended for task in self.tasks)


class WatchedFlights(Flights):
    """Writes down which load was settled when."""

    def __init__(self, world: World, process: str) -> None:
        super().__init__()
        self._world = world
        self._process = process

    def board(self, key: Hashable, gone: Gone | None = None) -> tuple[Flight, bool]:
        flight = self._table.get(key)
        if flight is not None and flight._gone is not None and flight._gone():
            # Its leader is lost: whoever comes leads anew, and so does one of those who waited.
            self._world.history.disturb(self._process, str(key))
        return super().board(key, gone)

    def supersede_if(self, flight: Flight) -> None:
        self._world.history.disturb(self._process, str(flight.key))  # it is taken to hang, and another may load
        super().supersede_if(flight)

    def settle(self, flight: Flight, outcome: Outcome, signal: Signal = Signal.SETTLED) -> None:
        load = self._world.outcomes.get(outcome)
        if load is not None and load.settled is None:
            self._world.history.settle(load)
        if signal is not Signal.SETTLED and flight.ended is None:
            # Whoever waited asks again, and in the end loads by itself.
            self._world.history.disturb(self._process, str(flight.key))
        super().settle(flight, outcome, signal)


class Witness(Health):
    """Writes down what fails."""

    def __init__(self, world: World, process: str) -> None:
        self.name = "the store"
        self._world = world
        self._process = process

    def failed(self, step: str, error: BackendError) -> None:
        self._world.failed(self._process, step, error)

    def works(self, step: str) -> None:
        pass


class SimulatedBatch(Batch):
    """A batch of calls that remembers which load each outcome is of."""

    def __init__(self, world: World, loader: Callable[[list[Any]], Any]) -> None:
        super().__init__("simulated batch", loader, _STATS, world.plan.most)
        self._world = world

    def _taken_apart(self, elements: list[Hashable], outcome: Outcome) -> dict[Hashable, Outcome]:
        outcomes = super()._taken_apart(elements, outcome)
        for element in elements:
            self._world.outcomes[outcomes[element]] = self._world.last_loads[str(element)]
        return outcomes


class SimulatedMemory(MemoryStore):
    """Local memory, where threads may lose the processor before and after each step."""

    def __init__(self, world: World, max_size: int) -> None:
        super().__init__(max_size)
        self.held._clock = _monotonic
        self._world = world

    async def read(self, port: Port, key: Address, terms: Terms) -> Found | MissingType:
        await _pause(port)
        found = await super().read(port, key, terms)
        await _pause(port)
        return found

    async def capture(
        self, port: Port, key: Address, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object]:
        await _pause(port)
        captured = await super().capture(port, key, terms, replace=replace)
        await _pause(port)
        return captured

    async def write(self, port: Port, flight: Flight, ticket: object, value: Any, life: Life, terms: Terms) -> bool:
        await _pause(port)
        stored = await super().write(port, flight, ticket, value, life, terms)
        await _pause(port)
        return stored

    async def delete_tagged(self, port: Port, tags: Sequence[str], *, soft: bool = False) -> None:
        await _pause(port)
        await super().delete_tagged(port, tags, soft=soft)
        await _pause(port)

    def put(
        self,
        key: Address,
        value: Any,
        life: Life,
        flight: Flight | None = None,
        tags: Sequence[Hashable] = (),
        groups: Sequence[str] = (),
    ) -> bool:
        stored = super().put(key, value, life, flight, tags, groups)
        if stored:
            self._world.history.kept(value, life.fresh)
        return stored


class Idle(Reclaimer):
    """Nothing is reclaimed: threads are not simulated, and what is dead is never read."""

    def begin(self) -> None:
        pass


class NearMemory(SimulatedMemory):
    """Local memory before another store. What it holds of its own accord is written down, beside the copies."""

    def __init__(self, world: World, process: str, max_size: int) -> None:
        super().__init__(world, max_size)
        self._process = process

    def hold(
        self, key: Address, found: Found, kept: float, due: float, fill: Flight, ends_with: Sequence[Hashable]
    ) -> bool:
        held = super().hold(key, found, kept, due, fill, ends_with)
        if held and found.version == _OWN:
            history = self._world.history
            history.kept(found.value, kept)
            history.hearsay[self._process].alone.setdefault((str(key), found.value), []).append(history.next())
            if history.told:
                history.tell(f"{self._process} keeps {found.value} of {key}, while the store is away")
        return held


class Near(InMemoryBackend):
    """The backend of local memory before another one."""

    def __init__(self, memory: NearMemory) -> None:
        super().__init__("sim")
        self._store = memory


class FarStore(RedisStore):
    """Notes when Redis answered."""

    hearsay: Hearsay
    history: History

    async def read(self, port: Port, key: str, terms: Terms) -> Found | MissingType:
        return self._noted(await super().read(port, key, terms))

    async def capture(self, port: Port, key: str, terms: Terms, *, replace: bool) -> tuple[Found | MissingType, object]:
        return self._noted(await super().capture(port, key, terms, replace=replace))

    async def claim(
        self, port: Port, flight: Flight, terms: Terms, *, replace: bool
    ) -> tuple[Found | MissingType, object, float | None]:
        return self._noted(await super().claim(port, flight, terms, replace=replace))

    async def confirm(self, port: Port, key: str, version: bytes, tags: Sequence[bytes]) -> float | None:
        return self._noted(await super().confirm(port, key, version, tags))

    def _noted(self, answer: T) -> T:
        self.hearsay.answers.append(self.history.next())
        return answer


class Far(RedisBackend):
    """The backend of Redis behind local memory, of parts that are there already."""

    def __init__(self, process: Process, layout: Layout) -> None:
        assert process.link is not None
        assert process.keeper is not None
        assert process.redis is not None
        self.namespace = "sim"
        self._process = process
        self._layout = layout
        self._link, self._keeper, self._store = process.link, process.keeper, process.redis
        self._calls = RedisCalls(self, process.redis, process.link, layout, Changes(layout, 1000, 1000), _LONGEST)

    def engine_channel(self, listener: Listener, *, how: str | None, staleness: float) -> Channel:
        process, world = self._process, self._process.world
        port = ThreadPort(world, process)
        process.hearing = SimulatedHearing(
            port, process, world.network, self._link, self._layout, listener, how=how, staleness=staleness
        )
        return process.hearing


async def _pause(port: Port) -> None:
    """Stand where a thread may lose the processor. A call of a batch has no thread of its own: its driver has."""

    async def pause(port: Port, _: Sequence[object]) -> list[object]:
        assert isinstance(port, SimulatedPort)
        await port.pause()
        return []

    await port.send(pause, ())


class SlowDict(CacheBackend):
    """A backend of the ten methods, written by somebody who knows nothing of the engine. It is only used awaiting."""

    def __init__(self, world: World, loss: float) -> None:
        self._world = world
        self._loss = loss
        self._data: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, default: Any = None) -> Any:
        raise NotImplementedError

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        raise NotImplementedError

    def delete(self, key: str) -> bool:
        raise NotImplementedError

    def clear(self) -> None:
        raise NotImplementedError

    def has(self, key: str) -> bool:
        raise NotImplementedError

    async def aget(self, key: str, default: Any = None) -> Any:
        await self._way()
        value, until = self._data.get(key, (default, 0.0))
        if until <= self._world.scheduler.now:
            value = default
        await self._way()
        return value

    async def aset(self, key: str, value: Any, expire: Any = None) -> None:
        await self._way()
        now = self._world.scheduler.now
        self._data[key] = (value, float("inf") if expire is None else now + expire)
        if key in KEYS and type(value) is bytes:
            self._world.history.stored(value, expire)
        await self._way()

    async def adelete(self, key: str) -> bool:
        # Also to undo a write, which fences off whatever loads meanwhile: the engine is told before and after.
        self._world.history.disturb(None, key)
        await self._way()
        found = self._data.pop(key, None)
        await self._way()
        self._world.history.disturb(None, key)
        return found is not None and found[1] > self._world.scheduler.now

    async def aclear(self) -> None:
        await self._way()
        self._data.clear()
        await self._way()

    async def ahas(self, key: str) -> bool:
        return await self.aget(key, self) is not self

    async def _way(self) -> None:
        """The way there, or back: it takes some time, and may fail."""
        await self._world.pause()
        if self._loss and self._world.random() < self._loss / 2:
            raise StepError


class SimulatedKeeper(Keeper):
    """Extends and releases leases from a task of the scheduler, in the place of a thread."""

    def __init__(self, world: World, process: Process, layout: Layout) -> None:
        assert process.link is not None
        super().__init__(process.link, layout, length=LEASE, longest=world.plan.max_load_time)
        self._world = world
        self._process = process
        self._wake: Callable[[], None] | None = None

    def hold(self, lease: HeldLease) -> None:
        if _monotonic() - lease.asked > LEASE / 3:
            # So slow was the answer: it may be over before it can be extended.
            self._world.history.disturb(None, lease.key)
        super().hold(lease)

    def _extended(self, lease: HeldLease, reply: Any, asked: float) -> None:
        if reply != 1 or _monotonic() - asked > LEASE / 3:
            self._world.history.disturb(None, lease.key)
        super()._extended(lease, reply, asked)

    def give_up(self, lease: HeldLease) -> None:
        self._world.history.disturb(None, lease.key)  # whoever loads under it may go on, beside the next
        super().give_up(lease)

    def _awake(self, *, at_once: bool = False) -> None:
        super()._awake(at_once=at_once)
        if at_once and self._wake is not None:
            self._wake()

    def _start(self, bell: SimpleQueue[bool], leaving: object) -> None:
        self._world.scheduler.spawn(self._process.name, self._keep(bell), "keeper", fixed=True)

    async def _keep(self, bell: SimpleQueue[bool]) -> None:
        scheduler = self._world.scheduler
        while True:
            pause = await self.round(ThreadPort(self._world, self._process))
            if pause is None:
                if self._idle(bell):
                    return
                continue
            self._wake = scheduler.waker()
            scheduler.wake_after(pause)
            await park()


class Process:
    """What one process has: a store, and callers."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.name = f"p{index}"
        self.policy: CachePolicy = world.plan.policies[index]
        self.alive = True
        self.loops = [Loop(), Loop()]
        self.memory: SimulatedMemory | None = None
        self.redis: RedisStore | None = None
        self.link: SimulatedLink | None = None
        self.keeper: SimulatedKeeper | None = None
        self.dict: SlowDict | None = None
        self.layered: LayeredBackend | None = None
        self.hearing: SimulatedHearing | None = None
        self.store: Store = self._store()
        self.texts = self.store.texts
        """What is looked into at a glance."""
        if self.layered is not None:
            self.store.watch(self.look_again)
        self.store.health = Witness(world, self.name)
        self.store.flights = WatchedFlights(world, self.name)
        self._rest = self.store.rest
        self.store.rest = self.rest  # type: ignore[method-assign]

    def look_again(self) -> None:
        """Copies are believed, or no longer."""
        self.texts = self.store.texts
        history = self.world.history
        history.hearsay[self.name].sure.append((history.next(), self.texts is not NO_SHELF))
        if history.told:
            history.tell(f"{self.name} {'believes' if self.texts is not NO_SHELF else 'no longer believes'} its copies")

    def rest(self, key: Address, seconds: float) -> None:
        """Stands in for the method of the store."""
        self.world.history.rest(self.name, key)
        self._rest(key, seconds)

    def _store(self) -> Store:
        world = self.world
        if world.plan.backend is Backend.MEMORY:
            self.memory = SimulatedMemory(world, 1 if world.plan.full else 100)
            return self.memory
        if world.plan.backend is Backend.TEN_METHODS:
            self.dict = SlowDict(world, world.plan.loss)
            return self.dict.engine_store()
        layout = Layout("sim", fence_ms=round(world.plan.max_load_time * 1000), lease_ms=round(LEASE * 1000))
        invalidations = Invalidations(_LONGEST, _monotonic)
        self.link = SimulatedLink(world.network, layout, invalidations, self, ThreadPort(world, self))
        if world.random() < 0.7:
            self.link.warm_up()
        self.keeper = SimulatedKeeper(world, self, layout)
        kind = FarStore if world.plan.backend is Backend.LAYERED else RedisStore
        self.redis = kind(
            "Redis", self.link, layout, self.keeper, Idle(self.link, layout), longest=_LONGEST, largest=1_000_000
        )
        return self._two_tiers(layout) if isinstance(self.redis, FarStore) else self.redis

    def _two_tiers(self, layout: Layout) -> Store:
        world, far = self.world, self.redis
        assert isinstance(far, FarStore)
        far.health = Witness(world, self.name)
        far.history, far.hearsay = world.history, Hearsay()
        world.history.hearsay[self.name] = far.hearsay
        near = Near(NearMemory(world, self.name, 1 if world.plan.full else 100))
        self.layered = LayeredBackend(near, Far(self, layout), max_staleness=STALENESS)
        if self.hearing is not None and world.random() < 0.7:
            self.hearing.awake()
        return self.layered.engine_store()


class World:
    """One run of a plan, in the order that ``rng`` picks."""

    def __init__(self, plan: Plan, rng: Random, *, told: bool = False) -> None:
        self.plan = plan
        self.rng = rng
        self.random = rng.random
        self.scheduler = Scheduler(rng)
        self.history = History(self.scheduler, told=told)
        self.server = Server(self.scheduler, self.history)
        self.network = Network(self.scheduler, self.history, self.server, rng, plan.loss, slow=plan.slow)
        self.versions = dict.fromkeys(KEYS, 1)
        self.processes = [Process(self, index) for index in range(len(plan.policies))]
        self.last_load: Load | None = None
        self.last_loads: dict[str, Load] = {}
        """The loads of the run of a batch's loader that has just ended, by their keys."""
        self.outcomes: dict[Outcome, Load | None] = {}
        self.hanging: list[str] = []
        """Who waited for ever, and on which occasion."""

    def run(self) -> None:
        """Let everything happen, and then see what the processes that are left make of it."""
        global _world
        _world = self
        try:
            for index, actor in enumerate(self.plan.actors):
                process = self.processes[actor.process]
                self._spawn(process, actor, f"actor {index}")
            self.scheduler.spawn(None, self._befall(), "fate", fixed=True)
            self._settle("in the run")
            if not self.hanging and self.history.disturbances and self.random() < 0.5:
                self._heal()
        finally:
            self.scheduler.close()
            _world = None

    def dissolve(self) -> None:
        """Break the cycles of references, when everything has been looked at: garbage is slow to find."""
        for process in self.processes:
            for part in (process.store, process.redis, process.layered, process.hearing, process):
                if part is not None:
                    part.__dict__.clear()
        for task in self.scheduler.tasks:
            task.then.clear()
        for each in (*self.network.feeds, self.server, self.network, self.scheduler, self.history, self):
            each.__dict__.clear()

    async def pause(self) -> None:
        """Let others go on; mostly for no time at all."""
        drawn = self.random()
        await sleep(0.0 if drawn < 0.7 else 0.01 if drawn < 0.85 else 0.08 if drawn < 0.95 else 0.4)

    def failed(self, process: str, step: str, error: Exception) -> None:
        """A step of a store failed."""
        self.history.trouble(process, step, error)
        task = self.scheduler.current
        operation = None if task is None else task.operation or task.behalf
        if operation is not None and step != "tell":  # which is about others who can't track, and here all do
            operation.failed = True

    def _spawn(self, process: Process, actor: Actor, name: str) -> None:
        fixed = actor.flavour is not Flavour.TASK
        self.scheduler.spawn(process.name, self._act(process, actor), name, fixed=fixed)

    def _settle(self, when: str) -> None:
        try:
            self.scheduler.run()
        except Endless:
            self.hanging.append(f"the run went round in circles {when}")
            return
        for task in self.scheduler.unfinished():
            at = f", at {task.operation}" if task.operation is not None else ""
            self.hanging.append(f"{task.owner} {task.name} waits for ever {when}{at}")

    def _heal(self) -> None:
        """Everything works again: what is owed gets delivered, and then every process is asked once more."""
        self.network.loss = 0.0
        self.server.silent = self.server.read_only = False
        if self.history.told:
            self.history.tell("everything works again")
        alive = [process for process in self.processes if process.alive]
        for process in alive:
            if process.link is not None:
                self.scheduler.spawn(process.name, self._knock(process), "knock", fixed=True)
        self._settle("on the return of the server")
        self.history.healed, keys = self.history.next(), self.plan.keys
        for process in alive:
            if process.dict is not None:
                process.dict._loss = 0.0
            step = Step(Kind.CALL, keys[int(self.random() * len(keys))], 0.0, detachable=True)
            self._spawn(process, Actor(0, Flavour.TASK, (step,)), "last caller")
        self._settle("at the end")

    async def _knock(self, process: Process) -> None:
        store = process.redis or process.store
        for _ in range(20):  # where it takes long to connect, several in turn may be too late
            try:
                await store.read(SimulatedPort(self, process), KEYS[0], Terms(process.policy.codec))
            except BackendError:
                await sleep(1.0)
            else:
                if process.layered is not None:
                    await sleep(STALENESS + 1.0)  # until everybody has heard of what was owed
                return
        self.hanging.append(f"{process.name} does not come back to a server that works")

    async def _act(self, process: Process, actor: Actor) -> None:
        """Do one thing after another; one that is cancelled does not keep the next one from being done."""
        scheduler = self.scheduler
        task = scheduler.current
        assert task is not None
        for step in actor.steps:
            await sleep(step.pause) if step.pause else await self.pause()
            task.operation = operation = self._operation(process, actor, step)
            port = task.port = _PORTS[actor.flavour](self, process, actor.loop)
            port.loop.callers.append(task)
            await self._carry_out(process, port, operation)
            port.loop.callers.remove(task)
            task.operation = None

    def _operation(self, process: Process, actor: Actor, step: Step) -> Operation:
        freshness = Freshness() if step.kind is Kind.GET else process.policy.freshness
        operation = Operation(step.kind, process.name, step.key if step.kind in _OF_ONE else None, freshness)
        operation.tags = step.tags
        operation.detachable = step.detachable
        operation.waits = actor.flavour is not Flavour.THREAD_OF_LOOP
        alone = {Kind.BATCH: Kind.CALL, Kind.REFRESH_BATCH: Kind.REFRESH}.get(step.kind)
        if alone is not None:
            each = [step._replace(kind=alone, key=key) for key in self.plan.keys]
            operation.parts = tuple(self._operation(process, actor, one) for one in each)
        return operation

    async def _carry_out(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        history, judged = self.history, operation.parts or (operation,)
        if operation.kind in _CHANGING:
            for key in self._changed(operation):
                self.versions[key] += 1
                operation.versions[key] = self.versions[key]
        if operation.parts:
            operation.number = history.next()
            if history.told:
                history.tell(f"{operation} begins, which is:")
        for each in judged:
            history.begin(each)
        try:
            await _STEPS[operation.kind](self, process, port, operation)
        except CancelledError:
            for each in judged:
                each.cancelled = True
            operation.cancelled = True
        except Exception as error:
            for each in judged:
                each.error = error
        for each in judged:
            each.hit |= operation.hit
            history.end(each)

    def _changed(self, operation: Operation) -> Sequence[str]:
        """The keys that an operation is about."""
        if operation.kind is Kind.INVALIDATE_TAGS:
            return self.plan.tagged(operation.tags)
        return self.plan.keys if operation.key is None else (operation.key,)

    async def _do_call(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        if process.store.slotted:
            # As the wrapper does before it asks the flow.
            entry = process.texts.table.get(operation.key)
            if entry is not None:
                await port.pause()
                value = entry.value
                await port.pause()
                if entry.expires > self.scheduler.now:
                    operation.value = value
                    return
        _take(operation, await answer(port, process.store, self._call(process, port, operation)))

    async def _do_refresh(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        _take(operation, await refresh(port, process.store, self._call(process, port, operation)))

    async def _do_invalidate(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        await invalidate(port, process.store, operation.key)

    async def _do_invalidate_tags(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        await invalidate_tags(port, process.store, operation.tags)

    async def _do_batch(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        parts = {str(part.key): part for part in operation.parts}
        calls: dict[Hashable, Call] = {}
        for key, part in parts.items():
            await port.pause()
            seen = process.store.glance(key) if part.kind is Kind.CALL else MISSING
            if seen is MISSING:
                calls[key] = self._call(process, port, part, ElementCall)
            else:
                part.value = seen
        batch = SimulatedBatch(self, lambda wanted: self._load_many(process, port, parts, wanted))
        step = answer if operation.kind is Kind.BATCH else refresh
        outcomes = await batch.collect(port, process.store, calls, step)
        for asked, outcome in zip(calls, outcomes, strict=True):
            _take(parts[str(asked)], outcome)

    async def _do_put(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        """Set a value by hand, as the ten methods of the backends do."""
        number, key, expire = operation.number, operation.key, process.policy.expire
        assert isinstance(expire, float)
        self.history.puts[number] = operation
        if process.memory is not None:
            await port.pause()
            process.memory.put(key, number, Life(expire))
            await port.pause()
        elif process.layered is not None:
            await process.layered.aset(str(key), number, expire)
        elif process.redis is not None:
            await self._try(process, "put", process.redis.put(port, str(key), number, expire))
        elif process.dict is not None:
            await self._try(process, "put", process.dict.aset(str(key), number, expire))

    async def _do_clear(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        if process.memory is not None:
            await port.pause()
            process.memory.clear()
            await port.pause()
        elif process.layered is not None:
            await process.layered.aclear()
        elif process.redis is not None:
            await self._try(process, "clear", process.redis.clear(port))
        elif process.dict is not None:
            await self._try(process, "clear", process.dict.aclear())

    async def _do_get(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        """Get a value by hand."""
        assert process.layered is not None
        await port.pause()
        operation.value = await process.layered.aget(str(operation.key), MISSING)

    async def _do_delete(self, process: Process, port: SimulatedPort, operation: Operation) -> None:
        """Delete a value by hand."""
        assert process.layered is not None
        await process.layered.adelete(str(operation.key))

    async def _try(self, process: Process, step: str, doing: Awaitable[object]) -> None:
        try:
            await doing
        except (BackendError, StepError) as error:
            self.failed(process.name, step, error)

    def _call(self, process: Process, port: SimulatedPort, operation: Operation, kind: type[Call] = Call) -> Call:
        assert operation.key is not None
        return kind(
            operation.key,
            self._load,
            (process, port, operation),
            {},
            process.policy,
            None,
            _STATS,
            _BACKGROUND,
            _detaches,
            self.plan.tagging_of(operation.key).declared,
        )

    async def _load(self, process: Process, port: SimulatedPort, operation: Operation) -> int | None:
        """The cached function: it reads the version at some moment, and returns the number of this load."""
        history, random = self.history, self.random
        load = self._begin_load(process, operation)
        how = "is cancelled"
        try:
            await self._work(process, port, operation, load)
            if random() < self.plan.failures:
                load.failed = True
                how = "raises"
                raise LoadError
            load.nothing = random() < self.plan.nothing
            how = f"returns {'None' if load.nothing else load.number} (v{load.version})"
        finally:
            history.end_load(load, how)
            self.last_load = load
        return None if load.nothing else load.number

    async def _load_many(
        self, process: Process, port: SimulatedPort, parts: Mapping[str, Operation], wanted: list[str]
    ) -> dict[str, int | None]:
        """The cached function that loads several at once: a load for each of them, and they end together."""
        loads = {key: self._begin_load(process, parts[key]) for key in wanted}
        hows = dict.fromkeys(wanted, "is cancelled")
        try:
            for key, load in loads.items():
                await self._work(process, port, parts[key], load)
            fails = self.random() < self.plan.failures
            for key, load in loads.items():
                load.failed = fails
                load.absent = not fails and self.random() < self.plan.nothing
                load.nothing = not fails and not load.absent and self.random() < self.plan.nothing
                what = "finds nothing" if load.absent else f"returns {'None' if load.nothing else load.number}"
                hows[key] = "raises" if fails else f"{what} (v{load.version})"
            if fails:
                raise LoadError
        finally:
            for key, load in loads.items():
                self.history.end_load(load, hows[key])
            self.last_loads = loads
        return {key: None if load.nothing else load.number for key, load in loads.items() if not load.absent}

    def _begin_load(self, process: Process, operation: Operation) -> Load:
        load = self.history.begin_load(operation)
        flight, mark = process.store.flights._table.get(operation.key), innermost()
        load.leased = flight is not None and flight.lease is not None and mark in (flight.mark, *flight.mark.awaits)
        return load

    async def _work(self, process: Process, port: SimulatedPort, operation: Operation, load: Load) -> None:
        await self.pause()
        assert operation.key is not None
        load.version = self.versions[operation.key]
        current, added = CurrentLoad(), self.plan.tagging_of(operation.key).added
        if added:
            current.tags.add(*added)
        if self.plan.skips and self.random() < self.plan.skips:
            current.skip()
            if self.history.told:
                self.history.tell(f"{load.process} load {load.number} of {load.key} is not to be stored")
        if self.plan.nests and operation.outer is None and self.random() < 0.5:
            key = KEYS[int(self.random() * 2)]
            inner = Operation(Kind.CALL, process.name, key, process.policy.freshness)
            await self._nested(process, port, inner)
        await (sleep(0.02 + 0.3 * self.random()) if self.plan.slow else self.pause())

    async def _nested(self, process: Process, port: SimulatedPort, inner: Operation) -> None:
        task = self.scheduler.current
        assert task is not None
        outer = inner.outer = task.operation
        task.operation = inner
        await self._carry_out(process, port, inner)
        task.operation = outer
        if inner.cancelled:
            raise CancelledError

    async def _befall(self) -> None:
        """What nobody wants, one thing after another."""
        for blow in self.plan.blows:
            await sleep(blow.pause)
            for _ in range(int(self.random() * 12)):
                await sleep(0.0)
            process = self.processes[blow.process]
            if not process.alive:
                continue
            if self.history.told and blow.fate not in (Fate.TIME, Fate.CANCEL):
                self.history.tell(f"fate: {blow.fate.value} ({process.name})")
            if blow.fate is Fate.CANCEL:
                at_work = [task for task in self.scheduler.tasks if task.operation is not None and not task.fixed]
                at_work = [task for task in at_work if not task.ended]
                if at_work:
                    self._cancel(at_work[int(self.random() * len(at_work))])
            elif blow.fate is Fate.SHUTDOWN:
                index = int(self.random() * 2)
                loop, process.loops[index] = process.loops[index], Loop()
                loop.left = True
                for task in [*loop.callers, *loop.tasks]:
                    self._cancel(task)
            elif blow.fate is Fate.CRASH:
                process.alive = False
                self.history.crash(process.name)
                self.scheduler.kill(process.name)
            elif blow.fate is Fate.EVICTION:
                names = self.server.names()
                if names:
                    name = names[int(self.random() * len(names))]
                    self.server.forget(name)
                    self.history.disturb(None, None)
            elif blow.fate is Fate.FAILOVER:
                await self._change()
                self.history.fail_over()
                self.network.fail_over(self.rng)
            elif blow.fate is Fate.SILENCE:
                self.server.silent = True
                await sleep(0.4 + self.random())
                self.server.silent = False
                self.network.release()
            elif blow.fate is Fate.READ_ONLY:
                self.server.read_only = True
                await sleep(0.4 + self.random())
                self.server.read_only = False
            elif blow.fate is Fate.FLUSH:
                self.server.flush()
                self.history.disturb(None, None)
            elif blow.fate is Fate.DEAF:
                self.network.deaf.add(process.name)
                await sleep(0.1 + self.random() * 2 * STALENESS)
                self.network.deaf.discard(process.name)
                self.network.release()
            elif blow.fate is Fate.CUT:
                for feed in list(self.network.feeds):
                    if feed.owner is process:
                        feed.cut(at_once=self.random() < 0.5)

    async def _change(self) -> None:
        """Wait for a moment at which there is something to lose, if one comes soon."""
        changes = self.server.changes
        for _ in range(100):
            if self.server.changes != changes:
                break
            await sleep(0.01)
        for _ in range(int(self.random() * 8)):
            await sleep(0.0)

    def _cancel(self, task: Task) -> None:
        if task.ended or task.fixed:
            return
        operation = task.operation
        if operation is not None:
            operation.hit = True
            if operation.outer is not None:
                operation.outer.hit = True
        self.history.disturb(None, None)
        if self.history.told:
            self.history.tell(f"fate: {task.owner} {task.name} is cancelled, at {operation}")
        self.scheduler.cancel(task)


_OF_ONE: Final = (Kind.CALL, Kind.REFRESH, Kind.INVALIDATE, Kind.PUT, Kind.GET, Kind.DELETE)
_CHANGING: Final = (Kind.INVALIDATE, Kind.PUT, Kind.CLEAR, Kind.INVALIDATE_TAGS, Kind.DELETE)

_STEPS: Final[dict[Kind, Callable[[World, Process, SimulatedPort, Operation], Awaitable[None]]]] = {
    Kind.CALL: World._do_call,
    Kind.REFRESH: World._do_refresh,
    Kind.INVALIDATE: World._do_invalidate,
    Kind.PUT: World._do_put,
    Kind.CLEAR: World._do_clear,
    Kind.GET: World._do_get,
    Kind.DELETE: World._do_delete,
    Kind.INVALIDATE_TAGS: World._do_invalidate_tags,
    Kind.BATCH: World._do_batch,
    Kind.REFRESH_BATCH: World._do_batch,
}


def _take(operation: Operation, outcome: Outcome) -> None:
    operation.value, operation.error = outcome.value, outcome.error


def _detaches(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    operation: Operation = args[2]
    return operation.detachable


_world: World | None = None


def _monotonic() -> float:
    return BEGINNING if _world is None else _world.scheduler.now


class _Caller:
    """The port of whoever is running, for those who take the one of the event loop."""

    def __getattr__(self, name: str) -> Any:
        assert _world is not None
        assert _world.scheduler.current is not None
        return getattr(_world.scheduler.current.port, name)


class _Chance:
    """The module ``random``, for those who draw lots in the engine."""

    def random(self) -> float:
        assert _world is not None
        return _world.random()

    def uniform(self, low: float, high: float) -> float:
        assert _world is not None
        return _world.rng.uniform(low, high)


def _say_nothing(*_: object) -> None:
    pass


@contextmanager
def virtual() -> Iterator[None]:
    """The engine reads the clock, draws lots and talks over the network of whichever world is running."""
    tokens = Tokens()
    replaced: dict[str, object] = {
        "fast_cache.backends.layered.backend.ASYNCIO": _Caller(),
        "fast_cache.backends.layered.store.monotonic": _monotonic,
        "fast_cache.backends.memory.monotonic": _monotonic,
        "fast_cache.backends.redis.backend.ASYNCIO": _Caller(),
        "fast_cache.backends.redis.hearing.monotonic": _monotonic,
        "fast_cache.backends.store.monotonic": _monotonic,
        "fast_cache.backends.ten_methods.time": _monotonic,
        "fast_cache.ports.monotonic": _monotonic,
        "fast_cache.freshness.random": _Chance(),
        "fast_cache.flow.warn_once": _say_nothing,
        "fast_cache.backends.redis.deadlines.monotonic": _monotonic,
        "fast_cache.backends.redis.keeper.monotonic": _monotonic,
        "fast_cache.backends.redis.lane.Held": SimulatedHeld,
        "fast_cache.backends.redis.link.monotonic": _monotonic,
        "fast_cache.backends.redis.store.new_token": tokens,
        "fast_cache.backends.redis.store.new_epoch": tokens.epoch,
        "fast_cache.backends.ten_methods.secrets": SimpleNamespace(token_bytes=tokens.plain),
    }
    patches = [patch(name, replacement) for name, replacement in replaced.items()]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()
