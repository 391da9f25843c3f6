"""``same``: nothing that somebody could tell apart is the same, and everything is the same as its copy."""

from __future__ import annotations

import copy
import itertools
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretBytes, SecretStr
from pydantic_core import TzInfo

from fast_cache.serializers.faithful import same
from tests.unit import serializers_samples as samples

NOON = datetime(2024, 10, 27, 12)
NAN = float("nan")

DIFFERENT: list[list[Any]] = [
    [0, False, 0.0, -0.0, "0", b"0", Decimal(0), Fraction(0), 0j, None, "", [], (), {}, set(), frozenset(), b""],
    [1, True, 1.0, "1", b"1", bytearray(b"1"), Decimal("1"), Decimal("1.0"), Fraction(1), 1 + 0j, samples.MyInt(1)],
    [complex(0.0, -0.0), complex(-0.0, 0.0), complex(0.0, 0.0)],
    [NAN, float("inf"), float("-inf"), "nan", Decimal("nan"), None, complex(NAN, 0)],
    [[1], (1,), {1}, frozenset({1}), {1: 1}, deque([1]), deque([1], 5), [1.0], [True], [[1]], samples.MyList([1])],
    [{1}, {True}, {1.0}, {1, 2}],
    [{1: 2}, {True: 2}, {1: 2.0}, OrderedDict({1: 2}), Counter({1: 2}), defaultdict(int, {1: 2}), defaultdict(None)],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, samples.MyDict(a=1, b=2)],
    ["a", samples.MyStr("a"), b"a", ["a"]],
    [
        NOON,
        NOON.replace(fold=1),
        NOON.replace(tzinfo=UTC),
        NOON.replace(tzinfo=timezone(timedelta(0), "UTC")),
        NOON.replace(tzinfo=timezone(timedelta(hours=1))),
        NOON.replace(tzinfo=TzInfo(0)),
        NOON.replace(tzinfo=TzInfo(3600)),
        NOON.replace(tzinfo=ZoneInfo("UTC")),
        NOON.replace(hour=13, tzinfo=timezone(timedelta(hours=1))),
        NOON.date(),
        NOON.time(),
        NOON.isoformat(),
    ],
    [time(1), time(1, fold=1), time(1, tzinfo=UTC), timedelta(hours=1), "01:00"],
    [SecretStr("a"), SecretStr("b"), SecretBytes(b"a"), "a"],
    [Path("a"), PurePosixPath("a"), "a", Path("b")],
    [UUID(int=1), UUID(int=2), 1, str(UUID(int=1))],
    [IPv4Address("1.2.3.4"), IPv4Address("1.2.3.5"), "1.2.3.4"],
    [samples.Level.LOW, 1, samples.Bits.ONE, samples.Level.HIGH, samples.Access.READ],
    [samples.Mood.GOOD, "good"],
    [samples.Point(1, 2), samples.Pair(1, 2), (1, 2), samples.Point(1, 2.0), samples.Point(True, 2)],
    [samples.LoosePoint(1, 2), samples.with_attribute(samples.LoosePoint(1, 2), "note", 1)],
    [samples.Plain(1), samples.Frozen(1), samples.Plain(True), samples.Plain(1, ["a"]), samples.Undecorated(1)],
    [samples.Plain(1), samples.with_attribute(samples.Plain(1), "note", 1)],
    [samples.Slotted(1), samples.SlottedChild(1), samples.Slotted(1, "y")],
    [
        samples.Inner(name="a"),
        samples.Inner(name="a", weight=1.0),  # equal, and yet another set of fields was given
        samples.Child(name="a"),
        samples.Inner(name="b"),
        {"name": "a", "weight": 1.0},
    ],
    [samples.Private(id=1), samples.with_attribute(samples.Private(id=1), "_note", "changed")],
    [samples.Extra(id=1), samples.Extra(id=1, more=1), samples.Extra(id=1, more=True)],  # type: ignore[call-arg]
    [samples.Packed(1), samples.PackedChild(1), samples.Packed(1, "y"), {"id": 1, "name": "x"}],
    [samples.PackedOpen(1), samples.with_attribute(samples.PackedOpen(1), "note", 1)],
]  # fmt: skip


@pytest.mark.parametrize("group", DIFFERENT, ids=lambda group: type(group[0]).__name__)
def test_values_that_somebody_could_tell_apart_are_not_the_same(group: list[Any]) -> None:
    for one, other in itertools.permutations(group, 2):
        assert not same(one, other), (one, other)
        assert not same([one], [other])
        assert not same({"a": one}, {"a": other})
        assert not same(samples.Boxed(one), samples.Boxed(other))


UNKNOWN = (
    samples.MyInt,
    samples.MyStr,
    samples.MyList,
    samples.MyDict,
    samples.PackedOpen,
)  # no deepcopy keeps the last


@pytest.mark.parametrize(
    "value", [value for group in DIFFERENT for value in group if not isinstance(value, UNKNOWN)], ids=repr
)
def test_a_copy_is_the_same(value: Any) -> None:
    assert same(value, copy.deepcopy(value))
    assert same([value], [copy.deepcopy(value)])


def test_nan_is_the_same_as_another_nan_wherever_it_stands() -> None:
    one, other = float("nan"), float("nan")
    assert same(one, other)
    assert same({one, 1.5}, {1.5, other})
    assert same({(one, 1)}, {(other, 1)})
    assert not same({(one, 1)}, {(other, True)})
    assert same({one: 1}, {other: 1})


def test_what_is_unknown_is_the_same_only_as_itself() -> None:
    thing = samples.Custom()
    assert same(thing, thing)
    assert not same(thing, samples.Custom())
    assert not same(samples.MyInt(1), samples.MyInt(1))


def test_what_a_cached_property_left_behind_makes_no_difference() -> None:
    warm, cold = samples.Memoised(2), samples.Memoised(2)
    assert warm.area == 4
    assert same(warm, cold)
    assert same(date(2024, 1, 1), date(2024, 1, 1))
