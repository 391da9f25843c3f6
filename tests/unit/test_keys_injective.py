"""``encode`` has a left inverse, and is the same in every process.

A function that reads the value back out of its encoding is the proof that no two values share one. The reader below is
written against the grammar alone and imports nothing of the encoder's.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, timedelta, timezone
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import BaseModel, SecretStr

from fast_cache.keys import KeyMaker, encode, encode_hashed

# A busy machine is not a fault of the code.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ROOT = Path(__file__).resolve().parents[2]

# Few characters, most of them punctuation of the encoding, so that imitations are likely.
texts = st.text(alphabet="',=()[]%:#2 7ab\\{}é\n\ud800") | st.text(st.characters())
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([2**1024, 2**1024 - 1, -(2**1024), 10**600])
    | st.floats()
    | texts
    | st.binary(max_size=8)
)
imitations = leaves.map(encode) | st.lists(leaves, max_size=3).map(encode)
hashables = st.recursive(
    leaves | imitations,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.sets(hashables, max_size=4)
    ),
    max_leaves=12,
)


class Reader:
    """Reads one encoding back."""

    TOKEN = re.compile(r"-?0x[0-9a-f]+|-?\d+(?:\.\d+)?(?:e[+-]\d+)?|-?inf|nan|None|True|False")
    CLOSED: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {
        "[": ("]", list),
        "(": (")", tuple),
        "set(": (")", set),
        "frozenset(": (")", frozenset),
    }

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip(self, expected: str) -> bool:
        found = self.text.startswith(expected, self.at)
        self.at += len(expected) * found
        return found

    def quoted(self) -> str:
        end = self.text.index("'", self.at)
        body, self.at = self.text[self.at : end], end + 1
        return unquote_to_bytes(body.encode()).decode("utf-8", "surrogatepass")

    def whole(self) -> Any:
        value = self.value()
        assert self.at == len(self.text)
        return value

    def value(self) -> Any:
        if self.skip("b'"):
            return bytes.fromhex(self.quoted())
        if self.skip("'"):
            return self.quoted()
        if self.skip("dict("):
            return dict(self.items(")", self.pair))
        for opening, (closing, make) in self.CLOSED.items():
            if self.skip(opening):
                return make(self.items(closing, self.value))
        token = self.TOKEN.match(self.text, self.at)
        assert token, self.text[self.at :]
        self.at = token.end()
        return self.scalar(token[0])

    def items(self, closing: str, read: Callable[[], Any]) -> list[Any]:
        found: list[Any] = []
        while not self.skip(closing):
            assert not found or self.skip(",")
            found.append(read())
        return found

    def pair(self) -> tuple[Any, Any]:
        key = self.value()
        assert self.skip("=")
        return key, self.value()

    @staticmethod
    def scalar(token: str) -> Any:
        words = {"None": None, "True": True, "False": False}
        if token in words:
            return words[token]
        if "0x" in token:
            return int(token, 16)
        return int(token) if re.fullmatch(r"-?\d+", token) else float(token)


def form(value: Any) -> object:
    """The value with its types and signs, as something that ``==`` compares exactly."""
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else value.hex()
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(form, value))
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(form, value))
    if isinstance(value, dict):
        return dict, frozenset((form(key), form(item)) for key, item in value.items())
    return type(value), value


@patient
@given(values)
def test_a_value_can_be_read_back_from_its_encoding(value: object) -> None:
    assert form(Reader(encode(value)).whole()) == form(value)


@patient
@given(values, values)
def test_equal_encodings_mean_equal_values_of_equal_types(one: object, other: object) -> None:
    assert (encode(one) == encode(other)) == (form(one) == form(other))


@patient
@given(values)
def test_an_encoding_is_utf8_and_has_no_control_characters_or_braces(value: object) -> None:
    encoding = encode(value)
    encoding.encode()
    assert not re.search(r"[{}\x00-\x1f\x7f-\x9f]", encoding)


@patient
@given(st.dictionaries(hashables, leaves, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_insertion_does_not_count(mapping: dict[Any, Any], random: Any) -> None:
    items = list(mapping.items())
    random.shuffle(items)
    assert encode(dict(items)) == encode(mapping)
    assert encode({key for key, _ in items}) == encode(set(mapping))


def pair(one: Any, other: Any) -> None: ...


PAIR = KeyMaker(pair)


@patient
@given(values, values, values, values)
def test_two_calls_share_a_key_only_if_all_their_arguments_are_equal(a: Any, b: Any, c: Any, d: Any) -> None:
    assert (PAIR.compiled(a, b) == PAIR.compiled(c, d)) == (form((a, b)) == form((c, d)))


@patient
@given(texts, texts, texts, texts)
def test_text_arguments_can_not_reach_into_each_other(a: str, b: str, c: str, d: str) -> None:
    assert (PAIR.compiled(a, b) == PAIR.compiled(c, d)) == ((a, b) == (c, d))


@patient
@given(texts.filter(bool), texts.filter(bool), texts.filter(bool), texts.filter(bool))
def test_namespace_and_version_can_not_imitate_each_other(a: str, b: str, c: str, d: str) -> None:
    def clean(text: str) -> str:
        return re.sub(r"[\x00-\x1f\x7f-\x9f]", "-", text)

    prefixes = [KeyMaker(pair, namespace=clean(x), version=clean(y)).prefix for x, y in ((a, b), (c, d))]
    assert (prefixes[0] == prefixes[1]) == ((clean(a), clean(b)) == (clean(c), clean(d)))
    assert KeyMaker(pair, version=clean(a)).prefix not in prefixes


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    DELETE = 4


class Point(NamedTuple):
    x: Any
    y: Any


class Text(str):
    pass


@dataclasses.dataclass(frozen=True)
class Filters:
    tags: Any
    page: Any = 1


@dataclasses.dataclass(slots=True)
class Slotted:
    by: Any


class Model(BaseModel):
    field: Any
    token: SecretStr = SecretStr("")


class Keyed:
    def __init__(self, key: Any) -> None:
        self.key = key

    def __cache_key__(self) -> Any:
        return self.key


def search(value: Any, *more: Any, **rest: Any) -> None: ...


SEARCH = KeyMaker(search, namespace="shop")

zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-3)), ZoneInfo("Europe/Paris"), ZoneInfo("UTC")])
more_leaves = (
    leaves
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.ip_addresses()
    | st.sampled_from([*Color, *map(Access, range(8)), Color, Access, int, pair, hash, UTC, ZoneInfo("Europe/Paris")])
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9))
    | st.text("a./ é", max_size=6).map(PurePosixPath)
    | texts.map(Text)
)
more_hashables = st.recursive(
    more_leaves,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(inner, max_size=5)
        | st.builds(Point, inner, inner)
        | st.builds(Filters, inner, inner)
    ),
    max_leaves=4,
)
several = st.sets(texts | st.uuids() | more_hashables, min_size=3, max_size=6)
"""Sets whose order of iteration differs from one process to another."""

more_values = st.recursive(
    more_hashables | several | several.map(frozenset),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(more_hashables, inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4).map(collections.OrderedDict)
        | st.dictionaries(texts, inner, max_size=4).map(lambda made: collections.defaultdict(list, made))
        | st.lists(inner, max_size=4).map(collections.deque)
        | st.builds(Filters, inner, inner)
        | st.builds(Slotted, inner)
        | st.builds(Model, field=inner, token=texts.map(SecretStr))
        | st.builds(Keyed, inner)
    ),
    max_leaves=6,
)


def generated(count: int) -> list[Any]:
    """The same values at every run."""
    found: list[Any] = []

    @settings(patient, max_examples=count, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.tuples(several, more_values))
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def keys_of(values: list[Any]) -> list[str]:
    return [
        text
        for value in values
        for text in (encode(value), encode_hashed(value), SEARCH.compiled(value, value, b=value, a=1))
    ]


ORDER = "".join({"red", "green", "blue", "cyan", "black", "white"})
"""Tells this process from those with another hash seed."""

PROGRAM = """
import pickle, sys
sys.path.insert(0, {root!r})
from {module} import ORDER, keys_of
sys.stdout.buffer.write(pickle.dumps((ORDER, keys_of(pickle.load(sys.stdin.buffer)))))
"""


def test_another_process_with_another_hash_seed_makes_the_same_keys() -> None:
    values = generated(200)
    ours = keys_of(values)
    assert len(set(ours)) > 400, "the values are too much alike to say anything"
    pickled = pickle.dumps(values)
    orders = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PROGRAM.format(root=str(ROOT), module=__name__)]
        process = subprocess.run(command, env=environment, input=pickled, stdout=subprocess.PIPE, check=True)
        order, theirs = pickle.loads(process.stdout)
        orders.add(order)
        assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] == []
    assert len(orders) == 2, "both processes had the same seed"
