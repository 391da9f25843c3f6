"""The table and its eviction policy: shelves, bounds, expiry, clearing, and what is kept under which load."""

from __future__ import annotations

import gc
import itertools
import random
import sys
import threading
import weakref
from collections.abc import Hashable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fast_cache.backends.eviction import S3FIFO, Cause
from fast_cache.backends.eviction.ghosts import Ghosts
from fast_cache.backends.eviction.ring import Ring
from fast_cache.entry import MAX_VISITS, NEVER, RETIRED, Entry, Shelf


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Table(S3FIFO):
    """A store with one shelf, for what has nothing to do with shelves."""

    def __init__(self, max_size: int, **options: Any) -> None:
        super().__init__(max_size, **options)
        self.shelf = self.new_shelf()

    @property
    def table(self) -> dict[Hashable, Entry]:
        return self.shelf.table

    def keep(self, key: Hashable, value: Any, expires: float = NEVER, weight: float = 1) -> Entry:
        return self.put(self.shelf, key, value, expires, weight)

    def drop(self, key: Hashable) -> bool:
        return self.remove(self.shelf, key)


def look(shelf: Shelf, key: Hashable, now: float = 0.0) -> Any:
    """A look as the hit path does it; None for absence."""
    entry = shelf.table.get(key)
    if entry is None:
        return None
    value = entry.value
    if entry.expires <= now:
        return None
    if entry.visits < MAX_VISITS:
        entry.visits += 1
    return value


def read(store: Table, key: Hashable, now: float = 0.0) -> Any:
    return look(store.shelf, key, now)


def in_queues(store: S3FIFO) -> list[Entry]:
    """Every entry of both queues, each ring checked for its links and its size."""
    found = []
    for ring in (store._queues.probation, store._queues.main):
        end = ring._end
        entries = []
        entry = end.next
        while entry is not end:
            assert entry.next.previous is entry
            entries.append(entry)
            entry = entry.next
        assert len(entries) == ring.size
        found += entries
    return found


def hit_ratio(store: Table, keys: Iterator[int] | list[int]) -> float:
    hits = accesses = 0
    for key in keys:
        accesses += 1
        if read(store, key) is None:
            store.keep(key, True)
        else:
            hits += 1
    return hits / accesses


class TestTable:
    def test_a_value_is_found_until_it_is_removed(self) -> None:
        store = Table(10)
        store.keep("k", 1)
        assert read(store, "k") == 1
        assert store.drop("k") is True
        assert read(store, "k") is None
        assert store.drop("k") is False

    def test_removing_what_has_expired_says_that_nothing_was_there(self) -> None:
        clock = Clock()
        store = Table(10, clock=clock)
        store.keep("other", 1)
        store.keep("k", 1, clock.now + 1)
        clock.now += 1
        assert store.drop("k") is False
        assert len(store) == 1

    def test_a_replaced_entry_is_retired_and_its_place_kept(self) -> None:
        store = Table(10)
        old = store.keep("k", 1)
        store.keep("other", 2)
        new = store.keep("k", 3)
        assert (old.expires, old.value) == (RETIRED, None)
        assert store.table["k"] is new
        assert [entry.key for entry in in_queues(store)] == ["k", "other"]
        assert store.evictions[Cause.REPLACED] == 1

    @pytest.mark.parametrize("max_size", [1, 2, 3, 31, 32, 33, 100])
    def test_never_more_than_max_size(self, max_size: int) -> None:
        store = Table(max_size)
        rng = random.Random(max_size)
        for _ in range(20 * max_size):
            key = rng.randrange(3 * max_size)
            if read(store, key) is None:
                store.keep(key, key + 1)
            assert len(store) <= max_size
        assert len(in_queues(store)) == len(store) == max_size

    def test_an_evicted_entry_is_retired(self) -> None:
        store = Table(2)
        entries = [store.keep(key, key) for key in range(3)]
        assert [entry.expires == RETIRED for entry in entries].count(True) == 1
        assert store.evictions[Cause.SIZE] == 1

    def test_the_callback_sees_the_value_and_the_cause(self) -> None:
        seen = []
        clock = Clock()
        store = Table(1, clock=clock, on_evict=lambda entry, cause: seen.append((entry.value, cause)))
        store.keep("a", 1)
        store.keep("a", 2)
        store.keep("b", 3, clock.now + 1)
        clock.now += 2
        store.reclaim()
        store.reclaim()
        store.keep("c", 4)
        store.drop("c")
        store.keep("d", 5)
        store.clear()
        store.reclaim()
        assert seen == [
            (1, Cause.REPLACED),
            (2, Cause.SIZE),
            (3, Cause.EXPIRED),
            (4, Cause.DELETED),
            (5, Cause.CLEARED),
        ]

    def test_the_table_gives_its_memory_back(self) -> None:
        store = Table(20_000)
        for key in range(20_000):
            store.keep(key, None)
        large = sys.getsizeof(store.table)
        for key in range(19_990):
            store.drop(key)
        store.reclaim()
        assert sys.getsizeof(store.table) < large / 4
        assert set(store.table) == set(range(19_990, 20_000))


