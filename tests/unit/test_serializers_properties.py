"""Round trips of whatever Hypothesis comes up with: the same value, or a refusal, and never another exception."""

from __future__ import annotations

from collections import OrderedDict, deque
from datetime import UTC, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from pydantic_core import TzInfo

from fast_cache.errors import DecodeError, EncodeError
from fast_cache.serializers import TaggedCodec, codec_for
from fast_cache.serializers.atoms import READERS
from fast_cache.serializers.faithful import same
from fast_cache.serializers.kinds import Kind
from tests.unit import serializers_samples as samples

CODEC = TaggedCodec()

TEXT = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(["$tuple", "$dict", "$", "$model", "a", ""])
UNICODE = st.text(st.characters(codec="utf-8"), min_size=3, max_size=8)
ZONES = (
    st.none()
    | st.just(UTC)
    | st.timezones()
    | st.integers(-86_399, 86_399).map(TzInfo)
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.complex_numbers()
    | TEXT
    | st.binary(max_size=8)
    | st.binary(max_size=8).map(bytearray)
    | st.decimals()
    | st.fractions()
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=ZONES)
    | st.times(timezones=st.just(UTC) | st.none())
    | st.timedeltas()
    | st.ip_addresses()
    | st.sampled_from([*samples.Colour, *samples.Level, *samples.Mood, samples.Bits(3), samples.Access(0)])
    | st.text(max_size=5).map(SecretStr)
)
HASHABLE = st.recursive(
    SCALARS.filter(lambda value: not isinstance(value, bytearray) and str(value).lower().strip("-")[:4] != "snan"),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(HASHABLE, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=3).map(OrderedDict)
        | st.lists(inner, max_size=3).map(lambda items: deque(items, 5))
        | st.builds(samples.Plain, inner, inner)
        | st.builds(samples.SlottedChild, inner, inner, inner)
        | st.builds(samples.Point, inner, inner)
        | st.builds(samples.Packed, inner, inner)
        | st.builds(samples.Boxed, inner)
        | st.dictionaries(UNICODE, inner, max_size=2).map(lambda more: samples.Extra.model_validate({"id": 1, **more}))
        | st.builds(lambda part: samples.Loose.model_construct(anything=part), inner)
    ),
    max_leaves=12,
)  # fmt: skip

ITEMS = st.builds(
    samples.Item,
    id=st.integers(),
    name=st.text(max_size=5),
    price=st.floats(),
    active=st.booleans(),
    tags=st.lists(st.text(max_size=3), max_size=2),
    main=st.none()
    | st.builds(samples.Inner, name=st.text(max_size=3))
    | st.builds(samples.Child, name=st.text(max_size=3), more=st.integers()),
)


@given(value=VALUES)
@settings(max_examples=400)
def test_any_value_comes_back_exactly_through_the_tagged_codec(value: Any) -> None:
    assert same(CODEC.decode(CODEC.encode(value)), value)


ANNOTATIONS = [samples.Item, list[samples.Item], samples.Loose, samples.Plain, samples.Packed, dict[str, Any]]


@given(value=VALUES, annotation=st.sampled_from(ANNOTATIONS))
def test_any_value_comes_back_exactly_under_any_annotation(value: Any, annotation: Any) -> None:
    codec = codec_for(annotation)
    assert same(codec.decode(codec.encode(value)), value)


@given(items=st.lists(ITEMS, max_size=4))
def test_models_come_back_exactly_through_their_typed_codec(items: list[samples.Item]) -> None:
    codec = codec_for(list[samples.Item])
    assert same(codec.decode(codec.encode(items)), items)


@given(
    value=st.builds(
        samples.Priced,
        amount=st.decimals(allow_nan=False, allow_infinity=False),
        at=st.datetimes(timezones=ZONES),
        ref=st.uuids(),
    )
    | st.builds(samples.Loose, anything=VALUES, either=st.binary() | TEXT, number=st.integers() | st.floats() | TEXT)
    | st.builds(samples.Packed, st.integers(), TEXT)
    | st.builds(samples.PackedLoose, VALUES, st.integers())
)
def test_loosely_typed_fields_come_back_exactly(value: Any) -> None:
    codec = codec_for(type(value))
    try:
        payload = codec.encode(value)
    except EncodeError:
        assert "\\ud" in ascii(value) or isinstance(value, samples.PackedLoose)
        return
    assert same(codec.decode(payload), value)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@given(value=JSON)
def test_json_is_written_as_orjson_writes_it(value: Any) -> None:
    assert CODEC.encode(value) == orjson.dumps(value)


NAMES = [
    name
    for value in (samples.Plain(1), samples.Inner(name="a"), samples.Point(1), samples.Packed(1), samples.Level.LOW)
    for name in orjson.loads(CODEC.encode(value)[1:])[0]
]
TAGS = [
    *READERS,
    *(kind.value for kind in Kind),
    "$tuple",
    "$set",
    "$dict",
    "$deque",
    "$defaultdict",
    "$counter",
    "$",
    "a",
]
LEAVES = st.sampled_from(["id", "name", "LOW", *NAMES])
NODES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.text(max_size=3) | LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=1)
        | st.dictionaries(st.sampled_from(["id", "name", "tags"]), inner, max_size=3)
    ),
)  # fmt: skip


@given(node=NODES)
@settings(max_examples=400)
def test_a_forged_tree_is_a_value_or_a_decode_error(node: Any) -> None:
    try:
        CODEC.decode(b"$" + orjson.dumps([NAMES, node]))
    except DecodeError:
        return


@given(payload=st.binary(max_size=60))
def test_rubbish_is_a_value_or_a_decode_error(payload: bytes) -> None:
    for annotation in (Any, samples.Item, samples.Packed):
        for rubbish in (payload, b"$" + payload, b"P" + payload, b"M" + payload, b"T" + payload):
            try:
                codec_for(annotation).decode(rubbish)
            except DecodeError:
                continue


@pytest.mark.parametrize("annotation", [Any, samples.Item])
def test_every_truncation_of_a_payload_is_a_decode_error(annotation: Any) -> None:
    codec = codec_for(annotation)
    payload = codec.encode([samples.Item(id=1, name="a", price=1.0), (1,), {2: "x"}])
    for length in range(len(payload)):
        with pytest.raises(DecodeError):
            codec.decode(payload[:length])
