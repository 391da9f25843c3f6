"""The table of Redis counts what it says it does, and nobody is fast by failing. No timing is asserted."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.benchmarks import redis_throughput
from tests.benchmarks.placement import ChildFailed, in_child, one_cpu, pin
from tests.benchmarks.redis_counters import Counters, Gauge
from tests.benchmarks.redis_delays import LARGE_READERS, LATE, READERS, Delays, delays
from tests.benchmarks.redis_rounds import (
    MIXED,
    READS,
    WRITES,
    Cell,
    Effort,
    Load,
    Outcome,
    Plan,
    Slice,
    measured,
    payload,
)
from tests.benchmarks.redis_subjects import ASYNC, BLOCKING, CACHED, REDIS_PY, Contestant, Subject
from tests.benchmarks.report import OURS, Options, Skipped
from tests.support.redis_server import RedisServer

ONE = pytest.approx(1, abs=0.02)
"""For each operation; now and then ours, which has written there, asks besides whether the server is still the same."""

TWO_ROUNDS = Effort(seconds=0, rounds=2)


def slices(*walls: float) -> list[Slice]:
    return [Slice(wall, wall / 2, wall / 4, 1, 1) for wall in walls]


class Memory:
    """A subject without Redis: what it is asked, and how it answers, is the test's."""

    def __init__(self, read: Callable[[str], Any] | None = None) -> None:
        self.held: dict[str, Any] = {}
        self.asked: list[str] = []
        self.closed = 0
        self._read = read or self.held.get

    def __call__(self, url: str) -> Subject:
        return Subject(self.read, self.write, self.close)

    async def read(self, key: str) -> Any:
        self.asked.append("read")
        await asyncio.sleep(0)
        return self._read(key)

    async def write(self, key: str, value: Any) -> None:
        self.asked.append("write")
        await asyncio.sleep(0)
        self.held[key] = value

    async def close(self) -> None:
        self.closed += 1


def measured_at(url: str, load: Load, *contestants: Contestant, keys: int = 50) -> Cell:
    (cell,) = measured(url, [url], contestants, Plan([load], TWO_ROUNDS, keys))
    return cell


def test_counters_are_read_from_info_and_subtracted() -> None:
    stats = {"total_reads_processed": 7, "total_commands_processed": 30, "other": "x"}
    before = Counters.of(stats, {"used_cpu_sys": 0.5, "used_cpu_user": 1.25, "used_cpu_sys_children": 9})
    assert before == Counters(7, 30, 1_750_000_000)
    assert Counters(10, 50, 2_000_000_000) - before == Counters(3, 20, 250_000_000)
    assert before + before == Counters(14, 60, 3_500_000_000)


def test_the_gauge_counts_the_round_trips_and_commands_of_others_and_not_its_own(own_redis: RedisServer) -> None:
    client = own_redis.client()
    client.ping()
    with Gauge([own_redis.url]) as gauge:
        nothing = gauge.since(gauge.read())
        before = gauge.read()
        for _ in range(3):
            client.get("a key")
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(5):
                pipeline.get("a key")
            pipeline.execute()
        counted = gauge.since(before)
    client.close()
    assert (nothing.reads, nothing.commands) == (0, 0)
    assert (counted.reads, counted.commands) == (4, 8)
    assert counted.cpu >= 0


def test_a_gauge_of_several_servers_adds_them_up(own_redis: RedisServer) -> None:
    client = own_redis.client()
    client.ping()
    with Gauge([own_redis.url, own_redis.url]) as gauge:  # each connection sees the other's looks, always as many
        before = gauge.read()
        client.get("a key")
        counted = gauge.since(before)
    client.close()
    assert (counted.reads, counted.commands) == (2, 2)


def cpus() -> set[int]:
    return os.sched_getaffinity(0)


def divide(one: int, other: int) -> float:
    return one / other


def test_what_a_child_process_returns_or_raises_is_handed_on() -> None:
    assert in_child(divide, 6, 3) == 2
    with pytest.raises(ChildFailed, match="ZeroDivisionError"):
        in_child(divide, 6, 0)
    with pytest.raises(ChildFailed, match="ended with code 3"):
        in_child(os._exit, 3)


@pytest.mark.skipif(one_cpu() is None, reason="needs a system that pins, and two CPUs")
def test_a_child_and_the_server_beside_it_are_pinned_and_this_process_is_not(own_redis: RedisServer) -> None:
    cpu, before = one_cpu(), cpus()
    assert cpu is not None
    assert in_child(cpus, cpu=cpu, beside=[own_redis.pid]) == {cpu}
    assert os.sched_getaffinity(own_redis.pid) == {cpu}
    assert cpus() == before
    assert in_child(cpus) == before