class TestExpiry:
    def test_expired_entries_go_without_being_read(self) -> None:
        clock = Clock()
        store = Table(1000, clock=clock)
        for key in range(900):
            store.keep(key, None, clock.now + 1)
        clock.now += 2
        for key in range(30):
            store.keep(("new", key), None)
        assert len(store) == 30
        assert store.evictions[Cause.EXPIRED] == 900

    def test_one_among_many_that_live_is_found_within_as_many_changes_as_there_are_entries(self) -> None:
        clock = Clock()
        store = Table(500, clock=clock)
        for key in range(400):
            store.keep(key, None, clock.now + (1 if key == 200 else 1000))
        clock.now += 2
        for _ in range(401):
            store.keep(0, None, clock.now + 1000)
        assert 200 not in store.table

    def test_new_entries_do_not_keep_the_sweep_from_coming_round(self) -> None:
        clock = Clock()
        store = Table(10_000, clock=clock)
        for key in range(3000):
            store.keep(key, None, clock.now + 1)
        for _ in range(750):
            store.reclaim()  # the cursors stand in the middle
        clock.now += 2
        for key in range(3000):
            store.keep(("new", key), None, clock.now + 1000)
        assert store.evictions[Cause.EXPIRED] == 3000
        assert len(store) == 3000

    def test_a_burst_ends_in_no_more_than_max_size(self) -> None:
        clock = Clock()
        store = Table(1000, clock=clock)
        for key in range(100_000):
            clock.now += 1e-5
            store.keep(key, None, clock.now + 0.02)
        assert len(store) <= 1000
        assert store.evictions[Cause.EXPIRED] + store.evictions[Cause.SIZE] == 100_000 - len(store)

    def test_one_change_reclaims_a_bounded_number(self) -> None:
        clock = Clock()
        store = Table(100_000, clock=clock)
        for key in range(50_000):
            store.keep(key, None, clock.now + 1)
        clock.now += 2
        steps = []
        while len(store):
            before = len(store)
            store.reclaim()
            steps.append(before - len(store))
        assert max(steps) <= 512
        assert len(steps) < 400

    def test_without_expiries_the_clock_is_not_read(self) -> None:
        def clock() -> float:
            raise AssertionError("read")

        store = Table(10, clock=clock)
        for key in range(100):
            store.keep(key, None)
        assert len(store) == 10


