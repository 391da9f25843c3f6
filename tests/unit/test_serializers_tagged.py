"""The tagged codec: each value comes back exactly, or is refused."""

from __future__ import annotations

import base64
import copy
import enum
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Network, ip_interface
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid1
from zoneinfo import ZoneInfo

import orjson
import pytest
from pydantic import AnyUrl, HttpUrl, PostgresDsn, SecretBytes, SecretStr
from pydantic_core import TzInfo, Url

from fast_cache.errors import DecodeError, EncodeError
from fast_cache.serializers import TaggedCodec
from fast_cache.serializers.faithful import same
from fast_cache.serializers.names import name_of
from tests.unit import serializers_samples as samples
from tests.unit.serializers_golden import TAGGED

CODEC = TaggedCodec()
NAN = float("nan")
PARIS = ZoneInfo("Europe/Paris")


def trip(value: Any) -> Any:
    return CODEC.decode(CODEC.encode(value))


VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**5000,  # more digits than Python converts
    0.0,
    -0.0,
    1e308,
    5e-324,
    0.1,
    NAN,
    math.inf,
    -math.inf,
    "",
    "text",
    "\x00\u2028\U0001f600",
    "\ud800",
    "\ud83d\ude00",  # two surrogates, which are not one character
    b"",
    b"\xff\x00",
    bytearray(b"\xfe"),
    [],
    {},
    [[], {}, [{}]],
    (),
    (1, (2, [3, (4,)])),
    [(1,)],
    set(),
    {1, "a", None, 2.5},
    frozenset({(1, 2), frozenset({3})}),
    {"a": {"b": [1, 2.5, None]}},
    {1: "a", "1": "b", None: "c", 1.5: "d", (1, 2): "e", b"k": "f"},
    {"b": 1, "a": 2},
    {"\ud800": 1},
    {"a": 1, "\udfff": (2,)},
    {NAN: NAN},
    OrderedDict({"b": 1, "a": (2,)}),
    Counter("abca"),
    defaultdict(list, {1: [2]}),
    defaultdict(None, {"a": 1}),
    deque([1, (2,)], maxlen=3),
    deque(),
    datetime(2024, 2, 29, 1, 2, 3, 4),
    datetime(1, 1, 1),
    datetime.max,
    datetime(2024, 10, 27, 2, 30, fold=1),
    datetime(2024, 10, 27, 2, 30, tzinfo=PARIS),
    datetime(2024, 10, 27, 2, 30, tzinfo=PARIS, fold=1),
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=1, microseconds=7))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "UTC")),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "Ж")),
    datetime(2024, 1, 1, tzinfo=TzInfo(0)),
    datetime(2024, 1, 1, tzinfo=TzInfo(-3600)),
    date(2024, 2, 29),
    time(1, 2, 3, 4),
    time(1, fold=1, tzinfo=UTC),
    timedelta(days=-1, microseconds=1),
    timedelta.max,
    UTC,
    PARIS,
    UUID(int=2**127 + 1),
    Decimal("1.00"),
    Decimal("1E+1000"),
    Decimal("-0"),
    Decimal("-Infinity"),
    Decimal("NaN123"),
    Decimal("sNaN"),
    Fraction(-1, 3),
    Fraction(2**100, 3),
    complex(-0.0, NAN),
    Path("a") / "b",
    PurePosixPath("/x"),
    PureWindowsPath("C:\\x"),
    IPv4Address("1.2.3.4"),
    IPv6Address("fe80::1%eth0"),
    IPv4Network("10.0.0.0/8"),
    IPv6Network("::/0"),
    IPv4Interface("10.0.0.1/8"),
    ip_interface("::1/64"),
    HttpUrl("https://user:pass@example.com/a?b=c#d"),
    AnyUrl("https://example.com"),
    Url("https://example.com/"),
    PostgresDsn("postgresql://u:p@h1:1,h2:2/db"),
    SecretStr("hush"),
    SecretBytes(b"\xff"),
    samples.Colour.RED,
    samples.Colour.BLUE,
    samples.Colour.CRIMSON,
    samples.Level.LOW,
    samples.Mood.GOOD,
    samples.Access.READ | samples.Access.WRITE,
    samples.Access(0),
    samples.Bits.ONE | samples.Bits.TWO,
    samples.Bits(64),
    samples.Renamed.FIRST,
    samples.Open.KNOWN,
    {samples.Level.LOW: 1, samples.Mood.GOOD: 2},
    samples.Point(1, (2,)),
    samples.Pair([1], None),
    samples.LoosePoint(1, 2),
    samples.Plain(1, ["a"]),
    samples.Frozen(1, datetime(2024, 1, 1)),
    samples.Slotted(1),
    samples.FrozenSlotted(1, samples.Slotted(2)),
    samples.SlottedChild(1, "y", {2}),
    samples.Undecorated(1),
    samples.with_attribute(samples.Plain(1), "note", (1,)),
    samples.Boxed(samples.Boxed(1)),
    samples.Boxed[int](1),
    {samples.Frozen(1), samples.Frozen(2)},
    samples.Counted(1),
    samples.Item(id=1, name="a", price=1.5, tags=["x"], main=samples.Inner(name="i")),
    samples.Inner(name="a", weight=1.0),
    samples.Inner.model_construct(name=5),
    samples.Inner.model_construct(_fields_set=set(), weight=2.0),
    samples.Child(name="a", more=2),
    samples.Secretive(password=SecretStr("hush")),
    samples.Excluding(shown=1, hidden=2),
    samples.with_attribute(samples.Private(id=1), "_note", "changed"),
    samples.Extra(id=1, more={2: (3,)}),  # type: ignore[call-arg]
    samples.Shouting(text="a"),
    samples.Masking(number="123"),
    samples.Initialised(id=1),
    samples.Loose(anything=(1, Decimal("1.0")), either=b"a", number="1", blob=b"\xff"),
    samples.Aliased.model_validate({"firstName": "a", "zip": "b"}),
    samples.Names(["a"]),
    samples.Owner(pet=samples.Dog(name="a")),
    samples.Tree(name="a", children=[samples.Tree(name="b")]),
    samples.Early(late=samples.Late(id=1)),
    samples.Linked(url=HttpUrl("https://example.com/a")),
    samples.Page[samples.Inner](items=[samples.Inner(name="a")], total=1),
    samples.FrozenModel(id=1),
    samples.Packed(1),
    samples.PackedFrozen(first_name="a", inner=samples.Packed(2)),
    samples.PackedChild(1, more=3),
    samples.PackedSparse(),
    {"$tuple": [1, 2]},
    {"$": None},
    {"$unknown": 1},
    {"$dict": [["$dict"], [1]]},
    {"$tuple": 1, "b": 2},
    [{"$model": ["os:path", {}]}],
    samples.Plain(1, {"$set": [1]}),  # type: ignore[arg-type]
    samples.Extra(id=1, **{"$tuple": (1,)}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_exactly(value: Any) -> None:
    back = trip(value)
    assert same(back, value), back
    assert same(trip([value, (value,)]), [value, (value,)])


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_encoding_leaves_the_value_as_it_was(value: Any) -> None:
    before = copy.deepcopy(value)
    CODEC.encode(value)
    assert same(value, before)


def test_utc_and_enum_members_come_back_as_the_same_objects() -> None:
    assert trip(datetime(2024, 1, 1, tzinfo=UTC)).tzinfo is UTC
    assert trip(timezone(timedelta(0))) is UTC
    assert trip(samples.Colour.RED) is samples.Colour.RED


def test_the_order_of_keys_is_kept() -> None:
    assert list(trip({"b": 1, "a": 2})) == ["b", "a"]
    assert list(trip({2: 1, 1: 2, "x": 3})) == [2, 1, "x"]
    assert list(trip(OrderedDict({"b": 1, "a": 2}))) == ["b", "a"]


def test_of_a_uuid_the_bits_are_kept() -> None:
    value = uuid1()
    assert trip(value) == value


def test_no_user_code_runs_when_instances_are_made() -> None:
    counted, shouting = samples.Counted(1), samples.Shouting(text="a")
    initialised, serial = samples.Initialised(id=1), samples.Serial()
    payload = CODEC.encode([counted, shouting, initialised, serial])
    before = samples.Counted.made, samples.Shouting.runs, samples.Initialised.inits
    back = CODEC.decode(payload)
    assert same(back, [counted, shouting, initialised, serial])
    assert (samples.Counted.made, samples.Shouting.runs, samples.Initialised.inits) == before


def test_what_a_cached_property_left_behind_is_not_stored() -> None:
    value, model = samples.Memoised(3), samples.MemoisedModel(side=3)
    assert value.area == model.area == 9
    back, model_back = trip(value), trip(model)
    assert back.__dict__ == {"side": 3}
    assert model_back.__dict__ == {"side": 3}
    assert back.area == model_back.area == 9


def test_attributes_that_an_instance_lacks_stay_absent() -> None:
    slotted = samples.Slotted(1)
    del slotted.name
    assert not hasattr(trip(slotted), "name")
    assert trip(samples.Inner.model_construct(weight=1.0)).__dict__ == {"weight": 1.0}


class OddZone(tzinfo):
    """A time zone of somebody's own."""

    def utcoffset(self, moment: datetime | None, /) -> timedelta:
        return timedelta(hours=1)

    def dst(self, moment: datetime | None, /) -> None:
        return None

    def tzname(self, moment: datetime | None, /) -> str:
        return "odd"


REFUSED: dict[str, Any] = {
    "subclass of str": samples.MyStr("a"),
    "subclass of int": samples.MyInt(1),
    "subclass of dict": samples.MyDict(a=1),
    "subclass of list": samples.MyList([1]),
    "a key of a subclass of str": {samples.MyStr("a"): 1},
    "an ordinary object": samples.Custom(),
    "a class": samples.Plain,
    "a function": test_of_a_uuid_the_bits_are_kept,
    "a lambda": lambda: 1,
    "a generator": (n for n in range(3)),
    "an iterator": iter([1]),
    "a range": range(3),
    "a memoryview": memoryview(b"a"),
    "ellipsis": ...,
    "an exception": ValueError("x"),
    "a namespace": SimpleNamespace(a=1),
    "a zone of one's own": datetime(2024, 1, 1, tzinfo=OddZone()),
    "a defaultdict with a factory of one's own": defaultdict(lambda: 1),
    "an OrderedDict with attributes": samples.with_attribute(OrderedDict(a=1), "note", 1),
    "a named tuple with attributes": samples.with_attribute(samples.LoosePoint(1, 2), "note", 1),
    "a struct with attributes": samples.with_attribute(samples.PackedOpen(1), "note", 1),
    "a struct with __post_init__": samples.PackedHooked(1),
    "a struct with an unset field": samples.PackedLoose(),
    "a dataclass that is a list": samples.ListLike("a"),
    "a dataclass with a finaliser": samples.Finalised(1),
    "a dataclass that covers a slot": samples.Covering.__new__(samples.Covering),
    "a made-up member": samples.Open(7),
    "a URL that depends on more than its text": samples.UrlKept.model_validate({"url": "http://example.com"}),
    "a secret that is no text": SecretStr(5),  # type: ignore[arg-type]
    "a path that is no Unicode": Path("\udcff"),
    "something deep inside": {"a": [(1, {2: samples.Plain(1, [samples.Custom()])})]},  # type: ignore[list-item]
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_what_can_not_come_back_exactly_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError):
        CODEC.encode(value)
    with pytest.raises(EncodeError):
        CODEC.encode([{"a": value}])


def test_a_refusal_names_the_type_and_never_the_value() -> None:
    with pytest.raises(EncodeError, match=r"serializers_samples\.Custom") as caught:
        CODEC.encode({"hunter2": samples.with_attribute(samples.Custom(), "password", "hunter2")})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def nested(wrap: Callable[[Any], Any], levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: list[Callable[[Any], Any]] = [
    lambda inner: [inner],
    lambda inner: {"a": inner},
    lambda inner: (inner,),
    lambda inner: {1: inner},
    lambda inner: {"a": Decimal(1), "b": inner},
    lambda inner: samples.Plain(1, inner),
    lambda inner: samples.Loose.model_construct(anything=inner),
    lambda inner: samples.Packed(inner),
    lambda inner: samples.Point(inner),
    lambda inner: deque([inner]),
    lambda inner: frozenset([inner]),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_64_levels_can_be_stored_and_65_are_refused(wrap: Callable[[Any], Any]) -> None:
    deep = nested(wrap, 64)
    payload = CODEC.encode(deep)
    assert CODEC.encode(CODEC.decode(payload)) == payload
    assert same(CODEC.decode(payload), deep)
    for levels in (65, 500, 5000):
        with pytest.raises(EncodeError, match="nested deeper"):
            CODEC.encode(nested(wrap, levels))


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    ring: dict[str, Any] = {"a": (1,)}
    ring["ring"] = ring
    model = samples.Loose()
    model.anything = [model]
    for value in (loop, ring, model):
        with pytest.raises(EncodeError, match="contains itself"):
            CODEC.encode(value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"$tuple":[', b'{"$set":[', b'{"$dict":[[1],['])
@pytest.mark.parametrize("levels", [200, 300, 1000, 100_000])
def test_bytes_that_are_nested_too_deeply_are_a_decode_error(opening: bytes, levels: int) -> None:
    closing = {b"[": b"]", b"{": b"}"}
    ends = b"".join(closing[bytes([char])] for char in reversed(opening) if bytes([char]) in closing)
    if opening.startswith(b'{"$dict"'):
        ends = b"]]}"
    with pytest.raises(DecodeError):
        CODEC.decode(b"$[[]," + opening * levels + b"1" + ends * levels + b"]")


def test_plain_json_is_written_without_tags() -> None:
    value = {"a": [1, 2.5, None, True, "x"], "$b": {"$tuple": [1]}}
    assert CODEC.encode(value) == orjson.dumps(value)


DAMAGED = [
    b"",
    b"$",
    b"nonsense",
    b"[1,",
    b"NaN",
    b'$"a',
    b"$[]",
    b"$[[]]",
    b"$[[],1,2]",
    b"$5",
    b'${"a":1,"b":2}',
    b'$[[],{"$unknown":1}]',
    b'$[[],{"$":1}]',
    b'$[[],{"$tuple":1}]',
    b'$[[],{"$tuple":{"a":1}}]',
    b'$[[],{"$tuple":"ab"}]',
    b'$[[],{"$set":[[1]]}]',
    b'$[[],{"$set":[{"a":1}]}]',
    b'$[[],{"$dict":[[1,2],[1]]}]',
    b'$[[],{"$dict":[[[]],[1]]}]',
    b'$[[],{"$dict":[1]}]',
    b'$[[],{"$dict":5}]',
    b'$[[],{"$defaultdict":["eval",[1],[2]]}]',
    b'$[[],{"$defaultdict":["int",[1]]}]',
    b'$[[],{"$deque":[-1,[1]]}]',
    b'$[[],{"$deque":["a",[1]]}]',
    b'$[[],{"$int":5}]',
    b'$[[],{"$int":"zz"}]',
    b'$[[],{"$float":"00"}]',
    b'$[[],{"$float":null}]',
    b'$[[],{"$complex":"00"}]',
    b'$[[],{"$str":"!"}]',
    b'$[[],{"$str":"/w=="}]',
    b'$[[],{"$bytes":"a"}]',
    b'$[[],{"$bytes":"YQ==YQ=="}]',
    b'$[[],{"$bytes":5}]',
    b'$[[],{"$bytearray":"a"}]',
    b'$[[],{"$decimal":"x"}]',
    b'$[[],{"$decimal":[]}]',
    b'$[[],{"$fraction":["0x1","0x0"]}]',
    b'$[[],{"$fraction":[]}]',
    b'$[[],{"$datetime":"2024-01-01"}]',
    b'$[[],{"$datetime":["2024-13-01",0,null]}]',
    b'$[[],{"$datetime":["2024-01-01",2,null]}]',
    b'$[[],{"$datetime":["2024-01-01",0,"No/Where"]}]',
    b'$[[],{"$datetime":["2024-01-01",0,"../../etc/passwd"]}]',
    b'$[[],{"$datetime":["2024-01-01",0,[9,0,0]]}]',
    b'$[[],{"$datetime":["2024-01-01",0,99999999]}]',
    b'$[[],{"$datetime":["2024-01-01",0,{}]}]',
    b'$[[],{"$date":"x"}]',
    b'$[[],{"$time":["25:00",0,null]}]',
    b'$[[],{"$timedelta":[1e9,0,0]}]',
    b'$[[],{"$timedelta":[1]}]',
    b'$[[],{"$uuid":"x"}]',
    b'$[[],{"$uuid":5}]',
    b'$[[],{"$secret":5}]',
    b'$[[],{"$secret":["!"]}]',
    b'$[[],{"$text":["os","x"]}]',
    b'$[[],{"$text":["HttpUrl","no url"]}]',
    b'$[[],{"$text":["IPv4Address","999.1.1.1"]}]',
    b'$[[],{"$text":["WindowsPath","x"]}]',
    b'$[[],{"$model":[]}]',
    b'$[[],{"$model":["x"]}]',
    b'$[[],{"$model":5}]',
    b'$[[],{"$model":[0,{}]}]',
    b'$[5,{"$model":[0,{}]}]',
    b'$[[5],{"$model":[0,{}]}]',
    b'$[["a:b#c"],{"$model":[[],{}]}]',
    b'$[["a:b#c"],{"$model":["a:b#c",{}]}]',
    b'$[["a:b#c"],{"$typeddict":[0,{}]}]',
]


@pytest.mark.parametrize("payload", DAMAGED, ids=lambda payload: payload.decode())
def test_damaged_bytes_are_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(payload)
    assert caught.value.__cause__ is None


def test_a_decode_error_does_not_quote_what_was_stored() -> None:
    secret = base64.b64encode(b"hunter2").decode()
    for payload in (f'$[[],{{"$decimal":"{secret}"}}]', f'$[[],{{"$text":["HttpUrl","{secret}"]}}]', f'["{secret}"'):
        with pytest.raises(DecodeError) as caught:
            CODEC.decode(payload.encode())
        assert secret not in str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize(("value", "payload"), TAGGED, ids=[payload.decode()[:40] for _, payload in TAGGED])
def test_the_format_is_the_one_written_down(value: Any, payload: bytes) -> None:
    assert CODEC.encode(value) == payload
    assert same(CODEC.decode(payload), value)


@pytest.mark.parametrize(
    ("cls", "body"),
    [
        (samples.ListLike, '{"$dataclass":[0,{"name":"a"}]}'),
        (samples.Finalised, '{"$dataclass":[0,{"id":1}]}'),
        (samples.PackedHooked, '{"$struct":[0,[1]]}'),
        (samples.Packed, '{"$struct":[0,[1]]}'),
        (samples.Packed, '{"$struct":[0,[1,2,3]]}'),
        (samples.Packed, '{"$struct":[0,{"id":1,"name":"a"}]}'),
        (samples.Point, '{"$namedtuple":[0,[1]]}'),
        (samples.Point, '{"$namedtuple":[0,"ab"]}'),
        (samples.Slotted, '{"$dataclass":[0,{"nothing":1}]}'),
        (samples.Inner, '{"$model":[0,[1]]}'),
        (samples.Inner, '{"$model":[0,{},[[]],null,null]}'),
        (samples.Inner, '{"$model":[0,{},null]}'),
        (samples.Colour, '{"$enum":[0,"GREEN"]}'),
        (samples.Colour, '{"$enum":[0,"__class__"]}'),
        (samples.Access, '{"$enum":[0,64]}'),
        (samples.Access, '{"$enum":[0,null]}'),
    ],
)
def test_what_is_no_instance_of_a_known_class_is_a_decode_error(cls: type, body: str) -> None:
    with pytest.raises(DecodeError):
        CODEC.decode(f'$[["{name_of(cls)}"],{body}]'.encode())


def test_a_member_that_is_known_by_number_only_is_refused_where_the_class_is_no_flag() -> None:
    payload = CODEC.encode(samples.Level.LOW).replace(b'"LOW"', b"1")
    assert issubclass(samples.Level, enum.IntEnum)
    with pytest.raises(DecodeError):
        CODEC.decode(payload)