@pytest.mark.skipif(sys.platform != "linux", reason="threads of a process are listed by Linux")
def test_pinning_holds_for_all_threads_of_a_server(own_redis: RedisServer) -> None:
    cpu = max(cpus())
    pin(own_redis.pid, cpu)
    threads = [int(name) for name in os.listdir(f"/proc/{own_redis.pid}/task")]
    assert len(threads) > 1
    assert all(os.sched_getaffinity(thread) == {cpu} for thread in threads)


@pytest.mark.parametrize("size", [150, 1024, 2**20])
def test_a_value_has_the_size_that_the_table_says(size: int) -> None:
    values = [payload(size, mark) for mark in (0, 1, 99)]
    assert {len(orjson.dumps(value)) for value in values} == {size}
    assert len({value["mark"] for value in values}) == 3


def test_callers_of_one_slice_use_different_keys_and_those_of_the_next_slice_go_on() -> None:
    keys = [str(number) for number in range(5000)]
    load = Load(READS, 150, 100)
    shares = load.shares(keys, 0)
    assert len(shares) == 100
    assert {len(share) for share in shares} == {20}
    assert len({key for share in shares for key in share}) == load.operations == 2000
    assert load.shares(keys, 1)[0][0] == "2000"
    crowd = Counter(key for share in Load(READS, 150, 5000).shares(keys, 1) for key in share)
    assert set(crowd.values()) == {2}
    assert [share[0] for share in Load(READS, 150, 10).shares(keys[:3], 5)][:2] == ["1", "0"]


def test_a_load_says_what_it_is() -> None:
    assert str(Load(READS, 150, 5000)) == "reads, 150 B, 5,000 tasks"
    assert str(Load(MIXED, 1024, 1)) == "90/10, 1 KiB, 1 task"
    assert str(Load(WRITES, 150, 8, blocking=True)) == "writes, 150 B, 8 threads"


@pytest.mark.parametrize(("kind", "writes"), [(READS, 0.0), (WRITES, 1.0), (MIXED, 0.1)])
def test_every_contestant_does_the_same_and_a_mixed_load_writes_one_time_in_ten(
    redis_url: str, kind: str, writes: float
) -> None:
    subjects = [Memory(), Memory()]
    load = Load(kind, 150, 100)
    contestants = [Contestant(str(number), {"": subject}) for number, subject in enumerate(subjects)]
    cell = measured_at(redis_url, load, *contestants)
    for subject in subjects:
        filling, work = subject.asked[:50], subject.asked[50:]
        assert filling == ["write"] * 50
        checks = 50 if kind == WRITES else 0
        assert len(work) == 3 * load.operations + checks, "a slice to warm up, and two rounds"
        assert work.count("write") == 3 * load.operations * writes
        assert subject.closed == 2
    assert [len(cell.outcomes[name].slices) for name in "01"] == [2, 2]


def test_the_writes_of_a_mixed_load_are_spread_over_its_time(redis_url: str) -> None:
    subject = Memory()
    measured_at(redis_url, Load(MIXED, 150, 100), Contestant("one", {"": subject}))
    first = subject.asked[50 : 50 + 2000]
    assert all(first[start : start + 100].count("write") == 10 for start in range(0, 2000, 100))


@pytest.mark.parametrize("callers", [1, 10])
def test_the_async_contestants_reach_the_server_for_every_operation(redis_url: str, callers: int) -> None:
    reads = measured_at(redis_url, Load(READS, 150, callers), *ASYNC)
    assert reads.outcomes.keys() == {OURS, CACHED, REDIS_PY}
    assert not any(outcome.failures for outcome in reads.outcomes.values())
    theirs = reads.outcomes[REDIS_PY].slices[-1]
    assert theirs.commands == ONE
    assert theirs.round_trips == ONE
    assert all(0 < one.round_trips <= 1 for one in reads.outcomes[OURS].slices)
    assert all(one.client_cpu > 0 for outcome in reads.outcomes.values() for one in outcome.slices)
    writes = measured_at(redis_url, Load(WRITES, 150, callers), *ASYNC)
    assert writes.outcomes.keys() == {OURS, REDIS_PY}, "a cached function is not written to"
    assert not any(outcome.failures for outcome in writes.outcomes.values())


def test_the_blocking_contestants_reach_the_server_for_every_operation(redis_url: str) -> None:
    for kind in (READS, WRITES):
        cell = measured_at(redis_url, Load(kind, 150, 8, blocking=True), *BLOCKING)
        assert cell.outcomes.keys() == {OURS, REDIS_PY}
        assert not any(outcome.failures for outcome in cell.outcomes.values())
        assert cell.outcomes[REDIS_PY].slices[-1].commands == ONE


