"""The benchmarks measure what they claim to, and publish without touching anything else. No timing is asserted."""

from __future__ import annotations

import asyncio
import gc
import gzip
import lzma
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fast_cache import RedisBackend
from tests.benchmarks import __main__ as program
from tests.benchmarks import clearing, expiry, hit_ratio, survival
from tests.benchmarks.chart import draw
from tests.benchmarks.harness import Contender, Effort, NotAHit, Spread, measure, running_order
from tests.benchmarks.memory_hit import SHAPES
from tests.benchmarks.memory_use import fill_dict, growth
from tests.benchmarks.peers import made, versions
from tests.benchmarks.policies import LRU, Sieve
from tests.benchmarks.readme import END, START, rewrite
from tests.benchmarks.report import Options, Skipped, Table, difference, duration, factor
from tests.benchmarks.traces import read_trace

ROOT = Path(__file__).resolve().parents[2]

README = f"# Title\n\n{START}\nold figures\n{END}\n\n## After\n"

TABLE = Table(
    "Figures",
    ["", "per call", "ratio"],
    [["fast_cache", "100 ns", "1"], ["a|b", "12.5 µs", "0.01"]],
    notes=["A note."],
    bars=[("fast_cache", 0.1), ("a <b>", 12.5)],
)


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def spend(self, nanoseconds: int) -> None:
        self.now += nanoseconds

    async def aspend(self, nanoseconds: int) -> None:
        self.now += nanoseconds


def test_every_contender_is_called_equally_often_and_the_order_alternates() -> None:
    log: list[str] = []
    contenders = [Contender(name, "log.append(name)", {"log": log, "name": name}) for name in "abc"]
    measurement = measure(contenders, Effort(rounds=8, calls=5))
    warm_up, rounds = log[: 3 * 5], log[3 * 5 :]
    assert warm_up == ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    assert Counter(rounds) == dict.fromkeys("abc", 8 * 5)
    slices = [rounds[start] for start in range(0, len(rounds), 5)]
    assert all(len(set(calls)) == 1 for calls in slices)
    assert [[calls[0] for calls in slices[start : start + 3]] for start in range(0, 24, 3)] == [
        [*"abc"],
        [*"cba"],
        [*"bca"],
        [*"acb"],
        [*"cab"],
        [*"bac"],
        [*"abc"],  # the empty loop had its turn in front of them
        [*"cba"],
    ]
    assert {name: len(samples) for name, samples in measurement.samples.items()} == {"a": 8, "b": 8, "c": 8}


@pytest.mark.parametrize("contenders", [1, 2, 5])
def test_every_contender_stands_in_every_place_equally_often(contenders: int) -> None:
    orders = [running_order(number, contenders) for number in range(2 * contenders)]
    assert all(sorted(order) == list(range(contenders)) for order in orders)
    assert all(set(place) == set(range(contenders)) for place in zip(*orders[::2], strict=True))
    assert orders[1] == orders[0][::-1]


def test_time_per_call_and_ratios_are_those_of_the_calls() -> None:
    clock = Clock()
    ours = Contender("ours", "time.spend(200)", {"time": clock})
    peer = Contender("peer", "time.spend(800)", {"time": clock})
    measurement = measure([ours, peer], Effort(rounds=6, calls=10), clock=clock)
    assert measurement.per_call("ours") == Spread(200, 200, 200)
    assert measurement.ratio("ours", "peer") == Spread(0.25, 0.25, 0.25)


def test_identical_contenders_have_the_ratio_one() -> None:
    clock = Clock()
    twins = [Contender(name, "time.spend(300)", {"time": clock}) for name in ("one", "other")]
    assert measure(twins, Effort(rounds=4, calls=3), clock=clock).ratio("one", "other") == Spread(1, 1, 1)


def test_ratios_are_taken_within_each_round() -> None:
    clock = Clock()

    def slower_every_time() -> Callable[[], None]:
        """A machine that slows down: both contenders take longer from round to round."""
        calls = 0

        def spend() -> None:
            nonlocal calls
            calls += 1
            clock.spend(100 * calls)

        return spend

    twins = [Contender(name, "spend()", {"spend": slower_every_time()}) for name in ("one", "other")]
    measurement = measure(twins, Effort(rounds=9, calls=1), clock=clock)
    assert measurement.per_call("one").low < measurement.per_call("one").high
    assert measurement.ratio("one", "other") == Spread(1, 1, 1)


