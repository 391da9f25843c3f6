"""What ``encode`` promises about each type: kept apart from every other, read raw, hashed, or refused with a path."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import enum
import functools
import ipaddress
import pathlib
import re
import sys
import time as clock
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, PostgresDsn, PrivateAttr, SecretBytes, SecretStr
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.orm import registry

from fast_cache.errors import UnkeyableError
from fast_cache.keys import encode, encode_hashed


class Color(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1  # noqa: PIE796


class Shade(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    ONE = "one"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2
    ALL = 3


class Loose(enum.IntFlag, boundary=enum.KEEP):
    A = 1


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Filters:
    owner: Any = None
    page: int = 1


@dataclass
class Sorting:
    owner: Any = None
    page: int = 1


@dataclass(slots=True)
class Slotted:
    owner: Any


class User(BaseModel):
    name: str
    token: SecretStr = SecretStr("")
    hidden: int = Field(default=0, exclude=True)


class Admin(User):
    pass


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = ""
    _seen: int = PrivateAttr(default=0)


class Text(str):
    pass


class Number(int):
    pass


class Tagged(list[int]):
    tag: str


class ById:
    def __init__(self, key: object) -> None:
        self.id = key

    def __cache_key__(self) -> object:
        return self.id


class AlsoById(ById):
    pass


class Outer:
    class Inner(str):
        pass


def helper() -> None: ...


APART: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    0.0,
    -0.0,
    float("inf"),
    float("-inf"),
    float("nan"),
    1e22,
    10**22,
    2**1024,
    2**1024 - 1,
    -(2**1024),
    10**5000,
    10**5000 + 1,
    "",
    "1",
    "1.0",
    "True",
    "None",
    "nan",
    b"",
    b"1",
    bytearray(b""),
    bytearray(b"1"),
    memoryview(b"1"),
    memoryview(b"1").cast("b"),
    memoryview(b"1234").cast("I"),
    memoryview(b"1234").cast("B", (2, 2)),
    memoryview(b"1234"),
    1j,
    complex(0.0, -1.0),
    complex(-0.0, 1.0),
    Decimal("1"),
    Decimal("1.0"),
    Decimal("1.00"),
    Decimal("-0"),
    Decimal("0"),
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("NaN1"),
    Fraction(1),
    Fraction(1, 2),
    Ellipsis,
    [],
    (),
    set(),
    frozenset(),
    {},
    [1],
    (1,),
    ((1,),),
    [[1]],
    {1},
    {True},
    frozenset({1}),
    {1: 2},
    {1: "2"},
    {"1": 2},
    {True: 2},
    collections.OrderedDict({1: 2}),
    collections.OrderedDict([(1, 2), (3, 4)]),
    collections.OrderedDict([(3, 4), (1, 2)]),
    collections.defaultdict(None, {1: 2}),
    collections.defaultdict(int, {1: 2}),
    collections.defaultdict(list, {1: 2}),
    collections.Counter({1: 2}),
    MappingProxyType({1: 2}),
    collections.deque([1]),
    collections.deque([1], 3),
    range(0),
    range(1, 1),
    range(3),
    slice(3),
    slice(0, 3),
    slice(None),
    date(2024, 1, 2),
    datetime(2024, 1, 2),
    datetime(2024, 1, 2, tzinfo=UTC),
    datetime(2024, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))),
    datetime(2024, 1, 2, tzinfo=timezone(timedelta(0), "GMT")),
    datetime(2024, 1, 2, tzinfo=ZoneInfo("UTC")),
    datetime(2024, 1, 2, tzinfo=ZoneInfo("Europe/London")),
    datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris")),
    datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
    datetime(2024, 10, 27, 2, 30, fold=1),
    datetime(2024, 10, 27, 2, 30),
    time(1, 2),
    time(1, 2, fold=1),
    time(1, 2, tzinfo=UTC),
    time(1, 2, tzinfo=ZoneInfo("Europe/Paris")),
    timedelta(1),
    timedelta(seconds=1),
    timedelta(microseconds=1),
    UTC,
    timezone(timedelta(hours=1)),
    timezone(timedelta(0), "GMT"),
    ZoneInfo("UTC"),
    UUID(int=1),
    pathlib.PurePosixPath("a"),
    pathlib.PureWindowsPath("a"),
    pathlib.Path("a"),
    pathlib.Path("a/b"),
    ipaddress.ip_address("127.0.0.1"),
    ipaddress.ip_network("127.0.0.1/32"),
    ipaddress.ip_interface("127.0.0.1/32"),
    ipaddress.ip_address("::1"),
    ipaddress.ip_address("fe80::1%eth0"),
    ipaddress.ip_address("fe80::1"),
    re.compile("a"),
    re.compile("a", re.IGNORECASE),
    re.compile(b"a"),
    Color.RED,
    Color.GREEN,
    Shade.RED,
    Word.ONE,
    "one",
    Permission.READ,
    Permission.ALL,
    Permission(0),
    Loose.A,
    Loose(8),
    Loose(9),
    Point(1, 2),
    (1, 2),
    Filters(),
    Filters(page=2),
    Sorting(),
    Slotted(1),
    User(name="a"),
    Admin(name="a"),
    Text("1"),
    Number(1),
    Outer.Inner("1"),
    Tagged([1]),
    ById(1),
    AlsoById(1),
    int,
    Color,
    "builtins.int",
    helper,
    len,
    AnyUrl("http://example.com/"),
    "http://example.com/",
]


def test_every_two_values_of_different_type_or_content_have_different_encodings() -> None:
    encodings = [encode(value) for value in APART]
    repeated = [encoding for encoding, count in collections.Counter(encodings).items() if count > 1]
    assert repeated == []


@pytest.mark.parametrize("value", APART, ids=lambda value: type(value).__name__)
def test_every_encoding_can_stand_in_any_store(value: object) -> None:
    encoding = encode(value)
    encoding.encode()
    assert encoding.isprintable()
    assert not set("{}") & set(encoding)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (1, "1"),
        (-1.5, "-1.5"),
        ("red shoes", "'red shoes'"),
        (b"\x00\xff", "b'00ff'"),
        ([1, "a", None], "[1,'a',None]"),
        ((1,), "(1)"),
        ({"b": 2, "a": 1}, "dict('a'=1,'b'=2)"),
        ({"b", "a"}, "set('a','b')"),
        (Decimal("1.50"), "Decimal(1.50)"),
        (datetime(2024, 1, 2, 3, 4, tzinfo=UTC), "datetime(2024-01-02T03:04:00+00:00)"),
        (UUID(int=10), "UUID(0000000000000000000000000000000a)"),
        (Color.RED, f"{__name__}.Color[RED]"),
        (Filters(owner="me"), f"{__name__}.Filters(owner='me',page=1)"),
        (Outer.Inner("a"), f"{__name__}.Outer+Inner('a')"),
        (ById(7), f"{__name__}.ById(!7)"),
    ],
)
def test_an_encoding_can_be_read(value: object, text: str) -> None:
    assert encode(value) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        (float("nan"), -float("nan")),
        (Color.RED, Color.CRIMSON),
        (Permission.READ | Permission.WRITE, Permission.ALL),
        (memoryview(b"abc"), memoryview(bytearray(b"abc"))),
        (timedelta(hours=24), timedelta(days=1)),
        (UTC, timezone(timedelta(0), "UTC")),
        (User.model_construct(name="a", hidden=0, token=SecretStr("")), User(name="a")),
        (b"\x01\x02", bytes(memoryview(b"\x01\x02"))),
    ],
)
def test_one_value_written_in_two_ways_has_one_encoding(one: object, other: object) -> None:
    assert encode(one) == encode(other)


def test_a_time_that_pydantic_parsed_is_the_same_as_one_with_the_standard_offset() -> None:
    class When(BaseModel):
        at: datetime

    for text in ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05+02:00"):
        assert encode(When.model_validate({"at": text}).at) == encode(datetime.fromisoformat(text))


def test_a_time_zone_of_an_unknown_class_counts_by_its_class_offset_and_name() -> None:
    class Odd(tzinfo):
        def __init__(self, name: str | None) -> None:
            self.name = name

        def utcoffset(self, moment: datetime | None) -> timedelta | None:
            return timedelta(hours=1)

        def tzname(self, moment: datetime | None) -> str | None:
            return self.name

        def dst(self, moment: datetime | None) -> timedelta | None:
            return None

    moments = [datetime(2024, 1, 2, tzinfo=zone) for zone in (Odd("A"), Odd("B"), Odd(None))]
    moments.append(datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=1))))
    assert len({encode(moment) for moment in moments}) == 4
    assert encode(datetime(2024, 1, 2, tzinfo=Odd("A"))) == encode(moments[0])


@pytest.mark.parametrize("text", ["\ud800", "\udfff\ud800", "a\x00b", "\r\n", "\x7f\x9f", "{}", "%7B", "'", "\u2028"])
def test_text_that_stores_or_logs_can_not_take_is_escaped_and_stays_apart(text: str) -> None:
    encoding = encode(text)
    encoding.encode()
    assert encoding.isprintable()
    assert not set("{}") & set(encoding)
    assert encoding not in {encode(text.encode("utf-8", "surrogatepass")), encode(encoding), encode(encoding[1:-1])}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "b"], ["a','b"]),
        (["a,b"], ["a", "b"]),
        ([1, [2]], [[1], 2]),
        ({"a": "1,'b'=2"}, {"a": 1, "b": 2}),
        ([], [[]]),
        ("dict()", {}),
        (Filters(owner="',page=1"), Filters(owner="", page=1)),
        (["%27"], ["'"]),
        (pathlib.PurePosixPath("a')"), pathlib.PurePosixPath("a%27)")),
    ],
)
def test_text_that_imitates_an_encoding_is_only_text(one: object, other: object) -> None:
    assert encode(one) != encode(other)


class TestInstances:
    def test_all_fields_of_a_dataclass_count_whatever_their_flags(self) -> None:
        @dataclass
        class Flags:
            compare: int = field(default=0, compare=False)
            shown: int = field(default=0, repr=False)
            late: int = field(default=0, init=False)

        late = Flags()
        late.late = 1
        assert len({encode(flags) for flags in (Flags(), Flags(compare=1), Flags(shown=1), late)}) == 4

    def test_an_attribute_that_is_no_field_counts_too(self) -> None:
        one, other = Filters(), Filters()
        other.tenant = 7  # type: ignore[attr-defined]
        assert encode(one) != encode(other)

    def test_a_cached_property_is_no_state_of_its_own(self) -> None:
        @dataclass
        class Square:
            side: int

            @functools.cached_property
            def area(self) -> object:
                return object()  # could not be keyed

        square = Square(3)
        before = encode(square)
        assert square.area
        assert encode(square) == before

    def test_slots_of_a_base_that_is_no_dataclass_count(self) -> None:
        class Base:
            __slots__ = ("__secret",)

            def __init__(self, secret: int) -> None:
                self.__secret = secret

        @dataclass
        class Derived(Base):
            __slots__ = ("page",)
            page: int

            def __post_init__(self) -> None:
                super().__init__(self.page * 2)

        assert "_Base__secret=6" in encode(Derived(3))

    def test_a_field_that_was_never_assigned_is_not_a_default(self) -> None:
        @dataclass
        class Partial:
            late: int | None = field(init=False)

        assigned = Partial()
        assigned.late = None
        assert encode(Partial()) != encode(assigned)

    def test_fields_hidden_from_dumps_count_in_pydantic_models(self) -> None:
        users = [User(name="a"), User(name="a", token=SecretStr("x")), User(name="a", hidden=1)]
        assert users[0].model_dump_json() == users[2].model_dump_json()
        assert len({encode(user) for user in users}) == 3

    def test_extra_fields_and_private_attributes_of_pydantic_models_count(self) -> None:
        plain, private = Open(), Open()
        private._seen = 1
        extra = Open.model_validate({"x": 1})
        assert len({encode(model) for model in (plain, private, extra)}) == 3
        assert encode(Open(name="")) == encode(Open()), "which fields were set does not count"

    def test_a_model_with_a_recursive_field_is_encoded_to_its_depth(self) -> None:
        class Node(BaseModel):
            child: Node | None = None

        assert len({encode(node) for node in (Node(), Node(child=Node()), Node(child=Node(child=Node())))}) == 3

    def test_builtin_subclasses_carry_their_class_and_their_attributes(self) -> None:
        one, other = Tagged([1]), Tagged([1])
        one.tag, other.tag = "a", "b"
        assert encode(one) != encode(other)
        assert encode(Tagged([1])) != encode([1])

    def test_an_overridden_method_does_not_hide_a_builtin_subclass_s_content(self) -> None:
        class Sly(str):
            def __str__(self) -> str:
                return "same"

            def isalnum(self) -> bool:
                return True

        class Empty(dict[str, int]):
            def items(self) -> Any:
                return ()

        assert encode(Sly("a")) != encode(Sly("b"))
        assert encode(Empty(a=1)) != encode(Empty(b=1))

    def test_msgspec_structs_are_encoded_by_their_fields(self) -> None:
        msgspec = pytest.importorskip("msgspec")
        struct = msgspec.defstruct("Struct", [("x", Any), ("y", Any, 0)], module=__name__)
        assert encode(struct(1)) == f"{__name__}.Struct(x=1,y=0)"
        assert encode(struct(msgspec.UNSET)) != encode(struct(None))

    def test_attrs_classes_are_encoded_by_their_fields(self) -> None:
        attrs = pytest.importorskip("attrs")
        values = []
        for slots in (True, False):
            made = attrs.make_class("Made", {"x": attrs.field(), "y": attrs.field(default=0, eq=False)}, slots=slots)
            values.append(encode(made(1)))
            assert encode(made(1, 2)) != encode(made(1))
        assert values[0].endswith("Made(x=1,y=0)")
        assert values[0] == values[1]

    def test_a_local_enum_counts_by_value_because_its_name_is_not_its_own(self) -> None:
        def make(number: int) -> enum.Enum:
            class Local(enum.Enum):
                ONLY = number

            return Local.ONLY

        assert encode(make(1)) != encode(make(2))

    def test_the_class_of_a_forgotten_type_is_collected(self) -> None:
        import gc
        import weakref

        @dataclass
        class Passing:
            x: int

        encode(Passing(1))
        forgotten = weakref.ref(Passing)
        del Passing
        gc.collect()
        assert forgotten() is None


class TestCacheKey:
    def test_it_comes_before_everything_else(self) -> None:
        class Keyed(BaseModel):
            id: int
            noise: object = None

            def __cache_key__(self) -> object:
                return self.id

        class Row(ById, dict[str, int]):
            pass

        assert encode(Keyed(id=1, noise=object())) == encode(Keyed(id=1))
        assert encode(Keyed(id=1)) != encode(Keyed(id=2))
        assert encode(Row(1)).endswith("Row(!1)")

    def test_it_may_be_an_attribute_of_the_class_or_the_instance(self) -> None:
        class Static:
            __cache_key__ = ("a", 1)

        instance = SimpleNamespace()
        instance.__cache_key__ = 5
        assert encode(Static()).endswith("Static(!('a',1))")
        assert encode(instance) == "types.SimpleNamespace(!5)"

    def test_it_does_not_make_the_class_itself_keyed_by_its_method(self) -> None:
        assert encode(ById) == f"type({__name__}.ById)"

    @pytest.mark.parametrize("raises", [KeyError("secret"), ValueError("secret")])
    def test_its_exceptions_become_a_refusal_without_their_text(self, raises: Exception) -> None:
        class Broken:
            def __cache_key__(self) -> object:
                raise raises

        with pytest.raises(UnkeyableError, match=type(raises).__name__) as caught:
            encode(Broken(), "row")
        assert caught.value.path == "row"
        assert caught.value.__cause__ is raises
        assert "secret" not in str(caught.value)

    def test_one_that_gives_the_object_itself_is_refused(self) -> None:
        selfish = ById(None)
        selfish.id = selfish
        with pytest.raises(UnkeyableError, match="contains itself"):
            encode(selfish)


class TestSecrets:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (SecretStr("hunter2"), SecretStr("hunter3")),
            (SecretBytes(b"hunter2"), SecretBytes(b"hunter3")),
            (PostgresDsn("postgres://u:hunter2@db/x"), PostgresDsn("postgres://u:hunter3@db/x")),
            (AnyUrl("http://u:hunter2@db/x"), AnyUrl("http://u:hunter3@db/x")),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_they_are_told_apart_but_never_shown(self, one: object, other: object) -> None:
        assert encode(one) != encode(other)
        for shown in (encode(one), encode([one]), encode(Filters(owner=one))):
            assert "hunter" not in shown
            assert b"hunter2".hex() not in shown

    def test_a_secret_is_not_the_text_it_hides(self) -> None:
        assert len({encode(SecretStr("a")), encode(SecretBytes(b"a")), encode("a"), encode_hashed("a")}) == 4

    def test_starlette_s_secret_is_hashed(self) -> None:
        from starlette.datastructures import Secret

        assert encode(Secret("hunter2")) != encode(Secret("hunter3"))
        assert "hunter" not in encode(Secret("hunter2"))

    def test_the_credentials_that_fastapi_s_schemes_return_are_hashed(self) -> None:
        from fastapi.security import HTTPAuthorizationCredentials, HTTPBasicCredentials

        bearer = [HTTPAuthorizationCredentials(scheme="Bearer", credentials=token) for token in ("hunter2", "hunter3")]
        basic = [HTTPBasicCredentials(username="me", password=password) for password in ("hunter2", "hunter3")]
        encodings = [encode(credentials) for credentials in bearer + basic]
        assert len(set(encodings)) == 4
        assert not [encoding for encoding in encodings if "hunter" in encoding]

    def test_a_hashed_value_is_a_mark_and_32_digits_and_differs_as_the_value_does(self) -> None:
        assert re.fullmatch(r"h:[0-9a-f]{32}", encode_hashed("token"))
        assert len({encode_hashed(value) for value in ("token", b"token", ["token"], "token ")}) == 4
        assert encode_hashed({"a": 1, "b": 2}) == encode_hashed({"b": 2, "a": 1})


def cycle() -> list[Any]:
    items: list[Any] = []
    items.append({"again": items})
    return items


def shared_beyond_memory() -> list[Any]:
    items: list[Any] = [0]
    for _ in range(60):
        items = [items, items]
    return items


def deep(levels: int) -> list[Any]:
    items: list[Any] = []
    for _ in range(levels):
        items = [items]
    return items


def generator() -> Iterator[int]:
    yield 1


def local_function() -> Any:
    def inner() -> None: ...

    return inner


class TestRefusals:
    @pytest.mark.parametrize(
        "value",
        [
            object(),
            lambda: None,
            local_function(),
            functools.partial(print),
            [].append,
            generator(),
            iter([]),
            clock.gmtime(0),
            sys,
            memoryview((ctypes.c_void_p * 1)()),
            contextlib.nullcontext(),
            ValueError("x"),
            list[int],
            type("Made", (), {}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_is_no_value_is_refused(self, value: object) -> None:
        with pytest.raises(UnkeyableError) as caught:
            encode(value, "it")
        assert caught.value.path == "it"
        assert not re.search(r"0x[0-9a-f]{6,}", str(caught.value))

    def test_the_message_names_the_three_ways_out(self) -> None:
        with pytest.raises(UnkeyableError) as caught:
            encode(object(), "db")
        message = str(caught.value)
        assert message.startswith("db: builtins.object ")
        assert all(way in message for way in ("NotKeyed", "__cache_key__", "key_builder="))

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            (Filters(owner=[object()]), "filters.owner[0]"),
            ([1, (2, object())], "filters[1][1]"),
            ({"owner": object()}, "filters[...]"),
            ({1: {"not a name": (0, object())}}, "filters[...][...][1]"),
            (collections.OrderedDict(owner=object()), "filters[...]"),
            (collections.defaultdict(None, owner=object()), "filters[...]"),
            (MappingProxyType({"owner": object()}), "filters[...]"),
            (Open.model_validate({"owner": object()}), "filters[...]"),
            ({object(): 1}, "filters[...]"),
            ({object()}, "filters[...]"),
            (ById([object()]), "filters.__cache_key__()[0]"),
            (collections.defaultdict(lambda: 0), "filters.default_factory"),
            (Open.model_construct(name=object()), "filters.name"),
        ],
    )
    def test_the_path_leads_to_the_part_in_the_way(self, value: object, path: str) -> None:
        with pytest.raises(UnkeyableError) as caught:
            encode(value, "filters")
        assert caught.value.path == path
        assert str(caught.value).startswith(f"{path}: ")

    def test_no_value_stands_in_the_message(self) -> None:
        with pytest.raises(UnkeyableError) as caught:
            encode({"password": "hunter2", "of hunter2": [object(), "hunter2"]})
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("key", ["hunter2", "of hunter2", ("hunter2",), Text("hunter2")], ids=repr)
    def test_no_key_of_a_dict_stands_in_the_message(self, key: object) -> None:
        for value in ({key: object()}, [{1: {key: object()}}], collections.OrderedDict({key: object()})):
            with pytest.raises(UnkeyableError) as caught:
                encode(value, "filters")
            assert "hunter2" not in str(caught.value) + caught.value.path

    def test_a_cycle_is_refused(self) -> None:
        with pytest.raises(UnkeyableError, match="contains itself"):
            encode(cycle())

    def test_a_part_that_stands_in_two_places_is_no_cycle(self) -> None:
        part = [1]
        assert encode([part, part]) == "[[1],[1]]"

    def test_deep_nesting_is_refused_before_the_stack_ends(self) -> None:
        assert encode(deep(99)) == "[" * 100 + "]" * 100
        for levels in (100, 5000):
            with pytest.raises(UnkeyableError, match="deeper than 100"):
                encode(deep(levels))

    def test_a_stack_that_is_nearly_used_up_is_a_refusal_too(self) -> None:
        def at_depth(left: int) -> str:
            return encode(deep(90)) if left == 0 else at_depth(left - 1)

        outcomes = set()
        for left in range(sys.getrecursionlimit()):
            try:
                at_depth(left)
            except UnkeyableError as error:
                outcomes.add(str(error))
            except RecursionError:  # not even the first call fits
                break
        assert any("stack" in outcome for outcome in outcomes)

    def test_more_parts_than_fit_in_memory_are_refused(self) -> None:
        with pytest.raises(UnkeyableError, match="parts"):
            encode(shared_beyond_memory())

    def test_a_local_class_and_one_that_was_replaced_are_refused_as_values(self) -> None:
        class Local:
            pass

        Impostor = type("Color", (), {"__module__": __name__})  # noqa: N806
        for cls in (Local, Impostor):
            with pytest.raises(UnkeyableError, match="imported by its name"):
                encode(cls)

    def test_array_scalars_are_refused_although_they_derive_from_builtins(self) -> None:
        stand_in = type("float64", (float,), {"__module__": "numpy"})
        with pytest.raises(UnkeyableError, match=r"numpy\.float64"):
            encode(stand_in(1.0))
        keyed = type("float64", (float,), {"__module__": "numpy", "__cache_key__": 1})
        assert encode(keyed(1.0)) == "numpy.float64(!1)"

    def test_rows_of_an_orm_are_refused_because_their_attributes_come_and_go(self) -> None:
        @dataclass
        class Row:
            id: int

        table = Table("rows", MetaData(), Column("id", Integer, primary_key=True))
        registry().map_imperatively(Row, table)
        with pytest.raises(UnkeyableError, match="SQLAlchemy"):
            encode(Row(id=1), "row")

    def test_an_object_that_is_changed_while_it_is_read_is_refused(self) -> None:
        items: dict[Any, Any] = {}

        class Meddler:
            @property
            def __cache_key__(self) -> object:
                raise RuntimeError("dictionary changed size during iteration")

        items["x"] = Meddler()
        with pytest.raises(UnkeyableError, match="RuntimeError"):
            encode(items)
