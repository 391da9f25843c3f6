"""The tables of two tiers count what they say they do, and nobody is fast by failing. No timing is asserted."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from fast_cache import LayeredBackend, RedisBackend
from fast_cache.backends.channel import News
from tests.benchmarks import layered, layered_coherence, layered_hit, layered_members, layered_workers
from tests.benchmarks.harness import Contender, Effort, NotAHit, measure
from tests.benchmarks.layered_app import CASHEWS, CPU, KINDS, NO_CACHE, NUMBERS, REDIS_ONLY, create_app, create_versions
from tests.benchmarks.layered_app import LAYERED as LAYERED_WAY
from tests.benchmarks.layered_clients import CONNECTIONS, Clients, Failed, Seen
from tests.benchmarks.layered_members import (
    BY_FUNCTION,
    BY_HAND,
    BY_TAG,
    Load,
    Member,
    MemberFailed,
    Process,
    ask_all,
    delays,
)
from tests.benchmarks.report import Options, Skipped
from tests.support.redis_server import RedisServer
from tests.support.uvicorn_server import serve


@pytest.fixture(autouse=True)
def _every_socket_is_closed() -> None:
    """Those of the peers, as far as they are installed, are not."""


def test_hits_of_two_tiers_are_measured_in_every_shape_and_ask_nobody(own_redis: RedisServer) -> None:
    table = layered_hit.hits(own_redis.url, Effort(rounds=2, calls=20))
    assert [row[0] for row in table.rows] == list(layered_hit.SHAPES)
    assert table.columns[1] == layered_hit.MEMORY


def test_whoever_asks_redis_during_a_slice_made_no_hit(own_redis: RedisServer) -> None:
    far = RedisBackend(own_redis.url, namespace="no hit")
    with closing(LayeredBackend(l2=far)) as backend:
        statement, function = layered_hit.SHAPES["sync, one int"]
        contender = layered_hit.contender("two tiers", backend, statement, function)
        names = {**contender.names, "near": backend.l1}
        forgetful = Contender("forgetful", "fetch(7); near.clear()", names, prepare=contender.prepare)
        with pytest.raises(NotAHit, match="forgetful ran the cached function 5 times in 5 calls"):
            measure([forgetful], Effort(rounds=1, calls=5), loads=layered_hit.loads)


def test_a_copy_that_is_never_held_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layered_hit, "WITHIN", 0.05)

    def call() -> None:
        layered_hit.count()

    with pytest.raises(layered_hit.NotHeld):
        asyncio.run(layered_hit.settle(call, False))


@pytest.fixture
def pair(own_redis: RedisServer) -> Iterator[tuple[Member, Member]]:
    with closing(Member(own_redis.url)) as writer, closing(Member(own_redis.url)) as listener:
        yield writer, listener


@pytest.mark.parametrize("kind", [BY_FUNCTION, BY_HAND, BY_TAG])
def test_every_change_is_acknowledged_and_every_copy_of_it_dropped(pair: tuple[Member, Member], kind: str) -> None:
    writer, listener = pair
    numbers = range(5)
    for member in pair:
        member.hold(kind, numbers)
    before = time.monotonic_ns()
    acknowledged = writer.change(kind, numbers, 1)
    dropped = listener.dropped(kind, numbers)
    assert len(acknowledged) == 5
    assert acknowledged.keys() == dropped.keys()
    assert all(at > before for at in (*acknowledged.values(), *dropped.values()))


def test_a_copy_that_is_served_after_the_news_fails(pair: tuple[Member, Member]) -> None:
    writer, listener = pair
    store = listener._backend.engine_store()
    drop = store._drop  # type: ignore[attr-defined]
    for member in pair:
        member.hold(BY_HAND, [1, 2])
    store._drop = lambda news: drop(News(news.keys[:0] if "by hand 2" in news.keys else news.keys))  # type: ignore[attr-defined]
    writer.change(BY_HAND, [1, 2], 1)
    with pytest.raises(MemberFailed, match="1 of 2 copies were still served"):
        listener.dropped(BY_HAND, [1, 2])


def test_news_that_never_come_fail(pair: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layered_members, "WITHIN", 0.1)
    with pytest.raises(MemberFailed, match="changes are not heard of"):
        pair[1].dropped(BY_FUNCTION, [1])


def test_a_drop_before_the_acknowledgement_took_no_time() -> None:
    assert delays({"a": 100, b"b": 100, "c": 100}, {"a": 350, b"b": 90, "c": 100}) == [250, 0, 0]


def test_a_load_works_until_it_is_told_to_stop() -> None:
    before = threading.active_count()
    load = Load()
    load.busy(0.5)
    load.busy(0.9)
    assert threading.active_count() == before + 1
    load.busy(0)
    assert threading.active_count() == before


def test_a_load_is_busy_for_its_share_of_the_time() -> None:
    rests: list[float] = []

    def rest(seconds: float) -> bool:
        rests.append(seconds)
        return len(rests) == 3

    layered_members.work(0.25, rest)
    shortest, longest = layered_members.BURST
    assert len(rests) == 3
    assert all(3 * shortest <= seconds <= 3 * longest for seconds in rests)


class Echo:
    def __init__(self, word: str) -> None:
        self.word = word

    def say(self, times: int) -> str:
        return self.word * times

    def end(self) -> None:
        os._exit(3)

    def close(self) -> None:
        """Nothing is held."""


def test_processes_answer_raise_and_end() -> None:
    processes = [Process(Echo, "a"), Process(Echo, "b")]
    try:
        assert ask_all(processes, "say", 2) == ["aa", "bb"]
        with pytest.raises(MemberFailed, match="TypeError"):
            ask_all(processes[:1], "say", None)
        assert ask_all(processes[:1], "say", 1) == ["a"]
        with pytest.raises(MemberFailed, match="ended"):
            ask_all(processes[1:], "end")
    finally:
        for process in processes:
            process.end()


def test_delays_are_seen_in_every_setting_by_every_listener(own_redis: RedisServer) -> None:
    effort = layered_coherence.Effort(rounds=2, changes=3)
    seen = layered_coherence.observed(own_redis.url, effort)
    assert list(seen) == [layered_coherence.IDLE, layered_coherence.BESIDE, layered_coherence.WITHIN]
    each = effort.changes * len(layered_members.KINDS) * layered_coherence.LISTENERS
    assert [[len(taken) for taken in one.rounds] for one in seen.values()] == [[each, each]] * 3


def test_percentiles_are_those_of_each_round() -> None:
    seen = layered_coherence.Seen([[5, 1, 3], [40, 10, 20]])
    assert seen.percentiles(0.5) == [3, 20]
    assert seen.longest == 40


@pytest.fixture
def versions(tmp_path: Path) -> str:
    path = tmp_path / "versions"
    create_versions(path)
    return str(path)


def test_every_way_reads_writes_and_counts_the_loads_of_the_origin(redis_url: str, versions: str) -> None:
    with serve(create_app(redis_url, versions)) as served:
        clients = Clients([served.port])
        for kind in KINDS:
            clients.fill(kind)
            assert layered_workers.counts([served])[kind] == NUMBERS
            clients.fill(kind)
            before = layered_workers.counts([served])
            assert before[kind] == (2 * NUMBERS if kind == NO_CACHE else NUMBERS)
            seen = clients.ask(kind, 0.3, 1)
            after = layered_workers.counts([served])
            assert seen.requests >= CONNECTIONS
            if kind == NO_CACHE:
                assert after[kind] - before[kind] == len(seen.taken)
            assert after[CPU] > before[CPU]
            if kind != CASHEWS:
                assert seen.stale == [], "one process is its own writer"


def test_what_is_older_than_an_acknowledged_write_is_stale() -> None:
    app = FastAPI()

    @app.get("/old/{number}")
    async def old(number: int) -> dict[str, int]:
        return {"version": 0}

    @app.post("/old/{number}")
    async def write(number: int, version: int) -> None:
        """It changes nothing."""

    with serve(app) as served:
        clients = Clients([served.port])
        seen = clients.ask("old", 0.3, 1)
    assert seen.writes > 0
    assert 0 < len(seen.stale) <= len(seen.taken)
    assert all(at >= 0 for at in seen.stale)


def test_a_worker_that_answers_otherwise_fails() -> None:
    with serve(FastAPI()) as served, pytest.raises(ExceptionGroup) as raised:
        Clients([served.port]).fill("nothing")
    assert raised.group_contains(Failed, match="404")


def test_the_table_of_workers_is_made_of_medians_and_of_ratios_within_rounds() -> None:
    def seen(requests: int, **counted: Any) -> Seen:
        return Seen(2.0, [1_000_000] * (requests - 10), 10, **counted)

    late = layered_workers.SOON + 1
    found = {
        LAYERED_WAY: [seen(2010, loads=20, cpu=2010_000, stale=[5]), seen(4010, loads=40, cpu=4010_000, stale=[late])],
        REDIS_ONLY: [seen(1005, loads=10, cpu=2010_000), seen(2005, loads=20, cpu=4010_000)],
    }
    table = layered_workers.table(found, layered_workers.Effort(2, 2.0))
    assert table.rows == [
        ["fast_cache, two tiers", "1,505", "2.00 (2.00 to 2.00)", "1.0 ms", "1.00 µs", "10.0", "2, 1"],
        ["fast_cache, Redis only", "752", "1.00 (1.00 to 1.00)", "1.0 ms", "2.00 µs", "10.0", "0, 0"],
    ]
    assert table.notes[-1] == "Left out: cashews is not installed."


def test_workers_are_processes_that_share_redis_and_the_versions(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layered_workers, "WORKERS", 2)
    with layered_workers.started(own_redis.url) as served:
        assert len({one.port for one in served}) == 2
        with served[0].client() as one, served[1].client() as other:
            for kind in (LAYERED_WAY, REDIS_ONLY):
                assert one.get(f"/{kind}/7").json()["version"] == 0
            assert one.post(f"/{REDIS_ONLY}/7?version=3").status_code == 200
            assert other.get(f"/{REDIS_ONLY}/7").json()["version"] == 3
            assert one.post(f"/{NO_CACHE}/7?version=2").status_code == 200
            assert other.get(f"/{NO_CACHE}/7").json()["version"] == 3, "a late write changes nothing"
        assert layered_workers.counts(served)[REDIS_ONLY] == 2


def test_without_a_server_the_scenario_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_SERVER", str(tmp_path / "redis-server"))
    with pytest.raises(Skipped, match="redis-server"):
        next(layered.run(Options(quick=True, traces=tmp_path)))