def test_the_empty_loop_is_subtracted() -> None:
    clock = Clock()

    def items() -> list[int]:
        return [1, 2, 3, 4]

    class Slow(list[int]):
        def __iter__(self) -> Iterator[int]:
            for item in super().__iter__():
                clock.spend(1000)
                yield item

    contender = Contender("ours", "time.spend(item)", {"time": clock})
    measurement = measure([contender], Effort(rounds=4), items=lambda: Slow(items()), clock=clock)
    assert measurement.per_call("ours").median == sum(items()) / len(items())


def test_items_are_made_anew_for_every_slice() -> None:
    made_so_far: list[list[object]] = []
    seen: list[object] = []

    def items() -> list[object]:
        made_so_far.append([object(), object()])
        return made_so_far[-1]

    measure([Contender("ours", "seen.append(item)", {"seen": seen})], Effort(rounds=3), items=items)
    assert len(seen) == 2 * (1 + 3)
    assert len(set(map(id, seen))) == len(seen)


def test_contenders_that_await_share_one_coroutine_with_the_others() -> None:
    clock = Clock()
    tasks: set[object] = set()
    prepared: list[object] = []

    async def prepare() -> None:
        prepared.append(asyncio.current_task())

    async def awaited() -> None:
        tasks.add(asyncio.current_task())
        clock.spend(700)

    contenders = [
        Contender("awaits", "await call()", {"call": awaited}, prepare=prepare),
        Contender("awaits too", "await time.aspend(100)", {"time": clock}),
        Contender("does not", "time.spend(100)", {"time": clock}),
    ]
    measurement = measure(contenders, Effort(rounds=4, calls=2), clock=clock)
    assert measurement.ratio("awaits", "awaits too").median == 7
    assert measurement.ratio("does not", "awaits too").median == 1
    assert tasks == set(prepared)
    assert len(tasks) == 1


def test_contenders_that_only_block_run_where_no_event_loop_does() -> None:
    def no_loop() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    measure([Contender("ours", "call()", {"call": no_loop})], Effort(rounds=2, calls=1))


def test_differences_are_taken_within_each_round() -> None:
    clock = Clock()
    grows = iter(range(100, 10_000, 100))

    def spend(more: int) -> None:
        clock.spend(next(grows) + more)

    names = {"spend": spend}
    twins = [Contender("one", "spend(5000)", names), Contender("other", "spend(0)", names)]
    found = measure(twins, Effort(rounds=4, calls=1), clock=clock).difference("one", "other")
    assert found == Spread(4900, 5000, 5100), "the first in a round has the shorter turn, and they alternate"


def test_a_slice_may_be_run_once_before_it_is_timed() -> None:
    clock = Clock()
    seen: list[str] = []

    def call(name: str) -> None:
        clock.spend(10 if seen[-1:] == [name] else 1000)
        seen.append(name)

    contenders = [Contender(name, "call(name)", {"call": call, "name": name}) for name in "ab"]
    cold = measure(contenders, Effort(rounds=4, calls=1), clock=clock)
    assert cold.per_call("a").high == 1000
    warm = measure(contenders, Effort(rounds=4, calls=1, lead=True), clock=clock)
    assert warm.per_call("a") == warm.per_call("b") == Spread(10, 10, 10)


def test_what_runs_the_function_in_the_slice_before_made_no_hit_either() -> None:
    calls: list[int] = []
    contender = Contender("leaky", "calls.append(1)", {"calls": calls})
    with pytest.raises(NotAHit, match="leaky"):
        measure([contender], Effort(rounds=1, calls=1, lead=True), loads=lambda: min(len(calls), 2))


def test_a_function_that_runs_during_the_measurement_ends_it() -> None:
    ran: list[None] = []
    contender = Contender("leaky", "ran.append(None)", {"ran": ran})
    with pytest.raises(NotAHit, match="leaky ran the cached function 3 times in 3 calls"):
        measure([contender], Effort(rounds=2, calls=3), loads=lambda: len(ran))


def test_loads_before_the_measurement_are_allowed() -> None:
    stored: set[int] = set()
    loads: list[int] = []

    def fetch() -> None:
        if not stored:
            loads.append(1)
            stored.add(1)

    measure([Contender("ours", "fetch()", {"fetch": fetch})], Effort(rounds=2, calls=3), loads=lambda: len(loads))
    assert loads == [1]