def test_where_the_default_pool_fails_the_waiting_one_is_taken_and_the_reason_kept(redis_url: str) -> None:
    cell = measured_at(redis_url, Load(READS, 150, 500), *(one for one in ASYNC if one.name == REDIS_PY))
    outcome = cell.outcomes[REDIS_PY]
    assert outcome.way == "BlockingConnectionPool"
    assert outcome.failures == ["MaxConnectionsError: Too many connections"]
    assert len(outcome.slices) == 2


def test_whoever_finds_nothing_fails_and_the_others_are_measured(redis_url: str) -> None:
    empty = Contestant("empty", {"": Memory(lambda key: None)})
    cell = measured_at(redis_url, Load(READS, 150, 10), empty, Contestant("full", {"": Memory()}))
    assert cell.outcomes["empty"] == Outcome(failures=["NothingFound: a stored value is not found"])
    assert len(cell.outcomes["full"].slices) == 2
    assert cell.measurement.samples.keys() == {"full"}


@pytest.mark.parametrize("failing", [3_000, 5_000])
def test_whoever_fails_once_in_any_round_is_not_measured(redis_url: str, failing: int) -> None:
    reads = itertools.count(1)
    tired, steady = Memory(lambda key: None if next(reads) == failing else "found"), Memory()
    load = Load(READS, 150, 100)
    cell = measured_at(redis_url, load, Contestant("tired", {"": tired}), Contestant("steady", {"": steady}))
    assert cell.outcomes["tired"] == Outcome(failures=["NothingFound: a stored value is not found"])
    assert len(cell.outcomes["steady"].slices) == 2


def test_writes_that_are_dropped_in_silence_are_a_failure(redis_url: str) -> None:
    dropping = Memory(lambda key: payload(150, 12345))
    cell = measured_at(redis_url, Load(WRITES, 150, 10), Contestant("dropping", {"": dropping}))
    assert cell.outcomes["dropping"].failures == ["NothingFound: what was written can't be read"]