class TestClear:
    def test_everything_is_gone_at_once_and_no_entry_was_touched(self) -> None:
        store = Table(1000)
        entries = [store.keep(key, key) for key in range(1000)]
        table = store.table
        store.clear()
        assert len(store) == 0
        assert not store.table
        assert len(table) == 1000, "clear may not work through the entries"
        assert all(entry.expires == NEVER for entry in entries)
        assert store.evictions[Cause.CLEARED] == 1000

    def test_later_changes_free_what_was_cleared_a_few_at_a_time(self) -> None:
        store = Table(1000)
        entries = [store.keep(key, key) for key in range(1000)]
        store.clear()
        freed = []
        for key in range(100):
            before = sum(entry.expires == RETIRED for entry in entries)
            store.keep(key, "new")
            freed.append(sum(entry.expires == RETIRED for entry in entries) - before)
        assert sum(freed) == 1000
        assert max(freed) <= 64
        assert not store._condemned
        assert [read(store, key) for key in range(100)] == ["new"] * 100

    def test_cycles_of_filling_and_clearing_pile_nothing_up(self) -> None:
        store = Table(300)
        for cycle in range(20):
            for key in range(300):
                store.keep((cycle, key), None)
            store.clear()
        assert sum(len(table) for table in store._condemned) <= 300

    def test_a_freed_entry_is_not_held_by_its_neighbours(self) -> None:
        store = Table(10)
        store.keep("k", None)
        first, last = store.keep("a", None), store.keep("b", None)
        store.clear()
        store.reclaim()
        assert first.next is last.next or last.previous is first.previous


class TestShelves:
    def test_all_share_one_budget(self) -> None:
        store = S3FIFO(10)
        shelves = [store.new_shelf() for _ in range(4)]
        for key in range(100):
            store.put(shelves[key % 4], key, key)
            assert len(store) == sum(len(shelf.table) for shelf in shelves) <= 10
        assert len(store) == 10
        assert store.evictions[Cause.SIZE] == 90

    def test_a_busy_shelf_displaces_the_entries_of_an_idle_one(self) -> None:
        store = S3FIFO(10)
        idle, busy = store.new_shelf(), store.new_shelf()
        for key in range(10):
            store.put(idle, key, key)
        for key in range(10):
            store.put(busy, key, key)
        assert len(idle.table) < 10
        assert len(idle.table) + len(busy.table) == 10

    def test_weights_are_shared_too(self) -> None:
        store = S3FIFO(100, max_weight=10)
        one, other = store.new_shelf(), store.new_shelf()
        store.put(one, "k", 1, weight=7)
        store.put(other, "k", 2, weight=7)
        assert store.weight == 7
        assert len(one.table) + len(other.table) == 1

    def test_equal_keys_are_different_entries(self) -> None:
        store = S3FIFO(10)
        one, other = store.new_shelf(), store.new_shelf()
        store.put(one, "k", 1)
        store.put(other, "k", 2)
        assert (look(one, "k"), look(other, "k"), len(store)) == (1, 2, 2)
        assert store.remove(one, "k") is True
        assert (look(one, "k"), look(other, "k"), len(store)) == (None, 2, 1)
        assert store.remove(one, "k") is False

    def test_equal_keys_are_different_ghosts(self) -> None:
        store = S3FIFO(100)
        one, other = store.new_shelf(), store.new_shelf()
        for key in range(1000):
            store.put(one, key, None)
        ghosts, epoch = store._queues._ghosts, store._queues._epoch
        assert ghosts is not None
        evicted = [key for key in range(1000) if key not in one.table][-50:]
        assert not any(ghosts.recall((other.salt, key), epoch) for key in evicted)
        assert sum(ghosts.recall((one.salt, key), epoch) is not None for key in evicted) > 40

    def test_a_shelf_gives_its_memory_back_whatever_lies_on_the_others(self) -> None:
        store = S3FIFO(40_000)
        shrinking, staying = store.new_shelf(), store.new_shelf()
        for shelf in (shrinking, staying):
            for key in range(20_000):
                store.put(shelf, key, None)
        large, untouched = sys.getsizeof(shrinking.table), staying.table
        for key in range(19_990):
            store.remove(shrinking, key)
        assert sys.getsizeof(shrinking.table) < large / 4
        assert set(shrinking.table) == set(range(19_990, 20_000))
        assert staying.table is untouched
        assert len(staying.table) == 20_000

    def test_expired_entries_are_reclaimed_by_changes_to_another_shelf(self) -> None:
        clock = Clock()
        store = S3FIFO(1000, clock=clock)
        left, used = store.new_shelf(), store.new_shelf()
        for key in range(500):
            store.put(left, key, None, clock.now + 1)
        clock.now += 2
        for key in range(30):
            store.put(used, key, None)
        assert not left.table
        assert len(store) == 30

    def test_clear_empties_all_and_drains_them_lazily(self) -> None:
        store = S3FIFO(1000)
        shelves = [store.new_shelf() for _ in range(5)]
        entries = [store.put(shelf, key, key) for shelf in shelves for key in range(100)]
        tables = [shelf.table for shelf in shelves]
        store.clear()
        assert len(store) == 0
        assert not any(shelf.table for shelf in shelves)
        assert [len(table) for table in tables] == [100] * 5, "clear may not work through the entries"
        assert store.evictions[Cause.CLEARED] == 500
        freed = []
        for key in range(50):
            before = sum(map(len, tables))
            store.put(shelves[key % 5], "new", key)
            freed.append(before - sum(map(len, tables)))
        assert sum(freed) == 500
        assert max(freed) <= 64
        assert all(entry.expires == RETIRED for entry in entries)
        assert all(shelf.table["new"].expires == NEVER for shelf in shelves)

    def test_as_many_shelves_as_entries_pile_nothing_up(self) -> None:
        store = S3FIFO(200)
        shelves = [store.new_shelf() for _ in range(200)]
        for _ in range(10):
            for shelf in shelves:
                store.put(shelf, "k", None)
            store.clear()
        assert sum(len(table) for table in store._condemned) <= 200

    def test_a_shelf_nobody_looks_into_lives_as_long_as_its_entries(self) -> None:
        clock = Clock()
        store = S3FIFO(10, clock=clock)
        shelf = store.new_shelf()
        store.put(shelf, "k", None, clock.now + 1)
        gone = weakref.ref(shelf)
        del shelf
        gc.collect()
        assert gone() is not None
        clock.now += 2
        store.reclaim()
        store.reclaim()  # the cursor stood at the end of its round
        gc.collect()
        assert gone() is None

    def test_a_cleared_shelf_nobody_looks_into_is_gone_when_its_entries_are_drained(self) -> None:
        store = S3FIFO(10)
        shelf = store.new_shelf()
        store.put(shelf, "k", None)
        gone = weakref.ref(shelf)
        del shelf
        store.clear()
        store.reclaim()
        gc.collect()
        assert gone() is None

    def test_an_empty_shelf_nobody_looks_into_is_gone_at_once(self) -> None:
        store = S3FIFO(10)
        gone = weakref.ref(store.new_shelf())
        assert gone() is None
        assert not store._shelves