def test_the_collector_is_off_while_measuring_and_on_again_after_a_failure() -> None:
    states: list[bool] = []
    contender = Contender("ours", "note(enabled())", {"note": states.append, "enabled": gc.isenabled})
    with pytest.raises(NotAHit):
        measure([contender], Effort(rounds=1, calls=1), loads=lambda: len(states))
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert states == [True, False], "the warm-up, then the first round"


def test_a_peer_that_is_missing_or_broken_is_left_out_with_the_reason() -> None:
    def missing() -> int:
        raise ModuleNotFoundError("No module named 'peer'", name="peer")

    def changed() -> int:
        raise AttributeError("module 'other' has no attribute 'cached'")

    present, absent = made([lambda: 1, missing, changed, lambda: 4])
    assert present == [1, 4]
    assert absent == [
        "Left out: peer is not installed.",
        "Left out: AttributeError: module 'other' has no attribute 'cached'.",
    ]


def test_the_block_of_the_readme_is_rewritten_and_nothing_else() -> None:
    once = rewrite(README, "new figures, with \\1 in them\n")
    assert once == f"# Title\n\n{START}\n\nnew figures, with \\1 in them\n\n{END}\n\n## After\n"
    assert rewrite(once, "new figures, with \\1 in them\n") == once


@pytest.mark.parametrize("text", ["no block", README + README, f"{END} the wrong way round {START}"])
def test_a_readme_without_exactly_one_block_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="needs one block"):
        rewrite(text, "figures")


def test_a_table_as_markdown() -> None:
    assert TABLE.as_markdown().splitlines() == [
        "### Figures",
        "",
        "|  | per call | ratio |",
        "| :-- | --: | --: |",
        "| fast_cache | 100 ns | 1 |",
        "| a\\|b | 12.5 µs | 0.01 |",
        "",
        "- A note.",
    ]


def test_a_table_as_text_has_columns_that_line_up() -> None:
    assert TABLE.as_text().splitlines() == [
        "Figures",
        "            per call  ratio",
        "---------------------------",
        "fast_cache    100 ns      1",
        "a|b          12.5 µs   0.01",
        "  A note.",
    ]


def test_a_table_of_words_is_left_aligned() -> None:
    table = Table(
        "Words",
        ["", "one", "two"],
        [["row", "yes", "no, never"], ["other row", survival.NOT_OFFERED, "yes"]],
        words=True,
    )
    assert table.as_text().splitlines()[1:] == [
        "           one  two",
        "-------------------------",
        "row        yes  no, never",
        f"other row  {survival.NOT_OFFERED}    yes",
    ]
    assert "| :-- | :-- | :-- |" in table.as_markdown().splitlines()


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(39.4, "39 ns"), (999, "999 ns"), (1234, "1.23 µs"), (32_900, "32.9 µs"), (52_340_000, "52.3 ms")],
)
def test_a_duration_has_the_unit_that_suits_it(nanoseconds: float, text: str) -> None:
    assert duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (Spread(120, 1230, 2500), "+1.23 µs (+120 ns to +2.50 µs)"),
        (Spread(-2500, -40, 39.6), "-40 ns (-2.50 µs to +40 ns)"),
    ],
)
def test_a_difference_has_a_sign(spread: Spread, text: str) -> None:
    assert difference(spread) == text


@pytest.mark.parametrize(("value", "text"), [(0.0141, "0.014"), (0.64, "0.64"), (1.128, "1.13"), (10.67, "10.7")])
def test_a_ratio_has_the_digits_that_count(value: float, text: str) -> None:
    assert factor(value) == text


def test_the_chart_is_xml_with_one_bar_for_each_figure() -> None:
    without_bars = Table("No bars", ["x"], [["1"]])
    tree = ElementTree.fromstring(draw([TABLE, without_bars]))
    svg = "{http://www.w3.org/2000/svg}"
    bars = {bar.get("class"): float(bar.get("width", "")) for bar in tree.iter(f"{svg}rect")}
    texts = [text.text for text in tree.iter(f"{svg}text")]
    assert texts == ["Figures", "fast_cache", "100 ns", "a <b>", "12.5 µs"]
    assert bars["ours"] == pytest.approx(bars["peer"] * 0.1 / 12.5, abs=0.1)


def test_publishing_fills_the_readme_and_draws_the_chart_without_paths_of_this_machine(tmp_path: Path) -> None:
    readme, chart = tmp_path / "README.md", tmp_path / "pictures" / "chart.svg"
    readme.write_text(README)
    program.publish([TABLE], readme, chart)
    first = readme.read_text()
    assert TABLE.as_markdown() in first
    assert f"({program.CHART.as_posix()})" in first
    assert all(version in first for version in versions())
    assert not re.search(r"(?<![\w.])/(?:home|tmp|usr|opt|root|work)/", first + chart.read_text())
    program.publish([TABLE], readme, chart)
    assert readme.read_text() == first