def test_a_warning_of_ours_is_a_failure_and_stays_out_of_the_output(
    redis_url: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def read(key: str) -> str:
        logging.getLogger("fast_cache").warning("Redis is away")
        return "found"

    cell = measured_at(redis_url, Load(READS, 150, 1), Contestant("away", {"": Memory(read)}))
    assert cell.outcomes["away"].failures == ["Failed: Redis is away"]
    assert "away" not in capsys.readouterr().err + caplog.text
    assert logging.getLogger("fast_cache").propagate


def test_a_contestant_that_cannot_be_made_fails(redis_url: str) -> None:
    def make(url: str) -> Subject:
        raise TypeError("not offered")

    cell = measured_at(redis_url, Load(READS, 150, 1), Contestant("absent", {"": make}))
    assert cell.outcomes["absent"].failures == ["TypeError: not offered"]


def test_a_subject_is_opened_before_it_is_used(redis_url: str) -> None:
    memory = Memory()

    async def open_it() -> None:
        memory.asked.append("open")

    cell = measured_at(
        redis_url, Load(READS, 150, 1), Contestant("one", {"": lambda url: replace(memory(url), open=open_it)})
    )
    assert len(cell.outcomes["one"].slices) == 2
    filling, work = memory.asked[:51], memory.asked[51:]
    assert filling == ["open", *["write"] * 50]
    assert work[0] == "open"
    assert set(work[1:]) == {"read"}


def test_small_reads_are_counted_with_large_ones_beside_them_and_without(redis_url: str) -> None:
    contestants = [one for one in ASYNC if one.name != CACHED]
    found = delays(redis_url, contestants, 0.1, 2)
    assert list(found) == [(OURS, False), (OURS, True), (REDIS_PY, False), (REDIS_PY, True)]
    for (_, large), seen in found.items():
        assert not seen.failure
        assert len(seen.taken) >= 2 * READERS
        assert list(seen.taken) == sorted(seen.taken)
        assert seen.large * 0.2 >= 2 * LARGE_READERS if large else seen.large == 0


def test_a_reader_that_finds_nothing_fails_in_the_table_of_delays(redis_url: str) -> None:
    found = delays(redis_url, [Contestant("empty", {"": Memory(lambda key: None)})], 0.05, 1)
    failed = Delays([], 0, "NothingFound: a stored value is not found")
    assert found == {("empty", False): failed, ("empty", True): failed}
    assert redis_throughput.figures(failed)[0] == redis_throughput.FAILS


def test_delays_know_their_percentiles_and_the_share_that_is_late() -> None:
    seen = Delays([LATE // 10] * 98 + [LATE, LATE + 1], 12.5)
    assert seen.late == 0.01
    assert (seen.percentile(0.5), seen.percentile(0.99)) == (LATE // 10, LATE + 1)
    assert redis_throughput.figures(seen) == ["1.0 ms", "10.0 ms", "10.0 ms", "1.00%", "12"]


def test_ratios_are_those_of_each_round_and_failures_are_named() -> None:
    cells = [
        Cell(
            Load(READS, 150, 500),
            {
                OURS: Outcome(slices=slices(1_000, 2_000)),
                CACHED: Outcome(failures=["NotAHit: the cached function ran"]),
                REDIS_PY: Outcome("BlockingConnectionPool", slices(10_000, 20_000), ["MaxConnectionsError"]),
            },
        ),
        Cell(
            Load(WRITES, 1024, 1),
            {OURS: Outcome(slices=slices(500, 500)), REDIS_PY: Outcome(failures=["ConnectionError: refused"])},
        ),
        Cell(
            Load(MIXED, 150, 100),
            {OURS: Outcome(slices=slices(1_000, 1_000)), REDIS_PY: Outcome(failures=["ConnectionError: refused"])},
        ),
    ]
    times, costs = redis_throughput.tables("Redis", cells)
    assert times.columns == ["", REDIS_PY, OURS, "times as fast", CACHED, "times as fast"]
    assert times.rows == [
        ["reads, 150 B, 500 tasks", "15.0 µs *", "1.50 µs", "10.0 (10.0 to 10.0)", "fails", redis_throughput.NOTHING],
        ["writes, 1 KiB, 1 task", "fails", "500 ns", *[redis_throughput.NOTHING] * 3],
        ["90/10, 150 B, 100 tasks", "fails", "1.00 µs", *[redis_throughput.NOTHING] * 3],
    ]
    assert times.notes[1:] == [
        "* redis-py with `BlockingConnectionPool`: its default fails (MaxConnectionsError).",
        f"{CACHED} fails (NotAHit: the cached function ran): reads, 150 B, 500 tasks.",
        f"{REDIS_PY} fails (ConnectionError: refused): writes, 1 KiB, 1 task; 90/10, 150 B, 100 tasks.",
    ]
    assert costs.rows == [
        ["reads, 150 B, 500 tasks", "7.50 µs", "750 ns", "3.75 µs", "375 ns", "1.00", "1.00", "1.00", "1.00"],
        ["90/10, 150 B, 100 tasks", "fails", "500 ns", "fails", "250 ns", "fails", "1.00", "fails", "1.00"],
    ], "small values only"


def test_in_short_some_loads_are_published_with_what_they_cost() -> None:
    def cell(kind: str, size: int, callers: int, **more: Any) -> Cell:
        outcomes = {OURS: Outcome(slices=slices(1_000, 1_000)), REDIS_PY: Outcome(slices=slices(4_000, 4_000))}
        return Cell(Load(kind, size, callers, **more), outcomes)

    alone = [cell(kind, 150, callers) for kind in (READS, WRITES, MIXED) for callers in (1, 10, 100, 500, 5000)]
    threads = [cell(READS, 150, callers, blocking=True) for callers in (1, 8, 32)]
    many = [cell(READS, 150, callers) for callers in (1, 100)]
    chosen = {"": [*alone, cell(READS, 1024, 100), *threads], "Cluster, ": many}
    table = redis_throughput.in_short(redis_throughput.Place("here", None), chosen)
    assert [row[0] for row in table.rows] == [
        *(f"{kind}, {who}" for kind in ("reads", "writes") for who in ("1 task", "10 tasks", "100 tasks", "500 tasks")),
        *("reads, 1 thread", "reads, 8 threads", "reads, 32 threads", "Cluster, reads, 100 tasks"),
    ]
    costs = ["2.00 µs", "500 ns", "1.00 µs", "250 ns", "1.00", "1.00"]
    assert table.rows[0][1:] == ["4.00 µs", "1.00 µs", "4.00 (4.00 to 4.00)", *costs]
    assert len(table.columns) == len(table.rows[0])
    assert table.published
    assert not any(long.published for long in redis_throughput.tables("Redis", alone))


def test_every_load_that_is_published_is_measured() -> None:
    loads = [*redis_throughput.loads(quick=False), *redis_throughput.loads_of_threads(quick=False)]
    for measured_loads, name in ((loads, ""), (redis_throughput.loads_of_cluster(), "Cluster, ")):
        assert {load.callers for load in measured_loads} >= set(redis_throughput.SHOWN[name])


def test_without_a_server_the_scenario_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("nothing")
    monkeypatch.setenv("REDIS_SERVER", str(folder / "redis-server"))
    with pytest.raises(Skipped, match="redis-server"):
        next(redis_throughput.run(Options(quick=True, traces=folder)))


def test_every_quick_load_can_be_measured_and_so_can_every_full_one() -> None:
    for quick in (True, False):
        loads: Sequence[Load] = [
            *redis_throughput.loads(quick=quick),
            *redis_throughput.loads_of_threads(quick=quick),
            *redis_throughput.loads_of_cluster(),
        ]
        assert all(load.operations > 0 for load in loads)
    assert {load.callers for load in redis_throughput.loads(quick=False)} == {1, 10, 100, 500, 5000}