class TestWeights:
    def test_the_sum_stays_within_the_bound(self) -> None:
        store = Table(1000, max_weight=50)
        rng = random.Random(1)
        for _ in range(3000):
            store.keep(rng.randrange(200), None, weight=rng.choice([0, 0.1, 1, 7, 30]))
            assert store.weight <= 50
            assert store.weight == pytest.approx(sum(entry.weight for entry in store.table.values()))
        assert store.evictions[Cause.WEIGHT] > 0

    def test_what_alone_is_too_heavy_is_not_stored_and_replaces_the_older(self) -> None:
        store = Table(10, max_weight=5)
        store.keep("k", 1)
        store.keep("other", 2)
        entry = store.keep("k", 3, weight=6)
        assert entry.expires == RETIRED
        assert list(store.table) == ["other"]
        assert store.weight == 1

    @pytest.mark.parametrize("weight", [-1, float("nan")])
    def test_a_weight_that_is_none_is_refused(self, weight: float) -> None:
        with pytest.raises(ValueError, match="weight"):
            Table(10, max_weight=5).keep("k", 1, weight=weight)

    def test_the_size_is_bounded_as_well(self) -> None:
        store = Table(10, max_weight=1000)
        for key in range(100):
            store.keep(key, None)
        assert len(store) == 10
        assert store.evictions[Cause.SIZE] == 90