def test_write_readme_publishes_a_full_run_and_leaves_the_readme_alone_after_a_partial_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(options: Options) -> Iterator[Table]:
        yield TABLE

    def skipped(options: Options) -> Iterator[Table]:
        yield from ()
        raise Skipped("something is missing")

    readme = tmp_path / "README.md"
    readme.write_text(README)
    monkeypatch.setattr(program, "ROOT", tmp_path)
    monkeypatch.setattr(program, "README", readme)
    monkeypatch.setattr(program, "SCENARIOS", {"measured": measured, "skipped": skipped})
    assert program.main(["--write-readme"]) == 1
    assert readme.read_text() == README
    assert "skipped was skipped" in capsys.readouterr().err
    monkeypatch.setattr(program, "SCENARIOS", {"measured": measured})
    assert program.main(["--write-readme"]) == 0
    assert TABLE.as_markdown() in readme.read_text()
    assert (tmp_path / program.CHART).read_text() == draw([TABLE])


def test_who_survives_what_has_a_block_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def observed(options: Options) -> Iterator[Table]:
        yield Table("Who survives what", ["", "fast_cache"], [["fire", "yes"]], words=True)

    def measured(options: Options) -> Iterator[Table]:
        yield TABLE

    start, end = START.replace("benchmarks", "survival"), END.replace("benchmarks", "survival")
    readme = tmp_path / "README.md"
    readme.write_text(f"{README}\n{start}\n{end}\n## Last\n")
    monkeypatch.setattr(program, "ROOT", tmp_path)
    monkeypatch.setattr(program, "README", readme)
    monkeypatch.setattr(program, "SCENARIOS", {"measured": measured, "survival": observed})
    assert program.main(["survival", "--write-readme"]) == 0
    alone = readme.read_text()
    assert alone.startswith(README)
    assert alone.endswith(f"\n\n{end}\n## Last\n")
    assert "| :-- | :-- |\n| fire | yes |" in alone.partition(start)[2]
    assert program.surroundings() in alone
    assert not (tmp_path / program.CHART).exists()
    assert program.main(["--write-readme"]) == 0
    assert TABLE.as_markdown() in readme.read_text()
    assert readme.read_text().partition(END)[2] == alone.partition(END)[2]


def test_what_is_only_printed_stays_out_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(options: Options) -> Iterator[Table]:
        yield Table("At length", ["", "fast_cache"], [["more", "1 ns"]], published=False)
        yield TABLE

    start, end = START.replace("benchmarks", "redis"), END.replace("benchmarks", "redis")
    readme = tmp_path / "README.md"
    readme.write_text(f"{start}\nold\n{end}\n## Last\n")
    monkeypatch.setattr(program, "README", readme)
    monkeypatch.setattr(program, "SCENARIOS", {"redis": measured})
    assert program.main(["redis", "--write-readme"]) == 0
    assert "At length" in capsys.readouterr().out
    published = readme.read_text()
    assert "At length" not in published
    assert TABLE.as_markdown() in published
    assert published.startswith(f"{start}\n\n{program.APART['redis']}\n\n")
    assert published.endswith(f"\n\n{end}\n## Last\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such"], "no such scenario: no_such"),
        (["--write-readme", "--quick"], "publishes a full run"),
        (["--write-readme", "memory_hit"], "publishes a full run"),
        (["--write-readme", "survival", "--quick"], "publishes a full run"),
        (["--write-readme", "clearing", "--entries", "1000"], "publishes a full run"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.main(arguments)
    assert message in capsys.readouterr().err


def test_a_quick_run_of_the_hits_prints_a_table_for_each() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "memory_hit", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    tables = [block.splitlines() for block in done.stdout.split("\n\n") if "fast_cache" in block]
    assert len(tables) == 6
    assert all(set(lines[2]) == {"-"} for lines in tables)
    assert all(shape in done.stdout for shape in SHAPES)


def test_every_call_around_the_expiry_is_counted_and_so_is_every_load() -> None:
    taken, loads = asyncio.run(expiry.latencies(expiry.ours("`expire`"), 0.1))
    assert loads == 1
    assert len(taken) >= expiry.CALLERS
    assert taken == sorted(taken)
    assert [expiry.percentile(list(range(1000)), share) for share in (0.5, 0.99, 0.999, 1)] == [500, 990, 999, 999]


@pytest.mark.parametrize(
    ("options", "entries"),
    [
        ({"quick": False}, [1_000, 1_000_000, 10_000_000]),
        ({"quick": True}, [1_000, 20_000]),
        ({"quick": False, "entries": 200_000}, [1_000, 200_000]),
        ({"quick": False, "entries": 1_000_000}, [1_000, 1_000_000]),
        ({"quick": True, "entries": 300}, [300]),
    ],
)
def test_there_are_no_more_entries_to_clear_than_are_allowed(
    options: dict[str, Any], entries: list[int], tmp_path: Path
) -> None:
    assert clearing.sizes(Options(traces=tmp_path, **options)) == entries


def test_every_way_to_clear_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "_BEFORE", 0.01)
    monkeypatch.setattr(clearing, "_STEP_BY_STEP", 1000)
    (table,) = clearing.run(Options(quick=True, traces=tmp_path, entries=3000))
    at_once = [*clearing.AT_ONCE]
    assert [row[:2] for row in table.rows] == [
        *((way, "1,000") for way in [*at_once, clearing.STEP_BY_STEP]),
        *((way, "3,000") for way in at_once),
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(float(cell.removesuffix(" ms").replace(",", "")) > 0 for row in table.rows for cell in row[2:])


def test_whoever_clears_nothing_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "_BEFORE", 0.01)
    smallest = Options(quick=True, traces=tmp_path, entries=10)
    monkeypatch.setattr(RedisBackend, "delete_match", lambda backend, prefix: 9)
    with pytest.raises(clearing.NotCleared, match="9 of 10 entries were removed"):
        next(clearing.run(smallest))
    monkeypatch.setattr(RedisBackend, "clear", lambda backend: None)
    with pytest.raises(clearing.NotCleared, match="what was cleared is served"):
        next(clearing.run(smallest))