class TestGhosts:
    def test_an_age_and_a_mark_are_told_once(self) -> None:
        ghosts = Ghosts(10)
        ghosts.remember("k", 5, marked=True)
        assert ghosts.recall("k", 12) == (7, True)
        assert ghosts.recall("k", 12) is None

    @pytest.mark.parametrize("spread", [1, 64, 1009])
    def test_most_are_remembered_and_few_confused_even_if_the_keys_are_integers(self, spread: int) -> None:
        ghosts = Ghosts(1000)
        for key in range(1000):
            ghosts.remember((0, key * spread), 1, marked=False)
        assert sum(ghosts.recall((0, key * spread), 1) is not None for key in range(1000, 20_000)) < 10
        assert sum(ghosts.recall((0, key * spread), 1) is not None for key in range(1000)) > 850

    def test_the_newer_stay(self) -> None:
        ghosts = Ghosts(100)
        for key in range(10_000):
            ghosts.remember((0, key), key // 10 + 1, marked=False)
        assert sum(ghosts.recall((0, key), 1001) is not None for key in range(9_950, 10_000)) > 40

    def test_no_value_and_no_key_outlives_its_entry(self) -> None:
        class Thing:
            alive = 0

            def __init__(self) -> None:
                Thing.alive += 1

            def __del__(self) -> None:
                Thing.alive -= 1

        store = Table(50)
        for _ in range(1000):
            store.keep(Thing(), Thing())
        assert Thing.alive == 100

    def test_they_take_twelve_bytes_for_each_entry(self) -> None:
        store = Table(1000)
        for key in range(50_000):
            store.keep(key, None)
        assert store._queues._ghosts is not None
        assert sys.getsizeof(store._queues._ghosts._slots) < 12_200


class TestRing:
    def test_the_cursor_goes_round_and_survives_removals(self) -> None:
        ring = Ring()
        entries = [Entry(Shelf(), key, None, NEVER) for key in range(5)]
        for entry in entries:
            ring.append(entry)
        seen: list[Any] = []
        for _ in range(5):
            found = ring.step()
            seen.append(found.key if found else None)
            if found is entries[1]:
                ring.remove(entries[2])
        assert seen == [None, 0, 1, 3, 4]
        assert ring.step() is None


class TestWhatIsKept:
    @pytest.mark.parametrize(("capacity", "least"), [(100, 0.08), (250, 0.2), (500, 0.43), (900, 0.8)])
    def test_a_loop_larger_than_the_cache_keeps_the_part_that_fits(self, capacity: int, least: float) -> None:
        assert hit_ratio(Table(capacity), [i % 1011 for i in range(100_000)]) > least

    def test_a_scan_does_not_wash_out_what_is_read_often(self) -> None:
        store = Table(1000)
        for i in range(20_000):
            hit_ratio(store, [i % 300])
        hit_ratio(store, list(range(10_000, 60_000)))
        assert sum(key in store.table for key in range(300)) > 290

    def test_popularity_that_moves_on_is_followed(self) -> None:
        rng = random.Random(3)
        store = Table(300)
        for phase in range(5):
            keys = [phase * 1000 + rng.randrange(200) for _ in range(10_000)]
            hit_ratio(store, keys[:5000])
            assert hit_ratio(store, keys[5000:]) > 0.9

    def test_probation_grows_where_recency_counts_and_shrinks_where_it_does_not(self) -> None:
        rng = random.Random(4)
        recent = Table(500)
        stack: list[int] = []
        fresh = itertools.count()
        for _ in range(60_000):
            depth = int(rng.expovariate(1 / 600))
            key = stack.pop(-1 - depth) if depth < len(stack) and rng.random() < 0.93 else next(fresh)
            stack = stack[-5000:]
            stack.append(key)
            hit_ratio(recent, [key])
        loop = Table(500)
        hit_ratio(loop, [i % 900 for i in range(60_000)])
        assert recent._queues._share > 0.3
        assert loop._queues._share == pytest.approx(0.02)

    def test_one_change_examines_a_bounded_number_of_entries(self) -> None:
        store = Table(10_000)
        for key in range(10_000):
            store.keep(key, None)
        for entry in store.table.values():
            entry.visits = MAX_VISITS
        store.keep("new", None)
        examined = sum(entry.visits < MAX_VISITS for entry in store.table.values())
        assert examined <= 65


class ShelfMachine(RuleBasedStateMachine):
    """Random changes on three shelves beside a dict that never forgets: what is there is right, the bounds hold."""

    keys = st.integers(0, 30)
    shelves = st.integers(0, 2)

    @initialize(size=st.integers(1, 12), weight=st.none() | st.integers(1, 20))
    def start(self, size: int, weight: int | None) -> None:
        self.clock = Clock()
        self.store = S3FIFO(size, max_weight=weight, clock=self.clock)
        self.shelf = [self.store.new_shelf() for _ in range(3)]
        self.model: dict[tuple[int, int], tuple[int, float]] = {}
        self.values = itertools.count()
        self.put_in = 0

    @rule(at=shelves, key=keys, ttl=st.none() | st.integers(1, 5), weight=st.integers(0, 8))
    def put(self, at: int, key: int, ttl: int | None, weight: int) -> None:
        value = next(self.values)
        expires = NEVER if ttl is None else self.clock.now + ttl
        entry = self.store.put(self.shelf[at], key, value, expires, weight)
        self.put_in += 1
        self.model[at, key] = (value, expires)
        if self.store.max_weight is None or weight <= self.store.max_weight:
            assert entry.value == value or entry.expires == RETIRED
        else:
            assert key not in self.shelf[at].table

    @rule(at=shelves, key=keys)
    def remove(self, at: int, key: int) -> None:
        held = look(self.shelf[at], key, self.clock.now) is not None
        assert self.store.remove(self.shelf[at], key) is held
        self.model.pop((at, key), None)

    @rule(at=shelves, key=keys)
    def get(self, at: int, key: int) -> None:
        value = look(self.shelf[at], key, self.clock.now)
        if value is not None:
            expected, expires = self.model[at, key]
            assert value == expected
            assert expires > self.clock.now

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def holds_together(self) -> None:
        store = self.store
        queued = in_queues(store)
        lying = [entry for shelf in self.shelf for entry in shelf.table.values()]
        assert {id(entry) for entry in queued} == {id(entry) for entry in lying}
        assert all(entry.shelf.table[entry.key] is entry for entry in queued)
        assert len(store) == len(queued) == len(lying) <= store.max_size
        assert all(0 <= entry.visits <= MAX_VISITS for entry in queued)
        if store.max_weight is not None:
            assert store.weight == sum(entry.weight for entry in queued) <= store.max_weight
        assert self.put_in == len(store) + sum(store.evictions.values())


TestShelfMachine = ShelfMachine.TestCase
TestShelfMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_readers_without_a_lock_never_see_a_wrong_value_or_none() -> None:
    """Writers replace, remove, clear and let expire under one lock, while readers look without it."""
    store = S3FIFO(50)
    shelves = [store.new_shelf(), store.new_shelf()]
    lock = threading.Lock()
    stop = threading.Event()
    wrong: list[object] = []
    served = [0, 0]

    def reader(number: int) -> None:
        rng = random.Random(number)
        try:
            while not stop.is_set():
                key = rng.randrange(100)
                entry = shelves[key % 2].table.get(key // 2)
                if entry is None:
                    continue
                value = entry.value
                if entry.expires > store._clock():
                    if entry.visits < MAX_VISITS:
                        entry.visits += 1
                    served[number] += 1
                    if value is None or value[0] != key:
                        wrong.append((key, value))
        except BaseException as error:
            wrong.append(error)

    def change(number: int) -> None:
        rng = random.Random(number)
        try:
            for turn in range(6000):
                key = rng.randrange(100)
                with lock:
                    if turn % 2000 == 1999:
                        store.clear()
                    elif turn % 5 == 0:
                        store.remove(shelves[key % 2], key // 2)
                    else:
                        store.put(shelves[key % 2], key // 2, (key, turn), store._clock() + rng.choice([1e-4, 60]))
        except BaseException as error:
            wrong.append(error)

    readers = [threading.Thread(target=reader, args=(number,)) for number in range(2)]
    writers = [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not wrong
    assert sum(served) > 0
    assert {id(entry) for entry in in_queues(store)} == {
        id(entry) for shelf in shelves for entry in shelf.table.values()
    }