def test_without_traces_the_replay_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Skipped, match="--traces or TRACES"):
        next(hit_ratio.run(Options(quick=True, traces=tmp_path)))
    assert program.main(["hit_ratio", "--traces", str(tmp_path)]) == 0
    assert "hit_ratio is skipped" in capsys.readouterr().out


def test_traces_are_replayed_over_every_policy(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "loop.trace.gz", "wb") as file:
        file.write(b"".join(b"%d\n" % (number % 3) for number in range(30)))
    (table,) = hit_ratio.run(Options(quick=True, traces=tmp_path))
    assert [row[:3] for row in table.rows] == [["loop", "30", "500"], ["loop", "30", "900"]]
    shares = dict(zip(table.columns, table.rows[0], strict=True))
    assert shares["LRU"] == shares["SIEVE"] == shares["fast_cache"] == "90.00 *"


def test_both_formats_of_traces_are_read(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "web1.trace.xz", "wb") as file:
        file.write(struct.pack(">4i", 1, -2, 3, 2_000_000_000))
    with gzip.open(tmp_path / "multi1.trace.gz", "wb") as file:
        file.write(b"*\n5\n*\n6\n7\n")
    assert read_trace(tmp_path / "web1.trace.xz") == [1, -2, 3, 2_000_000_000]
    assert read_trace(tmp_path / "web1.trace.xz", limit=2) == [1, -2]
    assert read_trace(tmp_path / "multi1.trace.gz") == [5, 6, 7]
    assert read_trace(tmp_path / "multi1.trace.gz", limit=2) == [5, 6]
    with pytest.raises(ValueError, match="must end in"):
        read_trace(tmp_path / "multi1.trace.zip")


def test_lru_evicts_what_was_not_used_for_the_longest_time() -> None:
    cache = LRU(2)
    assert [cache.access(key) for key in "abacb"] == [False, False, True, False, False]


def test_sieve_passes_over_what_was_visited_and_goes_on_from_there() -> None:
    cache = Sieve(3)
    assert not any(cache.access(key) for key in "abc")
    assert cache.access("a")
    assert not cache.access("d")  # the hand passes a, which it unmarks, and takes b
    assert all(cache.access(key) for key in "acd")
    assert not cache.access("e")  # from c on: c, d and a are unmarked in turn, then c goes
    assert [cache.access(key) for key in "ade"] == [True, True, True]
    assert not cache.access("c")


def test_growth_is_that_of_the_filling_alone() -> None:
    readings = iter([1000, 1500])
    assert asyncio.run(growth(fill_dict, 3, lambda: next(readings))) == 500
